"""Ways of storing vectors in fewer bytes: what is compared, and what it finds."""

from pathlib import Path

import numpy as np
import pytest
from opensearchpy.exceptions import ConnectionTimeout

from benchmarks.ann.data import synthetic_vectors
from benchmarks.ann.quantisation import _reason, _stored, embedded_specs, first_numbers, opensearch_mappings


def test_ways_come_with_ever_fewer_bytes_for_every_length() -> None:
    for dimensions in (64, 128):
        sizes = [spec.bytes_per_item(dimensions) for spec in embedded_specs(dimensions)[:4]]
        assert sizes == [4 * dimensions, 2 * dimensions, dimensions, 2 * dimensions]


def test_bytes_keep_the_direction_of_a_vector_and_stay_within_a_signed_byte() -> None:
    vector = np.random.default_rng(3).standard_normal(128).astype(np.float32)
    stored = np.array(_stored(vector, as_bytes=True))
    assert np.abs(stored).max() == 127
    assert stored @ vector / np.linalg.norm(stored) / np.linalg.norm(vector) > 0.9995


def test_cutting_vectors_that_are_not_ordered_by_importance_loses_much() -> None:
    vectors, queries = synthetic_vectors(32, 30, 7)[1](2_000)
    cut = first_numbers(vectors, queries, 16)
    assert (cut.bytes_per_item, first_numbers(vectors, queries, 32).recall) == (64, 1.0)
    assert 0.2 < cut.recall < 0.9


def test_the_engines_that_need_native_libraries_come_last() -> None:
    engines = [way.split()[0] for way in opensearch_mappings(128)]
    assert engines == sorted(engines, key=lambda engine: engine == "faiss")


@pytest.mark.parametrize("logged", [True, False])
def test_a_missing_native_library_is_named_from_the_nodes_log(logged: bool, tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    log.write_text("java.lang.UnsatisfiedLinkError: no opensearchknn_faiss in java.library.path: /usr\n" if logged else "well\n")
    said = _reason(ConnectionTimeout("TIMEOUT", "timed out", Exception("timed out")), log)
    assert ("no opensearchknn_faiss" in said) is logged
    assert ("timed out" in said) is not logged
