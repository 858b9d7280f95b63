"""What a buyer may ask, and the limits of it."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from retrieval.buyers.history_store import MAX_PER_BUYER, parse_buyer_id
from retrieval.contracts.events import Interaction
from retrieval.contracts.items import MAX_PRICE, MAX_SELLER_RATING, parse_id, query_text
from retrieval.errors import InvalidInput, InvalidQuery
from retrieval.index.fusion import Fusion
from retrieval.index.port import Filter
from retrieval.search.diversification import Diversity
from retrieval.text.analysis import check_asked

Mode = Literal["hybrid", "semantic", "keyword"]
MODES: tuple[Mode, ...] = get_args(Mode)
MAX_QUERY_CHARS = 512  # and so fewer words than the 1,024 clauses that OpenSearch allows a query
MAX_K = 100
MAX_OFFSET = 400
MAX_REACH = MAX_OFFSET + MAX_K  # lots that can be paged through: an index is never asked for a longer list
MAX_INTERACTIONS = MAX_PER_BUYER
MAX_QUERIES = 20  # in one request


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What a buyer asks.

    Attributes:
        query: 1 to 512 characters, as typed and as query_text() writes it.
        k: how many lots to answer with, 1 to 100.
        mode: which retrievers look: both, vectors alone, words alone.
        where: which lots may come back.
        rerank: False keeps the first stage's order.
        offset: how many lots to pass over, for a later page, 0 to 400.
        recent: what the buyer did lately, at most 200 acts; draws the query's vector towards those lots.
        explain: say of every lot how it came to its place.
        fusion: how a hybrid search fuses its two lists; None as was tuned for the tower.
        diversity: how much the best lots, those that are re-ranked, shall differ.
        buyer_id: whose kept acts are added to `recent`; empty for nobody's.
    """

    query: str
    k: int = 10
    mode: Mode = "hybrid"
    where: Filter = field(default_factory=Filter)
    rerank: bool = True
    offset: int = 0
    recent: tuple[Interaction, ...] = ()
    explain: bool = False
    fusion: Fusion | None = None
    diversity: Diversity = field(default_factory=Diversity)
    buyer_id: str = ""

    @property
    def exact_id(self) -> str:
        """The item_id that the query may be: ids are no text and are not folded; empty for several words and for what is no id."""
        typed = self.query.strip()
        if not typed or any(character.isspace() for character in typed):
            return ""
        try:
            return parse_id("item_id", typed)
        except InvalidInput:
            return ""


def check_request(request: SearchRequest, *, words_needed: bool = True) -> None:
    """Hold a request against its limits.

    Args:
        request: what is asked.
        words_needed: False where a photo may stand alone.

    Raises:
        InvalidQuery: the message names the value and the limit.
    """
    check_asked(request.query, "query")
    text = request.query if len(request.query) > MAX_QUERY_CHARS else query_text(request.query)  # which writes ligatures out
    if not text and words_needed:
        raise InvalidQuery("the query is empty; type at least one word")
    if len(text) > MAX_QUERY_CHARS:
        raise InvalidQuery(f"the query has {len(text)} characters, at most {MAX_QUERY_CHARS} are allowed; shorten it")
    if request.mode not in MODES:
        raise InvalidQuery(f"mode is {request.mode!r}; allowed are {', '.join(MODES)}")
    check_k(request.k, request.offset)
    check_filter(request.where)
    check_interactions(request.recent)
    if request.buyer_id:
        parse_buyer_id(request.buyer_id)


def check_k(k: int, offset: int = 0) -> None:
    """Hold the size of an answer, and its place in the whole list, against their limits.

    Raises:
        InvalidQuery: the message names the value and the limit.
    """
    if not 1 <= k <= MAX_K:
        raise InvalidQuery(f"k is {k}; allowed are 1 to {MAX_K}")
    if not 0 <= offset <= MAX_OFFSET:
        raise InvalidQuery(f"offset is {offset}; allowed are 0 to {MAX_OFFSET}; narrow the search with filters")


def check_question(k: int, where: Filter | None) -> None:
    """Hold the size of an answer and its filters against their limits.

    Raises:
        InvalidQuery: the message names the value and the limit.
    """
    check_k(k)
    if where is not None:
        check_filter(where)


def check_filter(where: Filter) -> None:
    """Hold filters against their limits.

    Raises:
        InvalidQuery: the message names the value and the limit.
    """
    for name in ("category", "brand"):
        check_asked(getattr(where, name) or "", name)
    for name, most in (("min_price", MAX_PRICE), ("max_price", MAX_PRICE), ("min_seller_rating", MAX_SELLER_RATING)):
        bound = getattr(where, name)
        if bound is not None and not 0 <= bound <= most:
            raise InvalidQuery(f"{name} is {bound}; allowed are numbers from 0 to {most:.15g}")
    if where.min_price is not None and where.max_price is not None and where.min_price > where.max_price:
        raise InvalidQuery(f"min_price {where.min_price:g} is above max_price {where.max_price:g}; swap them")


def check_interactions(recent: tuple[Interaction, ...]) -> None:
    """Hold a buyer's acts against their limits.

    Raises:
        InvalidQuery: there are too many, or an item_id is not valid Unicode.
    """
    if len(recent) > MAX_INTERACTIONS:
        raise InvalidQuery(f"{len(recent)} interactions were sent, at most {MAX_INTERACTIONS} are allowed; send the latest")
    for act in recent:
        check_asked(act.item_id, "item_id")
