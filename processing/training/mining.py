"""Mines hard negatives: the wrong lots that the current index ranks highest for each training query.

python -m processing.mine_negatives --catalog .gavel/catalogs/synthetic --tower .gavel/towers/<tower_id> \
    --release .gavel/embeddings/<release_id> --output negatives.parquet

What is taken and what is left out: processing/training/mining_rules.py.

An auction that has ended is a lot like any other here: nothing is shown to a buyer, and a catalogue must not train worse for
lying a month on the disk. So the index is asked as of 1970, when none had ended.
"""

import argparse
import hashlib
import json
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from catalog.folder import TRAINING_FOLDER, CatalogFolder
from models.data.hard_negatives import HardNegatives
from processing.training.mining_rules import (
    DEEPEST,
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
from retrieval.errors import GavelError, TowerMismatch
from retrieval.index.port import Candidate, Filter, VectorIndex
from retrieval.index.ranking import cosines
from retrieval.ingestion import index_release
from retrieval.search.service import Encoder

Progress = Callable[[int, int], None]
logger = logging.getLogger(__name__)

AS_OF = Filter(now=EPOCH)  # before any auction ended
QUERIES_A_BATCH = 256
DEEPER = 5  # times the depth, once, for a query whose first search left too few
ANSWERS_LOOKED_UP = 64  # of a query none of whose answers was found
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
    """Search the index with every training query and keep the best of its wrong lots.

    Held in memory: the training pairs, and per_query references a query; found documents only batch by batch.

    Args:
        catalog: pairs, judgments and lots of its split `train`.
        index: holds the lots of that split, ended ones too; others in it are passed over.
        encoder: the query tower of the same tower.
        rules: which lots are taken; the defaults of MiningRules when left out.
        progress: called with (queries done, queries in all).

    Returns:
        At most rules.per_query lots a query, the highest score first, ties by item_id.

    Raises:
        TowerMismatch: index and encoder are of different towers.
        InvalidInput: the catalogue has no training pairs.
    """
    rules = rules or MiningRules()
    settings, started = mining_settings(catalog, index, encoder, rules), time.monotonic()
    queries, lots = training_queries(catalog), training_items(catalog)
    by_query: dict[str, list[str]] = {}
    scores: dict[str, list[float]] = {}
    counts = Counter(dict.fromkeys(COUNTS, 0))
    known: dict[str, str] = {}  # an id is held once, however many queries it is a negative of
    for asked, choice in _choices(index, encoder, queries, lots, rules, progress):
        _count(counts, choice, rules)
        if choice is not None and choice.negatives:
            by_query[asked.text] = [known.setdefault(item_id, item_id) for item_id, _ in choice.negatives]
            scores[asked.text] = [score for _, score in choice.negatives]
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
    """Mine into a file, unless it holds what the same tower, rules and catalogue gave before.

    Args:
        path: the file, see HardNegatives.save().
        catalog, index, encoder, rules, progress: see mine_negatives().

    Returns:
        The negatives, and whether they were there already.

    Raises:
        TowerMismatch, InvalidInput: as mine_negatives() has them.
    """
    rules = rules or MiningRules()
    wanted, kept = mining_settings(catalog, index, encoder, rules), HardNegatives.settings_of(path)
    if kept is not None and _outcome(kept) == _outcome(wanted):
        return HardNegatives.load(path), True
    mined = mine_negatives(catalog, index, encoder, rules, progress=progress)
    mined.save(path)
    return mined, False


def _outcome(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings but for the index's name: an index that was built again from the same lots gives the same negatives."""
    return {name: value for name, value in settings.items() if name != "index"}


def mining_settings(catalog: CatalogFolder, index: VectorIndex, encoder: Encoder, rules: MiningRules) -> dict[str, object]:
    """Everything that decides which negatives come out, as JSON values.

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
    """SHA-256, in hex, over what mining reads of a catalogue: the lots, pairs and judgments of its split `train`."""
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
    for reason, lots in choice.left_out.items():
        counts[f"left_out_{reason}"] += lots


def _choices(
    index: VectorIndex,
    encoder: Encoder,
    queries: Sequence[TrainingQuery],
    lots: AbstractSet[str],
    rules: MiningRules,
    progress: Progress | None,
) -> Iterator[tuple[TrainingQuery, Choice | None]]:
    """The choice for each query, in order; a batch is encoded at once and searched by several threads."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(queries), QUERIES_A_BATCH):
            batch = queries[start : start + QUERIES_A_BATCH]
            vectors = encoder.encode([asked.text for asked in batch])  # (B, D)
            yield from zip(batch, pool.map(partial(_mine_one, index, lots, rules), batch, vectors), strict=True)
            if progress:
                progress(start + len(batch), len(queries))


def _mine_one(
    index: VectorIndex, lots: AbstractSet[str], rules: MiningRules, asked: TrainingQuery, vector: Vector
) -> Choice | None:
    """The choice for one query; None when no answer of it is in the index, so that nothing tells what is too similar."""
    hits = _search(index, vector, rules.depth, rules)
    best = _best_answer(index, vector, hits, asked)
    if best is None:
        return None
    choice = choose(hits, asked, best, lots, rules)
    deeper = min(rules.depth * DEEPER, DEEPEST)
    if len(choice.negatives) < rules.per_query and len(hits) == rules.depth < deeper:
        choice = choose(_search(index, vector, deeper, rules), asked, best, lots, rules)
    return choice


def _search(index: VectorIndex, vector: Vector, depth: int, rules: MiningRules) -> list[tuple[str, float]]:
    return [(hit.item_id, hit.score) for hit in index.semantic(vector, depth, AS_OF, exact=rules.exact)]


def _best_answer(index: VectorIndex, vector: Vector, hits: Sequence[tuple[str, float]], asked: TrainingQuery) -> float | None:
    """The score of the query's best answer, looked up where the search did not come down to one."""
    found = next((score for item_id, score in hits if item_id in asked.answers), None)
    if found is not None:
        return found
    stored: list[Candidate] = index.fetch(sorted(asked.answers)[:ANSWERS_LOOKED_UP])
    return max(cosines(vector, stored), default=None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job from the command line; settings and counts are printed as JSON.

    Returns:
        0; 2 when the input or a flag cannot be used, with one line on stderr that says why.
    """
    flags = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        margin = None if flags.no_margin else flags.margin
        rules = MiningRules(flags.per_query, flags.depth, flags.skip, margin, not flags.absolute, flags.exact)
        mined = _run(flags, rules)
    except GavelError as error:
        print(f"mine_negatives: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"settings": mined.settings, "stats": mined.stats, "output": str(flags.output)}))
    return 0


def _run(flags: argparse.Namespace, rules: MiningRules) -> HardNegatives:
    from retrieval.index.embedded.store import EmbeddedStore

    with tempfile.TemporaryDirectory(prefix="gavel-mine-") as scratch:
        store = EmbeddedStore(Path(scratch))
        index_release(flags.release, store)
        encoder, index = QueryEncoder.load(flags.tower), store.live()
        try:
            return mine_or_reuse(flags.output, CatalogFolder.load(flags.catalog), index, encoder, rules)[0]
        finally:
            index.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mine_negatives", description=__doc__.splitlines()[0])
    root, rules = Path("/opt/ml/processing"), MiningRules()
    parser.add_argument("--catalog", type=Path, default=root / "input/catalog", help="the catalogue's folder")
    parser.add_argument("--tower", type=Path, default=root / "input/tower", help="the tower artefact")
    parser.add_argument("--release", type=Path, default=root / "input/release", help="release of that tower with the lots")
    parser.add_argument("--output", type=Path, default=root / "output/negatives.parquet", help="used again if it fits")
    parser.add_argument("--per-query", type=int, default=rules.per_query, help="negatives a query (default %(default)s)")
    parser.add_argument("--depth", type=int, default=rules.depth, help="lots looked at for each query (default %(default)s)")
    parser.add_argument("--skip", type=int, default=rules.skip, help="first ranks that are left out (default %(default)s)")
    parser.add_argument("--margin", type=float, default=rules.margin, help="below the best answer's score (default %(default)s)")
    parser.add_argument("--absolute", action="store_true", help="the margin is a difference, not a share")
    parser.add_argument("--no-margin", action="store_true", help="take unjudged lots whatever they score")
    parser.add_argument("--exact", action="store_true", help="compare with every lot")
    return parser


if __name__ == "__main__":
    sys.exit(main())
