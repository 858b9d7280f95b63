"""Fetch and decode photos of items ahead of the encoder. Worker processes import this file, so it imports no torch."""

import multiprocessing
import os
import re
import resource
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from processing.embedding.downloads import Downloads, is_address
from processing.embedding.prefetch import Stopwatch
from processing.embedding.thumbnails import Thumbnails
from retrieval.encoders.photos import MAX_BYTES, MAX_PIXELS, Photo, decode_photo, locate_photo, read_photo_file
from retrieval.errors import InvalidInput, InvalidPhoto
from retrieval.processes import end_with_parent

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
DECODING_BYTES = 1 << 30  # memory limit of a worker beside a server; the largest accepted photo needs 400 MB
NICE = 10
END = partial(os._exit, 1)  # ends a worker whose job was killed, because the worker would wait for a batch forever
PREFETCHED_BATCHES = 2  # batches, beyond one per worker, that are decoded before the encoder needs them
BUCKET = re.compile(r"[a-z0-9.-]{3,63}")  # excludes ARNs, which may name another service
# S3's error codes for the job's credentials, clock or request rate; other codes with a status below 500 concern only the URI
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
    """Outcome of an item's photo."""

    READ = "read"
    NOT_LISTED = "not_listed"  # the row names no photo, or the tower reads text only
    UNREADABLE = "unreadable"  # missing, forbidden or broken
    FORMAT = "format"  # neither JPEG, PNG nor WebP
    TOO_LARGE = "too_large"  # more pixels or bytes than allowed
    OUTSIDE = "outside"  # a path outside the folders whose photos may be read
    OTHER_SCHEME = "other_scheme"  # neither a path, http(s):// nor s3://
    ADDRESS = "address"  # an address that is not public or not well-formed
    UNREACHABLE = "unreachable"  # its host does not give it
    NOT_FETCHED = "not_fetched"  # an address, and addresses are not fetched


PHOTO_FAULTS = {
    PhotoState.UNREADABLE: "missing, damaged or not to be read",
    PhotoState.FORMAT: "neither JPEG, PNG nor WebP",
    PhotoState.TOO_LARGE: f"of more than {MAX_PIXELS:,} pixels or {MAX_BYTES:,} bytes",
    PhotoState.OUTSIDE: "outside the folder of their file (--photos opens another)",
    PhotoState.OTHER_SCHEME: "neither a path nor an address of http(s):// or s3://",
    PhotoState.ADDRESS: "at an address that is not public (--photo-host allows a host) or not well-formed",
    PhotoState.UNREACHABLE: "not given by their host (--force asks again)",
    PhotoState.NOT_FETCHED: "at an address, which --fetch fetches",
}


@dataclass(frozen=True, slots=True)
class PhotoPlace:
    """The location of an item's photos.

    Attributes:
        image: path, http(s) address or s3:// URI from the row; None without a photo.
        folder: folder of the row's file; a relative path starts there.
        opened: other folders whose photos may be read.
        more_images: further photos, likewise.
        downloads: where photos of addresses are fetched to; None fetches none.
    """

    image: str | None
    folder: Path
    opened: tuple[Path, ...] = ()
    more_images: tuple[str, ...] = ()
    downloads: Downloads | None = None

    @property
    def images(self) -> tuple[str, ...]:
        """Return all photos, the first one first."""
        return (self.image, *self.more_images) if self.image else ()


class PhotoMiss(NamedTuple):
    """A photo that an item names and does not have.

    Attributes:
        photo: path, address or URI.
        state: kind of the fault.
        reason: the fault in words.
    """

    photo: str
    state: PhotoState
    reason: str


class Loaded(NamedTuple):
    """The photos of an item.

    Attributes:
        photo: first photo that can be read, (size, size, 3) uint8 RGB; None if there is none.
        state: outcome of the item: READ, or that of its first photo.
        misses: photos that are missing.
    """

    photo: Photo | None
    state: PhotoState
    misses: tuple[PhotoMiss, ...] = ()


Fetched = Mapping[str, Path | InvalidPhoto]


def load_photo(
    place: PhotoPlace, size: int, thumbnails: Thumbnails | None = None, fetched: Fetched = MappingProxyType({})
) -> Loaded:
    """Decode the first photo of an item that can be read, and check that the others are there.

    The first one is the seller's choice, and later ones show details, labels or packaging. So a mean of them would describe the
    item less well.

    Args:
        place: location of the photos.
        size: side of the square photo in pixels; 0 for a tower that reads text only, for which photos of addresses are fetched
            for the page, and others are not read.
        thumbnails: store that gets the page's thumbnails of the first photo; None draws none.
        fetched: results of Downloads.fetch_all() for addresses of the item; others are fetched.

    Raises:
        InvalidInput: S3 does not respond, or the job has no credentials for it.
    """
    images = place.images if size else [image for image in place.images if place.downloads and is_address(image)]
    photo: Photo | None = None
    misses: list[PhotoMiss] = []
    for image in images:
        try:
            if photo is None and size:
                photo = _decode(image, place, size, thumbnails, fetched)
            else:
                _check(image, place, fetched)
        except InvalidPhoto as error:
            misses.append(PhotoMiss(image, PhotoState(error.fault), str(error)))
    if photo is not None or not size or not images:
        return Loaded(photo, PhotoState.NOT_LISTED if photo is None else PhotoState.READ, tuple(misses))
    return Loaded(None, misses[0].state, tuple(misses))


def _decode(image: str, place: PhotoPlace, size: int, thumbnails: Thumbnails | None, fetched: Fetched) -> Photo:
    if image[:5].lower() == "s3://":
        return decode_photo(_fetch(image), size)
    path = _find(image, place, fetched)
    data = read_photo_file(path)
    photo = decode_photo(data, size)
    if thumbnails is not None:
        with suppress(OSError):  # such as a full disk; the page draws missing thumbnails itself
            thumbnails.draw(path, data)
    return photo


def _check(image: str, place: PhotoPlace, fetched: Fetched) -> None:
    """Raise InvalidPhoto if a further photo is missing; those in S3, which the page does not show, are not asked for."""
    if image[:5].lower() != "s3://" and not _find(image, place, fetched).is_file():
        raise InvalidPhoto(f"{image[:200]!r} is no plain file; put the photo itself there")


def _find(image: str, place: PhotoPlace, fetched: Fetched) -> Path:
    if is_address(image):
        if place.downloads is None:
            raise InvalidPhoto(f"{image[:200]} was not fetched; run the job with --fetch", "not_fetched")
        result = fetched.get(image) or place.downloads.fetch(image)
        if isinstance(result, InvalidPhoto):
            raise result
        return result
    if SCHEME.match(image):
        raise InvalidPhoto(f"{image[:200]!r} is neither a path nor an address of http(s):// or s3://", "other_scheme")
    return locate_photo(image, place.folder, place.opened)


class PhotoLoader:
    """A decoder of batches of photos in worker processes, which work a bounded number of batches ahead.

    Use it as a context manager; the exit ends the processes.
    """

    def __init__(self, size: int, workers: int, watch: Stopwatch | None = None, thumbnails: Thumbnails | None = None) -> None:
        """Set up the loader; processes start with the first batch.

        Args:
            size: side of the square photos in pixels; 0 reads no photo.
            workers: number of processes; 0 decodes in this process.
            watch: stopwatch for `decode`, the sum over all workers.
            thumbnails: as for load_photo().
        """
        self._size, self._thumbnails = size, thumbnails
        self._watch = watch or Stopwatch()
        self._depth = workers + PREFETCHED_BATCHES
        self._pool: ProcessPoolExecutor | None = None
        if workers and size:
            # no fork: the parent has torch's threads, and a forked child may wait for their locks forever;
            # no forkserver: its socket cannot be made in a temporary folder with a long path
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent, initargs=(END,))

    def __enter__(self) -> "PhotoLoader":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def load(self, batches: Iterable[Sequence[PhotoPlace]]) -> Iterator[list[Loaded]]:
        """Decode the photos of each batch.

        Args:
            batches: batches of places; at most `workers` + 2 batches are taken ahead.

        Yields:
            The photos of each batch, in order.
        """
        if self._pool is None:
            yield from (self._timed(_load_batch(batch, self._size, self._thumbnails)) for batch in batches)
            return
        source = iter(batches)
        waiting: deque[Future[tuple[list[Loaded], float]]] = deque()
        while True:
            for batch in islice(source, self._depth - len(waiting)):
                waiting.append(self._pool.submit(_load_batch, list(batch), self._size, self._thumbnails))
            if not waiting:
                return
            yield self._timed(waiting.popleft().result())

    def _timed(self, loaded: tuple[list[Loaded], float]) -> list[Loaded]:
        photos, seconds = loaded
        self._watch.add("decode", seconds)
        return photos


def yield_to_searches() -> None:
    """Set up a worker process that decodes beside a server: low priority, bounded memory, ends with its parent."""
    end_with_parent(END)
    os.nice(NICE)
    with suppress(OSError, ValueError):  # without /proc there is no limit
        used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (used + DECODING_BYTES, used + DECODING_BYTES))


def _load_batch(places: Sequence[PhotoPlace], size: int, thumbnails: Thumbnails | None) -> tuple[list[Loaded], float]:
    """Fetch and decode a batch; return the photos and the seconds that it took."""
    start = time.perf_counter()
    fetched: dict[str, Path | InvalidPhoto] = {}
    for downloads in {place.downloads for place in places if place.downloads}:
        urls = (image for place in places if place.downloads == downloads for image in place.images if is_address(image))
        fetched |= downloads.fetch_all(urls)
    photos = [load_photo(place, size, thumbnails, fetched) for place in places]
    return photos, time.perf_counter() - start


def _fetch(uri: str) -> bytes:
    """Return the bytes of an s3:// object.

    Raises:
        InvalidPhoto: the object cannot be read, or is too large.
        InvalidInput: S3 does not respond.
    """
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    bucket, _, key = uri[len("s3://") :].partition("/")
    if not BUCKET.fullmatch(bucket) or not key:
        raise InvalidPhoto(f"{uri} names no object; write s3://bucket/key")
    try:
        response = _s3().get_object(Bucket=bucket, Key=key)
        if response["ContentLength"] > MAX_BYTES:
            raise InvalidPhoto(f"{uri} has {response['ContentLength']:,} bytes, at most {MAX_BYTES:,} are taken", "too_large")
        data: bytes = response["Body"].read()
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
    """Return the S3 client of this process, which reads AWS_ENDPOINT_URL and the usual AWS_* variables."""
    import boto3
    from botocore.config import Config

    retries: Any = {"max_attempts": S3_ATTEMPTS, "mode": "standard"}
    return boto3.client("s3", config=Config(retries=retries, connect_timeout=S3_TIMEOUT_S, read_timeout=S3_TIMEOUT_S))
