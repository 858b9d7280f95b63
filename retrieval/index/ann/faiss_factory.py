"""Make the FAISS index of an IndexSpec, trained and without vectors."""

import logging
from typing import Any

import faiss
import numpy as np

from retrieval.config.index_spec import POINTS_PER_CENTROID, IndexSpec
from retrieval.contracts.documents import Vector
from retrieval.index.ann.full_vectors import FullVectors

SAMPLE_SEED = 7
OPQ_ROUNDS, OPQ_SAMPLE = 5, 10_000  # training of the rotation: FAISS's default, 50 rounds with 65,536 vectors, takes minutes
FACTORY = {  # index type -> FAISS's factory text; "np" leaves out polysemous codes, which are not used here and take minutes
    "flat": "Flat",
    "fp16": "SQfp16",
    "sq8": "SQ8",
    "pq": "PQ{pq_m}x{pq_bits}np",
    "ivf": "IVF{nlist},Flat",
    "ivf_sq8": "IVF{nlist},SQ8",
    "ivf_pq": "IVF{nlist},PQ{pq_m}x{pq_bits}np",
    "opq_ivf_pq": "OPQ{pq_m},IVF{nlist},PQ{pq_m}x{pq_bits}np",
    "hnsw": "HNSW{m},Flat",
    "hnsw_sq8": "HNSW{m},SQ8",
}

logger = logging.getLogger(__name__)
_faiss: Any = faiss  # untyped, because FAISS's stubs have only C++ signatures


def train_faiss_index(spec: IndexSpec, vectors: Vector | FullVectors) -> Any:
    """Return an empty FAISS index, trained on a random sample of the vectors.

    Args:
        spec: spec of the index, with an nlist above 0 if its type has lists.
        vectors: (N, D) vectors of unit length, from which the sample is drawn.
    """
    items, dimensions = vectors.shape
    # after PCA, vectors are compared by distance, because PCA subtracts the mean; others by inner product, which is the cosine
    metric = faiss.METRIC_L2 if spec.pca else faiss.METRIC_INNER_PRODUCT
    factory_text = FACTORY[spec.index_type].format(nlist=spec.nlist, m=spec.m, pq_m=spec.pq_m, pq_bits=spec.pq_bits)
    index: Any = _faiss.index_factory(dimensions, f"PCA{spec.pca},{factory_text}" if spec.pca else factory_text, metric)
    inner = _faiss.downcast_index(index.index) if spec.pca or spec.index_type == "opq_ivf_pq" else _faiss.downcast_index(index)
    if spec.index_type == "opq_ivf_pq":
        rotation = _faiss.downcast_VectorTransform(index.chain.at(0))
        rotation.niter, rotation.max_train_points = OPQ_ROUNDS, OPQ_SAMPLE
    if hasattr(inner, "pq"):
        inner.pq.cp.max_points_per_centroid = POINTS_PER_CENTROID
    if hasattr(inner, "hnsw"):
        inner.hnsw.efConstruction = spec.ef_construction
    if hasattr(inner, "nlist"):
        inner.cp.spherical = not spec.pca  # scale centroids to unit length, because long ones would attract all vectors
    sample = spec.training_sample(items)
    if sample:
        rows = np.sort(np.random.default_rng(SAMPLE_SEED).choice(items, sample, replace=False))
        sampled = np.ascontiguousarray(vectors[rows])
        index = _train_on_gpu(index, sampled) if _uses_gpu(spec) else _train_on_cpu(index, sampled)
    return index


def _train_on_cpu(index: Any, sample: Vector) -> Any:
    index.train(sample)
    return index


def _uses_gpu(spec: IndexSpec) -> bool:
    """True if FAISS was built for GPUs, a GPU is present, and the index type has lists, whose k-means is faster there."""
    return spec.search_effort == "nprobe" and getattr(faiss, "get_num_gpus", lambda: 0)() > 0


def _train_on_gpu(index: Any, sample: Vector) -> Any:
    """Train on the GPU, where k-means is fast, and return the index to the CPU for additions and searches."""
    try:
        on_gpu = _faiss.index_cpu_to_all_gpus(index)
        on_gpu.train(sample)
        return _faiss.index_gpu_to_cpu(on_gpu)
    except RuntimeError as error:  # the GPU kernels do not support some codes
        logger.warning("the index is trained without a GPU (%s)", error)
        return _train_on_cpu(index, sample)
