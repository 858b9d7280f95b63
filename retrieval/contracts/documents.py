"""Index operations and their results, the document of an item, and the bulk lines of an embedding part."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import shake_128
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.attributes import (
    ATTRIBUTE_TERMS_FIELD,
    ATTRIBUTE_TEXT_FIELD,
    ATTRIBUTES_FIELD,
    attribute_terms,
    attribute_text,
)
from retrieval.contracts.items import Item, epoch_ms, item_text
from retrieval.errors import InvalidInput

Vector = NDArray[np.float32]

VECTOR_FIELD = "embedding"
TEXT_FIELD = "text"
LISTED_CHARS = 400  # longest description, and longest attributes, in a list; GET /items returns the whole
TIME_FIELDS = ("listed_at", "ends_at", "updated_at")
VECTOR_DECIMALS = 7  # decimals that a float32 below 1 can represent
# Lucene links equal vectors only to each other, and a search that reaches them finds nothing else. A float32 score cannot
# distinguish vectors that are nearer than 5e-4. So vectors are moved by this length (docs/adr/0017-equal-vectors.md)
SPREAD_LENGTH = 3e-3
SPREAD_FIELD = "embedding_spread"  # field of a stored document whose vector was moved by SPREAD_LENGTH
DELETED_FIELD = "deleted_at"  # field of the document that records a deletion


@dataclass(frozen=True, slots=True)
class IndexedItem:
    """An item with its vector, as an index stores it.

    Attributes:
        item_id: unique id.
        version: >= 0; an operation with a lower version than the stored one is stale and changes nothing.
        document: fields of the item, as document_of() returns them.
        vector: (dimensions,) float32 of unit length.
    """

    item_id: str
    version: int
    document: Mapping[str, Any]
    vector: Vector


@dataclass(frozen=True, slots=True)
class Deletion:
    """A deletion of `item_id` at `version`. Operations with a lower version are stale."""

    item_id: str
    version: int


@dataclass(frozen=True, slots=True)
class UpsertReport:
    """The results of the operations of one upsert; every operation counts in exactly one field.

    Attributes:
        indexed: number of items written.
        deleted_ids: item ids of the deletions carried out, also if the item was never stored.
        stale_ids: item ids of the operations without effect, because a newer version is stored.
        rejected: (item_id, reason) of the operations that the index rejected.
    """

    indexed: int = 0
    deleted_ids: Sequence[str] = ()
    stale_ids: Sequence[str] = ()
    rejected: Sequence[tuple[str, str]] = ()

    @property
    def deleted(self) -> int:
        """Return the number of deletions carried out."""
        return len(self.deleted_ids)

    @property
    def stale(self) -> int:
        """Return the number of operations without effect."""
        return len(self.stale_ids)

    @property
    def counts(self) -> dict[str, int]:
        """Return result -> number of operations, under the names that reports and logs use."""
        return {"indexed": self.indexed, "stale": self.stale, "refused": len(self.rejected), "withdrawn": self.deleted}

    @property
    def total(self) -> int:
        """Return the number of operations of the upsert."""
        return sum(self.counts.values())

    def __add__(self, other: "UpsertReport") -> "UpsertReport":
        return UpsertReport(
            self.indexed + other.indexed,
            (*self.deleted_ids, *other.deleted_ids),
            (*self.stale_ids, *other.stale_ids),
            (*self.rejected, *other.rejected),
        )


def document_of(item: Item, *, has_image: bool, tower_id: str, release_id: str) -> dict[str, Any]:
    """Return the document of an item: its non-empty fields, with times in ms since 1970, its search text, tower and release."""
    fields = {name: value for name, value in asdict(item).items() if value not in (None, "", {}, ())}
    if item.attributes:
        fields |= {
            ATTRIBUTE_TEXT_FIELD: attribute_text(item.attributes),
            ATTRIBUTE_TERMS_FIELD: attribute_terms(item.attributes),
        }
    times: dict[str, Any] = {name: epoch_ms(fields[name]) for name in TIME_FIELDS if name in fields}
    return {
        **fields,
        **times,
        TEXT_FIELD: item_text(item.title, item.description),
        "has_image": has_image,
        "tower_id": tower_id,
        "release_id": release_id,
    }


def bulk_lines(op: IndexedItem | Deletion, *, spread: bool = False) -> Iterator[str]:
    """Yield the lines of one operation for an embedding part, in the format of OpenSearch's `_bulk`, without an index name.

    Args:
        op: operation to write.
        spread: True moves the vector by SPREAD_LENGTH in a direction that depends on the item_id, so that Lucene links equal
            vectors to others, too. pop_vector() moves it back.
    """
    if isinstance(op, Deletion):
        yield json.dumps({"delete": _action_of(op)})
        return
    yield json.dumps({"index": _action_of(op)})
    source = {**op.document, VECTOR_FIELD: vector_to_json(op.vector)}
    if spread:
        moved = np.asarray(source[VECTOR_FIELD]) + _offsets(op.item_id, len(op.vector))
        source |= {VECTOR_FIELD: vector_to_json(moved), SPREAD_FIELD: True}
    yield json.dumps(source, ensure_ascii=False)


def deletion_lines(op: Deletion, moment: datetime) -> Iterator[str]:
    """Yield the bulk lines of a document that records a deletion, so that OpenSearch rejects older operations on the item.

    A server stores the version of a delete only in memory, but this document outlives a restart. No search finds the document,
    because it has neither words nor a vector, and its `ends_at` is in 1970.

    Args:
        op: deletion to record.
        moment: time of the record, by which it is removed later.
    """
    yield json.dumps({"index": _action_of(op)})
    yield json.dumps({"item_id": op.item_id, "ends_at": 0, DELETED_FIELD: epoch_ms(moment)})


def _action_of(op: IndexedItem | Deletion) -> dict[str, Any]:
    return {"_id": op.item_id, "version": op.version, "version_type": "external_gte"}


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line of an embedding part that bulk_lines() cannot have written.

    Attributes:
        item_id: item id of the operation; empty if it cannot be read.
        reason: fault of the line, with the line number.
    """

    item_id: str
    reason: str


UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, InvalidInput)


def parse_bulk_lines(lines: Iterable[str | bytes]) -> Iterator[IndexedItem | Deletion | BadLine]:
    """Yield the operations in the lines of an embedding part; skip blank lines. A bad line affects only its own item.

    An action is an object with one key whose value is an object. Reading continues at the next action, whatever precedes it. The
    line after a damaged action counts as its document.
    """
    group: list[tuple[int, Any]] = []  # an action and its document, each with its line number
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        values = _parse(line)
        if group and (_is_action(values) or len(group) == 2 or _is_action(group[0][1], "delete")):
            yield _read_op(group)
            group = []
        group.append((number, values))
    if group:
        yield _read_op(group)


def _parse(line: str | bytes) -> Any:
    """Return the value of a line of JSON; return the exception if the line is not JSON."""
    try:
        return json.loads(line.decode() if isinstance(line, bytes) else line)
    except UNREADABLE as error:
        return error


def _is_action(values: Any, verb: str = "") -> bool:
    """True for an object {verb: {...}}; an empty `verb` allows any key."""
    return isinstance(values, dict) and len(values) == 1 and all(isinstance(v, dict) and verb in ("", k) for k, v in values.items())


def _read_op(group: Sequence[tuple[int, Any]]) -> IndexedItem | Deletion | BadLine:
    (number, action), *documents = group
    item_id = ""
    try:
        if not _is_action(action):
            item_id = _text_of(documents[0][1], "item_id") if documents else ""
            raise action if isinstance(action, Exception) else InvalidInput("an action was expected")
        ((verb, target),) = action.items()
        item_id = _text_of(target, "_id")
        version = _version_of(target)
        if verb == "delete":
            return Deletion(item_id, version)
        if verb != "index" or not documents:
            raise InvalidInput(f"the action {verb!r} is unknown" if verb != "index" else "its document is missing")
        ((number, document),) = documents
        if isinstance(document, Exception):
            raise document
        vector = vector_from_json(document.pop(VECTOR_FIELD))
        if not _text_of(document, "tower_id"):
            raise InvalidInput("the document does not say which tower its vector is of")
        return IndexedItem(item_id, version, document, vector)
    except UNREADABLE as error:
        return BadLine(item_id, f"line {number} is not a bulk line of an embedding part: {error!r}")


def _text_of(values: Any, name: str) -> str:
    """Return a text field of an object; empty if there is none."""
    value = values.get(name) if isinstance(values, dict) else None
    return value if isinstance(value, str) else ""


def _version_of(action: Mapping[str, Any]) -> int:
    item_id, version = action["_id"], action["version"]
    if not isinstance(item_id, str) or type(version) is not int or version < 0:
        raise InvalidInput(f"_id must be text and version a whole number from 0, not {item_id!r} and {version!r}")
    return version


def vector_to_json(vector: Vector | NDArray[np.float64]) -> list[float]:
    """Convert a vector to JSON numbers of at most 7 decimals, which every engine reads as the same float32."""
    rounded: list[float] = np.round(vector.astype(np.float64), VECTOR_DECIMALS).tolist()
    return rounded


def pop_vector(item_id: str, document: dict[str, Any]) -> Vector:
    """Remove the vector from a stored document and return it as it was before bulk_lines() moved it."""
    numbers = document.pop(VECTOR_FIELD)
    if not document.pop(SPREAD_FIELD, False):
        return vector_from_json(numbers)
    return vector_from_json(np.round(np.asarray(numbers, dtype=np.float64) - _offsets(item_id, len(numbers)), VECTOR_DECIMALS))


def _offsets(item_id: str, dimensions: int) -> NDArray[np.float64]:
    """Return a (dimensions,) float64 offset of length SPREAD_LENGTH. The id determines its direction.

    Its numbers are rounded to VECTOR_DECIMALS, so that pop_vector() restores the vector exactly.
    """
    digest = shake_128(item_id.encode(errors="surrogatepass")).digest(dimensions)
    signs = 1.0 - 2.0 * (np.frombuffer(digest, dtype=np.uint8) & 1).astype(np.float64)
    return signs * round(SPREAD_LENGTH / math.sqrt(dimensions), VECTOR_DECIMALS)


def vector_from_json(numbers: Any) -> Vector:
    """Convert the numbers of vector_to_json() back to a float32 vector.

    Raises:
        InvalidInput: `numbers` is not a flat list of finite numbers.
    """
    with np.errstate(over="ignore"):  # a number that overflows becomes infinite and is rejected below
        vector = np.asarray(numbers, dtype=np.float32)
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise InvalidInput("the embedding is not a flat list of finite numbers")
    return vector


def visible_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a document that a buyer may see."""
    hidden = (TEXT_FIELD, VECTOR_FIELD, ATTRIBUTE_TEXT_FIELD, ATTRIBUTE_TERMS_FIELD, "tower_id", "release_id")
    return {name: value for name, value in document.items() if name not in hidden}


def listed_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return visible_fields() of an item in a list.

    A long description is cut at a word, and `description_cut` is then true. Of many attributes the first stay, and
    `attributes_cut` is then true.
    """
    shown = visible_fields(document)
    if attributes := shown.get(ATTRIBUTES_FIELD):
        lengths = accumulate(len(name) + len(str(value)) for name, value in attributes.items())
        first = {name: attributes[name] for name, length in zip(attributes, lengths, strict=True) if length <= LISTED_CHARS}
        shown |= {ATTRIBUTES_FIELD: first} | ({"attributes_cut": True} if len(first) < len(attributes) else {})
    description = str(shown.get("description", ""))
    if len(description) > LISTED_CHARS:
        head = description[:LISTED_CHARS]
        if not (head[-1].isspace() or description[LISTED_CHARS].isspace()):
            whole_words = head.rsplit(maxsplit=1)[0]
            head = whole_words if len(whole_words) > LISTED_CHARS / 2 else head  # a script without spaces is cut anywhere
        shown |= {"description": head.rstrip(), "description_cut": True}
    return shown
