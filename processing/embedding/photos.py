"""Photos of lots, fetched and decoded ahead of the encoder. No torch here: worker processes import this file alone."""

import multiprocessing
import os
import re
import resource
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

from processing.embedding.prefetch import Stopwatch
from processing.embedding.thumbnails import Thumbnails
from retrieval.encoders.photos import MAX_BYTES, Photo, decode_photo, locate_photo, read_photo_file
from retrieval.errors import InvalidInput, InvalidPhoto
from retrieval.processes import end_with_parent

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
DECODING_BYTES = 1 << 30  # that a worker beside a server may take; the largest photo that is taken needs 400 MB
NICE = 10
END = partial(os._exit, 1)  # of a worker whose job was killed: it would wait for its next batch for ever
LOOK_AHEAD = 2  # batches beyond one for each worker that are decoded before the encoder asks
BUCKET = re.compile(r"[a-z0-9.-]{3,63}")  # no ARN, which leads elsewhere
# S3's errors of the job's credentials, clock or pace; what else it says of less than 500 is a fault of the one URI
NOT_THE_URI = (
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "RequestTimeout",
    "SignatureDoesNotMatch",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
)
S3_TIMEOUT_S = 20
S3_ATTEMPTS = 5


class PhotoState(StrEnum):
    """What became of a lot's photo."""

    READ = "read"
    NOT_LISTED = "not_listed"  # the row names none, or the tower reads text alone
    UNREADABLE = "unreadable"  # missing, forbidden or broken
    FORMAT = "format"  # neither JPEG, PNG nor WebP
    TOO_LARGE = "too_large"  # more pixels or bytes than are taken
    OUTSIDE = "outside"  # a path that leads out of the folders whose photos may be read
    OTHER_SCHEME = "other_scheme"  # neither a path nor s3://


@dataclass(frozen=True, slots=True)
class PhotoPlace:
    """Where a lot's photo lies.

    Attributes:
        image: what the row says: a path, or an s3:// URI; None without a photo.
        folder: the folder of the file that said so; a relative path starts there.
        opened: further folders whose photos may be read.
    """

    image: str | None
    folder: Path
    opened: tuple[Path, ...] = ()


Decoded = tuple[Photo | None, PhotoState]


def load_photo(place: PhotoPlace, size: int, thumbnails: Thumbnails | None = None) -> Decoded:
    """Fetch and decode one photo.

    Args:
        place: where it lies.
        size: side of the square in pixels; 0 for a tower that reads text alone.
        thumbnails: where a photo of this machine is drawn for the page; None draws none.

    Returns:
        (size, size, 3) uint8 RGB or None, and what became of it.

    Raises:
        InvalidInput: S3 itself does not answer, or the job has no credentials for it.
    """
    if not place.image or not size:
        return None, PhotoState.NOT_LISTED
    if SCHEME.match(place.image) and not place.image.lower().startswith("s3://"):
        return None, PhotoState.OTHER_SCHEME
    try:
        if SCHEME.match(place.image):
            return decode_photo(_fetch(place.image), size), PhotoState.READ
        path = locate_photo(place.image, place.folder, place.opened)
        data = read_photo_file(path)
        photo = decode_photo(data, size)
    except InvalidPhoto as error:
        return None, PhotoState(error.fault)
    if thumbnails is not None:
        with suppress(OSError):  # a full disk: the page draws what it lacks
            thumbnails.draw(path, data)
    return photo, PhotoState.READ


class PhotoLoader:
    """Decodes batches of photos in worker processes, a bounded number of batches ahead.

    Use it as a context manager; leaving it ends the processes.
    """

    def __init__(self, size: int, workers: int, watch: Stopwatch | None = None, thumbnails: Thumbnails | None = None) -> None:
        """Start nothing yet.

        Args:
            size: side of the square in pixels; 0 reads no photo at all.
            workers: processes; 0 decodes in this one.
            watch: is told how long `decode` was busy, all workers together.
            thumbnails: as load_photo()'s.
        """
        self._size, self._thumbnails = size, thumbnails
        self._watch = watch or Stopwatch()
        self._prefetch_batches = workers + LOOK_AHEAD
        self._pool: ProcessPoolExecutor | None = None
        if workers and size:
            # not fork: the parent holds torch's threads, and a forked child may wait for their locks for ever
            context = multiprocessing.get_context("forkserver")
            self._pool = ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent, initargs=(END,))

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
            yield from (self._timed(_load_batch(batch, self._size, self._thumbnails)) for batch in batches)
            return
        source = iter(batches)
        waiting: deque[Future[tuple[list[Decoded], float]]] = deque()
        while True:
            for batch in islice(source, self._prefetch_batches - len(waiting)):
                waiting.append(self._pool.submit(_load_batch, list(batch), self._size, self._thumbnails))
            if not waiting:
                return
            yield self._timed(waiting.popleft().result())

    def _timed(self, loaded: tuple[list[Decoded], float]) -> list[Decoded]:
        photos, seconds = loaded
        self._watch.add("decode", seconds)
        return photos


def yield_to_searches() -> None:
    """Set up a worker process that decodes beside a server: low priority, bounded memory, and an end with its parent."""
    end_with_parent(END)
    os.nice(NICE)
    with suppress(OSError, ValueError):  # where there is no /proc
        used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (used + DECODING_BYTES, used + DECODING_BYTES))


def _load_batch(places: Sequence[PhotoPlace], size: int, thumbnails: Thumbnails | None) -> tuple[list[Decoded], float]:
    """The photos, and how many seconds they took."""
    start = time.perf_counter()
    photos = [load_photo(place, size, thumbnails) for place in places]
    return photos, time.perf_counter() - start


def _fetch(uri: str) -> bytes:
    """The bytes behind an s3:// URI.

    Raises:
        InvalidPhoto: that one object cannot be had, or is too large.
        InvalidInput: S3 does not answer.
    """
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    bucket, _, key = uri[len("s3://") :].partition("/")
    if not BUCKET.fullmatch(bucket) or not key:
        raise InvalidPhoto(f"{uri} names no object; write s3://bucket/key")
    try:
        answer = _s3().get_object(Bucket=bucket, Key=key)
        if answer["ContentLength"] > MAX_BYTES:
            raise InvalidPhoto(f"{uri} has {answer['ContentLength']:,} bytes, at most {MAX_BYTES:,} are taken", "too_large")
        data: bytes = answer["Body"].read()
    except ParamValidationError as error:
        raise InvalidPhoto(f"{uri} is no name that an object can have; mend it") from error
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
        if status < 500 and status != 429 and error.response["Error"]["Code"] not in NOT_THE_URI:
            raise InvalidPhoto(f"{uri} cannot be had ({error}); mend it, or let the job read it") from error
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
