"""Parts of a release on disk: written once, kept by a receipt, and reused by a run that starts again."""

import gzip
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from processing.embedding.photos import PhotoPlace, PhotoState
from processing.embedding.prefetch import Stopwatch
from retrieval.contracts.documents import IndexedItem, bulk_lines
from retrieval.contracts.items import Item
from retrieval.contracts.release import MANIFEST_FILE, Manifest, Part
from retrieval.encoders.photos import locate_photo
from retrieval.errors import InvalidPhoto
from retrieval.files import replace_file, replacing, seal_json, sha256_of, unseal_json

FORMAT = 2  # of the bytes in a part; another number makes every receipt void
COMPRESSION = 4  # half the time of 6 for 7% more bytes


@dataclass(frozen=True, slots=True)
class Lot:
    """A row that will be embedded, with the place of its photo."""

    item: Item
    photo: PhotoPlace


@dataclass(frozen=True, slots=True)
class PartRecord:
    """What is known of a finished part.

    Attributes:
        fingerprint: hash of everything that the part's bytes come from.
        part: the file.
        photos: PhotoState -> lots.
    """

    fingerprint: str
    part: Part
    photos: dict[str, int]

    def save(self, path: Path) -> None:
        """Write the receipt in one step."""
        replace_file(path, seal_json(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> "Receipt | None":
        """Read a receipt; None when there is none or it is broken, so that its part is made again."""
        try:
            values = unseal_json(path.read_bytes())
            return cls(values["fingerprint"], Part(**values["part"]), values["photos"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


class PartFolder:
    """The parts that one instance writes into `output/<release_id>/`."""

    def __init__(self, folder: Path, release_id: str, tower_id: str, instance: int, instances: int) -> None:
        """Use, or make, the folder of a release; arguments as Manifest's attributes."""
        self._folder = folder
        self._seed = f"{FORMAT}/{release_id}/{tower_id}"
        self._instance = instance
        self._instances = instances
        folder.mkdir(parents=True, exist_ok=True)

    def name(self, count: int) -> str:
        """Name of this instance's part number `count`, unlike that of any other instance."""
        return f"part-{count * self._instances + self._instance:05}.ndjson.gz"

    def fingerprint(self, lots: Sequence[Lot]) -> str:
        """Hash of the lots as they were read, of the size and time of their photos on this machine, and of the tower."""
        digest = hashlib.sha256(self._seed.encode())
        for lot in lots:
            digest.update(repr((lot.item, _stamp(lot.photo))).encode())
        return digest.hexdigest()

    def finished(self, count: int, fingerprint: str) -> PartRecord | None:
        """The receipt of a part that need not be made again: same input, same tower, same bytes on disk."""
        path = self._folder / self.name(count)
        record = PartRecord.load(_record_path(path))
        if record is None or record.fingerprint != fingerprint or not path.is_file():
            return None
        return record if sha256_of(path) == record.part.sha256 else None

    def write(
        self, count: int, fingerprint: str, entries: Iterable[tuple[IndexedItem, PhotoState]], watch: Stopwatch | None = None
    ) -> PartRecord:
        """Write a part and its receipt; the same entries give the same bytes.

        Args:
            count: its number among the parts of this instance.
            fingerprint: hash of what it comes from.
            entries: lots with their vectors, and what became of their photos.
            watch: is told how long `write` was busy, without the making of the entries.
        """
        watch = watch or Stopwatch()
        path = self._folder / self.name(count)
        photos: Counter[str] = Counter()
        with replacing(path) as partial, partial.open("wb") as raw, gzip.GzipFile("", "wb", COMPRESSION, raw, mtime=0) as file:
            for entry, state in entries:
                photos[state.value] += 1
                with watch.time("write"):
                    file.write("".join(f"{line}\n" for line in bulk_lines(entry)).encode())
        record = PartRecord(fingerprint, Part(path.name, photos.total(), path.stat().st_size, sha256_of(path)), dict(photos))
        record.save(_record_path(path))
        return record

    def withdraw(self) -> None:
        """Take this run's manifests away: from here on the release is unfinished."""
        ours = f"-{self._instance:05}-of-{self._instances:05}.json" if self._instances > 1 else MANIFEST_FILE
        for path in self._folder.glob("manifest*.json"):
            if path.name.endswith(ours) or not path.name.endswith(f"-of-{self._instances:05}.json"):
                path.unlink()

    def commit(self, manifest: Manifest) -> None:
        """Remove parts of an earlier run that this one has no use for, then write the manifest."""
        kept = {part.name for part in manifest.parts}
        for path in self._folder.glob("part-*.ndjson.gz"):
            number = path.name.removeprefix("part-").removesuffix(".ndjson.gz")
            ours = number.isdigit() and int(number) % self._instances == self._instance
            if ours and path.name not in kept:
                path.unlink()
                _record_path(path).unlink(missing_ok=True)
        manifest.save(self._folder)


def _record_path(part: Path) -> Path:
    return part.with_name(part.name.removesuffix(".ndjson.gz") + ".receipt")


def _stamp(place: PhotoPlace) -> tuple[int, int] | None:
    """Size and time of a photo on this machine that may be read."""
    with suppress(InvalidPhoto, OSError):
        status = locate_photo(place.image, place.folder, place.opened).stat() if place.image else None
        return (status.st_size, status.st_mtime_ns) if status else None
    return None
