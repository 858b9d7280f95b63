"""Compare a tower with untrained systems on the judgments of one split: a job in a container, or `gavel evaluate`.

python -m processing.evaluate --input .gavel/catalogs/synthetic --release .gavel/embeddings/<release_id> \\
    --tower .gavel/towers/<tower_id> --output .gavel/reports/evaluation
"""

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import typer

from catalog.folder import CatalogFolder
from processing.command_line import CONTAINER, ReleaseOption, SeedOption, TowerOption, run_job
from processing.evaluation.corpus import PublishedIndex, build_corpus, catalog_moment, open_grades, sample_items, split_items
from processing.evaluation.plots import plot_space
from processing.evaluation.report import SPACE_PLOT, EmbeddingTime, Evaluation, IndexSize, Result, write_report
from processing.evaluation.runs import RememberingEncoder, System, measure_encoding, measure_latency, search_run
from retrieval.contracts.items import Item, item_text
from retrieval.contracts.release import load_release
from retrieval.contracts.tower_card import ITEM_TOWER_FILE
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.errors import InvalidInput, TowerMismatch
from retrieval.evaluation.metrics import DEPTHS, MAX_DEPTH, RELEVANT_GRADE, Grades, Run, evaluate_per_query, measures_at
from retrieval.evaluation.significance import PairedComparison, compare_paired
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.hybrid_tuning import Tuning
from retrieval.index.port import IndexStore
from retrieval.progress import PhaseProgress, ProgressCounter, ignore_phases
from retrieval.ranker.port import Ranker
from retrieval.search.context import UNHURRIED, SearchLimits
from retrieval.search.service import Mode, SearchModels, SearchService

KEYWORD, SEMANTIC, HYBRID, RERANKED = "BM25", "semantic", "hybrid", "hybrid, re-ranked"
EXPANDED, HYBRID_EXPANDED, CROSS_ENCODED = "BM25 + RM3", "hybrid + RM3", "hybrid, cross-encoded"
ZERO_SHOT, ZERO_SHOT_FUSED = "zero-shot", "BM25 + zero-shot"
LATENCY_QUERIES = 200
CANDIDATES = 50
TESTED_MEASURES = ("ndcg@10", "recall@50")
SPACE_POINTS = 3_000
ENCODED_ITEMS = 32  # items that are encoded to measure the time of one
IN_MEMORY = ("hnsw.faiss", "bm25-*/*")  # the snapshots that a search reads as a whole
INPUT = CONTAINER / "input"


@dataclass(frozen=True)
class Plan:
    """Inputs and settings of an evaluation.

    Attributes:
        catalog: source of the judgments.
        release: folder of the release of the split's items, embedded by the tower.
        tower: folder of the tower that encodes the queries.
        booster: file of the re-ranker; None omits the re-ranked system.
        split: split of the queries: val for choices, test for the report.
        zero_shot: preset, hub name or folder of a sentence encoder to compare with; empty for none.
        depth: number of ranks in every run, >= 1; measures of deeper ranks are omitted.
        depths: depths of the measures; the depths of TESTED_MEASURES are added. Empty takes DEPTHS.
        exponential_gain: True adds nDCG with the gain 2^grade - 1.
        baseline: name of the system that the others are tested against.
        latency_queries: largest number of searches per system that are timed one by one, >= 1.
        candidates: number of first-stage candidates that are re-ranked, as in serving.
        query_expansion: True measures searches with query expansion (RM3), too.
        cross_encoder: hub name or folder of a cross-encoder, which orders the best hybrid candidates; empty for none.
        cross_encoder_candidates: number of these candidates, >= 1.
        seed: seed of the tests, and of the samples for timing and plots.
    """

    catalog: CatalogFolder
    release: Path
    tower: Path
    booster: Path | None = None
    split: str = "test"
    zero_shot: str = ""
    depth: int = MAX_DEPTH
    depths: Sequence[int] = ()
    exponential_gain: bool = False
    baseline: str = KEYWORD
    latency_queries: int = LATENCY_QUERIES
    candidates: int = CANDIDATES
    query_expansion: bool = False
    cross_encoder: str = ""
    cross_encoder_candidates: int = 20
    seed: int = 0

    @property
    def systems(self) -> tuple[str, ...]:
        """Names of the measured systems, in the order of the report."""
        untrained = (KEYWORD, ZERO_SHOT, ZERO_SHOT_FUSED) if self.zero_shot else (KEYWORD,)
        expanded = (EXPANDED, HYBRID_EXPANDED) if self.query_expansion else ()
        reranked = (RERANKED,) if self.booster else ()
        return (*untrained, SEMANTIC, HYBRID, *expanded, *reranked, *((CROSS_ENCODED,) if self.cross_encoder else ()))

    def check(self) -> None:
        """Validate the plan.

        Raises:
            InvalidInput: the baseline is unknown; `depth`, one of `depths` or `latency_queries` is below 1; or one of `depths` is
                below the end of the runs.
        """
        if self.baseline not in self.systems:
            raise InvalidInput(f"there is no system {self.baseline!r} here; there are {', '.join(map(repr, self.systems))}")
        if self.depth < 1 or self.latency_queries < 1:
            raise InvalidInput(f"depth ({self.depth}) and timed queries ({self.latency_queries}) must be 1 or more")
        if self.depths and not 1 <= min(self.depths) <= max(self.depths) <= self.depth:
            raise InvalidInput(
                f"depths of measures are {', '.join(map(str, self.depths))}, and the runs have {self.depth} ranks; "
                f"take depths from 1 to {self.depth}, or longer runs with --depth"
            )

    @property
    def measures(self) -> dict[str, Any]:
        """Measures to compute: name -> measure."""
        tested = (int(name.partition("@")[2]) for name in TESTED_MEASURES)
        depths = [depth for depth in (*(self.depths or DEPTHS), *tested) if depth <= self.depth]
        return measures_at(depths, exponential_gain=self.exponential_gain)


@dataclass(frozen=True)
class _Corpus:
    """The corpus of the split in one index.

    Attributes:
        cached: search service that encodes every query once, for runs.
        uncached: search service that encodes a query each time, for latency.
        size: size and build time of the index.
        item_ms: milliseconds to encode one item; None if the encoder of items is not there.
    """

    cached: SearchService
    uncached: SearchService
    size: IndexSize
    item_ms: float | None


def evaluate_tower(plan: Plan, phases: PhaseProgress = ignore_phases) -> Evaluation:
    """Measure quality, speed and size of every system over the corpus of a split.

    Searches happen at the catalogue's own moment and the index is built on one thread. So quality repeats exactly; times do not.

    Args:
        plan: inputs and settings.
        phases: function from the label of a phase to its progress callback.

    Raises:
        InvalidInput: the split has no query with a relevant item; baseline or split is unknown; or a number is below 1.
        ReleaseError: the release lacks items of the split.
        TowerError: the tower or the zero-shot encoder cannot be used, or the release is of another tower.
        FeatureMismatch: the re-ranker was trained on other features.
        RankerUnavailable: the cross-encoder cannot be loaded.
    """
    plan.check()
    started = time.monotonic()
    manifest = load_release(plan.release)
    now = catalog_moment(plan.catalog)
    grades = open_grades(plan.catalog, plan.split, now)
    queries = _measured_queries(plan, grades)
    with tempfile.TemporaryDirectory(prefix="gavel-evaluate-") as folder:
        corpora = dict(_corpora(plan, Path(folder), phases))
        results, values = _measure(plan, corpora, queries, grades, now, phases)
        for corpus in corpora.values():
            corpus.cached.live().index.close()
    return Evaluation(
        catalog=plan.catalog.name,
        split=plan.split,
        queries=len(queries),
        moment=now.isoformat(),
        tower_id=manifest.tower_id,
        release_id=manifest.release_id,
        zero_shot=_short_name(plan.zero_shot),
        depth=plan.depth,
        baseline=plan.baseline,
        tuning=str(Tuning.load(plan.tower)),
        hardware=f"{platform.machine()}, {os.cpu_count()} cores",
        seconds=round(time.monotonic() - started, 1),
        results=results,
        comparisons=_comparisons(plan, values),
    )


def evaluate_to_folder(plan: Plan, folder: Path, *, plots: bool = True, phases: PhaseProgress = ignore_phases) -> Evaluation:
    """Measure as evaluate_tower() does, write the report and return the evaluation; `plots` also draws the plots."""
    evaluation = evaluate_tower(plan, phases)
    if plots:
        draw_space(plan, folder / SPACE_PLOT)
    write_report(evaluation, folder, plots=plots)
    return evaluation


def draw_space(plan: Plan, path: Path) -> bool:
    """Draw a sample of at most 3,000 items of the plan's split with plot_space().

    Returns:
        True if there were enough items for a plot.
    """
    items = sample_items(plan.catalog, plan.split, plan.release, SPACE_POINTS, plan.seed)
    if not items:
        return False
    tower_id = load_release(plan.release).tower_id
    title = f"{plan.catalog.name}: {len(items):,} lots of the {plan.split} corpus as tower {tower_id} places them (t-SNE)"
    categories = [str(item.document.get("category", "")) for item in items]
    return plot_space(np.stack([item.vector for item in items]), categories, title, path, seed=plan.seed)


def _short_name(model: str) -> str:
    """Return the last two parts of a model's path, because the folders above say nothing about the model."""
    return "/".join(Path(model).parts[-2:]) if model else ""


def _measured_queries(plan: Plan, grades: Grades) -> dict[str, str]:
    texts = plan.catalog.qrels(plan.split).queries
    queries = {q: texts[q] for q, graded in grades.items() if any(grade >= RELEVANT_GRADE for grade in graded.values())}
    if not queries:
        raise InvalidInput(
            f"no query of split {plan.split!r} in {plan.catalog.path} has an open lot of grade 2 or 3; take another split"
        )
    return queries


def _corpora(plan: Plan, folder: Path, phases: PhaseProgress) -> Iterator[tuple[str, _Corpus]]:
    """Yield (name of the semantic system, corpus) for each encoder."""
    manifest = load_release(plan.release)
    tower = QueryEncoder.load(plan.tower, manifest.dimensions)
    if tower.tower_id != manifest.tower_id:
        raise TowerMismatch(
            f"release {manifest.release_id} is of tower {manifest.tower_id}, not of {tower.tower_id}; name another one"
        )
    store = EmbeddedStore(folder / "tower", tuning=lambda _: Tuning.load(plan.tower))
    published = build_corpus(plan.catalog, plan.split, plan.release, store)
    models = SearchModels(lambda _: tower, partial(_ranker, plan.booster))
    limits = replace(UNHURRIED, rerank_candidates=plan.candidates, cross_encoder_candidates=plan.cross_encoder_candidates)
    size, item_ms = _index_size(published, folder / "tower"), _item_ms(plan)
    yield SEMANTIC, _corpus(store, size, models, limits, item_ms)
    if plan.query_expansion:
        yield EXPANDED, _corpus(store, size, models, replace(limits, query_expansion="rm3"), item_ms)
    if plan.cross_encoder:
        from models.artefacts.cross_encoder import PretrainedCrossEncoder

        cross_encoder = PretrainedCrossEncoder(plan.cross_encoder)
        yield CROSS_ENCODED, _corpus(store, size, replace(models, load_cross_encoder=lambda: cross_encoder), limits, item_ms)
    if plan.zero_shot:
        from processing.evaluation.zero_shot import SentenceEncoder, build_zero_shot_corpus

        encoder = SentenceEncoder(plan.zero_shot)
        store = EmbeddedStore(folder / "zero-shot")
        progress = phases("encode lots, zero-shot")
        published = build_zero_shot_corpus(plan.catalog, plan.split, encoder, store, progress)
        texts = [item_text(item.title, item.description) for item in _sample_items(plan)]
        item_ms = _ms_per_item(lambda: encoder.encode(texts), len(texts))
        yield (
            ZERO_SHOT,
            _corpus(store, _index_size(published, folder / "zero-shot"), SearchModels(lambda _: encoder), limits, item_ms),
        )


def _item_ms(plan: Plan) -> float | None:
    """Time the item tower on a sample of items, with a blank photo each if the tower looks at photos.

    Returns:
        Milliseconds per item; None if the folder of the tower has no item tower.
    """
    if not (plan.tower / ITEM_TOWER_FILE).is_file():
        return None
    from models.artefacts.item_encoder import ItemEncoder  # imports torch, which a comparison of runs does not need

    encoder, items = ItemEncoder.load(plan.tower, "cpu"), _sample_items(plan)
    texts, side = [item_text(item.title, item.description) for item in items], encoder.card.image_size
    photos = [np.zeros((side, side, 3), dtype=np.uint8) if side else None] * len(items)
    return _ms_per_item(lambda: encoder.encode(texts, photos, items), len(items))


def _sample_items(plan: Plan) -> list[Item]:
    items = list(split_items(plan.catalog, plan.split))
    return _sample(items, ENCODED_ITEMS, plan.seed)


def _ms_per_item(encode: Callable[[], object], items: int) -> float:
    """Return the milliseconds per item of the second of two calls, because the first one prepares memory."""
    encode()
    started = time.perf_counter()
    encode()
    return round((time.perf_counter() - started) * 1000 / items, 3)


def _ranker(booster: Path | None, tower_id: str) -> Ranker | None:
    if booster is None:
        return None
    from retrieval.ranker.xgboost_ranker import BoosterRanker

    return BoosterRanker.load(booster)


def _corpus(store: IndexStore, size: IndexSize, models: SearchModels, limits: SearchLimits, item_ms: float | None) -> _Corpus:
    remembering = replace(models, load_encoder=lambda tower_id: RememberingEncoder(models.load_encoder(tower_id)))
    return _Corpus(SearchService(store, remembering, limits), SearchService(store, models, limits), size, item_ms)


def _index_size(published: PublishedIndex, root: Path) -> IndexSize:
    folder = root / published.name
    memory = sum(path.stat().st_size for pattern in IN_MEMORY for path in folder.glob(pattern))
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return IndexSize(published.items, published.dimensions, published.build_s, memory, disk)


_SYSTEMS: dict[str, tuple[str, Mode, bool]] = {  # system -> corpus, mode, re-ranked
    KEYWORD: (SEMANTIC, "keyword", False),
    ZERO_SHOT: (ZERO_SHOT, "semantic", False),
    ZERO_SHOT_FUSED: (ZERO_SHOT, "hybrid", False),
    SEMANTIC: (SEMANTIC, "semantic", False),
    HYBRID: (SEMANTIC, "hybrid", False),
    EXPANDED: (EXPANDED, "keyword", False),
    HYBRID_EXPANDED: (EXPANDED, "hybrid", False),
    CROSS_ENCODED: (CROSS_ENCODED, "hybrid", True),
    RERANKED: (SEMANTIC, "hybrid", True),
}
Value = TypeVar("Value")
Values = dict[str, dict[str, dict[str, float]]]  # system -> measure -> query_id -> value


def _measure(
    plan: Plan, corpora: dict[str, _Corpus], queries: dict[str, str], grades: Grades, now: datetime, phases: PhaseProgress
) -> tuple[dict[str, Result], Values]:
    measures = plan.measures
    timed = _sample(list(queries.values()), plan.latency_queries, plan.seed)
    count = ProgressCounter(len(plan.systems) * (len(queries) + len(timed)), phases("search"))
    encode_ms = {name: measure_encoding(corpus.uncached.live().encoder, timed) for name, corpus in corpora.items()}
    results: dict[str, Result] = {}
    values: Values = {}
    for name in plan.systems:
        corpus, mode, rerank = _SYSTEMS[name]
        system = System(name, corpora[corpus].cached, mode, rerank)
        run: Run = search_run(system, queries, now, depth=plan.depth, on_query=count.tick)
        values[name] = evaluate_per_query({q: grades[q] for q in queries}, run, measures)
        latency = measure_latency(System(name, corpora[corpus].uncached, mode, rerank), timed, now, count.tick)
        means = {measure: float(np.mean(list(by_query.values()))) for measure, by_query in values[name].items()}
        embedding = None if mode == "keyword" else EmbeddingTime(encode_ms[corpus], corpora[corpus].item_ms)
        results[name] = Result(means, latency, corpora[corpus].size, embedding, run)
    return results, values


def _sample(values: list[Value], size: int, seed: int) -> list[Value]:
    if len(values) <= size:
        return values
    return [values[i] for i in np.random.default_rng(seed).choice(len(values), size, replace=False)]


def _comparisons(plan: Plan, values: Values) -> dict[str, dict[str, PairedComparison]]:
    base = values[plan.baseline]
    return {
        name: {m: compare_paired(base[m], measured[m], seed=plan.seed) for m in TESTED_MEASURES if m in measured}
        for name, measured in values.items()
        if name != plan.baseline
    }


DepthsOption = Annotated[
    str, typer.Option(help="Depths of the measures, separated by commas; 1 to 1000 in eight steps by default.")
]
ExponentialGainOption = Annotated[
    bool, typer.Option("--exponential-gain", help="Measure nDCG with the gain 2^grade - 1, too, as ndcg_exp.")
]

ExpansionOption = Annotated[bool, typer.Option("--query-expansion", help="Measure searches with query expansion (RM3), too.")]
CrossEncoderOption = Annotated[
    str, typer.Option(help="Measure hybrid searches whose best lots a cross-encoder orders, too: hub name or folder.")
]


def parse_depths(text: str) -> tuple[int, ...]:
    """Read depths that are separated by commas, such as "1,10,100"; empty text gives none.

    Raises:
        InvalidInput: a part is not a whole number.
    """
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise InvalidInput(f"depths are {text!r}; write whole numbers with commas between them, such as 1,10,100") from error


def run_evaluation(
    catalog: Annotated[Path, typer.Option("--input", help="The catalogue's folder.")] = INPUT / "catalog",
    release: ReleaseOption = INPUT / "release",
    tower: TowerOption = INPUT / "tower",
    booster: Annotated[Path | None, typer.Option(help="The re-ranker of the tower, to be measured too.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of the report.")] = CONTAINER / "output",
    split: Annotated[str, typer.Option(help="Split whose queries are searched.")] = "test",
    zero_shot: Annotated[str, typer.Option(help="Preset, hub name or folder of a sentence encoder to compare with.")] = "",
    depth: Annotated[int, typer.Option(help="Ranks of every run.")] = MAX_DEPTH,
    depths: DepthsOption = "",
    exponential_gain: ExponentialGainOption = False,
    baseline: Annotated[str, typer.Option(help="System that the others are tested against.")] = KEYWORD,
    no_plots: Annotated[bool, typer.Option("--no-plots", help="Draw nothing.")] = False,
    query_expansion: ExpansionOption = False,
    cross_encoder: CrossEncoderOption = "",
    seed: SeedOption = 0,
) -> int:
    """Compare a tower with untrained systems on the judgments of one split."""
    plan = Plan(
        catalog=CatalogFolder.load(catalog),
        release=release,
        tower=tower,
        booster=booster,
        split=split,
        zero_shot=zero_shot,
        depth=depth,
        depths=parse_depths(depths),
        exponential_gain=exponential_gain,
        baseline=baseline,
        query_expansion=query_expansion,
        cross_encoder=cross_encoder,
        seed=seed,
    )
    evaluation = evaluate_to_folder(plan, output, plots=not no_plots)
    print(json.dumps({"report": str(output), "tower_id": evaluation.tower_id, "quality": evaluation.quality}))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job from a command line, see run_job()."""
    return run_job(run_evaluation, arguments, "evaluate", log_level=None)
