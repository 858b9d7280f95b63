"""Training of lists on a GPU: FAISS's GPU functions are replaced by an index that counts its use."""

import faiss
import numpy as np
import pytest

from retrieval.config.index_spec import IndexSpec
from retrieval.index.ann.faiss_factory import train_faiss_index

VECTORS = np.random.default_rng(7).normal(size=(2_000, 16)).astype(np.float32)


@pytest.mark.parametrize("text", ["ivf:nlist=16", "ivf_pq4:nlist=16,pq_m=8", "opq_ivf_pq:nlist=16,pq_m=4,pq_bits=4"])
def test_lists_of_every_type_are_trained_on_the_gpus_if_there_are_any(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", lambda index: made.append(index) or index, raising=False)
    index = train_faiss_index(IndexSpec.parse(text), VECTORS)
    assert index.is_trained
    assert [(one.d, one.ntotal) for one in made] == [(16, 16)]  # k-means left its centroids there


def test_a_gpu_that_cannot_be_used_is_logged_and_the_lists_are_trained_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(index: object) -> None:
        raise RuntimeError("CUDA error 2 out of memory")

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", refuse, raising=False)
    assert train_faiss_index(IndexSpec.parse("ivf:nlist=16"), VECTORS).is_trained
    assert "trained without a GPU (CUDA error 2 out of memory)" in caplog.text
