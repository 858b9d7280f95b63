"""HTTP response bodies."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, computed_field

from retrieval.contracts.events import EventType
from retrieval.feedback.served_lists import ServedLists
from retrieval.search.cache import CacheUse
from retrieval.search.recommendations import BuyerEncoding, PastInteraction
from retrieval.search.response import AnswerMode, RankBy, SearchAnswer, Source

EXAMPLE_ITEM: dict[str, Any] = {
    "rank": 1,
    "item_id": "v1",
    "score": 0.0325,
    "similarity": 0.81,
    "fields": {"title": "red vase", "current_price": 10.0, "ends_at": 1795723200000},
    "explanation": None,
    "proof": "p9rXq2m7VdE0aZc1",
}


class Explanation(BaseModel):
    """Ranks and scores that explain the place of a lot (with `explain`)."""

    named_by_id: bool
    first_stage_rank: int | None
    relevance_rank: int | None
    fused_score: float | None
    semantic_rank: int | None
    cosine: float | None
    keyword_rank: int | None
    bm25: float | None
    features: dict[str, float | None] | None
    contributions: dict[str, float] | None
    cross_encoder_score: float | None


class Item(BaseModel):
    """One lot of the answer."""

    rank: int
    item_id: str
    score: float
    similarity: float | None
    fields: dict[str, Any] = Field(
        description="Fields of the lot. A long description is cut, and `description_cut` is true; of many `attributes` the first "
        "stay, and `attributes_cut` is true. `/items/{item_id}` has all of both."
    )
    explanation: Explanation | None
    proof: str | None = Field(None, description="Sent back to `/events` with what a buyer did with the lot.")


class Answer(BaseModel):
    """The ranked lots, and the parts of the search that contributed."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "results": [EXAMPLE_ITEM],
                "tower_id": "a1b2c3d4e5f6",
                "mode": "hybrid",
                "reranked": True,
                "degraded": [],
                "timings_ms": {"load": 0.0, "encode": 4.1, "retrieve": 6.2, "rerank": 1.3, "total": 11.8},
                "cached": False,
                "next_offset": 10,
                "unknown_items": [],
                "did_you_mean": None,
                "source": None,
                "expansion_terms": [],
                "query_id": "19a8b1c2d3e.x1Yq0zK3aB7c",
            }
        }
    )

    results: list[Item]
    tower_id: str
    mode: AnswerMode = Field(
        description="Mode of the request; `semantic` for the lots nearest to something; `popular` for popular and fresh lots."
    )
    reranked: bool
    degraded: list[str] = Field(
        validation_alias="failed_components",
        description="Parts that failed and that the answer does without: `semantic`, `keyword`, `expansion`, `rerank`, "
        "`cross_encoder` or `buyer`.",
    )
    timings_ms: dict[str, float]
    cached: bool
    next_offset: int | None
    unknown_items: list[str]
    did_you_mean: str | None
    source: Source | None = Field(
        description="Source of the lots for a buyer: the `history`, or `popular_and_fresh` if no history is stored: lots with the "
        "most bids and the newest in turn. Null for other requests."
    )
    expansion_terms: list[str] = Field(
        description="Words that query expansion added to the keyword search, with `explain`; empty where it is off."
    )
    query_id: str | None = Field(
        None, description="Id of this answer to a search in words, for `/events`; null for other requests, and where no key is set."
    )

    @classmethod
    def of(cls, answer: SearchAnswer) -> Self:
        """Convert an answer of the core."""
        return cls.model_validate(answer, from_attributes=True)

    def signed(self, lists: ServedLists, query: str) -> "Answer":
        """Add an id to this answer and a proof to every item, and return this answer. Events send both back."""
        first = self.results[0].rank if self.results else 1
        self.query_id, proofs = lists.sign(query, [item.item_id for item in self.results], first, datetime.now(UTC))
        for item, proof in zip(self.results, proofs, strict=True):
            item.proof = proof
        return self


class RetrieveAnswer(Answer):
    """The lots for a buyer or a vector, also as a list of ids and a list of scores."""

    ranked_by: RankBy = Field(
        description="`expected_value` where it was requested and the re-ranker gave the chances. Else `relevance`: score of the "
        "re-ranker, nearness, or how popular or fresh a lot is."
    )

    @computed_field(description="The item_id of each result, best first.")  # type: ignore[prop-decorator]  # pydantic's own form
    @property
    def product_ids(self) -> list[str]:
        """Return the ids of the results, best first."""
        return [item.item_id for item in self.results]

    @computed_field(description="The score of each result.")  # type: ignore[prop-decorator]
    @property
    def scores(self) -> list[float]:
        """Return the scores of the results, best first."""
        return [item.score for item in self.results]


class ItemDetails(BaseModel):
    """One lot with all fields that a buyer may see; its auction may have ended."""

    model_config = ConfigDict(json_schema_extra={"example": {"item_id": "v1", "fields": EXAMPLE_ITEM["fields"]}})

    item_id: str
    fields: dict[str, Any]
    state_versions: dict[str, int] = Field(
        default={}, description="Version of each field that a state update set (`PATCH /items/{item_id}/state`)."
    )


class EncodedQuery(BaseModel):
    """The vector of a query, of unit length; its inner product with the vector of a lot is their cosine."""

    query_embedding: list[float]
    dimension: int
    tower_id: str


class EncodedBuyer(BaseModel):
    """The vector of a buyer, comparable with vectors of lots."""

    vector: list[float]
    dimensions: int
    tower_id: str
    known_items: list[str]
    unknown_items: list[str]
    degraded: list[str] = Field(description="`buyer` if the stored history of the buyer_id could not be read.")

    @computed_field(description="The numbers of `vector`.")  # type: ignore[prop-decorator]
    @property
    def buyer_embedding(self) -> list[float]:
        """Return the vector."""
        return self.vector

    @computed_field(description="The number of `dimensions`.")  # type: ignore[prop-decorator]
    @property
    def dimension(self) -> int:
        """Return the length of the vector."""
        return self.dimensions

    @classmethod
    def of(cls, encoding: BuyerEncoding) -> Self:
        """Convert an encoded buyer of the core."""
        numbers = encoding.buyer.vector.tolist()
        return cls(
            vector=numbers,
            dimensions=len(numbers),
            tower_id=encoding.tower_id,
            known_items=list(encoding.buyer.known_items),
            unknown_items=list(encoding.buyer.unknown_items),
            degraded=list(encoding.failed_components),
        )


class HistoryEntry(BaseModel):
    """One interaction of a buyer. `fields` are the lot's current fields; null if the lot was deleted."""

    item_id: str
    event_type: EventType
    timestamp: datetime
    fields: dict[str, Any] | None

    @classmethod
    def of(cls, past: PastInteraction) -> "HistoryEntry":
        """Convert a past interaction of the core."""
        return cls.model_validate({**asdict(past.interaction), "fields": past.fields})


class History(BaseModel):
    """The stored interactions of a buyer, the latest first; empty for an unknown buyer."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "acts": [
                    {"item_id": "v1", "event_type": "view", "timestamp": "2026-11-21T20:00:00Z", "fields": EXAMPLE_ITEM["fields"]}
                ]
            }
        }
    )

    acts: list[HistoryEntry]


class EraseResult(BaseModel):
    """The number of interactions that were erased; 0 for an unknown buyer, as after an earlier erasure."""

    erased: int


class Cache(BaseModel):
    """Counts of one cache of this process."""

    entries: int
    bytes: int
    hits: int
    misses: int
    hit_ratio: float

    @classmethod
    def of(cls, use: CacheUse) -> "Cache":
        """Convert the counts of a cache of the core."""
        return cls.model_validate(use, from_attributes=True)


class Queue(BaseModel):
    """Counts of the requests of one kind. At most `turns` of them run at a time."""

    turns: int
    running: int
    waiting: int
    expected_wait_ms: float
    refused: int
    abandoned: int


class Health(BaseModel):
    """State of the live index and of this process."""

    status: str
    index: str
    tower_id: str
    query_tower: str
    items: int
    damaged: int
    caches: dict[str, Cache]
    circuits: dict[str, str]
    queues: dict[str, Queue] = Field(description="Requests of each kind, if this server has queues.")


def cache_counts(uses: Mapping[str, CacheUse]) -> dict[str, Cache]:
    """Convert the counts of all caches: cache name -> counts."""
    return {name: Cache.of(use) for name, use in uses.items()}
