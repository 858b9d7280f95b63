"""The answer to a search: ranked items, and how they were found."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from retrieval.search.request import Mode

AnswerMode = Mode | Literal["popular"]
Source = Literal["history", "popular_and_fresh"]
RankBy = Literal["relevance", "expected_value"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Explains the place of one result.

    Attributes:
        named_by_id: True if the query is its item_id.
        first_stage_rank: rank before re-ranking, from 1; None if it is not a rerank candidate.
        relevance_rank: rank by score alone, before diversity moved it; None without diversity, or if it is not a rerank candidate.
        fused_score: score of retrieval; in hybrid mode the fused score.
        semantic_rank: rank in the semantic list; None if it is not in it.
        cosine: of the search vector and the vector of the item.
        keyword_rank: rank in the keyword list; None if it is not in it.
        bm25: BM25 score; None if it shares no word with the query, or is not in the list.
        features: feature -> value for the re-ranker; None if the item has no such value.
        contributions: feature -> part of the re-ranker's score (SHAP), and `expected`, the score of an item without any value;
            None without a re-ranker that explains.
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
    """One item of an answer.

    Attributes:
        rank: from 1; a later page continues the ranks of the page before.
        item_id: its id.
        score: of the re-ranker, or of retrieval, or the expected value; diversity moves items and leaves their scores.
        similarity: cosine of query and item in [-1, 1]; None if the query could not be encoded.
        fields: visible fields of the item; times in ms since 1970.
        explanation: of its place, if requested.
    """

    rank: int
    item_id: str
    score: float
    similarity: float | None
    fields: Mapping[str, Any]
    explanation: Explanation | None = None


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """Ranked items, and how they were found.

    Attributes:
        results: at most k, best first.
        tower_id: of the tower that encoded query and items.
        mode: of the request; `semantic` for the items nearest to a vector, an item or a buyer; `popular` for popular and
            fresh ones.
        reranked: True if the order is the re-ranker's.
        failed_components: what the answer does without: "semantic", "keyword", "rerank" or "buyer".
        timings_ms: step -> milliseconds: load (of index and models, the first time), history (of the buyer), encode, retrieve,
            rerank, diversify, spelling, total.
        cached: True if it is the stored answer to an earlier request.
        next_offset: offset of the next page; None if there is none.
        unknown_items: item ids of the buyer's interactions that no item has.
        did_you_mean: the query with its misspelt words corrected, on the first page; None if there are none, or no correction. The
            query was searched for as typed.
        ranked_by: "expected_value" if the scores are expected values; else "relevance".
        source: of recommendations to a buyer: their history, or popular and fresh items if nothing is known of it; None otherwise.
    """

    results: Sequence[SearchResult]
    tower_id: str
    mode: AnswerMode
    reranked: bool
    failed_components: Sequence[str]
    timings_ms: Mapping[str, float]
    cached: bool = False
    next_offset: int | None = None
    unknown_items: Sequence[str] = ()
    did_you_mean: str | None = None
    source: Source | None = None
    ranked_by: RankBy = "relevance"

    def to_dict(self) -> dict[str, Any]:
        """Return the answer for JSON. `failed_components` is named `degraded`, as in the HTTP API."""
        return {"degraded" if name == "failed_components" else name: value for name, value in asdict(self).items()}
