"""Any number of random vectors from a seed, with clusters like those of real items.

Kinds of items are points on the sphere; an item is its kind plus noise. The scale of both falls with the root of the axis number,
like the principal axes of real embeddings. The local intrinsic dimension (Levina and Bickel, NIPS 2004, 50 neighbours) decides
how hard a search is. With 25 items per kind it is about that of a real release.
"""

from collections.abc import Iterator

import numpy as np

from retrieval.contracts.documents import Vector
from retrieval.encoders.query_encoder import to_unit_length

ITEMS_PER_KIND = 25
NOISE_SCALE = 0.7  # scale of an item's noise, relative to the scale of its kind
AXIS_DECAY = 0.5  # axis i has the scale 1 / i ** AXIS_DECAY
BATCH = 50_000


def clustered(count: int, dimensions: int, seed: int, *, of: int | None = None, part: int = 0) -> Iterator[Vector]:
    """Yield batches of (n, dimensions) float32 unit vectors.

    Args:
        count: number of vectors.
        dimensions: length of the vectors.
        seed: seed of the kinds and the items.
        of: number of items that sets the number of kinds; None takes `count`. So queries can have the kinds of the items.
        part: number that selects the random items; another part has other items of the same kinds.
    """
    kinds_rng, rng = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1, part])
    scale = (1 / np.arange(1, dimensions + 1) ** AXIS_DECAY).astype(np.float32)
    scale /= np.linalg.norm(scale)
    rotation = np.linalg.qr(kinds_rng.standard_normal((dimensions, dimensions)))[0].astype(np.float32)  # so no axis is special
    kinds = to_unit_length(
        kinds_rng.standard_normal((max((of or count) // ITEMS_PER_KIND, 1), dimensions), dtype=np.float32) * scale
    )
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        noise = NOISE_SCALE * rng.standard_normal((size, dimensions), dtype=np.float32) * scale
        yield to_unit_length(kinds[rng.integers(len(kinds), size=size)] + noise) @ rotation


def clustered_queries(count: int, dimensions: int, seed: int, *, of: int) -> Vector:
    """Return (count, dimensions) float32 queries: items of the same kinds as `of` items, but not among those items."""
    return np.concatenate(list(clustered(count, dimensions, seed, of=of, part=1)))
