"""Vectors that lie together as those of real lots do, as many as a benchmark asks for, from a seed.

Kinds of lots are points on the sphere; a lot is its kind, moved. Both are drawn along axes whose scale falls with the root of their
number, as the principal axes of real embeddings do. With 25 lots a kind the local intrinsic dimension (Levina and Bickel, NIPS
2004, 50 neighbours) is about that of a real release, which is what makes a search easy or hard.
"""

from collections.abc import Iterator

import numpy as np

from retrieval.contracts.documents import Vector
from retrieval.encoders.query_encoder import to_unit_length

LOTS_A_KIND = 25
MOVED = 0.7  # scale of a lot's move, of its kind's
FALLING = 0.5  # axis i has the scale 1 / i ** FALLING
BATCH = 50_000


def clustered(count: int, dimensions: int, seed: int, *, of: int | None = None, part: int = 0) -> Iterator[Vector]:
    """Batches of (n, dimensions) float32 unit vectors.

    Args:
        count: how many in all.
        dimensions: length of the vectors.
        seed: of the kinds and the lots.
        of: number of lots that the kinds are made for, `count` by default: queries are drawn from the kinds of the lots.
        part: another part draws other lots of the same kinds.
    """
    kinds_rng, rng = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1, part])
    scale = (1 / np.arange(1, dimensions + 1) ** FALLING).astype(np.float32)
    scale /= np.linalg.norm(scale)
    turned = np.linalg.qr(kinds_rng.standard_normal((dimensions, dimensions)))[0].astype(np.float32)  # axes mean nothing
    kinds = to_unit_length(kinds_rng.standard_normal((max((of or count) // LOTS_A_KIND, 1), dimensions), dtype=np.float32) * scale)
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        moves = MOVED * rng.standard_normal((size, dimensions), dtype=np.float32) * scale
        yield to_unit_length(kinds[rng.integers(len(kinds), size=size)] + moves) @ turned


def clustered_queries(count: int, dimensions: int, seed: int, *, of: int) -> Vector:
    """(count, dimensions) queries: further lots of the same kinds, none of which is in the index."""
    return np.concatenate(list(clustered(count, dimensions, seed, of=of, part=1)))
