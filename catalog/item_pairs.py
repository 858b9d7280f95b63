"""Training pairs and validation queries from the items' own words, without judgments or clicks."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from catalog.folder import TrainingPair
from catalog.pseudo_queries import Listing, fold, make_pseudo_queries
from catalog.query_splits import query_key, shuffle_keys
from retrieval.contracts.items import Item
from retrieval.evaluation.metrics import RELEVANT_GRADE

VAL_PSEUDO_QUERIES = 60  # number of validation queries if no judgment may be used
MIN_ITEMS, MAX_ITEMS = 5, 60  # limits of the number of answers of a validation pseudo-query

PSEUDO_QUERY_WEIGHT = 0.5
TITLE_TO_DESCRIPTION_WEIGHT = 0.3
DESCRIPTION_TO_TITLE_WEIGHT = 0.3


def item_pairs(
    items: Sequence[Item], listings: Sequence[Listing], *, seed: int = 7, from_titles: bool = False
) -> dict[str, list[TrainingPair]]:
    """Make training pairs from the items' own words.

    Args:
        items: the whole catalogue.
        listings: a listing for each item.
        seed: seed that draws the pseudo-queries.
        from_titles: see make_pseudo_queries().

    Returns:
        "title_to_description" and "description_to_title" (only for a description with words that the title lacks), and
        "pseudo_query" -> pairs in the order of the items.
    """
    described = [item for item in items if _has_more_words(item)]
    queries = make_pseudo_queries(listings, seed=seed, from_titles=from_titles)
    return {
        "title_to_description": [
            TrainingPair(item.title, item.item_id, TITLE_TO_DESCRIPTION_WEIGHT, item.description) for item in described
        ],
        "description_to_title": [
            TrainingPair(item.description, item.item_id, DESCRIPTION_TO_TITLE_WEIGHT, item.title) for item in described
        ],
        "pseudo_query": [TrainingPair(query.query, query.item_id, PSEUDO_QUERY_WEIGHT) for query in queries],
    }


def pseudo_judgments(
    pairs: Sequence[TrainingPair], items: Iterable[Item], tested: Iterable[str], seed: int
) -> Mapping[str, Mapping[str, int]]:
    """Return validation queries, each with the items whose titles contain all words of the query.

    Queries of several words with few answers are preferred. Where titles say too little for one of them ("Dress"), a fifth of the
    queries of any length is drawn instead, so that most of them are left to train on.

    Args:
        pairs: pairs whose queries may be drawn.
        items: the whole catalogue.
        tested: queries that are judged already, in any spelling.
        seed: seed of the draw.

    Returns:
        query -> item_id -> grade, of at most VAL_PSEUDO_QUERIES queries: of two words or more with MIN_ITEMS to MAX_ITEMS items,
        or else any that at most half of the items answer. Empty if there are too few queries.
    """
    items = list(items)
    items_of: dict[str, set[str]] = defaultdict(set)  # word of a title -> item ids
    for item in items:
        for word in fold(item.title).split():
            items_of[word].add(item.item_id)
    texts = shuffle_keys((pair.query for pair in pairs), seed)

    def queries_of(words_at_least: int, least: int, most: int, limit: int) -> dict[str, dict[str, int]]:
        used = {query_key(text) for text in tested}
        judgments: dict[str, dict[str, int]] = {}
        for text in texts:
            if len(judgments) >= limit:
                break
            words = text.split()
            matching = set.intersection(*(items_of[word] for word in words)) if len(words) >= words_at_least else set()
            if least <= len(matching) <= most and query_key(text) not in used:
                used.add(query_key(text))
                judgments[text] = dict.fromkeys(sorted(matching), RELEVANT_GRADE)
        return judgments

    judged = queries_of(2, MIN_ITEMS, MAX_ITEMS, VAL_PSEUDO_QUERIES)
    return judged or queries_of(1, 1, len(items) // 2, min(VAL_PSEUDO_QUERIES, len({query_key(text) for text in texts}) // 5))


def _has_more_words(item: Item) -> bool:
    """Return True if the description has words that the title lacks."""
    return not set(fold(item.description).split()) <= set(fold(item.title).split())
