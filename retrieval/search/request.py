"""A search request and its limits."""

import math
from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from retrieval.buyers.history_store import MAX_PER_BUYER, parse_buyer_id
from retrieval.contracts.attributes import MAX_NAME_CHARS, MAX_VALUE_CHARS
from retrieval.contracts.events import Interaction
from retrieval.contracts.items import MAX_BID_COUNT, MAX_PRICE, MAX_SELLER_RATING, parse_id, query_text
from retrieval.errors import InvalidInput, InvalidQuery
from retrieval.index.filters import AttributeFilter, Filter
from retrieval.index.fusion import Fusion
from retrieval.search.diversification import Diversity
from retrieval.text.analysis import check_request_text

Mode = Literal["hybrid", "semantic", "keyword"]
MODES: tuple[Mode, ...] = get_args(Mode)
MAX_QUERY_CHARS = 512  # so a query has fewer words than the 1,024 clauses that OpenSearch allows
MAX_K = 100
MAX_OFFSET = 400
MAX_REACH = MAX_OFFSET + MAX_K  # number of items that can be paged through, and so the longest list that an index returns
MAX_INTERACTIONS = MAX_PER_BUYER
MAX_QUERIES = 20  # per HTTP request
MAX_ATTRIBUTE_FILTERS = 20  # conditions on attributes
MAX_ATTRIBUTE_FILTER_VALUES = 100  # allowed values of one attribute
MAX_FILTER_VALUES = 100  # categories, brands or sellers of which any is allowed
MAX_BLOCKED = 1_000  # per kind: items, sellers, categories, brands

LIMITS = {  # numbers of a filter -> the highest that is allowed
    "min_price": MAX_PRICE,
    "max_price": MAX_PRICE,
    "min_seller_rating": MAX_SELLER_RATING,
    "min_bids": MAX_BID_COUNT,
    "max_bids": MAX_BID_COUNT,
}


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A search request.

    Attributes:
        query: text as typed; it and its query_text() have 1 to 512 characters.
        k: maximum number of results, 1 to 100.
        mode: `hybrid` searches vectors and keywords, `semantic` only vectors, `keyword` only keywords.
        filters: conditions on the items.
        rerank: False keeps the order of retrieval.
        offset: number of results to skip, for a later page, 0 to 400.
        recent: recent interactions of the buyer, at most 200; they move the search vector towards their items.
        explain: True adds an explanation to every result.
        fusion: fusion of the two lists of a hybrid search; None takes the tuning of the tower.
        diversity: parameters of the diversification; None leaves the order.
        buyer_id: id of the buyer whose stored interactions are added to `recent`; empty adds none.
    """

    query: str
    k: int = 10
    mode: Mode = "hybrid"
    filters: Filter = field(default_factory=Filter)
    rerank: bool = True
    offset: int = 0
    recent: tuple[Interaction, ...] = ()
    explain: bool = False
    fusion: Fusion | None = None
    diversity: Diversity | None = None
    buyer_id: str = ""

    @property
    def exact_id(self) -> str:
        """Return the query as an item_id, without folding its letters; empty if it cannot be an id, such as several words."""
        typed = self.query.strip()
        if not typed or any(character.isspace() for character in typed):
            return ""
        try:
            return parse_id("item_id", typed)
        except InvalidInput:
            return ""


def check_request(request: SearchRequest, *, words_needed: bool = True) -> None:
    """Check a request.

    Args:
        request: request to check.
        words_needed: False allows an empty query, for a search by photo.

    Raises:
        InvalidQuery: a value is not allowed; the message names it and the limit.
    """
    check_query(request.query, words_needed=words_needed)
    if request.mode not in MODES:
        raise InvalidQuery(f"mode is {request.mode!r}; allowed are {', '.join(MODES)}")
    check_page(request.k, request.offset)
    check_filters(request.filters)
    check_interactions(request.recent)
    if request.buyer_id:
        parse_buyer_id(request.buyer_id)


def check_query(query: str, *, words_needed: bool = True) -> None:
    """Check the text of a query; the arguments are those of check_request().

    Raises:
        InvalidQuery: the text is empty or too long, or holds half a character or a control character.
    """
    check_request_text(query, "query")
    # query_text() may be longer than the query, because it spells ligatures out
    text = query if len(query) > MAX_QUERY_CHARS else query_text(query)
    if not text and words_needed:
        raise InvalidQuery("the query is empty; type at least one word")
    if len(text) > MAX_QUERY_CHARS:
        raise InvalidQuery(f"the query has {len(text)} characters, at most {MAX_QUERY_CHARS} are allowed; shorten it")


def check_page(k: int, offset: int = 0) -> None:
    """Check the size of a page, and its offset in the whole list.

    Raises:
        InvalidQuery: k or offset is not in its range; the message names it and the limit.
    """
    if not 1 <= k <= MAX_K:
        raise InvalidQuery(f"k is {k}; allowed are 1 to {MAX_K}")
    if not 0 <= offset <= MAX_OFFSET:
        raise InvalidQuery(f"offset is {offset}; allowed are 0 to {MAX_OFFSET}; narrow the search with filters")


def check_filters(filters: Filter) -> None:
    """Check the values of filters.

    Raises:
        InvalidQuery: a value is not allowed; the message names it and the limit.
    """
    for name in ("categories", "brands", "sellers"):
        labels = getattr(filters, name)
        if len(labels) > MAX_FILTER_VALUES:
            raise InvalidQuery(f"{len(labels)} {name} are allowed by the filters; send at most {MAX_FILTER_VALUES}")
        for label in labels:
            check_request_text(label, name)
    for name, most in LIMITS.items():
        bound = getattr(filters, name)
        if bound is not None and not 0 <= bound <= most:
            raise InvalidQuery(f"{name} is {bound}; allowed are numbers from 0 to {most:.15g}")
    _check_attributes((*filters.attributes, *filters.not_attributes))
    for kind in fields(filters.blocked):
        blocked = getattr(filters.blocked, kind.name)
        if len(blocked) > MAX_BLOCKED:
            raise InvalidQuery(f"{len(blocked)} {kind.name} are blocked; allowed are {MAX_BLOCKED}")
        for label in blocked:
            check_request_text(label, f"blocked {kind.name}")
    for low, high in (("min_price", "max_price"), ("min_bids", "max_bids")):
        lowest, highest = getattr(filters, low), getattr(filters, high)
        if lowest is not None and highest is not None and lowest > highest:
            raise InvalidQuery(f"{low} {lowest:g} is above {high} {highest:g}; swap them")
    if filters.ends_after is not None and filters.ends_before is not None and filters.ends_after > filters.ends_before:
        raise InvalidQuery(f"ends_after {filters.ends_after} is later than ends_before {filters.ends_before}; swap them")


def _check_attributes(conditions: tuple[AttributeFilter, ...]) -> None:
    if len(conditions) > MAX_ATTRIBUTE_FILTERS:
        raise InvalidQuery(f"{len(conditions)} attributes are filtered by; allowed are {MAX_ATTRIBUTE_FILTERS}")
    for condition in conditions:
        name = condition.name[:MAX_NAME_CHARS]
        check_request_text(condition.name, "attribute")
        if not condition.key or len(condition.name) > MAX_NAME_CHARS:
            raise InvalidQuery(f"attribute {name!r} has no letter or digit, or more than {MAX_NAME_CHARS} characters")
        if len(condition.values) > MAX_ATTRIBUTE_FILTER_VALUES:
            raise InvalidQuery(f"attribute {name} has {len(condition.values)} values; allowed are {MAX_ATTRIBUTE_FILTER_VALUES}")
        if not condition.values and not condition.has_range:
            raise InvalidQuery(f"attribute {name} has no value to filter by; send one, or min or max")
        for value in condition.values:
            check_request_text(value, f"attribute {name}")
            if len(value) > MAX_VALUE_CHARS:
                raise InvalidQuery(
                    f"attribute {name} has a value of {len(value)} characters, at most {MAX_VALUE_CHARS} are allowed"
                )
        low, high = condition.minimum, condition.maximum
        if any(limit is not None and not math.isfinite(limit) for limit in (low, high)):
            raise InvalidQuery(f"the range of attribute {name} is no range of numbers")
        if low is not None and high is not None and low > high:
            raise InvalidQuery(f"the range of attribute {name} begins at {low:g}, above its end {high:g}; swap them")


def check_interactions(interactions: tuple[Interaction, ...]) -> None:
    """Check the interactions of a buyer.

    Raises:
        InvalidQuery: there are more than MAX_INTERACTIONS, or an item_id holds half a character or a control character.
    """
    if len(interactions) > MAX_INTERACTIONS:
        raise InvalidQuery(f"{len(interactions)} interactions were sent, at most {MAX_INTERACTIONS} are allowed; send the latest")
    for interaction in interactions:
        check_request_text(interaction.item_id, "item_id")
