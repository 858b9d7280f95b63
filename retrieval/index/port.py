"""The index port: the protocols of an index and of its store, and the values that they exchange."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.documents import Deletion, IndexedItem, UpsertReport, Vector
from retrieval.contracts.item_states import ItemState, StateOutcome, StateUpdate
from retrieval.errors import InvalidInput
from retrieval.index.filters import Filter
from retrieval.index.fusion import Fusion

TopField = Literal["bid_count", "listed_at"]  # numeric fields that a list can be ordered by

NAME_STAMP = "%Y%m%d%H%M%S%f"  # format of the creation time in the name of an index
REBUILD = "build the index again with `gavel index --rebuild`"  # the remedy for damaged files and items
Mask = NDArray[np.bool_]
OVERFETCH = 10  # candidates beyond k that an engine fetches, so that ties at the cut are broken by item_id


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item of an answer.

    Attributes:
        item_id: id of the item.
        score: cosine in [-1, 1] from semantic(), BM25 > 0 from keyword(), fused score >= 0 from hybrid(), the number in the field
            from top(), 0 from fetch().
        document: indexed fields, without the vector.
        vector: (dimensions,) float32, the stored vector.
        bm25: BM25 score in the keyword list; None if the item is not in that list, or there is no keyword list.
        keyword_rank: rank in the keyword list, from 1; None likewise.
        semantic_rank: rank in the semantic list, from 1; None if the item is not in that list, or there is no semantic list.
    """

    item_id: str
    score: float
    document: Mapping[str, Any]
    vector: Vector
    bm25: float | None = None
    keyword_rank: int | None = None
    semantic_rank: int | None = None


@dataclass(frozen=True, slots=True)
class IndexSummary:
    """A physical index of an alias.

    Attributes:
        name: physical name.
        tower_id: tower of its vectors; None for an index that Gavel did not make.
        items: number of items, ended ones included; None likewise, and for an index that cannot be read.
        open_items: number of items that are still open; None likewise.
        bytes: size on disk; on OpenSearch that of the primary shards.
        is_live: True for the index behind the alias.
    """

    name: str
    tower_id: str | None
    items: int | None
    open_items: int | None
    bytes: int
    is_live: bool


class VectorIndex(Protocol):
    """One physical index: the items of one tower, searched with its tuning (retrieval.index.hybrid_tuning).

    Every search returns at most k candidates by descending score, ties by item_id; fewer than k is a normal answer.
    Every method raises IndexUnavailable if the index does not answer.
    """

    @property
    def name(self) -> str:
        """Return the physical name, <alias>-<tower_id>-<UTC stamp>."""

    @property
    def tower_id(self) -> str:
        """Return the id of the tower that encoded the vectors."""

    @property
    def dimensions(self) -> int:
        """Return the length of the vectors."""

    def count(self, filters: Filter | None = None) -> int:
        """Return the number of items, ended ones included; with filters, the number of items that match."""

    def upsert(self, entries: Iterable[IndexedItem | Deletion], *, overwrite: bool = False) -> UpsertReport:
        """Write items and apply deletions, in order; acknowledged writes are durable.

        Args:
            entries: operations; the iterable is read once.
            overwrite: True writes an operation even over a newer stored version, to repair a catalogue with wrong times.
        """

    def refresh(self) -> None:
        """Make all acknowledged writes visible to the next search."""

    def semantic(self, vector: Vector, k: int, filters: Filter, *, exact: bool = False) -> list[Candidate]:
        """Return the items with the highest cosine to `vector`; exact=True compares with every matching item."""

    def keyword(self, text: str, k: int, filters: Filter) -> list[Candidate]:
        """Return the items with the highest tuned BM25 score for `text`; items that share no word with it are left out."""

    def hybrid(self, text: str, vector: Vector, k: int, filters: Filter, fusion: Fusion | None = None) -> list[Candidate]:
        """Return the k best of the fused lists of semantic() and keyword(), see fusion.fuse(); None takes the tuned fusion."""

    def top(self, field: TopField, k: int, filters: Filter) -> list[Candidate]:
        """Return the items with the highest values of a field; items without the field are left out."""

    def corrections(self, words: Sequence[str]) -> dict[str, str]:
        """Return misspelt word -> its correction, the most similar word of a title (text/spelling.py).

        A word is left out if an item has it, with any ending, in text, brand or category; or if no title has a similar word.

        Args:
            words: words in lower case.
        """

    def fetch(self, item_ids: Sequence[str]) -> list[Candidate]:
        """Return the items of these ids in the order of the ids; unknown ids are left out, ended items are not."""

    def update_states(self, updates: Sequence[StateUpdate]) -> list[StateOutcome]:
        """Carry out updates of states, in order, and return the outcome of each; acknowledged updates are durable.

        Every index of the store uses the new states within a second. An update of an item that this index lacks is kept, too.
        """

    def states(self, item_ids: Sequence[str]) -> dict[str, ItemState]:
        """Return item_id -> state of these items; items without a state are left out."""

    def state_stamp(self, filters: Filter) -> int:
        """Return a number that changes when an update of a state may have made an item match the filters."""

    def sample(self, count: int, filters: Filter, seed: int) -> list[Vector]:
        """Return at most `count` stored (dimensions,) vectors of random matching items; the same ones for the same seed."""

    def newest_update(self) -> int | None:
        """Return the latest `updated_at` of an item, in ms since 1970; None if no item has one."""

    def deletions(self) -> list[Deletion]:
        """Return the deletions of items that were not written again, as far as the index remembers them."""

    def within(self, seconds: float) -> "VectorIndex":
        """Return the same index with a time limit, in seconds, for searches and fetches. An embedded index ignores it."""

    def damaged(self) -> int:
        """Return the number of items that were left out so far, because their stored data cannot be read."""

    def close(self) -> None:
        """Close files and connections."""


class IndexStore(Protocol):
    """A folder or cluster of physical indices, of which the alias names the live one."""

    def create(self, tower_id: str, dimensions: int) -> VectorIndex:
        """Create an empty index for a tower, and return it; it is not live."""

    def find(self, tower_id: str) -> VectorIndex | None:
        """Return the live index if it is of this tower, else the newest index of this tower, else None."""

    def live(self) -> VectorIndex:
        """Return the index behind the alias.

        Raises:
            IndexMissing: nothing is published yet.
        """

    def live_tower(self) -> str | None:
        """Return the tower of the index behind the alias, even if that index is damaged; None if nothing is published."""

    def names(self) -> list[str]:
        """Return the names of the indices that create() made for this alias, the newest first."""

    def open_index(self, name: str) -> VectorIndex:
        """Return an index by its physical name.

        Raises:
            IndexMissing: there is no index of this name.
        """

    def list_indices(self) -> list[IndexSummary]:
        """Return a summary of every index of the alias, the newest name of each tower first."""

    def previous(self) -> str | None:
        """Return the name of the index that was live before the live one; None if none was, or it was dropped."""

    def publish(self, name: str) -> None:
        """Point the alias at this index, in one atomic step; the previous index stays for rollback."""

    def drop(self, name: str) -> None:
        """Delete an index that is not live."""


def index_name(alias: str, tower_id: str, moment: datetime) -> str:
    """Return the physical name of a new index: <alias>-<tower_id>-<UTC stamp>."""
    return f"{alias}-{tower_id}-{moment:{NAME_STAMP}}"


def summary_of(name: str, summaries: Sequence[IndexSummary]) -> IndexSummary:
    """Return the summary of the index of this name. A pattern, which OpenSearch would take for many indices, is no name.

    Raises:
        InvalidInput: there is no such index.
    """
    by_name = {summary.name: summary for summary in summaries}
    if name not in by_name:
        raise InvalidInput(f"there is no index {name!r}; there are: {', '.join(by_name) or 'none'}")
    return by_name[name]


def created_at(name: str) -> datetime | None:
    """Return the UTC time in a name of index_name(); None for other names."""
    try:
        return datetime.strptime(name.rpartition("-")[2], NAME_STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None
