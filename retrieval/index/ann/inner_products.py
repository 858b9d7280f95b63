"""Inner products of a query with many vectors by FAISS's own loops, which read mapped files in place, at any address.

numpy would copy rows that it gathers. It would copy all of an array at an odd address, such as vectors in FAISS's mapped files.
"""

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.documents import Vector

_faiss: Any = faiss  # its type stubs leave these functions out


def inner_products(vectors: Vector, query: Vector, vector_ids: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """Return the inner products of some vectors with a query, on one thread.

    Args:
        vectors: (N, D) float32, C-contiguous.
        query: (D,) float32.
        vector_ids: (n,), each below N; None for all.

    Returns:
        (n,) float32, in the order of the ids.
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
