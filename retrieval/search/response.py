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
    """An explanation of the place of one result.

    Attributes:
        named_by_id: True if the query is the id of the item.
        first_stage_rank: rank before re-ranking, from 1; None if the item is not a rerank candidate.
        relevance_rank: rank by score, from 1, before diversity moved items; None without diversity, or if the item is not a rerank
            candidate.
        fused_score: score of retrieval, which in hybrid mode is the fused score; None if the item is not a rerank candidate.
        semantic_rank: rank in the semantic list, from 1; None if the item is not in that list.
        cosine: cosine of the search vector and the vector of the item; None if the query could not be encoded.
        keyword_rank: rank in the keyword list, from 1; None if the item is not in that list.
        bm25: BM25 score in the keyword list; None if the item is not in that list.
        features: feature -> value for the re-ranker, where None is a missing value; None if the item is not a rerank candidate.
        contributions: feature -> its part of the re-ranker's score (SHAP), and `expected` -> the part that all items share;
            None without a re-ranker that explains, or if the item is not a rerank candidate.
        cross_encoder_score: score of the cross-encoder; None without one, or if the item was not among the best candidates.
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
    cross_encoder_score: float | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One item of an answer.

    Attributes:
        rank: rank in the whole list, from 1; a later page continues the ranks of the page before.
        item_id: id of the item.
        score: score of the re-ranker, or of retrieval, or the expected value. Diversity moves items without changing their scores.
        similarity: cosine of query and item in [-1, 1]; None if the query could not be encoded.
        fields: visible fields of the item; times in ms since 1970.
        explanation: explanation of the rank; None if it was not requested.
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
        results: at most k results, best first.
        tower_id: id of the tower that encoded query and items.
        mode: mode of the request; `semantic` for the items nearest to a vector, an item or a buyer; `popular` for popular and
            fresh items.
        reranked: True if the scores are, or were computed from, those of the re-ranker.
        failed_components: components that the answer does without: "semantic", "keyword", "expansion", "rerank", "cross_encoder" or
            "buyer".
        timings_ms: step -> milliseconds. The steps are load (of index and models), history (of the buyer), encode, expand,
            retrieve, rerank, cross_encode, diversify, spelling and total.
        cached: True if this is the stored answer to an earlier request.
        next_offset: offset of the next page; None if there is none.
        unknown_items: item ids of the buyer's interactions that no item has.
        did_you_mean: query with corrected spelling, on the first page; None if there is nothing to correct. The results are those
            of the query as typed.
        ranked_by: "expected_value" if the scores are expected values, else "relevance".
        source: origin of recommendations to a buyer: "history", or "popular_and_fresh" if no item of the history is known; None
            for other answers.
        expansion_terms: words that query expansion added, the weightiest first; only with explanations.
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
    expansion_terms: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as a dict for JSON, in which `failed_components` is named `degraded`, as in the HTTP API."""
        return {"degraded" if name == "failed_components" else name: value for name, value in asdict(self).items()}
