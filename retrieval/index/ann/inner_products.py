"""Inner products of a query with many vectors, by FAISS's own loops, which read vectors in mapped files without a copy.

numpy would copy the selected rows. If an array starts at an unaligned address, as vectors in FAISS's mapped files do, numpy would
even copy all of it.
"""

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.documents import Vector

_faiss: Any = faiss  # untyped, because FAISS's stubs lack these functions


def inner_products(vectors: Vector, query: Vector, vector_ids: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """Return the inner products of vectors with a query, computed on one thread.

    Args:
        vectors: (N, D) float32, C-contiguous.
        query: (D,) float32.
        vector_ids: (n,) rows of `vectors`; None takes all.

    Returns:
        (n,) float32, in the order of the rows.
    """
    dimensions, pointer = vectors.shape[1], _faiss.swig_ptr
    query_row = np.ascontiguousarray(query, dtype=np.float32)
    if vector_ids is None:
        products = np.empty(len(vectors), dtype=np.float32)
        if len(vectors):
            _faiss.fvec_inner_products_ny(pointer(products), pointer(query_row), pointer(vectors), dimensions, len(vectors))
        return products
    rows = np.ascontiguousarray(vector_ids, dtype=np.int64)
    products = np.empty(len(rows), dtype=np.float32)
    if len(rows):
        _faiss.fvec_inner_products_by_idx(
            pointer(products), pointer(query_row), pointer(vectors), pointer(rows), dimensions, 1, len(rows)
        )
    return products
