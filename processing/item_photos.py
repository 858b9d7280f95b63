"""Photos of lots, fetched and decoded ahead of the encoder. No torch here: worker processes import this file alone."""

import multiprocessing
import os
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any

from processing.stages import Stopwatch
from retrieval.errors import InvalidInput
from retrieval.photos import Photo, read_photo

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
LOOK_AHEAD = 2  # batches beyond one for each worker that are decoded before the encoder asks
ABSENT = ("403", "404", "AccessDenied", "NoSuchBucket", "NoSuchKey")  # a fault of the one URI, not of the connection
S3_TIMEOUT_S = 20
S3_ATTEMPTS = 5


class PhotoState(StrEnum):
    """What became of a lot's photo."""

    READ = "read"
    NOT_LISTED = "not_listed"  # the row names none, or the tower reads text alone
    UNREADABLE = "unreadable"  # missing, forbidden or broken
    OTHER_SCHEME = "other_scheme"  # neither a path nor s3://


@dataclass(frozen=True, slots=True)
class PhotoPlace:
    """Where a lot's photo lies.

    Attributes:
        image: what the row says: a path, or an s3:// URI; None without a photo.
        folder: the folder of the file that said so; a relative path starts there.
    """

    image: str | None
    folder: Path

    @property
    def path(self) -> Path | None:
        """The file of a photo on this machine; None for any other."""
        if self.image is None or SCHEME.match(self.image) or "\0" in self.image:
            return None
        return self.folder / self.image


Decoded = tuple[Photo | None, PhotoState]


def load_photo(place: PhotoPlace, size: int) -> Decoded:
    """Fetch and decode one photo.

    Args:
        place: where it lies.
        size: side of the square in pixels; 0 for a tower that reads text alone.

    Returns:
        (size, size, 3) uint8 RGB or None, and what became of it.

    Raises:
        InvalidInput: S3 itself does not answer, or the job has no credentials for it.
    """
    if not place.image or not size:
        return None, PhotoState.NOT_LISTED
    source: bytes | Path | None = place.path
    if place.image.lower().startswith("s3://"):
        source = _fetch(place.image)
    elif SCHEME.match(place.image):
        return None, PhotoState.OTHER_SCHEME
    photo = read_photo(source, size) if source is not None else None
    return photo, PhotoState.UNREADABLE if photo is None else PhotoState.READ


class PhotoLoader:
    """Decodes batches of photos in worker processes, a bounded number of batches ahead.

    Use it as a context manager; leaving it ends the processes.
    """

    def __init__(self, size: int, workers: int, watch: Stopwatch | None = None) -> None:
        """Start nothing yet.

        Args:
            size: side of the square in pixels; 0 reads no photo at all.
            workers: processes; 0 decodes in this one.
            watch: is told how long `decode` was busy, all workers together.
        """
        self._size = size
        self._watch = watch or Stopwatch()
        self._ahead = workers + LOOK_AHEAD
        self._pool: ProcessPoolExecutor | None = None
        if workers and size:
            # not fork: the parent holds torch's threads, and a forked child may wait for their locks for ever
            context = multiprocessing.get_context("forkserver")
            self._pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)

    def __enter__(self) -> "PhotoLoader":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def load(self, batches: Iterable[Sequence[PhotoPlace]]) -> Iterator[list[Decoded]]:
        """Decode the photos of batch after batch.

        Args:
            batches: places of photos; taken no further ahead than the look-ahead.

        Yields:
            The photos of each batch, in order.
        """
        if self._pool is None:
            yield from (self._timed(_load_batch(batch, self._size)) for batch in batches)
            return
        source = iter(batches)
        waiting: deque[Future[tuple[list[Decoded], float]]] = deque()
        while True:
            for batch in islice(source, self._ahead - len(waiting)):
                waiting.append(self._pool.submit(_load_batch, list(batch), self._size))
            if not waiting:
                return
            yield self._timed(waiting.popleft().result())

    def _timed(self, loaded: tuple[list[Decoded], float]) -> list[Decoded]:
        photos, seconds = loaded
        self._watch.add("decode", seconds)
        return photos


def _end_with_parent() -> None:
    """Let this worker end when the job is killed: it would wait for its next batch for ever."""
    job = multiprocessing.parent_process()

    def watch() -> None:
        if job is not None:
            job.join()
            os._exit(1)

    Thread(target=watch, daemon=True).start()


def _load_batch(places: Sequence[PhotoPlace], size: int) -> tuple[list[Decoded], float]:
    """The photos, and how many seconds they took."""
    start = time.perf_counter()
    photos = [load_photo(place, size) for place in places]
    return photos, time.perf_counter() - start


def _fetch(uri: str) -> bytes | None:
    """The bytes behind an s3:// URI; None when that one object cannot be had."""
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    bucket, _, key = uri[len("s3://") :].partition("/")
    if not bucket or not key:
        return None
    try:
        data: bytes = _s3().get_object(Bucket=bucket, Key=key)["Body"].read()
    except ParamValidationError:
        return None  # no bucket can have that name
    except ClientError as error:
        if error.response["Error"]["Code"] in ABSENT:
            return None
        raise InvalidInput(f"{uri} cannot be fetched: {error}; mend it and run the job again, it goes on where it was") from error
    except BotoCoreError as error:
        raise InvalidInput(f"{uri} cannot be fetched: {error}; check AWS credentials, region and AWS_ENDPOINT_URL") from error
    return data


@cache
def _s3() -> Any:
    """The S3 client of this process; AWS_ENDPOINT_URL and the usual AWS_* variables hold for it."""
    import boto3
    from botocore.config import Config

    retries: Any = {"max_attempts": S3_ATTEMPTS, "mode": "standard"}
    return boto3.client("s3", config=Config(retries=retries, connect_timeout=S3_TIMEOUT_S, read_timeout=S3_TIMEOUT_S))
