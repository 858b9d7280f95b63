"""Query expansion by pseudo-relevance feedback: RM3 (Abdul-Jaleel et al., TREC 2004) over titles of the best keyword matches."""

import logging
from collections import Counter
from dataclasses import dataclass

from retrieval.contracts.items import query_text
from retrieval.errors import IndexMissing, IndexUnavailable, InvalidInput
from retrieval.search.context import SearchContext
from retrieval.search.request import SearchRequest
from retrieval.text.analysis import words

logger = logging.getLogger(__name__)

FEEDBACK_ITEMS = 10
EXPANSION_TERMS = 10
QUERY_SHARE = 0.5  # weight of the words as typed; the rest goes to the expansion terms
WORDS_IN_TEXT = 60  # a weight is expressed by repeating a word; 60 repetitions round a weight to about 0.02
MIN_LETTERS = 3
# words of titles that say nothing about an item, in the languages of an index and in Arabic
FUNCTION_WORDS = frozenset(
    words(
        "and are but for from has its not off one our out per set the this that two with you your "
        "aus bei das dem den der des die ein eine einer für ist mit oder und von zum zur "
        "aux avec dans des les par pas pour sans ses son sur une "
        "con del las los para por sin sus una uno "
        "إلى على عن في مع من هذا هذه أو"
    )
)


@dataclass(frozen=True, slots=True)
class ExpandedQuery:
    """The text of a keyword search.

    Attributes:
        text: words of the search, repeated by their weights; the query itself if it was not expanded.
        terms: words that the query did not have, the weightiest first.
    """

    text: str
    terms: tuple[str, ...] = ()


def expand_query(context: SearchContext, request: SearchRequest) -> ExpandedQuery:
    """Add words that are frequent in the titles of the best keyword matches of a query.

    The weight of a word is its share of a title's words, weighted by BM25 of the title's item and summed. If the index does not
    answer, the query stays as it is and "expansion" becomes a failed component.

    Args:
        context: context of the request.
        request: checked request.

    Raises:
        IndexMissing: nothing is published.
    """
    text = query_text(request.query)
    if context.limits.query_expansion == "none" or request.mode == "semantic":
        return ExpandedQuery(text)
    with context.timed("expand"):
        try:
            items = context.ask("keyword", lambda index: index.keyword(text, FEEDBACK_ITEMS, request.filters))
        except IndexMissing:
            raise
        except (IndexUnavailable, InvalidInput) as error:
            logger.warning("searching without query expansion: %s", error)
            context.fail("expansion")
            return ExpandedQuery(text)
        return weigh_words(text, [(str(item.document.get("title", "")), item.score) for item in items])


def weigh_words(text: str, titles: list[tuple[str, float]]) -> ExpandedQuery:
    """Return the expanded query.

    Args:
        text: cleaned query.
        titles: titles of the feedback items with their scores > 0.
    """
    typed = Counter(words(text))
    model: Counter[str] = Counter()
    for title, score in titles:
        counts = Counter(word for word in words(title) if _can_expand(word))
        for word, count in counts.items():
            model[word] += score * count / counts.total()  # type: ignore[assignment]  # weights, not counts
    terms = sorted(model, key=lambda word: (-model[word], word))[:EXPANSION_TERMS]
    if not typed or set(terms) <= typed.keys():
        return ExpandedQuery(text)
    total = sum(model[word] for word in terms)
    weights = {word: QUERY_SHARE * count / typed.total() for word, count in typed.items()}
    for word in terms:
        weights[word] = weights.get(word, 0.0) + (1 - QUERY_SHARE) * model[word] / total
    repeated = [word for word, weight in weights.items() for _ in range(max(1, round(weight * WORDS_IN_TEXT)))]
    return ExpandedQuery(" ".join(repeated), tuple(word for word in terms if word not in typed))


def _can_expand(word: str) -> bool:
    return len(word) >= MIN_LETTERS and word not in FUNCTION_WORDS and not any(character.isdigit() for character in word)
