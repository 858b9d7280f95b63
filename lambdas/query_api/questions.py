"""HTTP requests with the limits that the OpenAPI document shows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from retrieval.contracts.attributes import MAX_NAME_CHARS, MAX_VALUE_CHARS
from retrieval.contracts.events import EventType, Interaction
from retrieval.contracts.items import MAX_BID_COUNT, MAX_ID_BYTES, MAX_PRICE, MAX_SELLER_RATING, MAX_TITLE_CHARS, require_id
from retrieval.index.filters import AttributeFilter, BlockList, Filter, parse_attribute_filters
from retrieval.index.fusion import Fusion
from retrieval.search.diversification import MAX_PER_LABEL, Diversity
from retrieval.search.recommendations import Exclude, RankingOptions
from retrieval.search.request import MAX_ATTRIBUTE_FILTER_VALUES, MAX_ATTRIBUTE_FILTERS, MAX_BLOCKED, MAX_FILTER_VALUES
from retrieval.search.response import RankBy
from retrieval.search.service import MAX_INTERACTIONS, MAX_K, MAX_OFFSET, MAX_QUERIES, MAX_QUERY_CHARS, Mode, SearchRequest

MAX_FUSION_CHARS = 64
MAX_DIMENSIONS = 4_096  # limit of a vector in a body; each index has its own length
MAX_DIMENSIONS_IN_ADDRESS = 1_024  # limit in a query string, because servers refuse addresses of more than 64 kB
STEP = timedelta(milliseconds=1)  # distance of interactions without times, so that each counts and their order stays
SINGLE, SEVERAL = "one query", "several queries"


def _check_is_text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("write ISO 8601, such as 2026-11-21T20:00:00Z")
    return value


Number = Annotated[float, Field(allow_inf_nan=False)]
Price = Annotated[float, Field(ge=0, le=MAX_PRICE, allow_inf_nan=False)]
Name = Annotated[str, Field(max_length=MAX_TITLE_CHARS)]
AttributeName = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]
AttributeText = Annotated[str, Field(min_length=1, max_length=MAX_VALUE_CHARS)]
# strict models take texts, too; without the check a number would be read as a time
Moment = Annotated[AwareDatetime, BeforeValidator(_check_is_text), Field(strict=False)]
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


def _as_list(value: Any) -> Any:
    """Return the list of a label that is sent alone; None is the empty list."""
    return [] if value is None else [value] if isinstance(value, str) else value


def _write_condition(parameter: str, value: Any) -> str:
    """Return the value of a parameter such as `attr.colour` as a condition on an attribute, such as "colour:red"."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{parameter[:MAX_NAME_CHARS]}: write a text or a number, or a list of them")
    name = parameter.partition(".")[2].replace(":", " ")
    return f"{name}:{value if isinstance(value, str) else f'{value:.15g}'}"


Names = Annotated[list[Name], BeforeValidator(_as_list), Field(max_length=MAX_FILTER_VALUES)]
Blocks = Annotated[list[Name], BeforeValidator(_as_list), Field(max_length=MAX_BLOCKED)]


class Filters(BaseModel):
    """Filters of the answer. Lots whose auction has ended are always left out.

    Conditions on attributes have names of their own, too: `attr.colour=red` is `attribute=colour:red`.
    """

    model_config = ConfigDict(extra="forbid")
    repeatable_prefixes: ClassVar[Mapping[str, str]] = {"attr.": "attribute", "not_attr.": "not_attribute"}

    category: Names = Field(
        default=[],
        description="Only lots of this category, and of the categories below it: `Watches` also holds `Watches > Wrist`. Several "
        "allow any of them.",
    )
    not_category: Blocks = Field(default=[], description="No lots of this category, nor of those below it; several leave out all.")
    brand: Names = Field(default=[], description="Only lots of this brand; several allow any of them.")
    not_brand: Blocks = Field(default=[], description="No lots of this brand; several leave out all.")
    seller: Names = Field(default=[], description="Only lots of this seller, written as in the lots; several allow any of them.")
    not_seller: Blocks = Field(default=[], description="No lots of this seller; several leave out all.")
    min_bids: int | None = Field(None, ge=0, le=MAX_BID_COUNT, description="Only lots with so many bids or more.")
    max_bids: int | None = Field(None, ge=0, le=MAX_BID_COUNT, description="Only lots with so many bids or fewer.")
    has_photo: bool | None = Field(None, description="`true`: only lots with a photo; `false`: only lots without one.")
    listed_after: Moment | None = Field(None, description="Only lots that were listed then or later.")
    ends_after: Moment | None = Field(None, description="Only lots whose auction ends then, later or never.")
    ends_before: Moment | None = Field(None, description="Only lots whose auction ends then or earlier.")
    min_price: Price | None = Field(None, description="Only lots with a current price from here on.")
    max_price: Price | None = Field(None, description="Only lots with a current price up to here.")
    min_seller_rating: float | None = Field(None, ge=0, le=MAX_SELLER_RATING, allow_inf_nan=False)
    attribute: list[AttributeText] = Field(
        default=[],
        max_length=MAX_ATTRIBUTE_FILTERS,
        description="Only lots with this attribute: `colour:red`, or a range of numbers: `size:40..44`, `size:40..`, `size:..44`. "
        "May be repeated: several values of one attribute allow any of them, and all attributes must match. Case makes no "
        "difference, nor do spaces and marks of the name. `attr.colour=red` and `attr.size=40..44` are the same conditions.",
        examples=[["colour:red"]],
    )
    not_attribute: list[AttributeText] = Field(
        default=[],
        max_length=MAX_ATTRIBUTE_FILTERS,
        description="No lots with this attribute, written likewise: `colour:red`; or as `not_attr.colour=red`.",
        examples=[["colour:red"]],
    )

    @model_validator(mode="before")
    @classmethod
    def _read_attribute_names(cls, sent: Any) -> Any:
        """Write parameters such as `attr.colour` as values of `attribute`."""
        if not isinstance(sent, Mapping):
            return sent
        values = dict(sent)
        for prefix, field in cls.repeatable_prefixes.items():
            named = {name: values.pop(name) for name in list(values) if name.startswith(prefix)}
            pairs = [(name, value) for name, one in named.items() for value in (one if isinstance(one, list) else [one])]
            if pairs:
                conditions = [_write_condition(name, value) for name, value in pairs]
                values[field] = [*(values.get(field) or []), *conditions]
        return values

    def to_filter(self) -> Filter:
        """Convert to the filters of the core.

        Raises:
            InvalidQuery: an attribute is not written as `name:value`.
        """
        return Filter(
            categories=tuple(self.category),
            brands=tuple(self.brand),
            sellers=tuple(self.seller),
            min_price=self.min_price,
            max_price=self.max_price,
            min_seller_rating=self.min_seller_rating,
            min_bids=self.min_bids,
            max_bids=self.max_bids,
            has_photo=self.has_photo,
            listed_after=self.listed_after,
            ends_after=self.ends_after,
            ends_before=self.ends_before,
            attributes=parse_attribute_filters(self.attribute),
            not_attributes=parse_attribute_filters(self.not_attribute),
            blocked=self._blocked(),
        )

    def _blocked(self) -> BlockList:
        return BlockList(
            sellers=frozenset(self.not_seller), categories=frozenset(self.not_category), brands=frozenset(self.not_brand)
        )


class NumberRange(BaseModel):
    """Limits of a number."""

    model_config = ConfigDict(extra="forbid")

    min: Number | None = Field(None, description="Lowest number.")
    max: Number | None = Field(None, description="Highest number.")


AttributeCondition = (
    AttributeText
    | Number
    | NumberRange
    | Annotated[list[AttributeText | Number], Field(min_length=1, max_length=MAX_ATTRIBUTE_FILTER_VALUES)]
)


def _to_attribute_filter(name: str, condition: AttributeCondition) -> AttributeFilter:
    if isinstance(condition, NumberRange):
        return AttributeFilter(name, (), condition.min, condition.max)
    several = condition if isinstance(condition, list) else [condition]
    return AttributeFilter(name, tuple(value if isinstance(value, str) else f"{value:.15g}" for value in several))


class Nearest(Filters):
    """Number of lots and filters of a search for the nearest lots."""

    k: int = Field(10, ge=1, le=MAX_K, description="How many lots to answer with.")


class BlockLists(Filters):
    """Filters with block lists and an object of attributes. Only bodies have them, because an address has no room for lists."""

    attributes: dict[AttributeName, AttributeCondition] = Field(
        default={},
        max_length=MAX_ATTRIBUTE_FILTERS,
        description="Only lots with these attributes: name -> a value, a list of which any is allowed, or a range of numbers.",
        examples=[{"colour": ["red", "blue"], "size": {"min": 40, "max": 44}}],
    )
    blocked_items: list[ItemId] = Field(default=[], max_length=MAX_BLOCKED, description="Ids of lots that never come back.")
    blocked_sellers: list[Name] = Field(
        default=[], max_length=MAX_BLOCKED, description="No lots of these sellers, written as in the lots."
    )
    blocked_categories: list[Name] = Field(default=[], max_length=MAX_BLOCKED, description="No lots of these categories.")
    blocked_brands: list[Name] = Field(default=[], max_length=MAX_BLOCKED, description="No lots of these brands.")

    def to_filter(self) -> Filter:
        """Convert to the filters of the core."""
        filters = super().to_filter()
        conditions = (_to_attribute_filter(name, condition) for name, condition in self.attributes.items())
        return replace(filters, attributes=(*filters.attributes, *conditions))

    def _blocked(self) -> BlockList:
        return BlockList(
            items=frozenset(self.blocked_items),
            sellers=frozenset([*self.blocked_sellers, *self.not_seller]),
            categories=frozenset([*self.blocked_categories, *self.not_category]),
            brands=frozenset([*self.blocked_brands, *self.not_brand]),
        )


def _describe_product_id(schema: dict[str, Any]) -> None:
    """Change a schema so that it allows the name product_id for item_id, too."""
    schema["properties"]["product_id"] = {**schema["properties"]["item_id"], "title": "Product Id"}
    schema["required"].remove("item_id")
    schema["oneOf"] = [{"required": ["item_id"]}, {"required": ["product_id"]}]


class BuyerInteraction(BaseModel):
    """One interaction of a buyer with a lot."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_describe_product_id)

    item_id: ItemId = Field(
        validation_alias=AliasChoices("item_id", "product_id"),
        description="Id of the lot, as `item_id` or as `product_id`. Ids that no lot has are in `unknown_items` of the answer.",
    )
    event_type: EventType = Field(description="Weighs 1, 5, 7 or 10, from the first to the last.")
    timestamp: Moment | None = Field(
        None,
        description="With a time zone. Lists are read oldest first: without a time, an interaction counts as of right after "
        "the one before it, and a list without any times as of now.",
    )


def to_interactions(sent: Sequence[BuyerInteraction]) -> list[Interaction]:
    """Convert the interactions of a request to those of the core, with an empty buyer_id.

    Args:
        sent: interactions; those without times stand oldest first.

    Returns:
        The interactions in the same order, each with a time. One without a time gets the time of the interaction before it plus
        STEP. Interactions before the first time of a list count back from it by STEP; a list without any times ends now.
    """
    timed = next((n for n, one in enumerate(sent) if one.timestamp is not None), len(sent) - 1)
    interactions: list[Interaction] = []
    for n, one in enumerate(sent):
        moment = one.timestamp
        if moment is None and n <= timed:
            moment = _shift(sent[timed].timestamp or datetime.now(UTC), n - timed)
        elif moment is None:
            moment = _shift(interactions[-1].timestamp, 1)
        interactions.append(Interaction("", one.item_id, one.event_type, moment))
    return interactions


def _shift(moment: datetime, steps: int) -> datetime:
    try:
        return moment + steps * STEP
    except OverflowError:  # in the years 1 and 9999
        return moment


EXAMPLE_INTERACTION: dict[str, Any] = {"item_id": "v1", "event_type": "view", "timestamp": "2026-11-21T20:00:00Z"}
EXAMPLE_BUYER: dict[str, Any] = {
    "buyer_id": "b2a7c1d4",
    "recent_interactions": [
        {"product_id": "v1", "event_type": "view"},
        {"product_id": "w1", "event_type": "add_to_cart"},
        {"product_id": "w1", "event_type": "purchase"},
    ],
    "k": 10,
}
DIVERSITY = "Weight of diversity among the best lots: 0 keeps the order of the scores, 1 ranks by dissimilarity alone."


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
        description=DIVERSITY,
    )
    most_per_brand: Cap | None = Field(None, description="Lots of one brand before the others among the best.")
    most_per_seller: Cap | None = Field(None, description="Lots of one seller before the others among the best.")
    most_per_category: Cap | None = Field(None, description="Lots of one category before the others among the best.")
    buyer_id: BuyerId | None = Field(None, examples=["b2a7c1d4"])

    def to_request(self, recent: Sequence[Interaction] = ()) -> SearchRequest:
        """Convert to a request of the core.

        Args:
            recent: interactions of the buyer, oldest first.

        Raises:
            InvalidQuery: there is no such fusion, or a value is not in its range.
        """
        diversity = Diversity(self.diversity, self.most_per_brand, self.most_per_seller, self.most_per_category)
        return SearchRequest(
            *(self.q, self.k, self.mode, self.to_filter()),
            offset=self.offset,
            recent=tuple(recent),
            explain=self.explain,
            fusion=None if self.fusion is None else Fusion.parse(self.fusion),
            diversity=diversity if diversity.is_active else None,
            buyer_id=self.buyer_id or "",
        )


class SearchBody(SearchQuery, BlockLists):
    """Body of `POST /search`: the parameters of `GET /search`, block lists, and recent interactions of the buyer."""

    model_config = ConfigDict(strict=True, json_schema_extra={"example": EXAMPLE_SEARCH})

    recent_interactions: list[BuyerInteraction] = Field(
        default=[],
        max_length=MAX_INTERACTIONS,
        description="Moves the vector of the query by a fifth towards these lots. The re-ranker uses the similarity of each lot "
        "to them; keyword search ignores them.",
    )

    def to_request(self, recent: Sequence[Interaction] = ()) -> SearchRequest:
        """Convert to a request of the core; `recent` precedes `recent_interactions`."""
        return super().to_request([*recent, *to_interactions(self.recent_interactions)])


def _body_tag(body: Any) -> str:
    return SEVERAL if isinstance(body, list) else SINGLE


Searches = Annotated[
    Annotated[SearchBody, Tag(SINGLE)] | Annotated[list[SearchBody], Field(min_length=1, max_length=MAX_QUERIES), Tag(SEVERAL)],
    Discriminator(_body_tag),
]


class QueryText(BaseModel):
    """Body of `POST /encode_query`."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": {"query": "red vase"}})

    query: str = Field(
        min_length=1,
        max_length=MAX_QUERY_CHARS,
        validation_alias=AliasChoices("query", "q"),
        description="What the buyer typed; `q`, as a search names it, is read, too.",
    )


class BuyerEvents(BaseModel):
    """Body of `POST /encode_buyer`: a buyer described by interactions, by id, or by both."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": EXAMPLE_BUYER})

    buyer_id: BuyerId | None = None
    recent_interactions: list[BuyerInteraction] = Field(
        default=[],
        max_length=MAX_INTERACTIONS,
        validation_alias=AliasChoices("recent_interactions", "events"),
        description="What the buyer did, oldest first; `events` is the older name of this field.",
    )
    k: int | None = Field(
        None, ge=1, le=MAX_K, description="Number of lots for `/retrieve`, which takes the same body; without effect here."
    )


class BuyerQuery(Nearest):
    """The buyer to retrieve lots for, the lots of the history to leave out, and the order of the other lots."""

    buyer_id: BuyerId | None = Field(None, examples=["b2a7c1d4"])
    exclude: Exclude = Field(
        "acted",
        description="Lots to leave out: `acted`, all of the history and of this request; `purchased` ones alone; or `none`.",
    )
    rerank: bool = Field(True, description="`false` keeps the order of nearness where there is a re-ranker.")
    rank_by: RankBy = Field(
        "relevance",
        description="`expected_value` orders the re-ranked lots by chance × current price. The chance is the logistic function of "
        "how far the score of the re-ranker is above the mean of the candidates: by its model, that the buyer prefers the lot to "
        "an average candidate. It is no calibrated probability of a purchase. `ranked_by` of the answer says what applied.",
    )
    diversity: float = Field(0.0, ge=0, le=1, allow_inf_nan=False, description=DIVERSITY)
    most_per_brand: Cap | None = Field(None, description="At most so many lots of one brand, even if fewer than k come back.")
    most_per_seller: Cap | None = Field(None, description="At most so many lots of one seller, even if fewer than k come back.")
    most_per_category: Cap | None = Field(None, description="At most so many lots of one category, even if fewer than k come back.")

    def to_options(self) -> RankingOptions:
        """Convert to the ranking options of the core.

        Raises:
            InvalidQuery: `rank_by` is expected_value, but `rerank` is false.
        """
        caps = self.most_per_brand, self.most_per_seller, self.most_per_category
        return RankingOptions(self.rerank, self.rank_by, Diversity(self.diversity, *caps, drop_surplus=True))


class RetrieveQuery(BuyerQuery):
    """Parameters of `GET /retrieve`: a vector, or a buyer described by id, by viewed lots, or by both."""

    vector: list[Number] = Field(
        default=[],
        max_length=MAX_DIMENSIONS_IN_ADDRESS,
        description="The numbers of a vector, one parameter each, in their order; a longer one goes by POST.",
    )
    item_id: list[ItemId] = Field(
        default=[], max_length=MAX_INTERACTIONS, description="Lots that the buyer viewed, oldest first.", examples=[["v1"]]
    )

    def interactions(self) -> list[Interaction]:
        """Return one view of each item in `item_id`, the last at the present time."""
        return to_interactions([BuyerInteraction(item_id=item_id, event_type="view", timestamp=None) for item_id in self.item_id])


class RetrieveBody(BuyerQuery, BlockLists):
    """Body of `POST /retrieve`: a vector, or a buyer described by id, by interactions, or by both."""

    model_config = ConfigDict(strict=True, json_schema_extra={"example": EXAMPLE_BUYER})

    vector: list[Number] = Field(default=[], max_length=MAX_DIMENSIONS, description="As `/encode_buyer` answers.")
    recent_interactions: list[BuyerInteraction] = Field(
        default=[], max_length=MAX_INTERACTIONS, description="What the buyer did, oldest first."
    )

    def interactions(self) -> list[Interaction]:
        """Convert `recent_interactions` to those of the core."""
        return to_interactions(self.recent_interactions)
