"""A release: the parts of one embedding run, the manifest that commits them, and what became of each part in an index."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path

from retrieval.contracts.documents import UpsertReport
from retrieval.errors import ReleaseError
from retrieval.files import replace_file, sha256_of, shortage

MANIFEST_FILE = "manifest.json"
REJECTS_FILE = "rejects.ndjson"
RECEIPT_FILE = "indexed.json"  # written beside the manifest once the release is live
PART_RECEIPTS = "receipts"  # the folder of IndexedParts beside the manifest
INDEX_REJECTS_FILE = "index-rejects.ndjson"  # items of the release that the index refused, with the reasons
MOST = {"dimensions": 16_000, "instances": 99_999}  # as OpenSearch takes them, and as names of manifests have room
MAX_COUNT = 10**12  # lots or bytes
PART_NAME = re.compile(r"part-\d+\.ndjson\.gz", re.ASCII)
TOWER_ID = re.compile(r"[\w.-]*", re.ASCII)  # part of the name of a folder


@dataclass(frozen=True, slots=True)
class Part:
    """One gzip file of bulk lines.

    Attributes:
        name: file name, such as part-00000.ndjson.gz.
        items: lots in it.
        bytes: size of the file.
        sha256: hexadecimal hash of the file's bytes.
    """

    name: str
    items: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class IndexedPart(UpsertReport):
    """The outcome of every item of a part in one index.

    Attributes:
        part: name of the part.
        sha256: hexadecimal hash of the bytes that were read.
        index: physical name of the index; empty where no entry of the part could be read.
        tower_id: whose vectors the index holds; empty likewise.
    """

    part: str = ""
    sha256: str = ""
    index: str = ""
    tower_id: str = ""

    @property
    def key(self) -> str:
        """Key of the receipt below the release's folder; S3 tells the indexer of no object with this ending."""
        return f"{PART_RECEIPTS}/{self.part}.receipt"

    def to_json(self) -> str:
        """The receipt as indented JSON."""
        return json.dumps({"counts": self.counts, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "IndexedPart":
        """Read to_json()'s text back.

        Raises:
            ReleaseError: the text is no receipt.
        """
        try:
            values = json.loads(text)
            del values["counts"]
            made = cls(**{**values, "rejected": [(item_id, reason) for item_id, reason in values["rejected"]]})
            _check_fields(made)
            for texts in (made.deleted_ids, made.stale_ids, *made.rejected):
                if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
                    raise ValueError("its ids and reasons are no texts")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ReleaseError(f"not the receipt of a part: {error}") from error
        return made

    def fault(self, part: Part, index: str) -> str | None:
        """Say why the receipt does not prove that an index holds a part whole; None where it does.

        Args:
            part: as the manifest names it.
            index: physical name.
        """
        if self.sha256 != part.sha256:
            return "was read with other bytes than its manifest names"
        if self.index not in (index, ""):
            return f"was indexed into {self.index}"
        unnamed = sum(not item_id for item_id, _ in self.rejected)  # damaged lines, each of an item or of none
        if not self.total - self.deleted - unnamed <= part.items <= self.total:
            return f"has {self.total} items, its manifest says {part.items}"
        return None


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says; it is written last, and its presence commits the release.

    Attributes:
        release_id: name of the run, the folder's name.
        tower_id: the tower that made every vector in it.
        dimensions: length of the vectors.
        items_in: rows that were read; always embedded + rejected.
        items_embedded: lots in the parts.
        items_rejected: rows in rejects.ndjson.
        items_without_image: lots embedded from their text alone.
        parts: the parts, by name.
        items_superseded: lots in the parts that a newer row of the same release, with the same id, replaces.
        inputs: hash of the catalogue files that the run was given, the same on every instance.
        instance: which of the instances wrote this manifest, from 0.
        instances: how many instances shared the run; each writes a manifest of its own.
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

    def __post_init__(self) -> None:
        if self.items_in != self.items_embedded + self.items_rejected:
            raise ReleaseError(
                f"release {self.release_id} lost rows: {self.items_in} in, "
                f"{self.items_embedded} embedded + {self.items_rejected} rejected"
            )
        if self.items_embedded != sum(part.items for part in self.parts):
            raise ReleaseError(f"release {self.release_id}: its parts do not add up to the {self.items_embedded} lots embedded")
        # over all instances: a row may replace one that another instance embedded
        if self.instances == 1 and self.items_superseded > self.items_embedded:
            raise ReleaseError(f"release {self.release_id}: {self.items_superseded} lots replaced, {self.items_embedded} embedded")

    @property
    def lots(self) -> int:
        """Different lots that the release leaves in an index."""
        return self.items_embedded - self.items_superseded

    @property
    def file_name(self) -> str:
        """manifest.json, or manifest-00001-of-00003.json for one of several instances."""
        if self.instances == 1:
            return MANIFEST_FILE
        return f"manifest-{self.instance:05}-of-{self.instances:05}.json"

    def to_json(self) -> str:
        """The manifest as indented JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Read to_json()'s text back.

        Raises:
            ReleaseError: the text is no manifest, or its counts contradict each other.
        """
        try:
            values = json.loads(text)
            made = cls(**{**values, "parts": [Part(**part) for part in values["parts"]]})
            _check_fields(made)
            for part in made.parts:
                _check_fields(part)
            if not made.instance < made.instances:
                raise ValueError(f"instance {made.instance} of {made.instances} cannot be")
            if TOWER_ID.fullmatch(made.tower_id) is None:
                raise ValueError(f"{made.tower_id!r} is no tower")
            if odd := [part.name for part in made.parts if PART_NAME.fullmatch(part.name) is None]:
                raise ValueError(f"{odd[0]!r} is no name of a part")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ReleaseError(f"not a release manifest: {error}") from error
        return made

    def save(self, folder: Path) -> Path:
        """Write the manifest, in one step, so that no reader sees half of it."""
        return replace_file(folder / self.file_name, self.to_json())


def _check_fields(described: Manifest | Part | IndexedPart) -> None:
    """Check what JSON brought into the fields that are counts or texts.

    Raises:
        ValueError: a count is no whole number in its range, or a text is none that can be shown.
    """
    for field in fields(described):
        value, most = getattr(described, field.name), MOST.get(field.name, MAX_COUNT)
        if field.type is int and not (type(value) is int and 0 <= value <= most):
            raise ValueError(f"{field.name} is no whole number from 0 to {most}: {value!r}")
        if field.type is str and not (isinstance(value, str) and value.isprintable()):
            raise ValueError(f"{field.name} is no text: {value!r}")


def load_release(folder: Path) -> Manifest:
    """Read the manifest of a release; the manifests of several instances come out as one.

    Args:
        folder: `embeddings/<release_id>`.

    Raises:
        ReleaseError: no manifest (the run did not finish), a damaged one, or the manifest of an instance is missing.
    """
    shards = []
    for path in sorted(folder.glob("manifest*.json")):
        try:
            shards.append(Manifest.from_json(path.read_text()))
        except (ReleaseError, OSError, UnicodeDecodeError) as error:
            told = shortage(path, error) or f"{path} is damaged ({error}); embed its lots again with `gavel embed`"
            raise ReleaseError(told) from error
    if not shards:
        raise ReleaseError(f"{folder} holds no {MANIFEST_FILE}: the embedding run did not finish; run `gavel embed` again")
    return merge_manifests(shards)


def merge_manifests(shards: Sequence[Manifest]) -> Manifest:
    """Put the manifests of the instances of one run together.

    Raises:
        ReleaseError: one is missing, or they are not of the same run, inputs and tower.
    """
    first = shards[0]
    if len({(s.release_id, s.tower_id, s.dimensions, s.inputs, s.instances) for s in shards}) > 1:
        raise ReleaseError(f"the manifests of release {first.release_id} are of different runs, inputs or towers")
    there = {s.instance for s in shards}
    missing = next((instance for instance in range(first.instances) if instance not in there), None)
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
    )


def check_part(part: Part, path: Path) -> None:
    """Compare a part's bytes with what its manifest says.

    Raises:
        ReleaseError: the file is missing, or its bytes are not the ones that the run wrote.
    """
    try:
        digest = sha256_of(path)
    except FileNotFoundError:
        raise ReleaseError(f"{path} is missing; run `gavel embed` again") from None
    if digest != part.sha256:
        raise ReleaseError(f"{path} is damaged ({path.stat().st_size} bytes, {part.bytes} expected); run `gavel embed` again")


def unproved_parts(manifest: Manifest, receipts: Iterable[IndexedPart], index: str) -> dict[str, str]:
    """Find the parts of a release that no receipt proves to be whole in an index.

    Args:
        manifest: of the whole release.
        receipts: of its parts; others are passed over.
        index: physical name.

    Returns:
        Part name -> what is amiss.
    """
    by_part = {receipt.part: receipt for receipt in receipts}
    faults = {
        part.name: by_part[part.name].fault(part, index) if part.name in by_part else "is not indexed yet"
        for part in manifest.parts
    }
    return {name: fault for name, fault in faults.items() if fault}


def rejects_of(receipts: Iterable[IndexedPart]) -> str:
    """Write the refused items of parts as the lines of INDEX_REJECTS_FILE."""
    return "".join(
        json.dumps({"part": receipt.part, "item_id": item_id, "reason": reason}) + "\n"
        for receipt in receipts
        for item_id, reason in receipt.rejected
    )
