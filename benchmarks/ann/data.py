"""Vectors and queries for `gavel bench ann`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from benchmarks.ann.clustered import clustered, clustered_queries
from processing.evaluation.corpus import release_items
from retrieval.contracts.documents import Vector
from retrieval.encoders.query_encoder import to_unit_length
from retrieval.errors import InvalidInput

SEED = 7


class VectorSource(Protocol):
    """A source of vectors and queries, for several numbers of vectors."""

    @property
    def dimensions(self) -> int:
        """Length of the vectors."""

    def __call__(self, size: int) -> tuple[Vector, Vector]:
        """Return (size, D) vectors and (Q, D) queries."""


@dataclass(frozen=True, slots=True)
class SyntheticVectors:
    """A source of any number of clustered vectors."""

    dimensions: int
    queries: int
    seed: int

    def __call__(self, size: int) -> tuple[Vector, Vector]:
        """Return (size, D) vectors and (Q, D) queries."""
        vectors = np.empty((size, self.dimensions), dtype=np.float32)
        start = 0
        for batch in clustered(size, self.dimensions, self.seed):
            vectors[start : start + len(batch)] = batch
            start += len(batch)
        return vectors, clustered_queries(self.queries, self.dimensions, self.seed, of=size)


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """A source of vectors that are in memory."""

    vectors: Vector
    queries: Vector

    @property
    def dimensions(self) -> int:
        """Length of the vectors."""
        return int(self.vectors.shape[1])

    def __call__(self, size: int) -> tuple[Vector, Vector]:
        """Return the first `size` vectors, and all queries."""
        return self.vectors[:size], self.queries


def synthetic_vectors(dimensions: int, queries: int, seed: int) -> tuple[str, VectorSource]:
    """Return a description of clustered vectors, and their source."""
    return f"{dimensions} clustered, seed {seed}", SyntheticVectors(dimensions, queries, seed)


def release_vectors(release: Path, queries: int, most: float) -> tuple[str, VectorSource, Sequence[int]]:
    """Read the vectors of a release and take some of them as queries.

    Args:
        release: folder of the release.
        queries: number of queries.
        most: maximum share of the items that become queries, 0 to 1.

    Returns:
        A description; the source; a list with the number of vectors.

    Raises:
        InvalidInput: the release has fewer than 500 items, or fewer than 20 of them may become queries.
    """
    vectors = vectors_of(release)
    query_count = min(queries, int(most * len(vectors)))
    if query_count < 20 or len(vectors) < 500:
        raise InvalidInput(f"release {release.name} has {len(vectors)} lots; a sweep needs 500")
    shuffled = vectors[np.random.default_rng(SEED).permutation(len(vectors))]
    source = StoredVectors(np.ascontiguousarray(shuffled[query_count:]), np.ascontiguousarray(shuffled[:query_count]))
    return f"{vectors.shape[1]} of release {release.name}", source, [len(vectors) - query_count]


def vectors_of(release: Path) -> Vector:
    """Return the (N, D) vectors of a release, of unit length."""
    return to_unit_length(np.stack([entry.vector for entry in release_items(release)]))
