"""The comparison on ESCI, from the two files to the table in one call, and on from where a call was cut."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from small_tower import save_small_encoder

from benchmarks.quality.esci import COLUMNS, EsciPlan, run_comparison
from benchmarks.quality.esci_data import generate
from catalog.esci import PRODUCTS_FILE
from models.towers.two_towers import QueryTower
from retrieval.encoders.query_encoder import OUTPUT, TOKEN_INPUTS
from retrieval.progress import Progress, ignore_progress


class Steps:
    """Labels of the steps that ran; the step whose label begins with `cut` is interrupted."""

    def __init__(self, cut: str = "none") -> None:
        self.labels: list[str] = []
        self._cut = cut

    @contextmanager
    def __call__(self, label: str) -> Iterator[Progress]:
        if label.startswith(self._cut):
            raise KeyboardInterrupt
        self.labels.append(label)
        yield ignore_progress


def export_quickly(tower: QueryTower, path: Path, bits: int) -> None:
    """Export in float32 by tracing, which takes a tenth of the time of the export for serving."""
    inputs = (torch.ones(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64))
    names = {"input_names": list(TOKEN_INPUTS), "output_names": [OUTPUT]}
    axes = {name: {0: "batch", 1: "length"} for name in TOKEN_INPUTS}
    torch.onnx.export(tower.eval(), inputs, path, dynamo=False, dynamic_axes=axes, opset_version=17, **names)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EsciPlan:
    monkeypatch.setattr("models.artefacts.tower_files.export_query_tower", export_quickly)
    data = generate(tmp_path / "data", products=400, pairs=1_000)
    texts = [title for title in pq.read_table(data / PRODUCTS_FILE)["product_title"].to_pylist()[:300] if title]
    encoder = save_small_encoder(tmp_path / "encoder", texts)
    return EsciPlan(data, tmp_path / "work", str(encoder), version="large", epochs=1, batch_size=16, max_length=16, queries=12)


def test_a_call_that_was_cut_is_resumed_and_every_system_is_measured(plan: EsciPlan) -> None:
    config = replace(plan.training, validate_every=1)
    first, second, third, fourth = Steps(cut="search, hybrid"), Steps(), Steps(), Steps()
    with pytest.raises(KeyboardInterrupt):
        run_comparison(plan, config, first)
    assert {"prepare", "round 0: train", "round 1: mine", "round 1: train", "round 2: train", "embed, trained"} <= set(first.labels)
    result = run_comparison(plan, config, second)
    assert second.labels == ["search, hybrid"]
    assert list(result.quality) == ["BM25", "zero-shot", "BM25 + zero-shot", "trained", "hybrid"]
    assert all(list(quality) == list(COLUMNS) for quality in result.quality.values())
    assert all(0 <= value <= 1 for quality in result.quality.values() for value in quality.values())
    assert (result.queries, result.lots, result.catalog) == (12, 268, "esci-us-large-all")
    assert [done["stage"] for done in result.rounds["rounds"]] == ["in-batch", "hard-negatives", "weak-positives"]
    assert result.quality["BM25"]["recall@200"] > 0.5
    assert json.loads((plan.work / "report.json").read_text())["quality"] == result.quality
    assert run_comparison(plan, config, third).quality == result.quality
    assert third.labels == []
    run_comparison(replace(plan, index_type="hnsw"), config, fourth)
    assert {label.split(",")[0] for label in fourth.labels} == {"index", "search"}
