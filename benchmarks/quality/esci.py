"""The published comparison on the Shopping Queries Data Set (ESCI): BM25, a sentence encoder, trained towers, and hybrids.

gavel bench esci --data FOLDER

One call prepares the catalogue, trains in stages, embeds and indexes every product, searches every test query and measures. Each
step is stored in the work folder. A call after an interruption goes on with the step that was cut: with the next checkpoint of a
training, the next part of an embedding, the next answers of a search; preparation, mining and index begin that step again.

<work>/ledger.json                finished steps
<work>/catalog/                   the catalogue
<work>/towers/, rounds/           towers, and the training in rounds
<work>/embeddings/<release_id>/   vectors of all products
<work>/index/<release_id>-<type>/ an index of them
<work>/runs/<key>/                answers to the test queries, QUERIES_PER_FILE in a file
<work>/report.json                the result
"""

import hashlib
import json
import resource
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ir_measures import nDCG

from benchmarks.machine import describe_machine
from benchmarks.measurement import Measurement
from catalog.esci import EXAMPLES_FILE, PRODUCTS_FILE, Corpus, Version, catalog_name, prepare
from catalog.folder import CATALOG_FILE, CatalogFolder
from catalog.query_splits import share_of
from catalog.summary import summarise
from models.artefacts.tower_files import save_towers
from models.config.training import PRETRAINED_SCHEDULE, TrainingConfig
from models.towers.config import TowerConfig
from models.towers.published import published_towers
from models.towers.tokenizer import make_tokenizer
from models.towers.two_towers import TwoTowers
from processing.embedding.job import embed
from processing.evaluation.corpus import publish_corpus, release_items
from processing.evaluation.report import RUN_SUFFIX, load_run, save_run
from processing.evaluation.runs import RememberingEncoder, System, search_run
from processing.training.mining_rules import MiningRules
from processing.training.rounds import RoundsReport, StepProgress, train_rounds
from processing.training.step_cache import StepCache
from retrieval.contracts.documents import IndexedItem
from retrieval.contracts.release import load_release
from retrieval.contracts.tower_card import CARD_FILE
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.errors import IndexMissing, InvalidInput
from retrieval.evaluation.metrics import ALL_MEASURES, RELEVANT_GRADE, Grades, Run, evaluate
from retrieval.files import exclusive, replace_file
from retrieval.index.embedded.segments import embedded_spec
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import utc_now
from retrieval.progress import Progress
from retrieval.search.context import UNHURRIED
from retrieval.search.service import Mode, SearchModels, SearchService

KEYWORD, ZERO_SHOT, ZERO_SHOT_HYBRID, TRAINED, HYBRID = "BM25", "zero-shot", "BM25 + zero-shot", "trained", "hybrid"
DEPTH = 200
GAINS = {3: 100, 2: 10, 1: 1}  # grade -> a hundred times the published gain: E 1.0, S .1, C .01, I 0
NDCG, JUDGED_NDCG = "ndcg@10", "judged ndcg"
MEASURES: Mapping[str, Any] = {
    **{name: ALL_MEASURES[name] for name in ("recall@10", "recall@50", "recall@200", "mrr")},
    NDCG: nDCG(gains=GAINS) @ 10,
}
COLUMNS = (*MEASURES, JUDGED_NDCG)
AIMS = {"recall@10": (0.15, 0.20), "recall@50": (0.35, 0.45), "recall@200": (0.50, 0.60), "mrr": (0.45, 0.55)}
QUERIES_PER_FILE = 250

BAG_OF_DOCUMENTS = "github.com/dtunkelang/bag-of-documents: 22,458 test queries of us, large, among 1.2 million products"
BASELINES = (
    "github.com/amazon-science/esci-data and arXiv 2206.06588: task 1, which only orders the judged products; all locales, small"
)


@dataclass(frozen=True)
class PublishedRow:
    """A published result.

    Attributes:
        system: name of the system.
        source: where the result is published, and what was measured.
        quality: measure -> value, for the measures that were published.
    """

    system: str
    source: str
    quality: Mapping[str, float]


PUBLISHED = (
    PublishedRow("BM25 (k1 .3, b .6)", BAG_OF_DOCUMENTS, {"recall@10": 0.2033, NDCG: 0.3451}),
    PublishedRow("zero-shot MiniLM", BAG_OF_DOCUMENTS, {"recall@10": 0.1560, NDCG: 0.2648}),
    PublishedRow("BM25 + zero-shot MiniLM", BAG_OF_DOCUMENTS, {"recall@10": 0.1862, NDCG: 0.3048}),
    PublishedRow("trained MiniLM", BAG_OF_DOCUMENTS, {"recall@10": 0.1810, NDCG: 0.3090}),
    PublishedRow("cross-encoder, fine-tuned", BASELINES, {JUDGED_NDCG: 0.83}),
)


@dataclass(frozen=True)
class EsciPlan:
    """Inputs and settings of the comparison.

    Attributes:
        data: folder of the two parquet files.
        work: folder of everything that the comparison writes.
        model: preset, hub name or folder of the sentence encoder that is measured as published and trained. A preset without
            pretrained weights, such as compact, is only trained.
        locale: us, es or jp.
        version: "small" or "large" set of judgments.
        corpus: products that the test queries search, see catalog.esci.prepare().
        rounds: rounds of mining in the second stage, >= 1.
        epochs: epochs of the first stage; None takes the schedule's. The second stage has half, the third a quarter.
        batch_size: pairs per batch; None takes the schedule's.
        max_length: tokens read of a text; None takes the encoder's preset.
        queries: number of test queries to measure; None measures all.
        index_type: spec of the vector index; "flat" compares with every product.
        seed: seed of validation queries and training.
    """

    data: Path
    work: Path
    model: str = "minilm"
    locale: str = "us"
    version: Version = "small"
    corpus: Corpus = "all"
    rounds: int = 1
    epochs: int | None = None
    batch_size: int | None = None
    max_length: int | None = None
    queries: int | None = None
    index_type: str = "flat"
    seed: int = 7

    @property
    def tower(self) -> TowerConfig:
        """The untrained towers, without photos."""
        tower = replace(published_towers(self.model), use_image=False)
        return replace(tower, max_length=self.max_length) if self.max_length else tower

    @property
    def training(self) -> TrainingConfig:
        """The configuration of the training; a single stage is split into three by train_rounds()."""
        schedule = PRETRAINED_SCHEDULE if self.tower.text.model else {}
        changes = {"epochs": self.epochs, "batch_size": self.batch_size}
        chosen = {name: value for name, value in changes.items() if value is not None}
        return replace(TrainingConfig(tower=self.tower, seed=self.seed), **{**schedule, **chosen})


@dataclass(frozen=True, kw_only=True)
class EsciResult(Measurement):
    """Result of the comparison.

    Attributes:
        catalog: name of the catalogue.
        queries: number of measured queries, which have a product of label E or S.
        lots: number of products searched.
        rejects: number of rows of the data set that break a contract.
        towers: system -> tower_id.
        rounds: RoundsReport.to_dict() of the training.
        quality: system -> measure -> mean over the queries, in [0, 1].
        published: rows of PUBLISHED, as dictionaries.
        aims: measure -> (lowest, highest) of the project's aims.
        seconds: step -> duration in seconds, measured when the step ran.
        peak_rss_mb: largest resident memory of this process in MB; a resumed call does not count the steps before.
    """

    catalog: str
    queries: int
    lots: int
    rejects: int
    towers: Mapping[str, str]
    rounds: Mapping[str, Any]
    quality: Mapping[str, Mapping[str, float]]
    published: Sequence[Mapping[str, Any]]
    aims: Mapping[str, tuple[float, float]]
    seconds: Mapping[str, float]
    peak_rss_mb: float


def run_comparison(plan: EsciPlan, config: TrainingConfig, steps: StepProgress) -> EsciResult:
    """Run all steps that an earlier call has not finished, measure, and write report.json.

    Args:
        plan: inputs and settings.
        config: configuration of the training: plan.training, perhaps with changes of a settings file.
        steps: function from the label of a step that runs now to a context manager with the step's progress callback.

    Raises:
        InvalidInput: the data set is missing or unusable, or a setting is.
        TowerError: the sentence encoder cannot be loaded.
        AlreadyRunning: another process uses the work folder.
    """
    machine = describe_machine()
    embedded_spec(plan.index_type)  # refuses an unknown type before hours of training
    plan.work.mkdir(parents=True, exist_ok=True)
    with exclusive(plan.work / ".esci.lock", f"runs `gavel bench esci` in {plan.work}"):
        return _Comparison(plan, config, steps).run(machine)


class _Comparison:
    """The steps of a comparison, each stored under a key of its input."""

    def __init__(self, plan: EsciPlan, config: TrainingConfig, steps: StepProgress) -> None:
        self._plan, self._config, self._steps = plan, config, steps
        self._cache = StepCache(plan.work / "ledger.json")
        self._seconds: dict[str, float] = {}

    def run(self, machine: str) -> EsciResult:
        catalog = self._prepare()
        zero_shot = self._save_zero_shot() if self._plan.tower.text.model else None
        trained = self._train(catalog)
        queries, grades = self._queries(catalog)
        quality: dict[str, Mapping[str, float]] = {}
        towers = ({ZERO_SHOT: zero_shot} if zero_shot else {}) | {TRAINED: trained.tower}
        for system, answers in self._answers(catalog, towers, queries):
            quality[system] = {**evaluate(grades, answers, MEASURES), JUDGED_NDCG: judged_ndcg(grades, answers)}
        counts = summarise(catalog)
        result = EsciResult(
            machine=machine,
            catalog=catalog.name,
            queries=len(queries),
            lots=counts["items"],
            rejects=counts["rejects"],
            towers={system: tower.name for system, tower in towers.items()},
            rounds=trained.to_dict(),
            quality={
                system: quality[system] for system in (KEYWORD, ZERO_SHOT, ZERO_SHOT_HYBRID, TRAINED, HYBRID) if system in quality
            },
            published=[{"system": row.system, "source": row.source, "quality": dict(row.quality)} for row in PUBLISHED],
            aims=AIMS,
            seconds=self._seconds,
            peak_rss_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1),
        )
        replace_file(self._plan.work / "report.json", json.dumps(result.to_dict(), indent=2) + "\n")
        return result

    def _step(self, name: str, key: object, run: Callable[[Progress], Any], is_valid: Callable[[Any], bool]) -> Any:
        def run_with_progress() -> Any:
            with self._steps(name) as progress:
                return run(progress)

        result = self._cache.step(name, repr(key), run_with_progress, is_valid)
        self._seconds[name] = result.seconds
        return result.value

    def _prepare(self) -> CatalogFolder:
        plan, folder = self._plan, self._plan.work / "catalog"
        files = [plan.data / name for name in (EXAMPLES_FILE, PRODUCTS_FILE)]
        sizes = [(file.stat().st_size, file.stat().st_mtime_ns) if file.is_file() else None for file in files]

        def run(progress: Progress) -> str:
            prepare(
                plan.data,
                folder,
                locale=plan.locale,
                version=plan.version,
                corpus=plan.corpus,
                seed=plan.seed,
                progress=progress,
            )
            return catalog_name(plan.locale, plan.version, plan.corpus)

        key = (str(plan.data.resolve()), sizes, plan.locale, plan.version, plan.corpus, plan.seed)
        self._step("prepare", key, run, lambda _: (folder / CATALOG_FILE).is_file())
        return CatalogFolder.load(folder)

    def _save_zero_shot(self) -> Path:
        towers, config = self._plan.work / "towers", self._plan.tower

        def run(progress: Progress) -> str:
            return save_towers(TwoTowers(config).eval(), make_tokenizer(config, ()), towers).name

        name = self._step("load the encoder", config, run, lambda tower_id: (towers / tower_id / CARD_FILE).is_file())
        return towers / str(name)

    def _train(self, catalog: CatalogFolder) -> RoundsReport:
        plan = self._plan
        report = train_rounds(
            catalog,
            self._config,
            plan.work / "towers",
            plan.work / "rounds",
            rounds=plan.rounds,
            rules=MiningRules(),
            steps=self._steps,
        )
        self._seconds |= {
            f"round {done.number}: {step}": seconds for done in report.rounds for step, seconds in done.seconds.items()
        }
        return report

    def _queries(self, catalog: CatalogFolder) -> tuple[dict[str, str], Grades]:
        """Return text and grades of the test queries with a product of label E or S."""
        qrels = catalog.qrels("test")
        chosen = [query for query, grades in qrels.grades.items() if max(grades.values()) >= RELEVANT_GRADE]
        if not chosen:
            raise InvalidInput(f"no test query of {catalog.name} has a product of label E or S; is it the whole file?")
        if self._plan.queries is not None:
            chosen = sorted(chosen, key=lambda query: share_of(query, self._plan.seed))[: self._plan.queries]
        return {query: qrels.queries[query] for query in chosen}, {query: qrels.grades[query] for query in chosen}

    def _answers(self, catalog: CatalogFolder, towers: Mapping[str, Path], queries: Mapping[str, str]) -> Iterator[tuple[str, Run]]:
        """Yield each system with its answers; one index is open at a time."""
        systems: dict[str, dict[str, Mode]] = {
            ZERO_SHOT: {ZERO_SHOT: "semantic", ZERO_SHOT_HYBRID: "hybrid"},
            TRAINED: {KEYWORD: "keyword", TRAINED: "semantic", HYBRID: "hybrid"},
        }
        for name, tower in towers.items():
            release = self._embed(catalog, name, tower)
            folder = self._index(name, release)
            store = self._open(folder)
            encoder = RememberingEncoder(QueryEncoder.load(tower))
            service = SearchService(store, SearchModels(lambda _, encoder=encoder: encoder), UNHURRIED)  # type: ignore[misc]
            for system, mode in systems[name].items():
                yield system, self._search(System(system, service, mode), folder.name, queries)
            store.close()

    def _embed(self, catalog: CatalogFolder, name: str, tower: Path) -> Path:
        out, files = self._plan.work / "embeddings", catalog.item_files("test")

        def run(progress: Progress) -> str:
            return embed(files, tower, out, progress=progress).release_id

        key = (tower.name, [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files])
        release_id = self._step(f"embed, {name}", key, run, lambda release: (out / release / "manifest.json").is_file())
        return out / str(release_id)

    def _index(self, name: str, release: Path) -> Path:
        folder = self._plan.work / "index" / f"{release.name}-{self._plan.index_type.replace(':', '-')}"

        def run(progress: Progress) -> float:
            shutil.rmtree(folder, ignore_errors=True)
            manifest, store = load_release(release), self._open(folder)
            total = manifest.items_embedded

            def items() -> Iterator[IndexedItem]:
                for number, item in enumerate(release_items(release), 1):
                    progress(number, total)
                    yield item

            build_s = publish_corpus(store, manifest.tower_id, manifest.dimensions, items()).build_s
            store.close()
            return build_s

        self._step(f"index, {name}", folder.name, run, lambda _: self._is_built(folder))
        return folder

    def _open(self, folder: Path) -> EmbeddedStore:
        return EmbeddedStore(folder, spec=embedded_spec(self._plan.index_type))

    def _is_built(self, folder: Path) -> bool:
        try:
            self._open(folder).live().close()
        except IndexMissing:
            return False
        return True

    def _search(self, system: System, index: str, queries: Mapping[str, str]) -> dict[str, list[str]]:
        """Search all queries, a file of answers at a time; files of an earlier call are read instead."""
        texts = list(queries.items())
        chunks = [dict(texts[start : start + QUERIES_PER_FILE]) for start in range(0, len(texts), QUERIES_PER_FILE)]
        keys = [hashlib.sha256(repr((index, system.mode, DEPTH, chunk)).encode()).hexdigest()[:16] for chunk in chunks]
        paths = [self._plan.work / "runs" / f"{key}{RUN_SUFFIX}" for key in keys]
        paths[0].parent.mkdir(exist_ok=True)

        def run(progress: Progress) -> None:
            done = 0
            for path, chunk in zip(paths, chunks, strict=True):
                if not path.is_file():
                    save_run(search_run(system, chunk, utc_now(), depth=DEPTH), path)
                progress(done := done + len(chunk), len(queries))

        self._step(f"search, {system.name}", keys, run, lambda _: all(path.is_file() for path in paths))
        return {query: items for path in paths for query, items in load_run(path).items()}


def judged_ndcg(grades: Grades, answers: Run) -> float:
    """Return the mean nDCG of the judged products alone, in the order of the answers, with the published gains.

    Products that are missing in the answers follow in the worst order, so the value is a lower bound.
    """
    order = {
        query: [
            *(item for item in answers.get(query, ()) if item in judged),
            *sorted(judged.keys() - set(answers.get(query, ())), key=lambda item: (judged[item], item)),
        ]
        for query, judged in grades.items()
    }
    return evaluate(grades, order, {JUDGED_NDCG: nDCG(gains=GAINS)})[JUDGED_NDCG]
