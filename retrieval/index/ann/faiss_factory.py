"""Make the FAISS index of an IndexSpec, trained and without vectors."""

import logging
from typing import Any

import faiss
import numpy as np

from retrieval.config.index_spec import LIST_GRAPH_LINKS, POINTS_PER_CENTROID, IndexSpec
from retrieval.contracts.documents import Vector
from retrieval.index.ann.full_vectors import FullVectors

SAMPLE_SEED = 7
OPQ_ROUNDS, OPQ_SAMPLE = 5, 10_000  # training of the rotation: FAISS's default, 50 rounds with 65,536 vectors, takes minutes
FACTORY = {  # index type -> FAISS's factory text; "np" leaves out polysemous codes, which are not used here and take minutes
    "flat": "Flat",
    "fp16": "SQfp16",
    "sq8": "SQ8",
    "pq": "PQ{pq_m}x{pq_bits}np",
    "ivf": "{lists},Flat",
    "ivf_sq8": "{lists},SQ8",
    "ivf_pq": "{lists},PQ{pq_m}x{pq_bits}np",
    "ivf_pq4": "{lists},PQ{pq_m}x4fs",
    "opq_ivf_pq": "OPQ{pq_m},{lists},PQ{pq_m}x{pq_bits}np",
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
    lists = f"IVF{spec.nlist}_HNSW{LIST_GRAPH_LINKS}" if spec.has_list_graph else f"IVF{spec.nlist}"
    factory_text = FACTORY[spec.index_type].format(lists=lists, m=spec.m, pq_m=spec.pq_m, pq_bits=spec.pq_bits)
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
        gpu_index = _open_gpu_index(inner) if hasattr(inner, "nlist") else None
        if gpu_index is not None:
            inner.clustering_index = gpu_index  # only k-means is worth a GPU; it is used by every type of codes
        index.train(sampled)
        if gpu_index is not None:
            inner.clustering_index = None
    return index


def _open_gpu_index(index: Any) -> Any:
    """Return an empty exact index on all GPUs, in which k-means compares vectors with centroids.

    Return None if FAISS was built without GPUs, none is present, or none can be used, which is logged.
    """
    if getattr(faiss, "get_num_gpus", lambda: 0)() == 0:
        return None
    try:
        on_gpus = _faiss.index_cpu_to_all_gpus(_faiss.IndexFlat(index.d, index.metric_type))
    except RuntimeError as error:
        logger.warning("the index is trained without a GPU (%s)", error)
        return None
    logger.info("the lists are trained on %d GPUs", faiss.get_num_gpus())
    return on_gpus
