"""A release: the parts of one embedding run, the manifest that commits them, and the record of each part in an index."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from pathlib import Path

from retrieval.contracts.documents import UpsertReport
from retrieval.errors import ReleaseError
from retrieval.files import reason_of, replace_file, sha256_of, shortage

MANIFEST_FILE = "manifest.json"
MANIFESTS = "manifest*.json"  # pattern of the manifests of a release, one for each instance of the embedding job
REJECTS_FILE = "rejects.ndjson"
MISSING_PHOTOS_FILE = "missing-photos.ndjson"  # photos that lots name and do not have, with the reasons
RECEIPT_FILE = "indexed.json"  # written beside the manifest once the release is live
PART_RECEIPTS = "receipts"  # folder beside the manifest that holds the IndexedParts
INDEX_REJECTS_FILE = "index-rejects.ndjson"  # items of the release that the index rejected, with the reasons
MAX_COUNTS = {"dimensions": 16_000, "instances": 99_999}  # limits of OpenSearch, and of the digits in a manifest's name
MAX_COUNT = 10**12  # items or bytes
PART_NAME = re.compile(r"part-\d+\.ndjson\.gz", re.ASCII)
TOWER_ID = re.compile(r"[\w.-]*", re.ASCII)  # characters that a folder's name may have


@dataclass(frozen=True, slots=True)
class Part:
    """One gzip file of bulk lines.

    Attributes:
        name: file name, such as part-00000.ndjson.gz.
        items: number of items in the part.
        bytes: size of the file in bytes.
        sha256: hexadecimal hash of the file's bytes.
    """

    name: str
    items: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class IndexedPart(UpsertReport):
    """The result of every operation of a part in one index.

    Attributes:
        part: name of the part.
        sha256: hexadecimal hash of the bytes that were read.
        index: physical name of the index; empty if no operation of the part could be read.
        tower_id: id of the tower of the index; empty if `index` is.
    """

    part: str = ""
    sha256: str = ""
    index: str = ""
    tower_id: str = ""

    @property
    def key(self) -> str:
        """Return the key of the record below the release's folder. It ends so that S3 sends the indexer no event for it."""
        return f"{PART_RECEIPTS}/{self.part}.receipt"

    def to_json(self) -> str:
        """Return the record as indented JSON."""
        return json.dumps({"counts": self.counts, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "IndexedPart":
        """Read a record from the JSON that to_json() wrote.

        Raises:
            ReleaseError: the text is no such record.
        """
        try:
            values = json.loads(text)
            del values["counts"]
            indexed = cls(**{**values, "rejected": [(item_id, reason) for item_id, reason in values["rejected"]]})
            _check_fields(indexed)
            for texts in (indexed.deleted_ids, indexed.stale_ids, *indexed.rejected):
                if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
                    raise ValueError("its ids and reasons are no texts")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ReleaseError(f"not the receipt of a part: {error}") from error
        return indexed

    def fault(self, part: Part, index: str) -> str | None:
        """Return the reason why this record does not prove that the index holds the whole part; None if it does.

        Args:
            part: entry of the part in the manifest.
            index: physical name of the index.
        """
        if self.sha256 != part.sha256:
            return "was read with other bytes than its manifest names"
        if self.index not in (index, ""):
            return f"was indexed into {self.index}"
        without_id = sum(not item_id for item_id, _ in self.rejected)  # damaged lines; each belongs to one item or none
        if not self.total - self.deleted - without_id <= part.items <= self.total:
            return f"has {self.total} items, its manifest says {part.items}"
        return None


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`, which is written last and commits the release.

    Attributes:
        release_id: id of the release, which is also the name of its folder.
        tower_id: id of the tower of all vectors.
        dimensions: length of the vectors.
        items_in: number of rows read; always items_embedded + items_rejected.
        items_embedded: number of items in the parts.
        items_rejected: number of rows in rejects.ndjson.
        items_without_image: number of items embedded from their text only.
        parts: parts of the release, sorted by name.
        items_superseded: number of items in the parts that a newer row of the same release replaces.
        inputs: hash of the catalogue files of the run, the same on every instance.
        instance: number of the instance that wrote this manifest, from 0.
        instances: number of instances that share the run; each writes its own manifest.
        device: name of the device that encoded the items, and the type that it computed in; empty if no device did. Like
            items_per_second it says nothing about the parts, so it is not compared.
        items_per_second: items that this instance embedded a second, >= 0, from the loaded tower to the last part; 0 if it reused
            every part.
    """

    release_id: str
    tower_id: str
    dimensions: int
    items_in: int
    items_embedded: int
    items_rejected: int
    items_without_image: int
    parts: Sequence[Part]
    items_superseded: int = 0
    inputs: str = ""
    instance: int = 0
    instances: int = 1
    device: str = field(default="", compare=False)
    items_per_second: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        if self.items_in != self.items_embedded + self.items_rejected:
            raise ReleaseError(
                f"release {self.release_id} lost rows: {self.items_in} in, "
                f"{self.items_embedded} embedded + {self.items_rejected} rejected"
            )
        if self.items_embedded != sum(part.items for part in self.parts):
            raise ReleaseError(f"release {self.release_id}: its parts do not add up to the {self.items_embedded} lots embedded")
        # only for a single instance, because a row may replace one that another instance embedded
        if self.instances == 1 and self.items_superseded > self.items_embedded:
            raise ReleaseError(f"release {self.release_id}: {self.items_superseded} lots replaced, {self.items_embedded} embedded")

    @property
    def lots(self) -> int:
        """Return the number of distinct items of the release."""
        return self.items_embedded - self.items_superseded

    @property
    def file_name(self) -> str:
        """Return manifest.json, or manifest-00001-of-00003.json for one of several instances."""
        if self.instances == 1:
            return MANIFEST_FILE
        return f"manifest-{self.instance:05}-of-{self.instances:05}.json"

    def to_json(self) -> str:
        """Return the manifest as indented JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Read a manifest from the JSON that to_json() wrote.

        Raises:
            ReleaseError: the text is no manifest, or its counts contradict each other.
        """
        try:
            values = json.loads(text)
            manifest = cls(**{**values, "parts": [Part(**part) for part in values["parts"]]})
            _check_fields(manifest)
            for part in manifest.parts:
                _check_fields(part)
            if not manifest.instance < manifest.instances:
                raise ValueError(f"instance {manifest.instance} of {manifest.instances} cannot be")
            if TOWER_ID.fullmatch(manifest.tower_id) is None:
                raise ValueError(f"{manifest.tower_id!r} is no tower")
            if invalid := [part.name for part in manifest.parts if PART_NAME.fullmatch(part.name) is None]:
                raise ValueError(f"{invalid[0]!r} is no name of a part")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ReleaseError(f"not a release manifest: {error}") from error
        return manifest

    def save(self, folder: Path) -> Path:
        """Write the manifest in one step, so that no reader sees half of it; return its path."""
        return replace_file(folder / self.file_name, self.to_json())


def _check_fields(values: Manifest | Part | IndexedPart) -> None:
    """Check the types and ranges of counts and texts that were read from JSON.

    Raises:
        ValueError: a count is not a whole number in its range, or a text is not printable.
    """
    for entry in fields(values):
        value, maximum = getattr(values, entry.name), MAX_COUNTS.get(entry.name, MAX_COUNT)
        if entry.type is int and not (type(value) is int and 0 <= value <= maximum):
            raise ValueError(f"{entry.name} is no whole number from 0 to {maximum}: {value!r}")
        if entry.type is float and not (type(value) in (int, float) and 0 <= value <= maximum):
            raise ValueError(f"{entry.name} is no number from 0 to {maximum}: {value!r}")
        if entry.type is str and not (isinstance(value, str) and value.isprintable()):
            raise ValueError(f"{entry.name} is no text: {value!r}")


def load_release(folder: Path) -> Manifest:
    """Read the manifest of a release; merge the manifests of several instances.

    Args:
        folder: folder of the release, `embeddings/<release_id>`.

    Raises:
        ReleaseError: there is no manifest (the run did not finish), one is damaged, or that of an instance is missing.
    """
    shards = []
    for path in sorted(folder.glob(MANIFESTS)):
        try:
            shards.append(Manifest.from_json(path.read_text()))
        except (ReleaseError, OSError, UnicodeDecodeError) as error:
            message = shortage(path, error) or f"{path} is damaged ({reason_of(error)}); embed its lots again with `gavel embed`"
            raise ReleaseError(message) from error
    if not shards:
        raise ReleaseError(f"{folder} holds no {MANIFEST_FILE}: the embedding run did not finish; run `gavel embed` again")
    return merge_manifests(shards)


def merge_manifests(shards: Sequence[Manifest]) -> Manifest:
    """Merge the manifests of the instances of one run.

    Raises:
        ReleaseError: a manifest is missing, or they differ in run, inputs, tower or dimensions.
    """
    first = shards[0]
    if len({(s.release_id, s.tower_id, s.dimensions, s.inputs, s.instances) for s in shards}) > 1:
        raise ReleaseError(f"the manifests of release {first.release_id} are of different runs, inputs or towers")
    present = {s.instance for s in shards}
    missing = next((instance for instance in range(first.instances) if instance not in present), None)
    if missing is not None:
        raise ReleaseError(f"release {first.release_id} waits for the manifest of instance {missing} of {first.instances}")
    parts = sorted((part for s in shards for part in s.parts), key=lambda part: part.name)
    for one, other in pairwise(parts):
        if one.name == other.name:
            raise ReleaseError(f"release {first.release_id}: {one.name} was written by two instances; run `gavel embed` again")
    return Manifest(
        release_id=first.release_id,
        tower_id=first.tower_id,
        dimensions=first.dimensions,
        items_in=sum(s.items_in for s in shards),
        items_embedded=sum(s.items_embedded for s in shards),
        items_rejected=sum(s.items_rejected for s in shards),
        items_without_image=sum(s.items_without_image for s in shards),
        parts=parts,
        items_superseded=sum(s.items_superseded for s in shards),
        inputs=first.inputs,
        device=" and ".join(sorted({s.device for s in shards if s.device})),
        items_per_second=sum(s.items_per_second for s in shards),
    )


def check_part(part: Part, path: Path) -> None:
    """Compare the file of a part with the hash in the manifest.

    Raises:
        ReleaseError: the file is missing, or its bytes differ from those that the run wrote.
    """
    try:
        digest = sha256_of(path)
    except FileNotFoundError:
        raise ReleaseError(f"{path} is missing; run `gavel embed` again") from None
    if digest != part.sha256:
        raise ReleaseError(f"{path} is damaged ({path.stat().st_size} bytes, {part.bytes} expected); run `gavel embed` again")


def unproved_parts(manifest: Manifest, indexed: Iterable[IndexedPart], index: str) -> dict[str, str]:
    """Find the parts of a release for which no record proves that an index holds them whole.

    Args:
        manifest: manifest of the whole release.
        indexed: records of parts; those of other releases are ignored.
        index: physical name of the index.

    Returns:
        Name of each such part -> reason.
    """
    by_name = {part.part: part for part in indexed}
    faults = {
        part.name: by_name[part.name].fault(part, index) if part.name in by_name else "is not indexed yet"
        for part in manifest.parts
    }
    return {name: fault for name, fault in faults.items() if fault}


def rejects_of(parts: Iterable[IndexedPart]) -> str:
    """Return the content of INDEX_REJECTS_FILE: one line of JSON per rejected item of these parts."""
    return "".join(
        json.dumps({"part": part.part, "item_id": item_id, "reason": reason}) + "\n"
        for part in parts
        for item_id, reason in part.rejected
    )
