"""Which index is recommended for how many items in how much memory, and why the others are not."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gavel.cli.main import app
from retrieval.config.index_spec import INDEX_TYPES, IndexSpec, parse_bytes
from retrieval.config.settings import Settings
from retrieval.errors import InvalidInput
from retrieval.index.ann.advice import Calibration, Measured, advise, closest, parse_items, recall_by_time, shards_needed

GB = 10**9


def table(*rows: Measured) -> Calibration:
    return Calibration("gavel bench ann", "test vectors", rows)


TWO_SIZES = table(
    Measured("flat", 10_000, 128, 1.0, 1.0, 0.01),
    Measured("flat", 100_000, 128, 1.0, 10.0, 0.1),
    Measured("hnsw:ef_search=100", 10_000, 128, 0.99, 0.1, 5.0),
    Measured("hnsw:ef_search=400", 10_000, 128, 0.999, 0.4, 5.0),
    Measured("hnsw:ef_search=200", 100_000, 128, 0.99, 0.2, 60.0),
    Measured("hnsw:ef_search=800", 100_000, 128, 0.999, 0.8, 60.0),
    Measured("sq8", 100_000, 128, 0.9995, 5.0, 0.1),
)


def by_family(calibration: Calibration, items: int, memory: float, recall: float):
    return {advice.family: advice for advice in advise(calibration, items, 128, int(memory), recall)}


def test_the_quickest_family_that_fits_and_reaches_the_recall_comes_first() -> None:
    assert advise(TWO_SIZES, 100_000, 128, GB, 0.99)[0].spec == str(IndexSpec("hnsw", ef_search=200))
    assert advise(TWO_SIZES, 100_000, 128, GB, 0.9995)[0].family == "sq8"
    assert advise(TWO_SIZES, 100_000, 128, GB, 0.9999)[0].family == "flat"


def test_effort_and_time_of_a_recall_between_two_points_lie_between_them() -> None:
    found = by_family(TWO_SIZES, 100_000, GB, 0.99684)["hnsw"]  # half of the way from .01 to .001 of misses, in logarithms
    assert IndexSpec.parse(found.spec).ef_search == pytest.approx(400, abs=2)
    assert found.p50_ms == pytest.approx(0.4, rel=0.01)
    assert found.recall == 0.9968


def test_less_memory_leads_to_a_smaller_family_and_says_what_the_others_need() -> None:
    found = by_family(TWO_SIZES, 100_000, 40e6, 0.99)
    assert not found["hnsw"].fits
    assert "needs 0.1 GB" in found["hnsw"].why_not
    assert advise(TWO_SIZES, 100_000, 128, 40_000_000, 0.99)[0].family == "sq8"


def test_effort_and_time_beyond_the_measured_sizes_grow_as_fitted_and_are_marked() -> None:
    found = by_family(TWO_SIZES, 1_000_000, 16 * GB, 0.99)
    assert found["flat"].p50_ms == pytest.approx(100, rel=0.01)
    assert found["hnsw"].p50_ms == pytest.approx(0.4, rel=0.01)
    assert IndexSpec.parse(found["hnsw"].spec).ef_search == pytest.approx(400, abs=2)
    assert found["hnsw"].estimated
    assert not by_family(TWO_SIZES, 50_000, 16 * GB, 0.9)["hnsw"].estimated


def test_comparing_with_everything_takes_time_in_proportion_whatever_noise_was_measured() -> None:
    noisy = table(Measured("flat", 10_000, 128, 1.0, 5.0, 1), Measured("flat", 100_000, 128, 1.0, 10.0, 1))
    assert by_family(noisy, 10**7, 10**15, 0.9)["flat"].p50_ms == pytest.approx(1_000)


def test_a_recall_that_nothing_reaches_is_said_and_asks_for_no_machines() -> None:
    only = table(Measured("hnsw", 10_000, 128, 0.9, 1, 1))
    found = advise(only, 10_000, 128, GB, 0.99)
    assert "recall 0.900 at most" in found[0].why_not
    assert shards_needed(found, GB) == 0


def test_where_nothing_fits_the_machines_that_the_smallest_needs_are_counted() -> None:
    found = advise(TWO_SIZES, 10**9, 128, 16 * GB, 0.9)
    assert all(advice.why_not for advice in found)
    assert shards_needed(found, 16 * GB) == 9  # 128 GB in parts of 14.4


def test_fifty_million_in_16_gb_have_a_recommendation_from_the_shipped_table() -> None:
    found = advise(Calibration.load(), 50_000_000, 128, 16 * GB, 0.98)
    assert {advice.family for advice in found} == set(INDEX_TYPES)
    assert found[0].why_not == ""
    assert found[0].memory_bytes <= 0.9 * 16 * GB
    assert {advice.family for advice in found if not advice.fits} == {"flat", "ivf", "hnsw"}


def test_a_calibration_reads_back_as_it_was_saved(tmp_path: Path) -> None:
    TWO_SIZES.save(tmp_path / "table.json")
    assert Calibration.load(tmp_path / "table.json") == TWO_SIZES


def test_a_file_that_is_no_calibration_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text("{}")
    with pytest.raises(InvalidInput, match="gavel bench ann --calibration"):
        Calibration.load(tmp_path / "table.json")


@pytest.mark.parametrize(("text", "size"), [("16GB", 16 * GB), ("512 MiB", 2**29), ("1.5tb", 15 * 10**11)])
def test_sizes_of_memory_are_read_with_their_unit(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["16", "GB", "-1GB", "1..2GB", "12 apples", "0GB"])
def test_a_size_without_a_number_or_a_unit_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="like 16GB"):
        parse_bytes(text)


def test_items_may_be_written_with_an_exponent() -> None:
    assert (parse_items("50e6"), parse_items("1_000")) == (50_000_000, 1_000)
    for wrong in ("0", "1.5", "many", "1e999"):
        with pytest.raises(InvalidInput, match="like 50e6"):
            parse_items(wrong)


def test_gavel_index_advise_ends_with_the_line_that_a_user_sets() -> None:
    told = CliRunner().invoke(app, ["index", "advise", "--items", "50e6", "--memory", "16GB", "--recall", "0.98"])
    name, _, text = told.stdout.splitlines()[-1].partition("=")
    assert name == "GAVEL_EMBEDDED_INDEX"
    assert str(IndexSpec.parse(Settings.from_env({name: text}).embedded_index)) == text


def test_gavel_index_advise_prints_every_family_as_json() -> None:
    told = CliRunner().invoke(app, ["index", "advise", "--items", "50e6", "--memory", "16GB", "--recall", "0.98", "--json"])
    said = json.loads(told.stdout)
    assert said["recommended"] == said["families"][0]
    assert {advice["family"] for advice in said["families"]} == set(INDEX_TYPES)
    assert "gavel bench ann" in said["calibration"]["made_by"]


def test_gavel_index_still_takes_a_release_and_nothing_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAVEL_HOME", str(tmp_path))
    named = CliRunner().invoke(app, ["index", "my-release"])
    alone = CliRunner().invoke(app, ["index", "--json"])
    assert "there is no release 'my-release'" in str(named.exception)
    assert "there is no release in" in str(alone.exception)


def test_newer_measurements_replace_those_of_the_same_index_and_size_alone() -> None:
    newer = Calibration("second run", "other vectors", (Measured("hnsw:ef_search=50", 10_000, 128, 0.98, 0.05, 4.0),))
    merged = TWO_SIZES.merged(newer)
    others = [row for row in TWO_SIZES.measured if not row.spec.startswith("hnsw") or row.items > 10_000]
    assert merged.measured == (*others, *newer.measured)
    assert (merged.command, merged.data) == ("gavel bench ann | second run", "test vectors | other vectors")


def test_effort_of_lists_is_a_share_so_other_numbers_of_lists_may_be_measured() -> None:
    rows = table(Measured("ivf:nlist=100,nprobe=20", 100_000, 128, 0.99, 1.0, 1.0))
    found = IndexSpec.parse(advise(rows, 100_000, 128, GB, 0.99)[0].spec)
    assert found.nprobe / found.nlist == pytest.approx(0.2, abs=0.01)


def test_a_billion_items_in_64_gb_have_an_index_that_fits_and_its_costs_are_marked_as_projected() -> None:
    advices = advise(Calibration.load(), 10**9, 128, 64 * GB, 0.98)
    near = closest(advices)
    assert near is not None
    assert near.memory_bytes <= 0.9 * 64 * GB
    assert near.estimated
    assert near.disk_reads > 0
    by_time = recall_by_time(Calibration.load(), 10**9, 128, 64 * GB)
    assert by_time
    assert [advice.recall for advice in by_time] == sorted((advice.recall for advice in by_time), reverse=True)


def test_misses_of_product_codes_are_projected_to_grow_with_the_items() -> None:
    codes = table(
        Measured("ivf_pq4:nlist=64,nprobe=64", 10_000, 128, 0.999, 1, 1),
        Measured("ivf_pq4:nlist=64,nprobe=64", 100_000, 128, 0.998, 1, 1),
    )
    (found,) = advise(codes, 10**8, 128, 10**12, 0.995)
    assert "at most, projected" in found.why_not
