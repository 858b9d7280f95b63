"""The index port: the protocols of an index and of its store, and the values that they exchange."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.documents import Deletion, IndexedItem, UpsertReport, Vector
from retrieval.index.fusion import Fusion

TopField = Literal["bid_count", "listed_at"]  # numeric fields that a list can be ordered by

REBUILD = "build the index again with `gavel index --rebuild`"  # the remedy for damaged files and items
Mask = NDArray[np.bool_]
OVERFETCH = 10  # candidates beyond k that an engine fetches, so that ties at the cut are broken by item_id


def utc_now() -> datetime:
    """Return the current time in UTC; auctions with an earlier `ends_at` have ended."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class BlockList:
    """Items that never come back, by their ids and labels.

    Attributes:
        items: item ids.
        sellers: sellers, letter by letter.
        categories: categories; case, Unicode composition and invisible characters do not matter.
        brands: brands, likewise.
    """

    items: frozenset[str] = frozenset()
    sellers: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()
    brands: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name in ("sellers", "categories", "brands"):
            labels = (unicodedata.normalize("NFC", label).strip() for label in getattr(self, name))
            object.__setattr__(self, name, frozenset(filter(None, labels)))
        object.__setattr__(self, "items", frozenset(self.items))


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions on the items of an answer. An item whose auction has ended never matches.

    Attributes:
        category: only this category; case, Unicode composition, invisible characters and surrounding white space do not matter.
        brand: only this brand, likewise.
        min_price: only items with a known current price >= this.
        max_price: only items with a known current price <= this.
        min_seller_rating: only items with a known seller rating >= this.
        now: compared with `ends_at`; None takes the time of the call. An item without `ends_at` never ends.
        blocked: items that do not match, whatever else holds.
    """

    category: str | None = None
    brand: str | None = None
    min_price: float | None = None
    max_price: float | None = None
    min_seller_rating: float | None = None
    now: datetime | None = None
    blocked: BlockList = BlockList()

    def __post_init__(self) -> None:
        for name in ("category", "brand"):
            if (value := getattr(self, name)) is not None:
                value = unicodedata.normalize("NFC", value).strip()  # control characters stay: requests with one are refused
                object.__setattr__(self, name, value)

    def moment(self) -> datetime:
        """Return `now`, or the current time if it is None."""
        return utc_now() if self.now is None else self.now


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item of an answer.

    Attributes:
        item_id: its id.
        score: cosine in [-1, 1] from semantic(), BM25 > 0 from keyword(), fused score >= 0 from hybrid(), the number itself from
            top().
        document: the indexed fields, without the vector.
        vector: (dimensions,) float32, the stored vector.
        bm25: its score in the keyword list; None if it is not in that list, or there was no such list.
        keyword_rank: its rank in that list, from 1; None likewise.
        semantic_rank: its rank in the semantic list, from 1; None likewise.
    """

    item_id: str
    score: float
    document: Mapping[str, Any]
    vector: Vector
    bm25: float | None = None
    keyword_rank: int | None = None
    semantic_rank: int | None = None


class VectorIndex(Protocol):
    """One physical index: the items of one tower, searched with its tuning (retrieval.index.hybrid_tuning).

    Every search returns at most k candidates by descending score, ties by item_id; fewer than k is a normal answer.
    Every method raises IndexUnavailable if the index does not answer.
    """

    @property
    def name(self) -> str:
        """Physical name, auction-items-<tower_id>-<stamp>."""

    @property
    def tower_id(self) -> str:
        """The tower of its vectors."""

    @property
    def dimensions(self) -> int:
        """Length of its vectors."""

    def count(self, filters: Filter | None = None) -> int:
        """Return the number of items, ended ones included; with filters, the number of items that match."""

    def upsert(self, entries: Iterable[IndexedItem | Deletion], *, overwrite: bool = False) -> UpsertReport:
        """Write items and apply deletions, in order; acknowledged writes are durable.

        Args:
            entries: read once.
            overwrite: True writes an entry even over a newer stored version, to repair a catalogue with wrong times.
        """

    def refresh(self) -> None:
        """Make all acknowledged writes visible to the next search."""

    def semantic(self, vector: Vector, k: int, filters: Filter, *, exact: bool = False) -> list[Candidate]:
        """Return the items with the highest cosine to `vector`; exact=True compares with every matching item."""

    def keyword(self, text: str, k: int, filters: Filter) -> list[Candidate]:
        """Return the items with the highest tuned BM25 score for `text`; items that share no word are left out."""

    def hybrid(self, text: str, vector: Vector, k: int, filters: Filter, fusion: Fusion | None = None) -> list[Candidate]:
        """Fuse the k best of semantic() and of keyword() by fusion.fuse(); None takes the index's own fusion."""

    def top(self, field: TopField, k: int, filters: Filter) -> list[Candidate]:
        """Return the items with the highest value of a field; items without one are left out."""

    def corrections(self, words: Sequence[str]) -> dict[str, str]:
        """Correct words in lower case: word -> the nearest word of a title (spelling.py).

        Left out are words that occur in the text, brand or category of an item, with any ending, and words that no title has
        a similar word for.
        """

    def fetch(self, item_ids: Sequence[str]) -> list[Candidate]:
        """Return the stored items of these ids in their order, with score 0; unknown ids are left out, ended items are not."""

    def sample(self, count: int, filters: Filter, seed: int) -> list[Vector]:
        """Return at most `count` stored (dimensions,) vectors of random matching items; the same ones for the same seed."""

    def deletions(self) -> list[Deletion]:
        """Return the deletions of items that were not written again, as far as the index remembers them."""

    def within(self, seconds: float) -> "VectorIndex":
        """Return the same index with a time limit for searches and fetches; an embedded index needs none."""

    def damaged(self) -> int:
        """Return the number of items left out so far because their stored data cannot be read."""

    def close(self) -> None:
        """Close files and connections."""


class IndexStore(Protocol):
    """A folder or cluster of physical indices, one of them live behind the alias."""

    def create(self, tower_id: str, dimensions: int) -> VectorIndex:
        """Create an empty index for a tower; it is not live."""

    def find(self, tower_id: str) -> VectorIndex | None:
        """Return the live index if it is of this tower, else the newest index of this tower, else None."""

    def live(self) -> VectorIndex:
        """Return the index behind the alias.

        Raises:
            IndexMissing: nothing is published yet.
        """

    def live_tower(self) -> str | None:
        """Return the tower of the index behind the alias, even if that index is damaged; None if nothing is published."""

    def publish(self, name: str) -> None:
        """Point the alias at this index, in one atomic step; the previous index stays for rollback."""

    def drop(self, name: str) -> None:
        """Delete an index that is not live."""


def index_name(alias: str, tower_id: str, moment: datetime) -> str:
    """Return the physical name of a new index: <alias>-<tower_id>-<UTC stamp>."""
    return f"{alias}-{tower_id}-{moment:%Y%m%d%H%M%S%f}"
