"""What a search answers: the ranked lots, and how they came about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from retrieval.search.request import Mode

Source = Literal["history", "popular_and_fresh"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a lot came to its place.

    Attributes:
        named_by_id: whether the query was its item_id.
        first_stage_rank: its place before re-ranking, from 1; None when it was not among the candidates.
        relevance_rank: its place by score alone, before diversity moved it; None without diversity, or when it was not among
            the candidates.
        fused_score: what the first stage ordered it by; in hybrid mode the fused score.
        semantic_rank: its place in the list by vectors; None when it is not in it.
        cosine: of the vector that was searched with and the lot's.
        keyword_rank: its place in the list by words; None when it is not in it.
        bm25: its BM25 score; None when it shares no word with the query, or is not in the list.
        features: feature -> value that the re-ranker saw; None where the lot does not say.
        contributions: feature -> what it added to the re-ranker's score (SHAP), with `expected`, the score of a lot that
            nothing is known of; None without a re-ranker that tells.
    """

    named_by_id: bool
    first_stage_rank: int | None
    relevance_rank: int | None
    fused_score: float | None
    semantic_rank: int | None
    cosine: float | None
    keyword_rank: int | None
    bm25: float | None
    features: Mapping[str, float | None] | None
    contributions: Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One lot of an answer.

    Attributes:
        rank: place, from 1; on a later page it goes on from the page before.
        item_id: its id.
        score: what it was ordered by: the re-ranker's score, or the first stage's; diversity moves lots and leaves their scores.
        similarity: cosine of query and lot in [-1, 1]; None when the query could not be encoded.
        fields: what a buyer may see of the lot; times in ms since 1970.
        explanation: how it came to its place, when that was asked for.
    """

    rank: int
    item_id: str
    score: float
    similarity: float | None
    fields: Mapping[str, Any]
    explanation: Explanation | None = None


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """The ranked lots and how they came about.

    Attributes:
        results: at most k, best first.
        tower_id: the tower that encoded query and lots.
        mode: as asked.
        reranked: whether the re-ranker gave the order.
        degraded: what failed and was done without: "semantic", "keyword", "rerank" or "buyer".
        timings_ms: stage -> milliseconds: load (of index and models, the first time), history (of the buyer), encode, retrieve,
            rerank, diversify, spelling, total.
        cached: whether it was answered a moment ago, and kept.
        next_offset: where the next page begins; None when there is none.
        unknown_items: item ids of the buyer's acts that no lot has.
        did_you_mean: the query with words that no lot has put right, on the first page; None where there are none, or nothing
            near them. What was searched for is the query as typed.
        source: what lots for a buyer were found by: what they did, or, where nothing is known of that, how popular and fresh
            lots are; None for other questions.
    """

    results: Sequence[SearchResult]
    tower_id: str
    mode: Mode
    reranked: bool
    degraded: Sequence[str]
    timings_ms: Mapping[str, float]
    cached: bool = False
    next_offset: int | None = None
    unknown_items: Sequence[str] = ()
    did_you_mean: str | None = None
    source: Source | None = None
