"""The comparison on ESCI: what it measures, what it is compared with, and the files that stand in for the published ones."""

from contextlib import nullcontext
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.quality.esci import AIMS, COLUMNS, MEASURES, PUBLISHED, EsciPlan, judged_ndcg, run_comparison
from benchmarks.quality.esci_data import EXAMPLES_SCHEMA, PRODUCTS_SCHEMA, generate
from catalog.esci import EXAMPLES_FILE, PRODUCTS_FILE, prepare
from catalog.summary import summarise
from retrieval.errors import InvalidInput
from retrieval.evaluation.metrics import evaluate
from retrieval.progress import ignore_progress


def test_a_missing_data_set_is_named_with_the_place_where_it_is_published(tmp_path: Path) -> None:
    plan = EsciPlan(tmp_path / "nowhere", tmp_path / "work", "compact")
    with pytest.raises(InvalidInput, match=r"https://github.com/amazon-science/esci-data"):
        run_comparison(plan, plan.training, lambda label: nullcontext(ignore_progress))


def test_gains_are_those_of_the_published_benchmark() -> None:
    grades = {"q": {"exact": 3, "substitute": 2, "complement": 1, "irrelevant": 0}}
    best = ["exact", "substitute", "complement"]
    assert evaluate(grades, {"q": best}, MEASURES)["ndcg@10"] == pytest.approx(1)
    swapped = evaluate(grades, {"q": ["substitute", "exact", "complement"]}, MEASURES)["ndcg@10"]
    discounts = (1.0, 0.6309297535714575, 0.5)
    ideal = sum(gain * discount for gain, discount in zip((1.0, 0.1, 0.01), discounts, strict=True))
    assert swapped == pytest.approx(sum(g * d for g, d in zip((0.1, 1.0, 0.01), discounts, strict=True)) / ideal)


def test_judged_ndcg_ignores_unjudged_products_and_takes_the_worst_for_missing_ones() -> None:
    grades = {"q": {"exact": 3, "other": 3, "irrelevant": 0}}
    assert judged_ndcg(grades, {"q": ["unjudged", "exact", "unjudged too", "other"]}) == pytest.approx(1)
    missing = judged_ndcg(grades, {"q": ["exact"]})
    assert missing == judged_ndcg(grades, {"q": ["exact", "irrelevant", "other"]}) < 1


def test_published_rows_have_known_columns_and_say_where_they_are_from() -> None:
    assert all(set(row.quality) <= set(COLUMNS) and "github.com/" in row.source for row in PUBLISHED)
    assert set(AIMS) <= set(COLUMNS)


def test_the_generated_files_have_the_published_schema_and_fill_every_split_of_every_locale(tmp_path: Path) -> None:
    data = generate(tmp_path / "data", products=600, pairs=1_500)
    assert pq.read_schema(data / EXAMPLES_FILE).equals(EXAMPLES_SCHEMA)
    assert pq.read_schema(data / PRODUCTS_FILE).equals(PRODUCTS_SCHEMA)
    for locale in ("us", "es", "jp"):
        counts = summarise(prepare(data, tmp_path / locale, locale=locale, version="large", corpus="all"))
        assert all(counts["splits"][split]["queries"] for split in ("train", "val", "test"))
        assert counts["splits"]["train"]["pairs"] > counts["splits"]["test"]["pairs"] == 0
