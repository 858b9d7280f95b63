"""HTTP requests, with the limits that the OpenAPI document shows."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from retrieval.contracts.events import EventType, Interaction
from retrieval.contracts.items import MAX_ID_BYTES, MAX_PRICE, MAX_SELLER_RATING, MAX_TITLE_CHARS, require_id
from retrieval.index.filters import Filter
from retrieval.index.fusion import Fusion
from retrieval.search.diversification import MAX_PER_LABEL, Diversity
from retrieval.search.recommendations import Exclude
from retrieval.search.service import MAX_INTERACTIONS, MAX_K, MAX_OFFSET, MAX_QUERIES, MAX_QUERY_CHARS, Mode, SearchRequest

MAX_FUSION_CHARS = 64
MAX_DIMENSIONS = 4_096  # of a vector in a body; each index has its own length
MAX_DIMENSIONS_IN_ADDRESS = 1_024  # in a query string, because servers refuse addresses of more than 64 kB
SINGLE, SEVERAL = "one query", "several queries"


def _check_is_text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("write ISO 8601, such as 2026-11-21T20:00:00Z")
    return value


Number = Annotated[float, Field(allow_inf_nan=False)]
Price = Annotated[float, Field(ge=0, le=MAX_PRICE, allow_inf_nan=False)]
Name = Annotated[str, Field(max_length=MAX_TITLE_CHARS)]
Moment = Annotated[AwareDatetime, BeforeValidator(_check_is_text)]  # without the check a number would be read as a time
Cap = Annotated[int, Field(ge=1, le=MAX_PER_LABEL)]
ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ID_BYTES), AfterValidator(partial(require_id, "item_id"))]
BuyerId = Annotated[
    str,
    AfterValidator(partial(require_id, "buyer_id")),
    Field(
        min_length=1,
        max_length=MAX_ID_BYTES,
        description="Buyer whose stored history counts, too: the `session_id` of `/events`. With this id anybody can read and "
        "erase the history, so it must not be guessable.",
    ),
]


class Filters(BaseModel):
    """Filters of the answer. Lots whose auction has ended are always left out."""

    model_config = ConfigDict(extra="forbid")

    category: Name | None = Field(None, description="Only lots of this category.")
    brand: Name | None = Field(None, description="Only lots of this brand.")
    min_price: Price | None = Field(None, description="Only lots with a current price from here on.")
    max_price: Price | None = Field(None, description="Only lots with a current price up to here.")
    min_seller_rating: float | None = Field(None, ge=0, le=MAX_SELLER_RATING, allow_inf_nan=False)

    def to_filter(self) -> Filter:
        """Return the filters of the core."""
        return Filter(
            category=self.category,
            brand=self.brand,
            min_price=self.min_price,
            max_price=self.max_price,
            min_seller_rating=self.min_seller_rating,
        )


class Nearest(Filters):
    """Number of lots and filters of a search for the nearest lots."""

    k: int = Field(10, ge=1, le=MAX_K, description="How many lots to answer with.")


class BuyerInteraction(BaseModel):
    """One interaction of a buyer with a lot."""

    model_config = ConfigDict(extra="forbid")

    item_id: ItemId
    event_type: EventType = Field(description="Weighs 1, 5, 7 or 10, from the first to the last.")
    timestamp: Moment = Field(description="With a time zone.")

    def to_interaction(self) -> Interaction:
        """Return the interaction of the core; the buyer stays unnamed."""
        return Interaction("", self.item_id, self.event_type, self.timestamp)


Interactions = Annotated[list[BuyerInteraction], Field(min_length=1, max_length=MAX_INTERACTIONS)]
EXAMPLE_INTERACTION: dict[str, Any] = {"item_id": "v1", "event_type": "view", "timestamp": "2026-11-21T20:00:00Z"}


EXAMPLE_SEARCH: dict[str, Any] = {
    "q": "luxury vintage watches",
    "k": 10,
    "max_price": 500,
    "fusion": "min_max:0.7,0.3",
    "diversity": 0.3,
    "most_per_brand": 3,
    "recent_interactions": [EXAMPLE_INTERACTION],
}


class SearchQuery(Nearest):
    """Parameters of `GET /search`."""

    q: str = Field(min_length=1, max_length=MAX_QUERY_CHARS, description="What the buyer typed, or the item_id of a lot.")
    mode: Mode = Field("hybrid", description="Retrievers to use: both, vectors alone, or keywords alone.")
    offset: int = Field(0, ge=0, le=MAX_OFFSET, description="Lots to pass over, for a later page.")
    explain: bool = Field(
        False,
        description="Explain the place of every lot; costs one more request to the index in modes with one list.",
    )
    fusion: str | None = Field(
        None,
        max_length=MAX_FUSION_CHARS,
        description="How a hybrid search fuses its two lists: `rrf` (ranks), `min_max` or `l2` (normalised scores), with weights "
        "of words and vectors if wanted: `min_max:0.7,0.3`. Left out, as was tuned for the tower, else `rrf`.",
        examples=["min_max:0.7,0.3"],
    )
    diversity: float = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Weight of diversity among the best lots: 0 keeps the order of the scores, 1 ranks by dissimilarity alone.",
    )
    most_per_brand: Cap | None = Field(None, description="Lots of one brand before the others among the best.")
    most_per_seller: Cap | None = Field(None, description="Lots of one seller before the others among the best.")
    buyer_id: BuyerId | None = Field(None, examples=["b2a7c1d4"])

    def to_request(self, recent: Sequence[Interaction] = ()) -> SearchRequest:
        """Return the request of the core.

        Raises:
            InvalidQuery: there is no such fusion.
        """
        caps = self.most_per_brand, self.most_per_seller
        return SearchRequest(
            *(self.q, self.k, self.mode, self.to_filter()),
            offset=self.offset,
            recent=tuple(recent),
            explain=self.explain,
            fusion=None if self.fusion is None else Fusion.parse(self.fusion),
            diversity=Diversity(self.diversity, *caps) if self.diversity or any(caps) else None,
            buyer_id=self.buyer_id or "",
        )


class SearchBody(SearchQuery):
    """Body of `POST /search`: the parameters of `GET /search`, and recent interactions of the buyer."""

    model_config = ConfigDict(strict=True, json_schema_extra={"example": EXAMPLE_SEARCH})

    recent_interactions: list[BuyerInteraction] = Field(
        default=[],
        max_length=MAX_INTERACTIONS,
        description="Moves the vector of the query by a fifth towards these lots. The re-ranker uses the similarity of each lot "
        "to them; keyword search ignores them.",
    )

    def to_request(self, recent: Sequence[Interaction] = ()) -> SearchRequest:
        """Return the request of the core."""
        return super().to_request([*recent, *(interaction.to_interaction() for interaction in self.recent_interactions)])


def _body_tag(body: Any) -> str:
    return SEVERAL if isinstance(body, list) else SINGLE


Searches = Annotated[
    Annotated[SearchBody, Tag(SINGLE)] | Annotated[list[SearchBody], Field(min_length=1, max_length=MAX_QUERIES), Tag(SEVERAL)],
    Discriminator(_body_tag),
]


class BuyerEvents(BaseModel):
    """Body of `POST /encode_buyer`."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": {"events": [EXAMPLE_INTERACTION]}})

    events: Interactions


class BuyerQuery(Nearest):
    """The buyer to retrieve lots for, and the lots of their history to leave out."""

    buyer_id: BuyerId | None = Field(None, examples=["b2a7c1d4"])
    exclude: Exclude = Field(
        "acted",
        description="Lots to leave out: `acted`, all of the history and of this request; `purchased` ones alone; or `none`.",
    )


class RetrieveQuery(BuyerQuery):
    """Parameters of `GET /retrieve`: a vector, or a buyer by id, by viewed lots, or by both."""

    vector: list[Number] = Field(
        default=[],
        max_length=MAX_DIMENSIONS_IN_ADDRESS,
        description="The numbers of a vector, one parameter each, in their order; a longer one goes by POST.",
    )
    item_id: list[ItemId] = Field(
        default=[], max_length=MAX_INTERACTIONS, description="Lots that the buyer viewed.", examples=[["v1"]]
    )

    def interactions(self) -> list[Interaction]:
        """Return a view of each item, now."""
        return [Interaction("", item_id, "view", datetime.now(UTC)) for item_id in self.item_id]


class RetrieveBody(BuyerQuery):
    """Body of `POST /retrieve`: a vector, or a buyer by id, by interactions, or by both."""

    model_config = ConfigDict(
        strict=True, json_schema_extra={"example": {"recent_interactions": [EXAMPLE_INTERACTION], "exclude": "purchased", "k": 10}}
    )

    vector: list[Number] = Field(default=[], max_length=MAX_DIMENSIONS, description="As `/encode_buyer` answers.")
    recent_interactions: list[BuyerInteraction] = Field(default=[], max_length=MAX_INTERACTIONS)

    def interactions(self) -> list[Interaction]:
        """Return the interactions of the core."""
        return [interaction.to_interaction() for interaction in self.recent_interactions]
