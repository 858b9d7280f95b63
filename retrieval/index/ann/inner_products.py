"""Cosines of a query with many vectors by FAISS's own loops, which read them where they lie: mapped files, at any address.

numpy copies rows that it gathers, and the whole of an array whose address is odd, as that of vectors in FAISS's mapped files is.
"""

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.documents import Vector

_faiss: Any = faiss  # its type stubs leave these functions out


def inner_products(vectors: Vector, query: Vector, slots: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """The inner products of some vectors with a query, on one thread.

    Args:
        vectors: (N, D) float32, C-contiguous.
        query: (D,) float32.
        slots: (n,) which vectors, each below N; None for all of them.

    Returns:
        (n,) float32, in the order of the slots.
    """
    dimensions, pointer = vectors.shape[1], _faiss.swig_ptr
    asked = np.ascontiguousarray(query, dtype=np.float32)
    if slots is None:
        every = np.empty(len(vectors), dtype=np.float32)
        if len(vectors):
            _faiss.fvec_inner_products_ny(pointer(every), pointer(asked), pointer(vectors), dimensions, len(vectors))
        return every
    chosen = np.ascontiguousarray(slots, dtype=np.int64)
    some = np.empty(len(chosen), dtype=np.float32)
    if len(chosen):
        _faiss.fvec_inner_products_by_idx(
            pointer(some), pointer(asked), pointer(vectors), pointer(chosen), dimensions, 1, len(chosen)
        )
    return some
