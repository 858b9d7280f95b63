"""Which index type is chosen for how many vectors in how much memory, and how an embedded index follows the choice."""

import json
from pathlib import Path

import pytest
from embedded_lots import ALL, lot, vector

from retrieval.config.index_spec import IndexSpec
from retrieval.errors import InvalidInput
from retrieval.index.ann import automatic
from retrieval.index.ann.automatic import AutomaticIndex, IndexChoice
from retrieval.index.embedded.segments import embedded_index
from retrieval.index.embedded.store import EmbeddedIndex, EmbeddedStore

GB = 10**9


def chosen(items: int, memory: float) -> IndexSpec:
    return IndexSpec.parse(AutomaticIndex(int(memory)).choose(items, 128).spec)


def test_few_vectors_are_compared_one_by_one_and_more_get_a_graph_if_it_fits() -> None:
    assert chosen(5_000, 8 * GB).index_type == "flat"
    assert chosen(200_000, 8 * GB).index_type == "hnsw"


def test_less_memory_leads_to_smaller_codes_that_fit() -> None:
    for memory in (400e6, 100e6):
        spec = chosen(1_000_000, memory)
        assert spec.index_type not in ("flat", "hnsw")
        assert spec.index_bytes(1_000_000, 128) <= memory


def test_the_reason_names_number_memory_and_time() -> None:
    choice = AutomaticIndex(8 * GB).choose(200_000, 128)
    assert "for 200,000 vectors in 8.0 GB" in choice.reason
    assert "recall@50 0.98" in choice.reason


def test_memory_that_nothing_fits_into_gets_the_smallest_index_and_says_the_remedy() -> None:
    choice = AutomaticIndex(1_000_000).choose(1_000_000, 128)
    assert "no type fits" in choice.reason
    assert "GAVEL_INDEX_MEMORY" in choice.reason


def test_a_graph_keeps_the_parameters_of_the_process() -> None:
    choice = AutomaticIndex(8 * GB, {"m": 24, "ef_construction": 99, "ef_search": 0}).choose(200_000, 128)
    assert choice.spec == "hnsw:m=24,ef_construction=99,ef_search=0"


def test_a_damaged_choice_is_made_again(tmp_path: Path) -> None:
    choice = AutomaticIndex(GB).choose(10, 8)
    choice.save(tmp_path / "choice.json")
    assert IndexChoice.load(tmp_path / "choice.json") == choice
    (tmp_path / "choice.json").write_text("{}")
    assert IndexChoice.load(tmp_path / "choice.json") is None


def test_a_setting_is_auto_or_a_spec_and_a_size_that_makes_no_sense_is_refused() -> None:
    assert embedded_index("auto", "2GB") == AutomaticIndex(2 * GB, {"m": 16, "ef_construction": 256, "ef_search": 0})
    assert embedded_index("flat") == IndexSpec("flat")
    with pytest.raises(InvalidInput, match="like 16GB"):
        embedded_index("auto", "plenty")


def test_an_index_changes_its_type_when_it_outgrows_the_choice_and_remembers_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automatic, "MAX_FLAT_ITEMS", 100)
    rules = AutomaticIndex(GB)
    store = EmbeddedStore(tmp_path, spec=rules)
    index = store.create("tower", len(vector(0)))
    assert isinstance(index, EmbeddedIndex)
    index.upsert(lot(number) for number in range(80))
    store.publish(index.name)
    assert index.describe_vectors()[0].spec == "flat"
    assert (tmp_path / index.name / "flat.faiss").exists()

    index.upsert(lot(number) for number in range(80, 400))
    index.prepare()
    (info,) = index.describe_vectors()
    assert info.spec.startswith("hnsw")
    assert "400 vectors" in info.reason
    assert index.semantic(vector(350), 1, ALL)[0].item_id == lot(350).item_id
    assert [path.name for path in (tmp_path / index.name).glob("*.faiss")] == ["hnsw.faiss"]
    stored = json.loads((tmp_path / index.name / "vector-index.json").read_text())
    assert (stored["items"], stored["memory_bytes"]) == (400, GB)
    store.close()
    (again,) = EmbeddedStore(tmp_path, spec=rules).live().describe_vectors()
    assert again == info
