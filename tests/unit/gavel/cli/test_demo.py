"""What a demo says of a training that the clock cut, and that it counts as unfinished."""

import json
from pathlib import Path
from typing import Any

import pytest
from judged_lots import write_judged_catalog

from gavel.cli.demo import HYBRID, KEYWORD, RERANKED, TEXT, Demo, Plan, show_report, worse_than_keywords
from gavel.workspace import pipeline
from models.artefacts.run_record import RECORD_FILE
from retrieval.config.settings import Settings


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """What the next trainings write into their records, in place of training."""
    records: list[dict[str, Any]] = []

    def train(home: Any, catalog: Any, config: Any, *, progress: Any) -> Path:
        folder = tmp_path / "towers" / "one"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD_FILE).write_text(json.dumps({"steps": records.pop(0)}))
        return folder

    monkeypatch.setattr(pipeline, "train_towers", train)
    return records


def test_a_training_that_the_clock_cut_is_not_already_there_and_the_table_says_so(
    trained: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained += [{"run": n, "planned": 900, "cut_by_clock": n < 900} for n in (400, 800, 900)]
    catalog, step = write_judged_catalog(tmp_path / "catalog"), f"train towers, {TEXT}"
    told = []
    for _ in range(4):
        demo = Demo(Settings(home=tmp_path / "home"), Plan())
        demo._tower(TEXT, catalog)
        demo.report.quality = {"keyword (BM25)": {"ndcg@10": 0.5}}
        show_report(demo)
        shown = " ".join(capsys.readouterr().out.split())
        told.append((demo.report.steps[step].reused, "400 of 900" in shown, "800 of 900" in shown, "again trains on" in shown))
    assert told == [
        (False, True, False, True),
        (False, False, True, True),
        (False, False, False, False),
        (True, False, False, False),
    ]


def test_a_demo_warns_when_what_it_built_is_worse_than_keywords() -> None:
    keywords, better, worse = ({"recall@50": value, "ndcg@10": 0.5} for value in (0.6, 0.7, 0.5))
    assert worse_than_keywords({KEYWORD: keywords, HYBRID: better}, cut=False) == []
    assert worse_than_keywords({KEYWORD: keywords, HYBRID: worse, RERANKED: better}, cut=False) == []
    (warning,) = worse_than_keywords({KEYWORD: keywords, HYBRID: better, RERANKED: worse}, cut=False)
    assert "recall@50 0.500 against 0.600" in warning
    assert "--mode keyword" in warning
    (warning,) = worse_than_keywords({KEYWORD: keywords, HYBRID: worse}, cut=True)
    assert "run `gavel demo` again" in warning
