"""A read-only index in a folder of its own, built from vectors that come in batches.

folder/
    index.faiss     index in FAISS's own format
    vectors.f32     (N, D) float32 vectors, with which candidates are scored; missing if FAISS stores the full vectors
    index.json      spec, shape, sizes of both files and checksum of the first; written last

The files are mapped read-only, so processes share their memory, and an index may be larger than memory.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from retrieval.config.index_spec import IndexSpec
from retrieval.contracts.documents import Vector
from retrieval.errors import IndexUnavailable, InvalidInput
from retrieval.files import crc32_of, reason_of, replace_file, shortage
from retrieval.index.ann.faiss_factory import train_faiss_index
from retrieval.index.ann.full_vectors import FullVectors, map_vectors
from retrieval.index.ann.vector_index import AnnIndex
from retrieval.progress import Progress, ignore_progress

INDEX_FILE, VECTORS_FILE, CARD_FILE = "index.faiss", "vectors.f32", "index.json"
STEP_ROWS = 10_000  # vectors added between two steps of a progress bar

_faiss: Any = faiss  # untyped, because FAISS's stubs have only C++ signatures


def build_index(
    spec: IndexSpec,
    batches: Iterable[Vector],
    dimensions: int,
    folder: Path,
    *,
    progress: Progress = ignore_progress,
) -> AnnIndex:
    """Build an index of vectors that come in batches, and return it opened from its files.

    The batches are written to a file first. So the training sample is drawn from all of them, and only the sample and the index are
    in memory.

    Args:
        spec: spec of the index; nlist 0 is derived from the number of vectors.
        batches: batches of vectors of unit length, (n, dimensions) float32, with at least one vector in all.
        dimensions: length of the vectors.
        folder: folder to write to, created if missing; an index in it is replaced.
        progress: progress of the build; the unit is vectors.

    Raises:
        InvalidInput: the parameters do not suit the dimensions, a batch has another shape, or there is no vector.
        OSError: the folder cannot be written.
    """
    spec.check_fit(dimensions)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD_FILE).unlink(missing_ok=True)  # its files are about to change
    items = _write_vectors(batches, dimensions, folder / VECTORS_FILE)
    sized = spec.sized(items)
    vectors = map_vectors(folder / VECTORS_FILE, (items, dimensions))
    index = train_faiss_index(sized, vectors)
    for start in range(0, items, STEP_ROWS):
        index.add(np.ascontiguousarray(vectors[start : start + STEP_ROWS]))
        progress(min(start + STEP_ROWS, items), items)
    faiss.write_index(index, str(folder / INDEX_FILE))
    del index, vectors
    if sized.stores_vectors:
        (folder / VECTORS_FILE).unlink()
    sizes = {path.name: path.stat().st_size for path in (folder / INDEX_FILE, folder / VECTORS_FILE) if path.is_file()}
    checks = {"bytes": sizes, "crc32": crc32_of(folder / INDEX_FILE)}
    card = {"spec": str(sized), "items": items, "dimensions": dimensions, **checks}
    replace_file(folder / CARD_FILE, json.dumps(card, indent=2) + "\n")
    return open_index(folder, check=False)


def open_index(folder: Path, *, mapped: bool = True, check: bool = True) -> AnnIndex:
    """Open the index in a folder, read-only.

    Args:
        folder: folder that build_index() wrote.
        mapped: True leaves the index on the disk, from which searches read the parts they need; False reads it into memory.
        check: True reads the index file once to compare its checksum.

    Raises:
        IndexUnavailable: a file is missing, damaged or has another size; the message names it.
    """
    try:
        card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        spec, shape = IndexSpec.parse(card["spec"]), (int(card["items"]), int(card["dimensions"]))
        for name, size in card["bytes"].items():
            if (actual := (folder / name).stat().st_size) != size:
                raise ValueError(f"{name} has {actual} bytes, not {size}")
        if check and crc32_of(folder / INDEX_FILE) != card["crc32"]:
            raise ValueError(f"the checksum of {INDEX_FILE} does not hold")
        index = _faiss.read_index(str(folder / INDEX_FILE), _faiss.IO_FLAG_MMAP_IFC if mapped else 0)
        if (index.ntotal, index.d) != shape:
            raise ValueError(f"{INDEX_FILE} holds {index.ntotal} vectors of {index.d} numbers, not {shape}")
        full = None if spec.stores_vectors else FullVectors(shape[1], folder, map_vectors(folder / VECTORS_FILE, shape))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, InvalidInput) as error:
        message = shortage(folder, error) or f"the vector index in {folder} cannot be opened ({reason_of(error)}); build it again"
        raise IndexUnavailable(message) from error
    return AnnIndex.wrap(index, spec, full)


def _write_vectors(batches: Iterable[Vector], dimensions: int, path: Path) -> int:
    """Write all vectors, one after the other, and return their number."""
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
