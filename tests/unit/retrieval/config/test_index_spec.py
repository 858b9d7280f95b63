"""One line of text for an index, and the bytes that the published formulas give it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.config.index_spec import INDEX_TYPES, PARAMETERS, ZERO_ALLOWED, IndexSpec, default_specs
from retrieval.errors import InvalidInput


@st.composite
def specs(draw: st.DrawFn) -> IndexSpec:
    family = draw(st.sampled_from(INDEX_TYPES))
    limits = {"pq_bits": 12}
    values = {name: draw(st.integers(0 if name in ZERO_ALLOWED else 2, limits.get(name, 5_000))) for name in PARAMETERS[family]}
    return IndexSpec(family, **values, pca=0 if family == "opq_ivf_pq" else draw(st.sampled_from([0, 64])))


@given(specs())
def test_every_spec_reads_back_from_its_text(spec: IndexSpec) -> None:
    assert IndexSpec.parse(str(spec)) == spec


def test_what_a_text_leaves_out_keeps_its_default() -> None:
    assert IndexSpec.parse("hnsw:m=16,ef_search=100") == IndexSpec("hnsw", m=16, ef_search=100)
    assert IndexSpec.parse("flat") == IndexSpec("flat")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("tree", "hnsw_sq8"),
        ("", "hnsw_sq8"),
        ("hnsw:nprobe=3", "ef_construction"),
        ("hnsw:m=1", "m of an index is 1"),
        ("hnsw:m=x", "'m=x' is no parameter"),
        ("ivf:nprobe=-1", "'nprobe=-1' is no parameter"),
        ("pq:pq_bits=16", "12 bits"),
        ("opq_ivf_pq:pca=32", "ivf_pq"),
    ],
)
def test_a_text_that_makes_no_sense_is_refused_with_what_would(text: str, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        IndexSpec.parse(text)


def test_bytes_per_item_are_those_of_the_published_formulas() -> None:
    assert IndexSpec("flat").bytes_per_item(128) == 512
    assert IndexSpec("sq8").bytes_per_item(128) == 128
    assert IndexSpec("fp16").bytes_per_item(128) == 256
    assert IndexSpec("pq", pq_m=16).bytes_per_item(128) == 16
    assert IndexSpec("pq", pq_m=16, pq_bits=4).bytes_per_item(128) == 8
    assert IndexSpec("ivf").bytes_per_item(128) == 520
    assert IndexSpec("ivf_pq", pq_m=16).bytes_per_item(128) == 24
    assert IndexSpec("hnsw").bytes_per_item(128) == pytest.approx(4 * 128 + 16 * 2 * 4, rel=0.03)
    assert IndexSpec("hnsw", pca=64).bytes_per_item(128) == pytest.approx(4 * 64 + 16 * 2 * 4, rel=0.05)


def test_lists_and_the_training_sample_follow_the_number_of_vectors() -> None:
    assert [IndexSpec("ivf").sized(items).nlist for items in (10, 1_000, 100_000, 1_000_000)] == [1, 25, 1_024, 4_096]
    assert IndexSpec("ivf", nlist=7).sized(1_000_000).nlist == 7
    assert IndexSpec("ivf").training_sample(1_000_000) == 64 * 4_096
    assert IndexSpec("pq").training_sample(1_000_000) == 64 * 256
    assert IndexSpec("hnsw").training_sample(1_000_000) == 0
    assert IndexSpec("sq8").training_sample(50) == 50


def test_building_compares_with_centroids_in_lists_and_with_a_beam_in_graphs() -> None:
    assert IndexSpec("flat").comparisons_to_add(10**6) == 0
    assert IndexSpec("ivf").comparisons_to_add(10**6) == 4_096
    assert IndexSpec("hnsw").comparisons_to_add(10**6) == 256 * 16


def test_what_a_search_asks_may_be_changed_and_what_was_built_stays() -> None:
    assert IndexSpec("hnsw").at(200) == IndexSpec("hnsw", ef_search=200)
    assert IndexSpec("ivf_pq").at(9) == IndexSpec("ivf_pq", nprobe=9)
    assert IndexSpec("flat").at(9) == IndexSpec("flat")


def test_there_is_a_default_of_every_family_for_odd_dimensions_too() -> None:
    assert [spec.index_type for spec in default_specs(128)] == list(INDEX_TYPES)
    assert all(33 % spec.pq_m == 0 for spec in default_specs(33))
