"""Vectors and queries for `gavel bench ann`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.ann.clustered import clustered, clustered_queries
from processing.evaluation.corpus import release_items
from retrieval.contracts.documents import Vector
from retrieval.encoders.query_encoder import to_unit_length
from retrieval.errors import InvalidInput

SEED = 7


@dataclass(frozen=True, slots=True)
class Synthetic:
    """Clustered vectors of any number: draws(size) -> vectors, queries."""

    dimensions: int
    queries: int
    seed: int

    def __call__(self, size: int) -> tuple[Vector, Vector]:
        """(size, D) vectors and (Q, D) queries."""
        vectors = np.empty((size, self.dimensions), dtype=np.float32)
        start = 0
        for batch in clustered(size, self.dimensions, self.seed):
            vectors[start : start + len(batch)] = batch
            start += len(batch)
        return vectors, clustered_queries(self.queries, self.dimensions, self.seed, of=size)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Vectors that are there already."""

    vectors: Vector
    queries: Vector

    @property
    def dimensions(self) -> int:
        """Length of the vectors."""
        return int(self.vectors.shape[1])

    def __call__(self, size: int) -> tuple[Vector, Vector]:
        """The first `size` vectors, and all queries."""
        return self.vectors[:size], self.queries


def synthetic_vectors(dimensions: int, queries: int, seed: int) -> tuple[str, Synthetic]:
    """What they are, and how they are drawn."""
    return f"{dimensions} clustered, seed {seed}", Synthetic(dimensions, queries, seed)


def release_vectors(release: Path, queries: int, most: float) -> tuple[str, Drawn, Sequence[int]]:
    """The lots of a release, of which some are taken out and asked for.

    Args:
        release: its folder.
        queries: how many to take out.
        most: at most this share of the lots.

    Returns:
        What they are; vectors and queries; the number of vectors.

    Raises:
        InvalidInput: the release has too few lots.
    """
    every = to_unit_length(np.stack([entry.vector for entry in release_items(release)]))  # (N, D)
    taken = min(queries, int(most * len(every)))
    if taken < 20 or len(every) < 500:
        raise InvalidInput(f"release {release.name} has {len(every)} lots; a sweep needs 500")
    shuffled = every[np.random.default_rng(SEED).permutation(len(every))]
    drawn = Drawn(np.ascontiguousarray(shuffled[taken:]), np.ascontiguousarray(shuffled[:taken]))
    return f"{every.shape[1]} of release {release.name}", drawn, [len(every) - taken]
