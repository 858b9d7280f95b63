"""Train in rounds: each round mines hard negatives with the towers of an earlier round, as in ANCE (Xiong et al., ICLR 2021).

    round 0     the first stage: in-batch and random negatives. Its index is the baseline and is not deleted
    round 1…N   the second stage, on negatives mined from the index of the round before
    last        the third stage, from the best round so far, on negatives mined from that round's index

After each round the items are embedded and indexed again, as Flat (exact) and HNSW. The val queries are searched in both indices.
Each round has its own folder. Finished steps are not repeated: an interrupted run continues where it stopped.

<run>/ledger.json           finished steps
<run>/rounds.json           the report
<run>/<number>/negatives.parquet       the round's hard negatives
<run>/<number>/<split>/embeddings/     the items' vectors
<run>/<number>/<split>/index/          one database, hnsw.faiss and flat.faiss
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from catalog.folder import CatalogFolder
from models.artefacts.run_record import cut_steps, data_hash
from models.config.training import TrainingConfig, three_stages
from models.data.hard_negatives import HardNegatives
from models.training.two_towers import train_towers
from processing.embedding.job import embed
from processing.training.mining import mine_or_reuse
from processing.training.mining_rules import MiningRules
from processing.training.round_index import build, is_built, measure_index_types, open_store
from processing.training.step_cache import StepCache, StepResult
from retrieval.contracts.tower_card import CARD_FILE
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.errors import InvalidInput
from retrieval.files import replace_file
from retrieval.progress import Progress, ignore_progress

StepProgress = Callable[[str], AbstractContextManager[Progress]]  # label of a step -> a context with the step's progress
BASELINE, MINED, FINAL = 0, 1, 2  # positions in TrainingConfig.stages


@dataclass(frozen=True)
class Round:
    """One round: a tower and its measurements.

    Attributes:
        number: number of the round; 0 is the baseline.
        stage: name of the training stage.
        tower_id: id of the trained tower.
        started_from: tower_id of the initial weights; empty for the baseline.
        quality: "flat" and "hnsw" -> measure -> mean over the val queries, in [0, 1].
        build_seconds: "flat" and "hnsw" -> seconds to build that index from the stored vectors of the val items.
        mining: HardNegatives.stats of the round; empty for the baseline.
        seconds: step -> duration in seconds, measured when the step ran.
    """

    number: int
    stage: str
    tower_id: str
    started_from: str
    quality: dict[str, dict[str, float]]
    build_seconds: dict[str, float]
    mining: dict[str, Any]
    seconds: dict[str, float]

    @property
    def score(self) -> float:
        """Selection score: the mean of recall@50 and nDCG@10 of the exact search, as for epochs."""
        return (self.quality["flat"]["recall@50"] + self.quality["flat"]["ndcg@10"]) / 2


@dataclass(frozen=True)
class RoundsReport:
    """The result of a run.

    Attributes:
        folder: folder of the run.
        tower: folder of the best round's tower.
        best: number of the best round on val; among equal rounds the first.
        rounds: all rounds, in order.
    """

    folder: Path
    tower: Path
    best: int
    rounds: Sequence[Round]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "folder": str(self.folder),
            "tower": str(self.tower),
            "tower_id": self.tower.name,
            "best": self.best,
            "rounds": [asdict(done) for done in self.rounds],
        }


def train_rounds(
    catalog: CatalogFolder,
    config: TrainingConfig,
    towers: Path,
    runs: Path,
    *,
    rounds: int,
    rules: MiningRules | None = None,
    resume: bool = True,
    steps: StepProgress = lambda label: nullcontext(ignore_progress),
) -> RoundsReport:
    """Train a baseline, N rounds on mined negatives, and a last stage; the best tower on val becomes the newest in `towers`.

    Args:
        catalog: catalogue with pairs in train, and judgments in train and val.
        config: configuration of two or three stages; with two, the last round is omitted. in_stages() splits a single stage.
        towers: folder of the artefacts; every round's tower stays there.
        runs: folder of the runs; each run has a folder named by catalogue and settings.
        rounds: number of rounds with mining, >= 1. A larger number continues an earlier run.
        rules: rules of mining; None takes the defaults.
        resume: False repeats everything.
        steps: function from the label of a step to a context manager with the step's progress callback.

        Raises:
            InvalidInput: rounds < 1, the catalogue lacks judged val queries, or train_towers() or mining refuses the catalogue.
        TowerError: a pretrained encoder cannot be loaded.
    """
    if rounds < 1:
        raise InvalidInput(f"there must be 1 round or more, not {rounds}; train without rounds for a baseline alone")
    if not catalog.has_queries("val"):
        raise InvalidInput(f"{catalog.path} has no judged val queries to compare rounds by; train without rounds")
    run = _Run(catalog, in_stages(config), towers, runs, rules or MiningRules(), resume, steps)
    done = [run.round(0, BASELINE, None)]
    for number in range(1, rounds + 1):
        done.append(run.round(number, MINED, done[-1]))
    if len(run.config.stages) > FINAL:
        done.append(run.round(rounds + 1, FINAL, max(done, key=lambda one: one.score)))
    best = max(done, key=lambda one: one.score)
    tower = towers / best.tower_id
    (tower / CARD_FILE).touch()  # other commands use the newest tower by default
    report = RoundsReport(run.folder, tower, best.number, done)
    replace_file(run.folder / "rounds.json", json.dumps(report.to_dict(), indent=2) + "\n")
    return report


def in_stages(config: TrainingConfig) -> TrainingConfig:
    """Return a configuration with stages for mined negatives: several stages stay, a single stage is split into three."""
    if len(config.stages) > 1:
        return config
    first = config.stage_epochs(config.stages[0])
    return replace(config, stages=three_stages((first, max(1, first // 2), max(1, first // 4))))


class _Run:
    """The steps of a run, each stored in the run's step cache under a key of its input."""

    def __init__(
        self,
        catalog: CatalogFolder,
        config: TrainingConfig,
        towers: Path,
        runs: Path,
        rules: MiningRules,
        resume: bool,
        steps: StepProgress,
    ) -> None:
        self.config = config
        self._catalog, self._towers, self._rules, self._resume, self._steps = catalog, towers, rules, resume, steps
        self._key = repr((replace(config, log_with=None), rules, data_hash(catalog), version("gavel")))
        self.folder = runs / f"{catalog.name}-{hashlib.sha256(self._key.encode()).hexdigest()[:8]}"
        one_corpus = catalog.item_files("train") == catalog.item_files("val")
        self._mined_split = "val" if one_corpus else "train"  # split of the index that is mined
        self._splits = ("val",) if one_corpus else ("val", "train")
        if not resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._cache = StepCache(self.folder / "ledger.json")

    def round(self, number: int, stage: int, before: Round | None) -> Round:
        """Mine, train, embed, index and measure; finished steps of an earlier run are reused."""
        done: dict[str, StepResult] = {}
        if before is not None:
            done["mine"] = self._mine(number, before)
        done["train"] = self._train(number, stage, before)
        tower = self._towers / done["train"].value
        for split in self._splits:
            done[f"embed {split}"] = self._embed(number, split, tower)
            done[f"index {split}"] = self._index(number, split, Path(done[f"embed {split}"].value))
        done["measure"] = self._measure(number, tower)
        return Round(
            number=number,
            stage=self.config.stages[stage].name,
            tower_id=tower.name,
            started_from=before.tower_id if before else "",
            quality=done["measure"].value,
            build_seconds=done["index val"].value,
            mining=done["mine"].value if before else {},
            seconds={name: step.seconds for name, step in done.items()},
        )

    def _step(
        self, number: int, name: str, inputs: object, run: Callable[[Progress], Any], is_valid: Callable[[Any], bool]
    ) -> StepResult:
        label = f"round {number}: {name}"

        def run_with_progress() -> Any:
            with self._steps(label) as progress:
                return run(progress)

        return self._cache.step(label, repr((self._key, inputs)), run_with_progress, is_valid)

    def _mine(self, number: int, before: Round) -> StepResult:
        path = self._negatives(number)

        def run(progress: Progress) -> dict[str, Any]:
            store = open_store(self._index_folder(before.number, self._mined_split), "flat" if self._rules.exact else "hnsw")
            encoder, index = QueryEncoder.load(self._towers / before.tower_id), store.live()
            try:
                return dict(mine_or_reuse(path, self._catalog, index, encoder, self._rules, progress=progress)[0].stats)
            finally:
                index.close()

        return self._step(number, "mine", before.tower_id, run, lambda stats: path.is_file())

    def _train(self, number: int, stage: int, before: Round | None) -> StepResult:
        def run(progress: Progress) -> str:
            report = train_towers(
                self._catalog,
                self.config,
                self._towers,
                progress,
                stage=stage,
                start_from=self._towers / before.tower_id if before else None,
                negatives=HardNegatives.load(self._negatives(number)).by_query if before else None,
                resume=self._resume,
            )
            return report.tower_id

        inputs = (stage, before and before.tower_id)

        def finished(tower_id: str) -> bool:
            return (self._towers / tower_id / CARD_FILE).is_file() and not cut_steps(self._towers / tower_id)

        return self._step(number, "train", inputs, run, finished)

    def _embed(self, number: int, split: str, tower: Path) -> StepResult:
        out = self.folder / str(number) / split / "embeddings"

        def run(progress: Progress) -> str:
            return str(out / embed(self._catalog.item_files(split), tower, out, progress=progress).release_id)

        return self._step(number, f"embed {split}", tower.name, run, lambda release: Path(release, "manifest.json").is_file())

    def _index(self, number: int, split: str, release: Path) -> StepResult:
        folder = self._index_folder(number, split)
        return self._step(
            number, f"index {split}", release.name, lambda progress: build(release, folder, progress), lambda _: is_built(folder)
        )

    def _measure(self, number: int, tower: Path) -> StepResult:
        folder = self._index_folder(number, "val")

        def run(progress: Progress) -> dict[str, dict[str, float]]:
            return measure_index_types(self._catalog, "val", folder, tower, progress)

        return self._step(number, "measure", tower.name, run, bool)

    def _negatives(self, number: int) -> Path:
        return self.folder / str(number) / "negatives.parquet"

    def _index_folder(self, number: int, split: str) -> Path:
        return self.folder / str(number) / split / "index"
