"""Compare an index that is to replace the live one with it, on judged queries, before the alias moves."""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from catalog.folder import CatalogFolder
from processing.evaluation.compare import JudgedQueries
from retrieval.errors import InvalidInput, NoQueryEncoder, TowerError
from retrieval.evaluation.metrics import evaluate
from retrieval.index.filters import Filter
from retrieval.index.port import VectorIndex
from retrieval.search.live_index import Encoder

logger = logging.getLogger(__name__)

SPLIT = "val"
MIN_QUERIES = 20  # fewer queries say nothing
MAX_QUERIES = 200  # searched in some seconds
MEASURE, DEPTH = "ndcg@10", 10


def quality_objection(
    new: VectorIndex, live: VectorIndex, catalog: CatalogFolder, load_encoder: Callable[[str], Encoder], min_share: float
) -> str | None:
    """Return the reason why an index must not replace the live one: its nDCG@10 on the judged val queries is too low.

    The queries are those that the live index can answer: it holds an item of grade 2 or 3, open at the catalogue's own moment.
    Each index is searched by the query encoder of its tower, without a re-ranker.

    Args:
        new: index to check.
        live: index to replace.
        catalog: catalogue with the judged queries.
        load_encoder: tower_id -> query encoder.
        min_share: least share of the live index's nDCG@10, 0 to 1.

    Returns:
        The reason, or None. It is None, too, if the catalogue has fewer than MIN_QUERIES such queries, or the live index's tower
        cannot encode.
    """
    if SPLIT not in catalog.splits or not catalog.has_queries(SPLIT):
        return None
    try:
        judged = JudgedQueries(catalog, SPLIT)
    except InvalidInput:
        return None
    in_live = {item.item_id for item in live.fetch(sorted({item for grades in judged.grades.values() for item in grades}))}
    grades = {query: {item: grade for item, grade in judged.grades[query].items() if item in in_live} for query in judged.queries}
    queries = [query for query, graded in grades.items() if any(grade > 1 for grade in graded.values())][:MAX_QUERIES]
    if len(queries) < MIN_QUERIES:
        return None
    texts = {query: judged.queries[query] for query in queries}
    filters = Filter(now=judged.now)
    try:
        of_live = _search(live, load_encoder(live.tower_id), texts, filters)
    except TowerError as error:
        logger.warning("%s was not compared with the live index on judged queries: %s", new.name, error)
        return None
    try:
        of_new = _search(new, load_encoder(new.tower_id), texts, filters)
    except TowerError as error:
        return f"the queries of index {new.name} cannot be encoded: {error}"
    relevant = {query: grades[query] for query in queries}
    before, after = (evaluate(relevant, run)[MEASURE] for run in (of_live, of_new))
    if after >= min_share * before:
        return None
    return (
        f"index {new.name} has nDCG@10 {after:.3f} on {len(queries)} val queries of {catalog.path}, the live one {before:.3f}; "
        f"{min_share:.0%} of it is the least (GAVEL_MIN_QUALITY)"
    )


def _search(index: VectorIndex, encoder: Encoder, texts: Mapping[str, str], filters: Filter) -> dict[str, Sequence[str]]:
    """Return query_id -> item ids, best first; by words alone if the tower has no query encoder."""
    try:
        vectors = encoder.encode(list(texts.values()))  # (N, D)
    except NoQueryEncoder:
        return {query: [hit.item_id for hit in index.keyword(text, DEPTH, filters)] for query, text in texts.items()}
    return {
        query: [hit.item_id for hit in index.hybrid(text, np.asarray(vector), DEPTH, filters)]
        for (query, text), vector in zip(texts.items(), vectors, strict=True)
    }
