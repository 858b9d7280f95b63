"""The index port: what search and indexing need of an index, and the order that every adapter answers in."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.documents import Deletion, IndexedItem, UpsertReport, Vector
from retrieval.index.fusion import Fusion, fuse

TopField = Literal["bid_count", "listed_at"]  # numbers of a lot that a list may be ordered by

REBUILD = "build the index again with `gavel index --rebuild`"  # the remedy of damaged files and lots
SCORE_DECIMALS = 6  # of a cosine: past these, engines differ by their order of summation
OVERFETCH = 10  # candidates beyond k that are asked of an engine, so that ties at the cut are broken by item_id


def utc_now() -> datetime:
    """The time against which auctions have ended or not."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which lots may come back. A lot whose auction has ended never does, whatever else is asked.

    Attributes:
        category: only this category, without regard to case, composed (NFC) or not, unseen characters, and white space around it.
        brand: only this brand, likewise.
        min_price: only lots with a known current price >= this.
        max_price: only lots with a known current price <= this.
        min_seller_rating: only lots with a known seller rating >= this.
        now: the moment that `ends_at` is compared with; None takes the time of the call. A lot without `ends_at` never ends.
    """

    category: str | None = None
    brand: str | None = None
    min_price: float | None = None
    max_price: float | None = None
    min_seller_rating: float | None = None
    now: datetime | None = None

    def __post_init__(self) -> None:
        for name in ("category", "brand"):
            if (value := getattr(self, name)) is not None:
                value = unicodedata.normalize("NFC", value).strip()  # control characters stay: a question with one is refused
                object.__setattr__(self, name, value)

    def moment(self) -> datetime:
        """Return `now`, or the current time if it is None."""
        return utc_now() if self.now is None else self.now


@dataclass(frozen=True, slots=True)
class Candidate:
    """A lot that an index found.

    Attributes:
        item_id: its id.
        score: cosine in [-1, 1] from semantic(), BM25 > 0 from keyword(), fused score >= 0 from hybrid(), the number itself from
            top().
        document: what was indexed, without the vector.
        vector: (dimensions,) float32, the stored vector.
        bm25: the lot's score in the keyword list; None when it is not in it, or there was none.
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
    """One physical index: the lots of one tower, searched as was tuned for it (retrieval.index.hybrid_tuning).

    Every search answers with at most k candidates by descending score, ties by item_id; fewer than k is a normal answer.
    Every method raises IndexUnavailable when the index does not answer.
    """

    @property
    def name(self) -> str:
        """Physical name, auction-items-<tower_id>-<stamp>."""

    @property
    def tower_id(self) -> str:
        """The tower whose vectors it holds."""

    @property
    def dimensions(self) -> int:
        """Length of its vectors."""

    def count(self, filters: Filter | None = None) -> int:
        """Return the number of lots in it, ended ones included; with a filter, of those that pass it."""

    def upsert(self, entries: Iterable[IndexedItem | Deletion], *, overwrite: bool = False) -> UpsertReport:
        """Write lots and carry out tombstones, in order; what is acknowledged is durable.

        Args:
            entries: read once.
            overwrite: write an entry even where a newer version is stored, as an operator asks whose catalogue had wrong times.
        """

    def refresh(self) -> None:
        """Make all acknowledged writes visible to the next search."""

    def semantic(self, vector: Vector, k: int, filters: Filter, *, exact: bool = False) -> list[Candidate]:
        """The lots whose vectors have the highest cosine with `vector`; exact=True compares with every allowed lot."""

    def keyword(self, text: str, k: int, filters: Filter) -> list[Candidate]:
        """The lots whose text has the highest BM25 score for `text` as tuned; lots that share no word do not come."""

    def hybrid(self, text: str, vector: Vector, k: int, filters: Filter, fusion: Fusion | None = None) -> list[Candidate]:
        """The k best of semantic() and of keyword(), fused by fuse.fuse(); None takes the index's own fusion."""

    def top(self, field: TopField, k: int, filters: Filter) -> list[Candidate]:
        """The lots with the most bids, or those listed last; lots that have no such number do not come."""

    def corrections(self, words: Sequence[str]) -> dict[str, str]:
        """What words in lower case were meant to be: word -> the nearest word of a title (spelling.py).

        A word that stands in the text, brand or category of a lot, of whatever ending, is known and has none; nor has a word
        that no title has anything near to.
        """

    def fetch(self, item_ids: Sequence[str]) -> list[Candidate]:
        """The stored lots of these ids, in the order of the ids, score 0; unknown ids are left out, ended lots are not."""

    def sample(self, count: int, filters: Filter, seed: int) -> list[Vector]:
        """At most `count` stored (dimensions,) vectors of random lots that pass a filter; the same ones for the same seed."""

    def deletions(self) -> list[Deletion]:
        """The lots that were withdrawn and did not come back, as far as the index remembers them."""

    def within(self, seconds: float) -> "VectorIndex":
        """The same index, whose searches and fetches are given up after so many seconds; an embedded one waits for nobody."""

    def damaged(self) -> int:
        """Return how many lots are left out because what is stored of them cannot be read, as far as searches came upon them."""

    def close(self) -> None:
        """Let go of files and connections."""


class IndexStore(Protocol):
    """The folder or cluster that holds physical indices, one of them live behind the alias."""

    def create(self, tower_id: str, dimensions: int) -> VectorIndex:
        """Make a new, empty index for a tower; it is not live."""

    def find(self, tower_id: str) -> VectorIndex | None:
        """The live index if it is of this tower, else the newest index of this tower, else None."""

    def live(self) -> VectorIndex:
        """The index behind the alias.

        Raises:
            IndexMissing: nothing was published yet.
        """

    def live_tower(self) -> str | None:
        """Return the tower of the index behind the alias, even if that index is damaged; None if nothing is published."""

    def publish(self, name: str) -> None:
        """Point the alias at the index of this name, in one atomic step; the one before stays for rollback."""

    def drop(self, name: str) -> None:
        """Delete an index that is not live."""


def index_name(alias: str, tower_id: str, moment: datetime) -> str:
    """Physical name of a new index: <alias>-<tower_id>-<UTC stamp>."""
    return f"{alias}-{tower_id}-{moment:%Y%m%d%H%M%S%f}"


def rank_by_cosine(vector: Vector, found: Iterable[Candidate], k: int) -> list[Candidate]:
    """Score candidates by the exact cosine with their stored vectors and put them in order.

    Engines round and scale their scores each in their own way; this makes one answer of them.

    Args:
        vector: (dimensions,) float32, any length above 0.
        found: candidates with vectors, in any order.
        k: how many to return.

    Returns:
        At most k candidates by descending cosine, rounded to 6 decimals and clipped to [-1, 1]; ties by item_id.
    """
    candidates = list(found)
    scored = [Candidate(c.item_id, s, c.document, c.vector) for c, s in zip(candidates, cosines(vector, candidates), strict=True)]
    return in_order(scored)[:k]


def cosines(vector: Vector, candidates: Sequence[Candidate]) -> list[float]:
    """The exact cosine of a (dimensions,) vector with that of each candidate, in [-1, 1], rounded to 6 decimals."""
    if not candidates:
        return []
    cosines: list[float] = cosines_with(vector, np.stack([c.vector for c in candidates])).tolist()
    return cosines


def cosines_with(vector: Vector, stored: Vector) -> NDArray[np.float64]:
    """(N,) float64: the exact cosines of a (D,) vector with (N, D) others, in [-1, 1], rounded to 6 decimals."""
    others, query = stored.astype(np.float64), vector.astype(np.float64)
    lengths = np.linalg.norm(others, axis=1) * np.linalg.norm(query)  # (N,)
    rounded: NDArray[np.float64] = np.round(others @ query / np.maximum(lengths, 1e-12), SCORE_DECIMALS)
    return np.clip(rounded, -1.0, 1.0)


class Scored(Protocol):
    """A lot of a ranked list."""

    @property
    def item_id(self) -> str:
        """Of the lot."""

    @property
    def score(self) -> float:
        """What the list is ordered by."""


def scores_of(ranking: Sequence[Scored]) -> list[tuple[str, float]]:
    """(item_id, score) of every lot, in its order: what fuse() takes."""
    return [(lot.item_id, lot.score) for lot in ranking]


def with_ranks(found: Sequence[Candidate], semantic: Sequence[Scored] = (), keyword: Sequence[Scored] = ()) -> list[Candidate]:
    """Tell candidates where they stand in the lists that they come from.

    Args:
        found: candidates in any order.
        semantic: the semantic list, best first.
        keyword: the keyword list, best first; its scores are BM25.

    Returns:
        The candidates in their order, with `semantic_rank`, `keyword_rank` and `bm25`.
    """
    by_meaning = {c.item_id: rank for rank, c in enumerate(semantic, 1)}
    by_words = {c.item_id: rank for rank, c in enumerate(keyword, 1)}
    bm25 = {c.item_id: c.score for c in keyword}
    return [
        Candidate(
            *(c.item_id, c.score, c.document, c.vector),
            bm25=bm25.get(c.item_id),
            keyword_rank=by_words.get(c.item_id),
            semantic_rank=by_meaning.get(c.item_id),
        )
        for c in found
    ]


def fused_candidates(keyword: Sequence[Candidate], semantic: Sequence[Candidate], fusion: Fusion, k: int) -> list[Candidate]:
    """The k best of two lists as they are fused, with their ranks in both."""
    found = {candidate.item_id: candidate for candidate in (*keyword, *semantic)}
    fused = fuse(scores_of(keyword), scores_of(semantic), fusion)[:k]
    best = [Candidate(item_id, score, found[item_id].document, found[item_id].vector) for item_id, score in fused]
    return with_ranks(best, semantic, keyword)


def in_order(found: Iterable[Candidate]) -> list[Candidate]:
    """Candidates by descending score, ties by item_id."""
    return sorted(found, key=lambda c: (-c.score, c.item_id))


Mask = NDArray[np.bool_]
