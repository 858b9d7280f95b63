"""`gavel demo`: every step on one machine, from a catalogue to measured answers."""

import hashlib
import math
import shlex
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from catalog.folder import CATALOG_FILE, CatalogFolder
from gavel.workspace import pipeline
from gavel.workspace.console import Step, console, progress, show_answer, show_metrics, show_table
from gavel.workspace.entry import as_called
from gavel.workspace.folders import Workspace
from gavel.workspace.wiring import load_encoder, load_ranker, load_tuning, open_store, search_service
from models.artefacts.run_record import cut_steps
from processing.training.step_cache import StepCache, StepResult
from retrieval.config.settings import Settings
from retrieval.errors import IndexMissing, InvalidInput
from retrieval.ranker.features import FEATURES_HASH
from retrieval.search.context import UNHURRIED
from retrieval.search.service import SearchAnswer, SearchModels, SearchRequest, SearchService

CATALOGS = ("synthetic", "grocery")
EXAMPLES_SHOWN = 4
SELECTION_MEASURES = ("recall@50", "ndcg@10")
FRESH_S = 20 * 24 * 3600  # the first auctions of a synthetic catalogue end 30 days after its creation
KEYWORD, TEXT, TEXT_PHOTO, HYBRID, RERANKED = "keyword (BM25)", "text only", "text + photo", "hybrid", "hybrid, re-ranked"


@dataclass(frozen=True)
class Plan:
    """Inputs of a demo.

    Attributes:
        catalog: "synthetic" or "grocery".
        data: folder of the grocery photos; None for the synthetic catalogue.
        lots: number of lots in the synthetic catalogue.
        seed: random seed of the catalogue and of every training.
    """

    catalog: str = "synthetic"
    data: Path | None = None
    lots: int = 2_000
    seed: int = 7


@dataclass
class Report:
    """Results of a demo.

    Attributes:
        steps: label -> result of the step.
        quality: system -> measure -> mean over the test queries.
        answers: example query -> answer.
        plot: path of a PNG that plots `quality`.
        cut: label of a training that a time limit cut -> (steps run, steps planned); the demo is not done.
        warnings: what is worse than a search without any training.
    """

    steps: dict[str, StepResult] = field(default_factory=dict)
    quality: dict[str, dict[str, float]] = field(default_factory=dict)
    answers: dict[str, SearchAnswer] = field(default_factory=dict)
    plot: str = ""
    cut: dict[str, tuple[int, int]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**asdict(self), "answers": {query: answer.to_dict() for query, answer in self.answers.items()}}


class Demo:
    """Runs the steps of a plan in a workspace, and reuses results of earlier runs."""

    def __init__(self, settings: Settings, plan: Plan) -> None:
        """Check the plan; no step runs yet.

        Raises:
            InvalidInput: the plan names an unknown catalogue, grocery without its data, or data for another catalogue.
        """
        if plan.catalog not in CATALOGS:
            raise InvalidInput(f"there is no demo catalogue {plan.catalog!r}; there are {', '.join(CATALOGS)}")
        if plan.catalog != "grocery" and plan.data is not None:
            raise InvalidInput("--data belongs to --catalog grocery; leave it out, or add --catalog grocery")
        if plan.catalog == "grocery" and plan.data is None:
            raise InvalidInput("the grocery demo needs its photos: --data <folder of the Grocery Store Dataset>")
        self.settings, self.plan = settings, plan
        self.workspace = Workspace(settings)
        self.report = Report()
        self._step_cache = StepCache(settings.home / f"demo-{plan.catalog}.json")
        self._base: tuple[object, ...] = (plan, version("gavel"))

    def run(self) -> Report:
        """Run every step that is not done yet, and return the report of all steps."""
        catalog = self._catalog()
        towers = {name: self._tower(name, catalog) for name in (TEXT, TEXT_PHOTO)}
        releases = {name: self._release(name, catalog, tower) for name, tower in towers.items()}
        self._index(releases[TEXT_PHOTO])
        if catalog.clicks("train"):
            self._reranker(catalog, towers[TEXT_PHOTO])
        self._evaluate(catalog, releases)
        self._search(catalog)
        return self.report

    def _step(
        self,
        label: str,
        key: object,
        run: Callable[[Step], Any],
        still_there: Callable[[Any], bool] = lambda path: Path(path).exists(),
    ) -> Any:
        def with_bar() -> Any:
            with progress(label) as step:
                return run(step)

        result = self._step_cache.step(label, repr(key), with_bar, still_there)
        self.report.steps[label] = result
        return result.value

    def _catalog(self) -> CatalogFolder:
        plan = self.plan
        folder = self.workspace.catalogs / plan.catalog

        def make(step: Step) -> str:
            if plan.data is not None:
                from catalog.grocery import prepare

                prepare(plan.data, folder, seed=plan.seed)
            else:
                from catalog.synthetic import generate

                generate(folder, lots=plan.lots, seed=plan.seed, progress=step)
            return str(folder)

        def is_fresh(value: Any) -> bool:
            card = folder / CATALOG_FILE
            return plan.data is None and card.exists() and time.time() - card.stat().st_mtime < FRESH_S

        self._step("catalogue", self._base, make, is_fresh)
        self._base += (_hash_of(folder),)  # a changed catalogue makes all later steps run again
        return CatalogFolder.load(folder)

    def _tower(self, name: str, catalog: CatalogFolder) -> Path:
        def run(step: Step) -> str:
            changes = {"photos": "always"}  # the demo trains both kinds itself, to measure both
            config = pipeline.training_config(catalog, text_only=name == TEXT, seed=self.plan.seed, changes=changes)
            return str(pipeline.train_towers(self.workspace, catalog, config, progress=step))

        def finished(path: Any) -> bool:
            return Path(path).exists() and not cut_steps(Path(path))

        label = f"train towers, {name}"
        tower = Path(self._step(label, self._base, run, finished))
        if cut := cut_steps(tower):
            self.report.cut[label] = cut
        return tower

    def _release(self, name: str, catalog: CatalogFolder, tower: Path) -> Path:
        lots = catalog.item_files("test")  # of the grocery catalogue only the lots that training has not seen
        run = partial(pipeline.embed, self.workspace, lots, tower, release_id=None, workers=0)
        return Path(self._step(f"embed lots, {name}", (self._base, tower.name), lambda step: str(run(progress=step))))

    def _index(self, release: Path) -> None:
        def is_live(name: Any) -> bool:
            try:
                return bool(open_store(self.settings).live().name == name)
            except IndexMissing:
                return False

        def run(step: Step) -> str:
            # forced, because the workspace may hold the index of an earlier demo with more lots
            return pipeline.index(self.settings, release, force=True, progress=step).index

        self._step("index lots", (release.name, self.settings.index), run, is_live)

    def _reranker(self, catalog: CatalogFolder, tower: Path) -> None:
        # forced, because the table of the measurements shows what it gains, or loses
        run = partial(pipeline.train_reranker, self.workspace, catalog, seed=self.plan.seed, force=True)
        self._step("train re-ranker", (self._base, tower.name, FEATURES_HASH), lambda step: str(run(progress=step).path))

    def _evaluate(self, catalog: CatalogFolder, releases: dict[str, Path]) -> None:
        plot = self.workspace.reports / f"demo-{catalog.name}.png"

        def run(step: Step) -> dict[str, dict[str, float]]:
            quality = measure_systems(self.settings, catalog, releases, "test", step)
            from processing.evaluation.plots import plot_metrics

            plot_metrics(quality, f"{catalog.name}: test queries", plot)
            return quality

        key = (self._base, *(release.name for release in releases.values()))
        self.report.quality = self._step("measure", key, run, lambda quality: plot.exists())
        self.report.plot = str(plot)
        self.report.warnings = worse_than_keywords(self.report.quality, cut=bool(self.report.cut))

    def _search(self, catalog: CatalogFolder) -> None:
        service = search_service(self.settings)
        for query in catalog.example_queries[:EXAMPLES_SHOWN]:
            self.report.answers[query] = service.search(SearchRequest(query))


def measure_systems(
    settings: Settings, catalog: CatalogFolder, releases: dict[str, Path], split: str, step: Step
) -> dict[str, dict[str, float]]:
    """Measure keyword, text-only, text + photo and hybrid search over the corpus of a split, each through SearchService.

    Hybrid search is also measured re-ranked if there is a re-ranker.

    Args:
        settings: settings with the folders of the towers and the re-ranker.
        catalog: catalogue with the judgments.
        releases: TEXT and TEXT_PHOTO -> release folder.
        split: "val" or "test".
        step: progress callback.

    Returns:
        system -> measure -> mean over the queries.
    """
    from processing.evaluation.corpus import build_corpus
    from processing.evaluation.runs import System, measure
    from retrieval.index.embedded.store import EmbeddedStore

    with tempfile.TemporaryDirectory(prefix="gavel-measure-") as folder:
        services = {}
        for number, (name, release) in enumerate(releases.items()):
            store = EmbeddedStore(Path(folder) / str(number), tuning=partial(load_tuning, settings))
            build_corpus(catalog, split, release, store)
            encoder, ranker = partial(load_encoder, settings), partial(load_ranker, settings)
            limits = replace(UNHURRIED, rerank_candidates=settings.candidates)
            services[name] = SearchService(store, SearchModels(encoder, ranker), limits)
        both = services[TEXT_PHOTO]
        systems = [
            System(KEYWORD, both, "keyword"),
            System(TEXT, services[TEXT], "semantic"),
            System(TEXT_PHOTO, both, "semantic"),
            System(HYBRID, both, "hybrid"),
        ]
        if both.live().ranker is not None:
            systems.append(System(RERANKED, both, "hybrid", rerank=True))
        return measure(catalog, split, systems, step)


def worse_than_keywords(quality: dict[str, dict[str, float]], *, cut: bool) -> list[str]:
    """Return a warning if hybrid search, re-ranked if there is a re-ranker, is worse than keywords alone; otherwise nothing.

    Args:
        quality: system -> measure -> mean over the queries; worse is a lower mean of recall@50 and ndcg@10, as epochs are selected.
        cut: True if a time limit cut a training, which is then the reason.
    """
    served = RERANKED if RERANKED in quality else HYBRID
    systems = [{name: quality.get(system, {}).get(name) for name in SELECTION_MEASURES} for system in (served, KEYWORD)]
    built, keywords = (math.fsum(value or 0.0 for value in values.values()) for values in systems)
    if any(value is None for values in systems for value in values.values()) or built >= keywords:
        return []
    remedy = (
        "its training was cut: run `gavel demo` again, without max_seconds in gavel.toml"
        if cut
        else "search with --mode keyword, or give it more lots to learn from with --lots"
    )
    losses = ", ".join(f"{name} {systems[0][name]:.3f} against {systems[1][name]:.3f}" for name in SELECTION_MEASURES)
    return [f"what was built ({served}) is worse than keywords alone: {losses}; {remedy}"]


def _hash_of(folder: Path) -> str:
    """Return a hash of a catalogue's tables. Photos are left out; the item files name them."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.parquet")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def show_report(demo: Demo) -> None:
    """Print answers, quality, the steps with their times, and what to try next."""
    report = demo.report
    for query, answer in report.answers.items():
        show_answer(query, answer)
    show_metrics(f"How good: {demo.plan.catalog} catalogue, test queries", report.quality)
    rows = []
    cuts = {label: f"cut by the clock after {run:,} of {planned:,} steps" for label, (run, planned) in report.cut.items()}
    for label, step in report.steps.items():
        path = step.value if isinstance(step.value, str) else report.plot
        duration = "already there" if step.reused else f"{step.seconds:.1f} s"
        duration = f"{duration}, {cuts[label]}" if label in cuts else duration
        rows.append((label, duration, path))
    show_table("What was built", ("step", "took", "where"), rows, right_from=9)
    for label, cut in cuts.items():
        console.print(f"{label}: {cut}; `gavel demo` again trains on", style="yellow", highlight=False, soft_wrap=True)
    for warning in report.warnings:
        console.print(f"warning: {warning}", style="bold yellow", highlight=False, soft_wrap=True)
    home = demo.settings.home
    given = f"GAVEL_HOME={shlex.quote(str(home))} " if home != Settings().home else ""
    gavel = as_called()
    console.print("\nTry next", style="bold")
    for command, why in (
        (f'{gavel} search "red vase" --max-price 200', "ten lots, filtered"),
        (f"{gavel} search", "a prompt; `quit` leaves"),
        (f"{gavel} serve", "the same as a page: http://127.0.0.1:8000/, and over HTTP: …/docs"),
        (f"{gavel} up", f"an OpenSearch on this machine; then {given}GAVEL_INDEX=opensearch {gavel} index"),
    ):
        console.print(f"  {given}{command}\n      [dim]{why}[/]", highlight=False, soft_wrap=True)
