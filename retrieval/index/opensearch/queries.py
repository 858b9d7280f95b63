"""Request bodies for searches on OpenSearch, all with the same query for filters."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from retrieval.config.settings import scoring_parameters
from retrieval.contracts.attributes import ATTRIBUTE_TERMS_FIELD
from retrieval.contracts.documents import DELETED_FIELD, TEXT_FIELD, VECTOR_FIELD, Vector
from retrieval.contracts.items import epoch_ms
from retrieval.index.filters import AttributeFilter, CategoryPath, Filter
from retrieval.index.opensearch.mapping import SPELLING_FIELD, WORD_FIELDS
from retrieval.index.opensearch.states import NO_CHANGES, StateChanges, state_conditions
from retrieval.index.port import OVERFETCH, TopField
from retrieval.text.spelling import MIN_LETTERS, max_edits

DEFAULT_EF_SEARCH = 100  # used if hnsw_ef_search is 0
MAX_RESULTS = 10_000  # OpenSearch's index.max_result_window, and the largest k of a knn query
EXACT_OVERFETCH = 100  # candidates beyond k of an exact search, so that rounded vectors do not exclude one of the k best
MAX_TERMS = 65_536  # OpenSearch's index.max_terms_count
Query = dict[str, Any]
"""A query of OpenSearch, such as that of filter_query()."""
NO_BOOSTS: Mapping[str, float] = {}
KNOWN_WORDS = "known"  # name of the aggregation that counts the items with each word
OPTIONS = 10  # suggestions per word; the best one that can_be_misspelt() accepts is used
KEYWORD_QUERY = "keyword"  # name of the sub-query under which a hybrid hit reports its BM25 score


def depth_of(k: int) -> int:
    """Return the number of hits to fetch, so that ties at the cut do not change the k best."""
    return min(k + OVERFETCH, MAX_RESULTS)


def filter_query(filters: Filter, changes: StateChanges = NO_CHANGES) -> dict[str, Any]:
    """Return the query for lots that match the filters and whose auctions have not ended.

    Args:
        filters: conditions on the lots.
        changes: lots whose state and row differ on the filters.
    """
    must: list[dict[str, Any]] = []
    if filters.categories:
        must.append(_category_query(filters.categories))
    must += [_terms(name, values) for name, values in (("brand", filters.brands), ("seller", filters.sellers)) if values]
    if filters.min_seller_rating is not None:
        must.append({"range": {"seller_rating": {"gte": filters.min_seller_rating}}})
    if filters.listed_after is not None:
        must.append({"range": {"listed_at": {"gte": epoch_ms(filters.listed_after)}}})
    must += [_attribute_query(condition) for condition in filters.attributes]
    blocked = filters.blocked
    lists = {"item_id": blocked.items, "seller": blocked.sellers, "brand": blocked.brands}
    blocks = [_terms(name, values) for name, values in lists.items() if values]
    if blocked.categories:
        blocks.append(_category_query(blocked.categories))
    blocks += [_attribute_query(condition) for condition in filters.not_attributes]
    if filters.has_photo is not None:
        (must if filters.has_photo else blocks).append({"term": {"has_image": True}})
    by_row = state_conditions(filters)
    by_row["bool"]["must_not"] += _id_terms(changes.excluded)
    if not changes.added:
        return {"bool": {"filter": [*must, *by_row["bool"]["filter"]], "must_not": [*by_row["bool"]["must_not"], *blocks]}}
    either = _any_of([by_row, *_id_terms(changes.added)])
    return {"bool": {"filter": [*must, either], "must_not": [{"exists": {"field": DELETED_FIELD}}, *blocks]}}


def _terms(name: str, values: Collection[str]) -> Query:
    """Return the query for lots with one of these values; the normalizer of the field folds them as those of the lots."""
    return {"terms": {name: sorted(values)}}


def _category_query(categories: Collection[str]) -> Query:
    """Return the query for lots of these categories and the categories below them."""
    paths = [CategoryPath(label) for label in categories]
    below = [{"prefix": {"category": prefix}} for path in paths for prefix in path.prefixes]
    return _any_of([_terms("category", [label for path in paths for label in path.labels]), *below])


def _attribute_query(condition: AttributeFilter) -> Query:
    """Return the query for lots whose attributes match a condition."""
    both: list[Query] = []
    if condition.values:
        both.append(_terms(ATTRIBUTE_TERMS_FIELD, condition.terms))
    if condition.has_range:
        low, high = condition.term_range
        both.append({"range": {ATTRIBUTE_TERMS_FIELD: {"gte": low, "lte": high}}})
    return {"bool": {"filter": both}}


def _any_of(queries: Sequence[Query]) -> Query:
    return {"bool": {"should": [*queries], "minimum_should_match": 1}}


def _id_terms(item_ids: Sequence[str]) -> list[dict[str, Any]]:
    return [{"terms": {"item_id": item_ids[start : start + MAX_TERMS]}} for start in range(0, len(item_ids), MAX_TERMS)]


def semantic_body(vector: Vector, k: int, matching: Query) -> dict[str, Any]:
    """Return the body for the approximate nearest neighbours among the matching items, by HNSW."""
    depth = depth_of(k)
    return {"size": depth, "query": _knn_query(vector, depth, matching)}


def exact_body(vector: Vector, k: int, matching: Query) -> dict[str, Any]:
    """Return the body for the exact nearest neighbours. A score is 1 + cosine within about 3e-4, because vectors are rounded."""
    script = {
        "lang": "knn",
        "source": "knn_score",
        "params": {"field": VECTOR_FIELD, "query_value": vector.tolist(), "space_type": "cosinesimil"},
    }
    query = {"script_score": {"query": matching, "script": script}}
    return {"size": min(k + EXACT_OVERFETCH, MAX_RESULTS), "query": query, "sort": _best_first()}


def keyword_body(text: str, k: int, matching: Query, boosts: Mapping[str, float] = NO_BOOSTS) -> dict[str, Any]:
    """Return the body for the matching items that share a word with the text, by BM25; `boosts` is field -> boost."""
    return {"size": min(k, MAX_RESULTS), "query": _match_query(text, matching, boosts), "sort": _best_first()}


def hybrid_body(text: str, vector: Vector, k: int, matching: Query, boosts: Mapping[str, float] = NO_BOOSTS) -> dict[str, Any]:
    """Return the body for both lists of a hybrid search in one request, each with depth_of(k) hits.

    pagination_depth limits the lists. The k of a sub-query does not, because HNSW returns ef_search hits, and BM25 all.
    """
    depth = depth_of(k)
    queries = [_knn_query(vector, depth, matching), _match_query(text, matching, boosts)]
    return {"size": min(2 * depth, MAX_RESULTS), "query": {"hybrid": {"queries": queries, "pagination_depth": depth}}}


def top_body(field: TopField, k: int, matching: Query) -> dict[str, Any]:
    """Return the body for the matching items that have a numeric field, the highest first."""
    query = {"bool": {"filter": [matching, {"exists": {"field": field}}]}}
    return {"size": min(k, MAX_RESULTS), "query": query, "sort": [{field: "desc"}, {"item_id": "asc"}]}


def sample_body(count: int, matching: Query, seed: int) -> dict[str, Any]:
    """Return the body for random matching items. The items for a seed change after writes."""
    random = {"query": matching, "random_score": {"seed": seed, "field": "_seq_no"}, "boost_mode": "replace"}
    return {"size": min(count, MAX_RESULTS), "query": {"function_score": random}}


def corrections_body(words: Sequence[str], boosts: Mapping[str, float] = NO_BOOSTS) -> dict[str, Any]:
    """Return the body that counts the items with each word, and suggests similar words of titles for it.

    Counts and suggestions are named by the index of the word, from 0. Words of attributes count if `boosts` names these.
    """
    of_attributes = [WORD_FIELDS["attributes"]] if "attributes" in boosts else []
    fields = [TEXT_FIELD, WORD_FIELDS["brand"], WORD_FIELDS["category"], *of_attributes]
    counts = {str(n): {"multi_match": {"query": word, "fields": fields}} for n, word in enumerate(words)}
    return {
        "size": 0,
        "aggs": {KNOWN_WORDS: {"filters": {"filters": counts}}},
        "suggest": {str(n): {"text": word, "term": _term_suggester(word)} for n, word in enumerate(words)},
    }


def _term_suggester(word: str) -> dict[str, Any]:
    edits = {"max_edits": max_edits(word), "min_word_length": MIN_LETTERS, "prefix_length": 1}
    return {"field": SPELLING_FIELD, "size": OPTIONS, "accuracy": 0.01, **edits}


def _knn_query(vector: Vector, k: int, matching: Query) -> dict[str, Any]:
    parameters = {"ef_search": max(scoring_parameters().hnsw_ef_search or DEFAULT_EF_SEARCH, k)}
    knn = {"vector": vector.tolist(), "k": k, "filter": matching, "method_parameters": parameters}
    return {"knn": {VECTOR_FIELD: knn}}


def _match_query(text: str, matching: Query, boosts: Mapping[str, float]) -> dict[str, Any]:
    fields = [TEXT_FIELD, *(f"{WORD_FIELDS[name]}^{boost}" for name, boost in boosts.items())]
    match = {"multi_match": {"query": text, "fields": fields, "type": "most_fields", "_name": KEYWORD_QUERY}}
    return {"bool": {"must": [match], "filter": [matching]}}


def _best_first() -> list[Any]:
    return [{"_score": "desc"}, {"item_id": "asc"}]
