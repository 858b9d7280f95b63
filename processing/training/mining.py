"""Mine hard negatives: the wrong items that the current index ranks highest for each training query.

python -m processing.mine_negatives --catalog .gavel/catalogs/synthetic --tower .gavel/towers/<tower_id> \
    --release .gavel/embeddings/<release_id> --output negatives.parquet

The selection rules are in processing/training/mining_rules.py.

Items whose auction has ended are used, too: nothing is shown to a buyer, and a catalogue must not train worse after a month on
disk. So the index is searched as of 1970, when no auction had ended.
"""

import hashlib
import json
import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from catalog.folder import TRAINING_FOLDER, CatalogFolder
from models.data.hard_negatives import HardNegatives
from processing.command_line import CONTAINER, CatalogOption, ReleaseOption, TowerOption, run_job
from processing.training.mining_rules import (
    MAX_DEPTH,
    SPLIT,
    Choice,
    MiningRules,
    TrainingQuery,
    choose,
    training_items,
    training_queries,
)
from retrieval.contracts.documents import Vector
from retrieval.contracts.items import EPOCH
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.errors import TowerMismatch
from retrieval.index.filters import Filter
from retrieval.index.port import Candidate, VectorIndex
from retrieval.index.ranking import cosines
from retrieval.ingestion import index_release
from retrieval.progress import Progress
from retrieval.search.service import Encoder

logger = logging.getLogger(__name__)

AS_OF = Filter(now=EPOCH)  # before any auction ended
QUERIES_PER_BATCH = 256
DEPTH_FACTOR = 5  # factor on the depth, for a second search if a query has too few negatives
ANSWERS_LOOKED_UP = 64  # largest number of answers to fetch for a query whose search returned no answer
READ_BYTES = 1 << 20
COUNTS = (
    "queries",
    "queries_with_too_few",
    "queries_with_none",
    "queries_without_answer",
    "negatives",
    "left_out_positive",
    "left_out_too_similar",
    "left_out_foreign",
)


def mine_negatives(
    catalog: CatalogFolder,
    index: VectorIndex,
    encoder: Encoder,
    rules: MiningRules | None = None,
    *,
    progress: Progress | None = None,
) -> HardNegatives:
    """Search the index with every training query and select the highest wrong items.

    Memory holds the training pairs and `per_query` references per query. Search results are held for one batch at a time.

    Args:
        catalog: source of pairs, judgments and items, of split `train`.
        index: index with the items of that split, including ended auctions; its other items are ignored.
        encoder: query encoder of the index's tower.
        rules: rules of the selection; None takes the defaults.
        progress: called with (queries done, queries).

    Returns:
        At most rules.per_query items per query, highest score first, ties by item_id.

    Raises:
        TowerMismatch: index and encoder are of different towers.
        InvalidInput: the catalogue has no training pairs.
    """
    rules = rules or MiningRules()
    settings, started = mining_settings(catalog, index, encoder, rules), time.monotonic()
    queries, items = training_queries(catalog), training_items(catalog)
    by_query: dict[str, list[str]] = {}
    scores: dict[str, list[float]] = {}
    counts = Counter(dict.fromkeys(COUNTS, 0))
    interned: dict[str, str] = {}  # one string per id, even if the item is a negative of many queries
    for query, choice in _choices(index, encoder, queries, items, rules, progress):
        _count(counts, choice, rules)
        if choice is not None and choice.negatives:
            by_query[query.text] = [interned.setdefault(item_id, item_id) for item_id, _ in choice.negatives]
            scores[query.text] = [score for _, score in choice.negatives]
    stats = {**counts, "seconds": round(time.monotonic() - started, 2)}
    logger.info("mined %s", stats)
    return HardNegatives(by_query, scores, settings, stats)


def mine_or_reuse(
    path: Path,
    catalog: CatalogFolder,
    index: VectorIndex,
    encoder: Encoder,
    rules: MiningRules | None = None,
    *,
    progress: Progress | None = None,
) -> tuple[HardNegatives, bool]:
    """Mine into a file, unless the file holds the result of the same tower, rules and catalogue.

    Args:
        path: path of the file, see HardNegatives.save().
        catalog, index, encoder, rules, progress: see mine_negatives().

    Returns:
        The negatives, and True if they were in the file already.

    Raises:
        TowerMismatch, InvalidInput: see mine_negatives().
    """
    rules = rules or MiningRules()
    settings, stored = mining_settings(catalog, index, encoder, rules), HardNegatives.settings_of(path)
    if stored is not None and _without_index(stored) == _without_index(settings):
        return HardNegatives.load(path), True
    mined = mine_negatives(catalog, index, encoder, rules, progress=progress)
    mined.save(path)
    return mined, False


def _without_index(settings: Mapping[str, object]) -> dict[str, object]:
    """Return the settings without the index's name, because a rebuilt index of the same items gives the same negatives."""
    return {name: value for name, value in settings.items() if name != "index"}


def mining_settings(catalog: CatalogFolder, index: VectorIndex, encoder: Encoder, rules: MiningRules) -> dict[str, object]:
    """Return all inputs of mining as JSON values.

    Raises:
        TowerMismatch: index and encoder are of different towers.
    """
    if index.tower_id != encoder.tower_id:
        raise TowerMismatch(
            f"index {index.name!r} was built with tower {index.tower_id}, the queries with {encoder.tower_id}; "
            f"mine with tower {index.tower_id}, or index a release of {encoder.tower_id}"
        )
    return {
        "tower_id": index.tower_id,
        "index": index.name,
        "lots": index.count(),
        "catalog": catalog.name,
        "catalog_sha256": training_hash(catalog),
        **asdict(rules),
    }


def training_hash(catalog: CatalogFolder) -> str:
    """Return the SHA-256, in hex, of a catalogue's input to mining: items, pairs and judgments of split `train`."""
    digest = hashlib.sha256()
    tables = [catalog.path / TRAINING_FOLDER / f"{table}.parquet" for table in ("pairs", "qrels")]
    for path in (*catalog.item_files(SPLIT), *tables):
        digest.update(f"{path.name}\0".encode())
        with path.open("rb") as file:
            while block := file.read(READ_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _count(counts: Counter[str], choice: Choice | None, rules: MiningRules) -> None:
    """Add one query's choice to COUNTS."""
    counts["queries"] += 1
    if choice is None:
        counts["queries_without_answer"] += 1
        return
    counts["negatives"] += len(choice.negatives)
    counts["queries_with_too_few"] += len(choice.negatives) < rules.per_query
    counts["queries_with_none"] += not choice.negatives
    for reason, count in choice.left_out.items():
        counts[f"left_out_{reason}"] += count


def _choices(
    index: VectorIndex,
    encoder: Encoder,
    queries: Sequence[TrainingQuery],
    items: AbstractSet[str],
    rules: MiningRules,
    progress: Progress | None,
) -> Iterator[tuple[TrainingQuery, Choice | None]]:
    """Yield (query, choice) in the order of the queries; the choice is None if the index has no answer to the query."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(queries), QUERIES_PER_BATCH):
            batch = queries[start : start + QUERIES_PER_BATCH]
            vectors = encoder.encode([query.text for query in batch])  # (B, D)
            yield from zip(batch, pool.map(partial(_mine_one, index, items, rules), batch, vectors), strict=True)
            if progress:
                progress(start + len(batch), len(queries))


def _mine_one(
    index: VectorIndex, items: AbstractSet[str], rules: MiningRules, query: TrainingQuery, vector: Vector
) -> Choice | None:
    """Return the choice for one query; None if the index has none of its answers, because then the ceiling is unknown."""
    hits = _search(index, vector, rules.depth, rules)
    best = _best_answer(index, vector, hits, query)
    if best is None:
        return None
    choice = choose(hits, query, best, items, rules)
    depth = min(rules.depth * DEPTH_FACTOR, MAX_DEPTH)
    if len(choice.negatives) < rules.per_query and len(hits) == rules.depth < depth:
        choice = choose(_search(index, vector, depth, rules), query, best, items, rules)
    return choice


def _search(index: VectorIndex, vector: Vector, depth: int, rules: MiningRules) -> list[tuple[str, float]]:
    return [(hit.item_id, hit.score) for hit in index.semantic(vector, depth, AS_OF, exact=rules.exact)]


def _best_answer(index: VectorIndex, vector: Vector, hits: Sequence[tuple[str, float]], query: TrainingQuery) -> float | None:
    """Return the score of the query's best answer, fetching answers if `hits` has none; None if the index lacks them."""
    best = next((score for item_id, score in hits if item_id in query.answers), None)
    if best is not None:
        return best
    stored: list[Candidate] = index.fetch(sorted(query.answers)[:ANSWERS_LOOKED_UP])
    return max(cosines(vector, stored), default=None)


DEFAULTS = MiningRules()


def run_mining(
    catalog: CatalogOption = CONTAINER / "input/catalog",
    tower: TowerOption = CONTAINER / "input/tower",
    release: ReleaseOption = CONTAINER / "input/release",
    output: Annotated[Path, typer.Option(help="File of negatives; reused if it fits.")] = CONTAINER / "output/negatives.parquet",
    per_query: Annotated[int, typer.Option(help="Negatives per query.")] = DEFAULTS.per_query,
    depth: Annotated[int, typer.Option(help="Search results per query.")] = DEFAULTS.depth,
    skip: Annotated[int, typer.Option(help="First ranks whose unjudged lots are left out.")] = DEFAULTS.skip,
    margin: Annotated[float | None, typer.Option(help="Distance of the ceiling below the best answer's score.")] = DEFAULTS.margin,
    absolute: Annotated[bool, typer.Option("--absolute", help="The margin is a difference, not a share.")] = False,
    no_margin: Annotated[bool, typer.Option("--no-margin", help="Take unjudged lots whatever they score.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every lot.")] = False,
) -> int:
    """Mine hard negatives: the wrong lots that the index ranks highest for each training query."""
    from retrieval.index.embedded.store import EmbeddedStore

    rules = MiningRules(per_query, depth, skip, None if no_margin else margin, not absolute, exact)
    with tempfile.TemporaryDirectory(prefix="gavel-mine-") as scratch:
        store = EmbeddedStore(Path(scratch))
        index_release(release, store)
        encoder, index = QueryEncoder.load(tower), store.live()
        try:
            mined, _ = mine_or_reuse(output, CatalogFolder.load(catalog), index, encoder, rules)
        finally:
            index.close()
    print(json.dumps({"settings": mined.settings, "stats": mined.stats, "output": str(output)}))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job from a command line, see run_job()."""
    return run_job(run_mining, arguments, "mine_negatives")
