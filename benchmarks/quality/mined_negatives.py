"""Gain of a round of mined negatives on the synthetic catalogue, over equally long training without mined negatives.

gavel catalog generate --lots 800 --out .gavel/catalogs/mining
python -m benchmarks.quality.mined_negatives .gavel/catalogs/mining --seed 7 --seed 8 --seed 9

Every arm continues from the same baseline for the same number of steps, with the same number of further lots per query. The arms
differ in the source of those lots. The arm on random lots separates the gain of mined lots from the gain of longer training.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.measurement import format_mean
from catalog.folder import CatalogFolder
from gavel.workspace.console import progress, show_table
from models.config.training import Stage, TrainingConfig
from models.training.two_towers import train_towers
from processing.embedding.job import embed
from processing.training.mining import mine_negatives
from processing.training.mining_rules import MiningRules
from processing.training.round_index import build, measure_index_types, open_store
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.errors import InvalidInput
from retrieval.index.embedded.store import OpenIndex

FURTHER = 2  # lots per query besides the lots of the batch
SPLIT = "test"  # val chooses the best epoch
MEASURES = ("recall@50", "ndcg@10")
BASELINE = "baseline"
ARMS: dict[str, tuple[Stage, MiningRules | None]] = {
    "+ random lots": (Stage("random", rate=0.5, random_negatives=FURTHER), None),
    "+ mined lots": (Stage("mined", rate=0.5, hard_negatives=FURTHER), MiningRules()),
    "+ mined and random lots": (
        Stage("mixed", rate=0.5, hard_negatives=FURTHER // 2, random_negatives=FURTHER // 2),
        MiningRules(),
    ),
}
Metrics = dict[str, dict[str, float]]  # arm -> measure -> mean over the queries


class Trial:
    """One seed: a baseline and the arms that continue from it."""

    def __init__(self, catalog: CatalogFolder, config: TrainingConfig, scratch: Path) -> None:
        self._catalog, self._config, self._scratch = catalog, config, scratch

    def run(self) -> Metrics:
        """Train and measure the baseline and every arm; return arm -> measure -> value."""
        stages = (Stage("baseline"), *(stage for stage, _ in ARMS.values()))
        first = replace(self._config, stages=stages)
        rest = replace(first, epochs=max(1, first.epochs // 2))
        baseline = self._train(first, 0)
        metrics = {BASELINE: self._measure(baseline)}
        for number, (arm, (_, rules)) in enumerate(ARMS.items(), 1):
            mined = self._mine(baseline, rules) if rules else None
            metrics[arm] = self._measure(self._train(rest, number, baseline, mined))
        return metrics

    def _train(
        self, config: TrainingConfig, stage: int, start_from: Path | None = None, negatives: dict[str, list[str]] | None = None
    ) -> Path:
        with progress(f"seed {config.seed}: {config.stages[stage].name}") as step:
            towers = self._scratch / "towers"
            return train_towers(
                self._catalog, config, towers, step, stage=stage, start_from=start_from, negatives=negatives
            ).tower_folder

    def _mine(self, tower: Path, rules: MiningRules) -> dict[str, list[str]]:
        with self._index(tower) as index:
            return mine_negatives(self._catalog, index, QueryEncoder.load(tower), rules).by_query

    def _measure(self, tower: Path) -> dict[str, float]:
        manifest = embed(self._catalog.item_files(SPLIT), tower, self._scratch / "embeddings")
        build(self._scratch / "embeddings" / manifest.release_id, self._scratch / tower.name)
        return measure_index_types(self._catalog, SPLIT, self._scratch / tower.name, tower)["flat"]

    @contextmanager
    def _index(self, tower: Path) -> Iterator[OpenIndex]:
        index = open_store(self._scratch / tower.name, "flat").live()
        try:
            yield index
        finally:
            index.close()


def main(
    catalog: Annotated[Path, typer.Argument(help="Catalogue whose splits search one corpus.")],
    seed: Annotated[list[int] | None, typer.Option(help="Seed of a trial; may be repeated. 7 by default.")] = None,
    epochs: Annotated[int, typer.Option(min=2, help="Epochs of the baseline; each arm has half as many.")] = 6,
    batch_size: Annotated[int, typer.Option(min=2, help="Pairs per step.")] = 16,
    text_only: Annotated[bool, typer.Option(help="Train without photos.")] = True,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Print Recall@50 and nDCG@10 on the test queries for every arm."""
    source = CatalogFolder.load(catalog)
    if source.item_files("train") != source.item_files(SPLIT):
        raise InvalidInput(f"the splits of {catalog} search different lots; measure them with `gavel train --rounds 1`")
    runs: list[Metrics] = []
    seeds = seed or [7]
    for number in seeds:
        config = replace(TrainingConfig.for_catalog(source.name, use_image=not text_only, seed=number), photos="always")
        with tempfile.TemporaryDirectory(prefix="gavel-mining-") as scratch:
            runs.append(Trial(source, replace(config, epochs=epochs, batch_size=batch_size), Path(scratch)).run())
    show_table(
        f"Test queries, seeds {', '.join(map(str, seeds))}", ("arm", *MEASURES), [(arm, *_cells(runs, arm)) for arm in runs[0]]
    )
    if out is not None:
        out.write_text(json.dumps(dict(zip(map(str, seeds), runs, strict=True)), indent=2) + "\n")


def _cells(runs: list[Metrics], arm: str) -> list[str]:
    return [format_mean([run[arm][measure] for run in runs]) for measure in MEASURES]


if __name__ == "__main__":
    typer.run(main)
