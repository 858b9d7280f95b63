"""Any IndexSpec built from vectors that come in batches: laid down, sampled, trained, added, written."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from retrieval.config.index_spec import POINTS_PER_CENTROID, IndexSpec
from retrieval.contracts.documents import Vector
from retrieval.errors import InvalidInput
from retrieval.files import crc32_of, replace_file
from retrieval.index.ann.families import CARD_FILE, INDEX_FILE, VECTORS_FILE, AnnIndex, mapped_vectors
from retrieval.index.ann.whole_vectors import WholeVectors
from retrieval.progress import Progress, ignore_progress

ROWS_A_STEP = 10_000  # added between two steps of a progress bar
SAMPLE_SEED = 7
OPQ_ROUNDS, OPQ_SAMPLE = 5, 10_000  # of turning and coding in turns; FAISS's 50 rounds of 65,536 vectors take minutes
FACTORY = {  # np: without the polysemous codes that nothing here reads, and that take minutes
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
_faiss: Any = faiss  # its type stubs know the C++ signatures alone


def build(
    spec: IndexSpec,
    batches: Iterable[Vector],
    dimensions: int,
    folder: Path,
    *,
    progress: Progress = ignore_progress,
) -> AnnIndex:
    """Build an index of vectors that come in batches, and open it from its files.

    The batches are laid down in a file first, so that the training sample is drawn from all of them and memory holds no more
    than the sample and the index.

    Args:
        spec: lists that it leaves open are numbered by the vectors.
        batches: (n, dimensions) float32 of unit length each; together at least one vector.
        dimensions: length of the vectors.
        folder: made if it is not there; an index that lies there is replaced.
        progress: called with (vectors added, vectors).

    Raises:
        InvalidInput: the parameters do not suit the dimensions or the number of vectors.
        OSError: the folder cannot be written.
    """
    spec.check_fit(dimensions)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD_FILE).unlink(missing_ok=True)  # what it vouches for is about to change
    items = _lay_down(batches, dimensions, folder / VECTORS_FILE)
    sized = spec.sized(items)
    vectors = mapped_vectors(folder / VECTORS_FILE, (items, dimensions))
    index = trained(sized, vectors)
    for start in range(0, items, ROWS_A_STEP):
        index.add(np.ascontiguousarray(vectors[start : start + ROWS_A_STEP]))
        progress(min(start + ROWS_A_STEP, items), items)
    faiss.write_index(index, str(folder / INDEX_FILE))
    del index, vectors
    if sized.stores_vectors:
        (folder / VECTORS_FILE).unlink()
    card = {"spec": str(sized), "items": items, "dimensions": dimensions, **_measures(folder)}
    replace_file(folder / CARD_FILE, json.dumps(card, indent=2) + "\n")
    return AnnIndex.open(folder, check=False)


def _lay_down(batches: Iterable[Vector], dimensions: int, path: Path) -> int:
    """Write all vectors, one after the other; how many they are."""
    items = 0
    with path.open("wb") as file:
        for batch in batches:
            if batch.ndim != 2 or batch.shape[1] != dimensions:
                raise InvalidInput(f"a batch of vectors has shape {batch.shape}, not (n, {dimensions})")
            file.write(np.ascontiguousarray(batch, dtype="<f4").tobytes())
            items += len(batch)
    if not items:
        raise InvalidInput("there is no vector to build an index of")
    return items


def trained(spec: IndexSpec, vectors: Vector | WholeVectors) -> Any:
    """An empty index of FAISS of the spec, its lists numbered, trained on a random sample of (N, D) vectors."""
    items, dimensions = vectors.shape
    # cut vectors are compared by distance, for their axes start at the mean; whole ones by what is their cosine
    metric = faiss.METRIC_L2 if spec.pca else faiss.METRIC_INNER_PRODUCT
    described = FACTORY[spec.family].format(nlist=spec.nlist, m=spec.m, pq_m=spec.pq_m, pq_bits=spec.pq_bits)
    index: Any = _faiss.index_factory(dimensions, f"PCA{spec.pca},{described}" if spec.pca else described, metric)
    inner = _faiss.downcast_index(index.index) if spec.pca or spec.family == "opq_ivf_pq" else _faiss.downcast_index(index)
    if spec.family == "opq_ivf_pq":
        turn = _faiss.downcast_VectorTransform(index.chain.at(0))
        turn.niter, turn.max_train_points = OPQ_ROUNDS, OPQ_SAMPLE
    if hasattr(inner, "pq"):
        inner.pq.cp.max_points_per_centroid = POINTS_PER_CENTROID
    if hasattr(inner, "hnsw"):
        inner.hnsw.efConstruction = spec.ef_construction
    if hasattr(inner, "nlist"):
        inner.cp.spherical = not spec.pca  # centroids of unit length, else the long ones would draw all vectors
    sample = spec.training_sample(items)
    if sample:
        rows = np.sort(np.random.default_rng(SAMPLE_SEED).choice(items, sample, replace=False))
        drawn = np.ascontiguousarray(vectors[rows])
        index = _trained_on_gpu(index, drawn) if _has_gpu(spec) else _trained_here(index, drawn)
    return index


def _trained_here(index: Any, sample: Vector) -> Any:
    index.train(sample)
    return index


def _has_gpu(spec: IndexSpec) -> bool:
    """Whether faiss was built for GPUs, one is there, and the family's k-means gains from it."""
    return spec.effort == "nprobe" and getattr(faiss, "get_num_gpus", lambda: 0)() > 0


def _trained_on_gpu(index: Any, sample: Vector) -> Any:
    """Train where the k-means is quick and bring the index back; vectors are added and searched here all the same."""
    try:
        there = _faiss.index_cpu_to_all_gpus(index)
        there.train(sample)
        return _faiss.index_gpu_to_cpu(there)
    except RuntimeError as error:  # codes that the GPU's kernels do not know
        logger.warning("the index is trained without a GPU (%s)", error)
        return _trained_here(index, sample)


def _measures(folder: Path) -> dict[str, Any]:
    sizes = {path.name: path.stat().st_size for path in (folder / INDEX_FILE, folder / VECTORS_FILE) if path.is_file()}
    return {"bytes": sizes, "crc32": crc32_of(folder / INDEX_FILE)}
