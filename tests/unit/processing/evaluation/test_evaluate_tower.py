"""The evaluation of a tower on a tiny catalogue, from the search to the report."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from judged_lots import ENDED, LISTED, judged_items, write_judged_catalog, write_release
from lots import TOWER_ID, WordEncoder
from PIL import Image
from small_tower import save_small_cross_encoder, save_small_item_tower

from catalog.folder import Click, Qrels, SplitData, write_catalog
from catalog.synthetic import generate
from processing.evaluation import job as job
from processing.evaluation.corpus import build_corpus, catalog_moment, sample_items, split_items
from processing.evaluation.job import HYBRID, KEYWORD, SEMANTIC, Plan, evaluate_to_folder, evaluate_tower, main
from processing.evaluation.plots import plot_space
from processing.evaluation.report import load_run, run_path, save_run
from processing.evaluation.runs import RememberingEncoder, System, measure, summarise_ms
from retrieval.contracts.release import load_release
from retrieval.errors import InvalidInput, RankerUnavailable, ReleaseError, SearchIncomplete, TowerMismatch
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.fusion import Fusion
from retrieval.index.hybrid_tuning import FieldBoosts, Tuning
from retrieval.search.context import UNHURRIED
from retrieval.search.service import SearchModels, SearchService


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The tiny catalogue with its release; the query tower is the one of words."""
    monkeypatch.setattr(job.QueryEncoder, "load", lambda folder, dimensions=None: WordEncoder(folder.name))
    catalog = write_judged_catalog(tmp_path / "catalog")
    return Plan(catalog, write_release(tmp_path / "release"), tmp_path / TOWER_ID, depth=100, latency_queries=3)


def test_every_way_is_measured_on_the_queries_that_have_an_answer(plan: Plan) -> None:
    made = evaluate_tower(plan)
    assert list(made.results) == [KEYWORD, SEMANTIC, HYBRID]
    assert made.queries == 3
    assert made.results[SEMANTIC].quality["recall@5"] == 1.0
    assert made.results[KEYWORD].run["q1"][0] == "lot-0"
    assert "recall@100" in made.results[SEMANTIC].quality
    assert "recall@200" not in made.results[SEMANTIC].quality
    assert made.results[SEMANTIC].index.lots == 10
    assert 0 < made.results[SEMANTIC].index.memory_bytes < made.results[SEMANTIC].index.disk_bytes
    assert made.results[HYBRID].latency.searches == 3


def test_searches_happen_at_the_catalogues_own_moment(plan: Plan) -> None:
    """By the clock every auction of this catalogue has ended; in it, one has."""
    assert catalog_moment(plan.catalog) == LISTED
    run = evaluate_tower(plan).results[SEMANTIC].run
    assert "lot-0" in run["q1"]
    assert all(ENDED not in found for found in run.values())


def test_clicks_count_for_the_moment_of_a_catalogue(tmp_path: Path) -> None:
    catalog = write_judged_catalog(tmp_path)
    later = LISTED.replace(year=2021)
    clicks = [Click("red vase", "lot-0", 1, None, "buyer", later)]
    write_catalog(tmp_path, name="tiny", seed=0, splits={"test": SplitData(["lots.parquet"], clicks=clicks)}, example_queries=[])
    assert catalog_moment(catalog) == later


def test_a_synthetic_catalogue_made_later_is_the_same_at_its_own_moment(tmp_path: Path) -> None:
    """What the re-ranker sees, hours since and until, does not depend on when the catalogue was made."""
    seen = []
    for name, hours in (("early", 0), ("late", 31)):
        catalog = generate(tmp_path / name, lots=40, now=LISTED + timedelta(hours=hours), photo_size=8)
        moment = catalog_moment(catalog)
        lots = [
            (i.item_id, i.title, i.listed_at and moment - i.listed_at, i.ends_at and i.ends_at - moment)
            for i in split_items(catalog, "test")
        ]
        seen.append((lots, [(c.query, c.item_id, c.event_type, moment - c.timestamp) for c in catalog.clicks("train")]))
    assert seen[0] == seen[1]


def test_hybrid_searches_are_measured_as_they_were_tuned_and_the_report_says_how(plan: Plan, tmp_path: Path) -> None:
    untuned = evaluate_tower(plan)
    assert untuned.tuning == "rrf, keyword 0.5 to semantic 0.5, rank constant 60"
    plan.tower.mkdir()
    Tuning(Fusion("min_max", (1, 0)), FieldBoosts(category=2)).save(plan.tower)
    tuned = evaluate_to_folder(plan, tmp_path / "report", plots=False)
    assert tuned.results[HYBRID].run != untuned.results[HYBRID].run
    assert tuned.results[SEMANTIC].run == untuned.results[SEMANTIC].run
    assert "min_max, keyword 1 to semantic 0, category ^2" in (tmp_path / "report" / "report.md").read_text()


def test_a_repeated_evaluation_gives_the_same_figures(plan: Plan) -> None:
    one, two = evaluate_tower(plan), evaluate_tower(plan)
    assert one.quality == two.quality
    assert one.comparisons == two.comparisons
    assert [result.run for result in one.results.values()] == [result.run for result in two.results.values()]


def test_deeper_runs_only_lengthen_what_is_served(plan: Plan) -> None:
    shallow, deep = (evaluate_tower(replace(plan, depth=depth)).results[HYBRID].run for depth in (3, 100))
    assert all(deep[query][:3] == found for query, found in shallow.items())


def test_the_report_holds_words_numbers_pictures_and_runs(plan: Plan, tmp_path: Path) -> None:
    out = tmp_path / "report"
    made = evaluate_to_folder(plan, out)
    text = (out / "report.md").read_text()
    assert "3 test queries over 10 lots" in text
    for name in ("quality.png", "recall.png", "latency.png", "space.png"):
        assert f"({name})" in text
        with Image.open(out / name) as picture:
            assert picture.getpixel((2, 2))[:3] == (255, 255, 255)
            assert min(picture.size) > 250
    said = json.loads((out / "report.json").read_text())
    assert said["results"][SEMANTIC]["quality"]["ndcg@10"] == made.results[SEMANTIC].quality["ndcg@10"]
    assert said["comparisons"][HYBRID]["recall@50"]["ties"] == 3
    assert load_run(run_path(out, HYBRID)) == made.results[HYBRID].run


def test_without_plots_none_is_drawn_or_linked_and_nothing_of_an_older_report_stays(plan: Plan, tmp_path: Path) -> None:
    runs = tmp_path / "report" / "runs"
    runs.mkdir(parents=True)
    for left_behind in (runs / "zero-shot.ndjson.gz", runs.parent / "space.png"):
        left_behind.write_bytes(b"")
    evaluate_to_folder(plan, tmp_path / "report", plots=False)
    assert sorted(path.name.split(".")[0] for path in runs.iterdir()) == ["bm25", "hybrid", "semantic"]
    assert not list((tmp_path / "report").glob("*.png"))
    assert ".png" not in (tmp_path / "report" / "report.md").read_text()


def test_the_job_and_the_command_run_the_same_evaluation(plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--input", str(plan.catalog.path), "--release", str(plan.release), "--tower", str(plan.tower)]
    assert main([*flags, "--output", str(tmp_path / "out"), "--depth", "100", "--no-plots"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["quality"][SEMANTIC] == evaluate_tower(plan).results[SEMANTIC].quality
    assert main([*flags, "--output", str(tmp_path / "out"), "--baseline", "magic"]) == 2
    assert "there are 'BM25', 'semantic', 'hybrid'" in capsys.readouterr().err


def test_a_split_without_answers_is_refused(plan: Plan, tmp_path: Path) -> None:
    only_half = Qrels({"q": "lamp"}, {"q": {"lot-7": 1}})
    splits = {"test": SplitData(["lots.parquet"], qrels=only_half)}
    write_catalog(plan.catalog.path, name="tiny", seed=0, splits=splits, example_queries=[])
    with pytest.raises(InvalidInput, match="no query of split 'test'"):
        evaluate_tower(plan)


def test_a_release_that_lacks_lots_is_refused(plan: Plan, tmp_path: Path) -> None:
    short = write_release(tmp_path / "short", judged_items()[:4])
    with pytest.raises(ReleaseError, match="4 of the 10 lots"):
        evaluate_tower(replace(plan, release=short))


def test_a_release_of_another_tower_is_refused(plan: Plan) -> None:
    with pytest.raises(TowerMismatch, match=f"is of tower {TOWER_ID}"):
        evaluate_tower(replace(plan, tower=plan.tower.with_name("000000000000")))


def test_a_remembered_query_is_encoded_once() -> None:
    asked: list[str] = []

    class Listening(WordEncoder):
        def encode(self, texts):  # type: ignore[no-untyped-def]
            asked.extend(texts)
            return super().encode(texts)

    encoder = RememberingEncoder(Listening())
    encoder.encode(["red vase", "ring", "red vase"])
    again = encoder.encode(["ring"])
    assert asked == ["red vase", "ring"]
    np.testing.assert_array_equal(again, WordEncoder().encode(["ring"]))


def test_percentiles_lie_between_neighbouring_searches() -> None:
    latency = summarise_ms(range(101))
    assert (latency.mean_ms, latency.p50_ms, latency.p95_ms, latency.p99_ms) == (50, 50, 95, 99)


def test_lots_are_sampled_by_seed(plan: Plan) -> None:
    drawn = [[lot.item_id for lot in sample_items(plan.catalog, "test", plan.release, 4, seed)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 4
    assert len(sample_items(plan.catalog, "test", plan.release, 99)) == load_release(plan.release).lots


def test_too_few_lots_make_no_plot_of_the_space(tmp_path: Path) -> None:
    assert not plot_space(np.eye(4, dtype=np.float32), list("abcd"), "few", tmp_path / "space.png")
    assert not (tmp_path / "space.png").exists()


def test_equal_runs_are_equal_files(tmp_path: Path) -> None:
    run = {"q": ["a b", "ü"], "r": []}
    for name in ("one.ndjson.gz", "two.ndjson.gz"):
        save_run(run, tmp_path / name)
    assert (tmp_path / "one.ndjson.gz").read_bytes() == (tmp_path / "two.ndjson.gz").read_bytes()
    assert load_run(tmp_path / "one.ndjson.gz") == run


@pytest.mark.parametrize("content", [b"", b"text", b"\x1f\x8b\x08"])
def test_a_damaged_run_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.ndjson.gz").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"x\.ndjson\.gz is not a run"):
        load_run(tmp_path / "x.ndjson.gz")


def test_every_measure_is_taken_at_the_depths_that_are_asked_for(plan: Plan) -> None:
    quality = evaluate_tower(replace(plan, depths=(3, 100), exponential_gain=True)).results[SEMANTIC].quality
    kinds = ("recall", "precision", "hit_rate", "map", "ndcg", "ndcg_exp")
    tested = {10, 50}  # the depths of the tests against the baseline are always there
    assert set(quality) == {f"{kind}@{k}" for kind in kinds for k in {3, 100} | tested} | {"mrr", "map"}


@pytest.mark.parametrize("depths", [(0, 10), (10, 101)])
def test_a_depth_that_no_run_has_is_refused(plan: Plan, depths: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match="from 1 to 100, or longer runs with --depth"):
        evaluate_tower(replace(plan, depths=depths))


def test_the_report_says_how_long_a_query_and_an_item_take_to_embed(plan: Plan, tmp_path: Path) -> None:
    catalog = write_judged_catalog(tmp_path / "catalog")
    tower = save_small_item_tower(tmp_path / "towers").rename(tmp_path / TOWER_ID)
    made = evaluate_to_folder(replace(plan, catalog=catalog, tower=tower), tmp_path / "report", plots=False)
    times = made.results[SEMANTIC].embedding
    assert times is not None
    assert times.item_ms is not None
    assert times.item_ms > 0 < times.query_ms
    assert made.results[KEYWORD].embedding is None
    assert f"| {times.item_ms:.1f} ms |" in (tmp_path / "report" / "report.md").read_text()


def test_optional_steps_stand_beside_the_search_without_them(plan: Plan, tmp_path: Path) -> None:
    cross_encoder = save_small_cross_encoder(tmp_path / "cross")
    plain = evaluate_tower(plan)
    made = evaluate_tower(replace(plan, query_expansion=True, cross_encoder=str(cross_encoder), cross_encoder_candidates=5))
    assert list(made.results) == [KEYWORD, SEMANTIC, HYBRID, "BM25 + RM3", "hybrid + RM3", "hybrid, cross-encoded"]
    assert {name: made.quality[name] for name in plain.quality} == plain.quality
    hybrid, crossed = (made.results[name].run["q1"] for name in (HYBRID, "hybrid, cross-encoded"))
    assert set(hybrid[:5]) == set(crossed[:5])
    assert hybrid[5:] == crossed[5:]


def test_a_cross_encoder_that_is_not_there_ends_the_evaluation(plan: Plan) -> None:
    with pytest.raises(RankerUnavailable, match="cannot be loaded"):
        evaluate_tower(replace(plan, cross_encoder="/no/where"))


class BrokenRanker:
    """A re-ranker that does not answer."""

    def score(self, features: np.ndarray) -> np.ndarray:
        raise RankerUnavailable("no answer")


def test_an_answer_without_one_of_its_components_is_not_measured(plan: Plan, tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "index")
    build_corpus(plan.catalog, plan.split, plan.release, store)
    service = SearchService(store, SearchModels(lambda _: WordEncoder(), lambda _: BrokenRanker()), UNHURRIED)
    assert measure(plan.catalog, "test", [System("hybrid", service, "hybrid")])["hybrid"]["recall@50"] > 0
    with pytest.raises(SearchIncomplete, match="re-ranked: 'red vase' was answered without rerank"):
        measure(plan.catalog, "test", [System("re-ranked", service, "hybrid", rerank=True)])
