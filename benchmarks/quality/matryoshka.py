"""Loss of quality by truncated vectors: a plain tower beside a tower that was also trained at the shorter lengths.

gavel catalog generate && python -m benchmarks.quality.matryoshka .gavel/catalogs/synthetic --seed 7 --seed 8 --seed 9
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.measurement import format_mean
from catalog.folder import CatalogFolder
from gavel.workspace.console import progress, show_table
from models.artefacts.item_encoder import ItemEncoder
from models.data.tables import ItemTable
from models.training.two_towers import TrainingConfig, train_towers
from models.training.validation import ValidationMetrics, ranking_metrics
from retrieval.encoders.query_encoder import QueryEncoder, to_unit_length

SPLIT = "test"
LENGTHS = [64, 32, 16]
METRICS = ("recall_at_50", "ndcg_at_10")


def measure(catalog: CatalogFolder, tower: Path, lengths: Sequence[int]) -> list[ValidationMetrics]:
    """Return the metrics of a tower on the test queries, at several lengths of its vectors, by exact search.

    Args:
        catalog: catalogue with a test split.
        tower: folder of the tower; its int8 query tower encodes the queries.
        lengths: numbers of leading dimensions to keep.
    """
    lots, qrels = ItemTable.read(catalog.item_files(SPLIT)), catalog.qrels(SPLIT)
    items = ItemEncoder.load(tower).encode(lots.texts, [None] * len(lots.ids))  # (N, D)
    queries = QueryEncoder.load(tower).encode(list(qrels.queries.values()))  # (Q, D)
    grades = np.array([[qrels.grades.get(query, {}).get(lot, 0) for lot in lots.ids] for query in qrels.queries])
    return [ranking_metrics(_cut(queries, length) @ _cut(items, length).T, grades) for length in lengths]


def _cut(vectors: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    return to_unit_length(vectors[:, :length])


def main(
    catalog: Annotated[Path, typer.Argument(help="Folder of a catalogue.")],
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="Seed of a training; may be repeated. 7 by default.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each training, which reads only text.")] = 8,
) -> None:
    """Print Recall@50 and nDCG@10 of both towers at every length."""
    source = CatalogFolder.load(catalog)
    config = replace(TrainingConfig.for_catalog(source.name, use_image=False), epochs=epochs)
    lengths = [config.tower.dimensions, *LENGTHS]
    runs_by_tower: dict[str, list[list[ValidationMetrics]]] = {}
    with tempfile.TemporaryDirectory() as out:
        for seed in seeds or [config.seed]:
            for name, matryoshka in (("plain", ()), ("Matryoshka", tuple(LENGTHS))):
                arm = replace(config, tower=replace(config.tower, matryoshka=matryoshka), seed=seed)
                with progress(f"{name}, seed {seed}") as step:
                    folder = train_towers(source, arm, Path(out), step).tower_folder
                runs_by_tower.setdefault(name, []).append(measure(source, folder, lengths))
    rows = [
        (
            name,
            str(length),
            *(format_mean([getattr(run[column], name) for run in runs]) for name in METRICS),
        )
        for name, runs in runs_by_tower.items()
        for column, length in enumerate(lengths)
    ]
    show_table(f"{source.name}, text alone, test queries", ("tower", "numbers", "recall@50", "ndcg@10"), rows)


if __name__ == "__main__":
    typer.run(main)
