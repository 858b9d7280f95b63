"""Write whole lots to the live index as they come: read their photos, encode them in batches, index them."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from catalog.folder import photo_folders
from gavel.workspace.folders import Workspace
from processing.embedding.downloads import Downloads, is_address
from processing.embedding.photos import Fetched, Loaded, PhotoMiss, PhotoPlace, PhotoState, load_photo
from processing.embedding.thumbnails import Thumbnails
from retrieval.contracts.documents import IndexedItem, UpsertReport, Vector, document_of
from retrieval.contracts.item_puts import ItemPut, PutResult
from retrieval.contracts.items import MAX_PHOTOS, Item
from retrieval.encoders.photos import Photo, decode_photo
from retrieval.errors import InvalidInput
from retrieval.files import replace_file
from retrieval.search.service import SearchService

MAX_BATCH = 8  # lots that are encoded at once; a lot waits for the batch before its own
CHECKED_SIDE = 32  # pixels to which a photo that comes with its lot is scaled to check it


class PutEncoder(Protocol):
    """An item encoder, as ItemWriter uses it."""

    @property
    def tower_id(self) -> str:
        """Return the id of the encoder's tower."""

    @property
    def image_size(self) -> int:
        """Return the side of the square photos in pixels; 0 if the tower reads only text."""

    def encode(self, items: Sequence[Item], photos: Sequence[Photo | None]) -> Vector:
        """Return the vectors of N items, (N, D) float32 of unit length; None for an item without a photo.

        Raises:
            TowerError: the encoder cannot be used.
        """


@dataclass(eq=False)
class _Waiting:
    """A lot that waits to be written."""

    item: Item
    place: PhotoPlace
    fetched: Fetched
    since: float
    result: "Future[PutResult]" = field(default_factory=Future)


class ItemWriter:
    """Writes whole lots to the live index. Threads may share it, and lots that come at the same time share a batch.

    The first thread that gets its turn encodes and writes for those that wait. So single lots are written at once, and many lots in
    batches. The number of threads limits the number of lots that wait.
    """

    def __init__(
        self,
        workspace: Workspace,
        service: SearchService,
        load_encoder: Callable[[str], PutEncoder],
        *,
        photos: Sequence[Path] = (),
        downloads: Downloads | None = None,
    ) -> None:
        """Prepare the writer; nothing is loaded or written before the first lot.

        Args:
            workspace: workspace that stores photos and thumbnails.
            service: search service of the live index.
            load_encoder: tower_id -> item encoder of the tower.
            photos: folders whose photos lots may name, by absolute path or relative to one of them.
            downloads: where photos of addresses are fetched to; None fetches none.
        """
        self._service, self._load_encoder, self._downloads = service, load_encoder, downloads
        self._workspace, self._own_photos, self._thumbnails = workspace, workspace.item_photos, Thumbnails(workspace.thumbnails)
        self._folders = (self._own_photos, *photos)
        self._opened = (*self._folders, *(other for folder in photos for other in photo_folders(folder)))
        digest = hashlib.sha256("\0".join(sorted(str(folder.absolute()) for folder in self._folders)).encode()).hexdigest()
        self._release_id = f"put-{digest[:12]}"  # by which the page finds the photos
        self._encoder: PutEncoder | None = None
        self._queue: list[_Waiting] = []
        self._lock, self._turn = threading.Lock(), threading.Lock()

    def put(self, puts: Sequence[ItemPut]) -> list[PutResult]:
        """Write lots, and return the outcome of each; applied lots are durable, and the next search finds them.

        Raises:
            InvalidPhoto: the photo that comes with a lot cannot be read; nothing was written.
            TowerError: the live index's tower cannot encode lots.
            IndexUnavailable: the index does not answer; all lots may be sent again.
        """
        since = time.perf_counter()
        waiting = [self._locate(put, since) for put in puts]
        with self._lock:
            self._queue += waiting
        while not all(each.result.done() for each in waiting):
            with self._turn:
                if not all(each.result.done() for each in waiting):
                    self._write(self._next_batch())
        return [each.result.result() for each in waiting]

    def _locate(self, put: ItemPut, since: float) -> _Waiting:
        """Store the photo that comes with a lot, and fetch those of addresses."""
        item = put.item
        if put.photo is not None:
            decode_photo(put.photo, CHECKED_SIDE)
            digest = hashlib.sha256(put.photo).hexdigest()
            image = f"{digest[:2]}/{digest[2:]}"
            path = self._own_photos / image
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_file(path, put.photo)
            item = replace(item, image=image, more_images=item.photos[: MAX_PHOTOS - 1])
        folder = next((folder for folder in self._folders if item.image and _has(folder, item.image)), self._own_photos)
        place = PhotoPlace(item.image, folder, self._opened, item.more_images, self._downloads)
        addresses = [image for image in item.photos if is_address(image)]
        return _Waiting(item, place, self._downloads.fetch_all(addresses) if self._downloads else {}, since)

    def _next_batch(self) -> list[_Waiting]:
        """Take the lots that have waited longest, each id once, so that each has its own outcome."""
        batch: dict[str, _Waiting] = {}
        with self._lock:
            for each in self._queue:
                if len(batch) < MAX_BATCH:
                    batch.setdefault(each.item.item_id, each)
            self._queue = [each for each in self._queue if each not in batch.values()]
        return list(batch.values())

    def _write(self, batch: Sequence[_Waiting]) -> None:
        timings: dict[str, float] = {}
        try:
            encoder = self._encoder_of(self._service.live().index.tower_id)
            with _timed(timings, "photo"):
                loaded = [self._load_photo(each, encoder.image_size) for each in batch]
            with _timed(timings, "encode"):
                vectors = encoder.encode([each.item for each in batch], [photo for photo, _, _ in loaded])
            with _timed(timings, "index"):
                report = self._service.put_items(
                    [
                        self._entry(each.item, photos, encoder.tower_id, vector)
                        for each, photos, vector in zip(batch, loaded, vectors, strict=True)
                    ]
                )
        except Exception as error:  # of any kind, because other threads wait for these results
            for each in batch:
                each.result.set_exception(error)
            return
        for each, photos in zip(batch, loaded, strict=True):
            each.result.set_result(_result(each, photos, encoder.tower_id, report, timings))

    def _load_photo(self, each: _Waiting, side: int) -> Loaded:
        try:
            return load_photo(each.place, side, self._thumbnails, each.fetched)
        except InvalidInput as error:
            state = PhotoState.UNREACHABLE  # S3 does not answer
            return Loaded(None, state, (PhotoMiss(each.place.images[0], state, str(error)),))

    def _entry(self, item: Item, photos: Loaded, tower_id: str, vector: Vector) -> IndexedItem:
        has_image = photos.state is PhotoState.READ
        document = document_of(item, has_image=has_image, tower_id=tower_id, release_id=self._release_id)
        return IndexedItem(item.item_id, item.version, document, vector)

    def _encoder_of(self, tower_id: str) -> PutEncoder:
        if self._encoder is None or self._encoder.tower_id != tower_id:
            self._encoder = self._load_encoder(tower_id)
            self._own_photos.mkdir(parents=True, exist_ok=True)
            self._workspace.remember_sources(self._release_id, self._folders)
        return self._encoder


def _result(each: _Waiting, photos: Loaded, tower_id: str, report: UpsertReport, timings: dict[str, float]) -> PutResult:
    item = each.item
    reason = dict(report.rejected).get(item.item_id, "")
    return PutResult(
        item.item_id,
        "refused" if reason else "stale" if item.item_id in report.stale_ids else "applied",
        tower_id,
        item.version,
        reason,
        photos.state is PhotoState.READ,
        tuple(miss.reason for miss in photos.misses),
        {**timings, "total": _milliseconds(each.since)},
    )


def _has(folder: Path, image: str) -> bool:
    try:
        return (folder / image).is_file()
    except (OSError, ValueError):  # such as a name that is too long
        return False


@contextmanager
def _timed(timings: dict[str, float], step: str) -> Iterator[None]:
    since = time.perf_counter()
    yield
    timings[step] = _milliseconds(since)


def _milliseconds(since: float) -> float:
    return round((time.perf_counter() - since) * 1_000, 1)
