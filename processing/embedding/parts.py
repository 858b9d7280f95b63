"""Parts of a release on disk. Each part has a record, so that a later run can reuse the part."""

import gzip
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from processing.embedding.downloads import is_address
from processing.embedding.photos import PhotoMiss, PhotoPlace, PhotoState
from processing.embedding.prefetch import Stopwatch
from retrieval.contracts.documents import IndexedItem, bulk_lines
from retrieval.contracts.items import Item
from retrieval.contracts.release import MANIFEST_FILE, MANIFESTS, Manifest, Part
from retrieval.encoders.photos import locate_photo
from retrieval.errors import InvalidPhoto
from retrieval.files import replace_file, replacing, seal_json, sha256_of, unseal_json
from retrieval.text.analysis import readable

FORMAT = 3  # version of the bytes in a part; another number invalidates every record
COMPRESSION = 4  # gzip level: half the time of level 6 for 7 % more bytes


@dataclass(frozen=True, slots=True)
class LocatedItem:
    """An item to embed, with the place of its photos, and the name of the file and the line of its row."""

    item: Item
    photo: PhotoPlace
    source: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class PartRecord:
    """The record of a finished part.

    Attributes:
        fingerprint: hash of everything that the part's bytes depend on.
        part: name, number of items, size and checksum of the file.
        photos: PhotoState -> number of items.
        misses: a JSON object for each photo that is missing, see photo_miss().
    """

    fingerprint: str
    part: Part
    photos: dict[str, int]
    misses: Sequence[Mapping[str, Any]] = ()

    def save(self, path: Path) -> None:
        """Write the record atomically."""
        replace_file(path, seal_json(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> "PartRecord | None":
        """Read a record; None if it is missing or broken, so that the part is written again."""
        try:
            values = unseal_json(path.read_bytes())
            return cls(values["fingerprint"], Part(**values["part"]), values["photos"], values["misses"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


class PartFolder:
    """The parts of one instance in `output/<release_id>/`, to be written or reused."""

    def __init__(self, folder: Path, release_id: str, tower_id: str, instance: int, instances: int) -> None:
        """Open the folder of a release and create it if it is missing; the other arguments are described at Manifest."""
        self._folder = folder
        self._seed = f"{FORMAT}/{release_id}/{tower_id}"
        self._instance = instance
        self._instances = instances
        folder.mkdir(parents=True, exist_ok=True)

    def name(self, number: int) -> str:
        """Return the name of part `number` of this instance; no other instance uses it."""
        return f"part-{number * self._instances + self._instance:05}.ndjson.gz"

    def fingerprint(self, items: Sequence[LocatedItem]) -> str:
        """Return a hash of the items, the size and modification time of local photos, the release_id and the tower."""
        digest = hashlib.sha256(self._seed.encode())
        for located in items:
            digest.update(repr((located.item, _stamp(located.photo))).encode())
        return digest.hexdigest()

    def find(self, number: int, fingerprint: str) -> PartRecord | None:
        """Return the record of a part that can be reused (same fingerprint, same bytes on disk), otherwise None."""
        path = self._folder / self.name(number)
        record = PartRecord.load(_record_path(path))
        if record is None or record.fingerprint != fingerprint or not path.is_file():
            return None
        return record if sha256_of(path) == record.part.sha256 else None

    def write(
        self,
        number: int,
        fingerprint: str,
        items: Iterable[tuple[IndexedItem, PhotoState, Sequence[Mapping[str, Any]]]],
        watch: Stopwatch | None = None,
    ) -> PartRecord:
        """Write a part and its record; the same items give the same bytes.

        Args:
            number: number of the part among those of this instance.
            fingerprint: hash of the part's input, see fingerprint().
            items: items with their vectors, each with the outcome of its photos, and a photo_miss() for each missing one.
            watch: stopwatch for `write`, which excludes the computation of the items.
        """
        watch = watch or Stopwatch()
        path = self._folder / self.name(number)
        photos: Counter[str] = Counter()
        misses: list[Mapping[str, Any]] = []
        with replacing(path) as partial, partial.open("wb") as raw, gzip.GzipFile("", "wb", COMPRESSION, raw, mtime=0) as file:
            for item, state, missing in items:
                photos[state.value] += 1
                misses += missing
                with watch.time("write"):
                    file.write("".join(f"{line}\n" for line in bulk_lines(item)).encode())
        record = PartRecord(
            fingerprint, Part(path.name, photos.total(), path.stat().st_size, sha256_of(path)), dict(photos), misses
        )
        record.save(_record_path(path))
        return record

    def withdraw(self) -> None:
        """Delete the manifests of this instance and of runs with another number of instances: the release becomes unfinished."""
        own = f"-{self._instance:05}-of-{self._instances:05}.json" if self._instances > 1 else MANIFEST_FILE
        for path in self._folder.glob(MANIFESTS):
            if path.name.endswith(own) or not path.name.endswith(f"-of-{self._instances:05}.json"):
                path.unlink()

    def commit(self, manifest: Manifest) -> None:
        """Delete this instance's parts of an earlier run that the manifest does not list, then write the manifest."""
        listed = {part.name for part in manifest.parts}
        for path in self._folder.glob("part-*.ndjson.gz"):
            number = path.name.removeprefix("part-").removesuffix(".ndjson.gz")
            own = number.isdigit() and int(number) % self._instances == self._instance
            if own and path.name not in listed:
                path.unlink()
                _record_path(path).unlink(missing_ok=True)
        manifest.save(self._folder)


def _record_path(part: Path) -> Path:
    return part.with_name(part.name.removesuffix(".ndjson.gz") + ".receipt")


def photo_miss(located: LocatedItem, miss: PhotoMiss) -> dict[str, Any]:
    """Return a line of `missing-photos.ndjson`: where an item's row stands, its photo, and why that is missing."""
    return {
        "source": readable(located.source),
        "line": located.line,
        "item_id": located.item.item_id,
        "photo": readable(miss.photo),
        "fault": miss.state.value,
        "reason": readable(miss.reason),
    }


def _stamp(place: PhotoPlace) -> list[tuple[int, int] | bool | None]:
    """Return, per photo, size and modification time (ns) of a local one, True for an address that is fetched, or else None."""
    stamps: list[tuple[int, int] | bool | None] = []
    for image in place.images:
        if is_address(image):
            stamps.append(True if place.downloads else None)
            continue
        try:
            status = locate_photo(image, place.folder, place.opened).stat()
            stamps.append((status.st_size, status.st_mtime_ns))
        except (InvalidPhoto, OSError):
            stamps.append(None)
    return stamps
