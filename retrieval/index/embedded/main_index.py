"""What holds most vectors of an embedded index: a graph, all of them side by side, or codes of any other family."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self

from retrieval.config.index_spec import IndexSpec
from retrieval.config.settings import scoring_parameters
from retrieval.contracts.documents import Vector
from retrieval.index.ann.quantised_index import CodedVectors
from retrieval.index.ann.storage import Positions
from retrieval.index.ann.vector_index import FlatVectors, HnswGraph
from retrieval.index.ann.whole_vectors import Slots
from retrieval.index.port import Mask

DEFAULT_INDEX = "hnsw"


class MainIndex(Protocol):
    """Unit vectors by slot, which searches share; what changes is a copy, which takes its place."""

    def __len__(self) -> int: ...

    @property
    def dimensions(self) -> int:
        """Length of the vectors."""

    @property
    def outgrown(self) -> bool:
        """Whether there are so many vectors more than it was trained for that it ought to be built again."""

    def copy(self) -> Self:
        """The same in memory of its own, to be added to."""

    def add(self, vectors: Vector) -> None:
        """Add (n, D) unit vectors at the next slots; to one that is not mapped."""

    def train(self, before_stride: Callable[[], None]) -> None:
        """Make what is made of all vectors, once the first are added; before_stride() may give up by raising."""

    def take(self, slots: Slots) -> Vector:
        """(n, D) float32, a copy of the vectors at some slots."""

    def nearest(self, query: Vector, k: int, allowed: Mask, exact_below: int) -> Slots:
        """At least k of the allowed slots with the highest cosine, in no order (HnswGraph.nearest)."""

    def exact(self, query: Vector, k: int, allowed: Mask) -> Slots:
        """The same by comparing with every allowed vector, with all that tie with the last."""

    def save(self, path: Path, positions: Positions, database_id: str) -> Self:
        """Write all to a file in one step; the same vectors, mapped from it."""


def embedded_spec(text: str = DEFAULT_INDEX) -> IndexSpec:
    """Read an index of this process: what a text leaves open of a graph is as the hyperparameters have it.

    Raises:
        InvalidInput: see IndexSpec.parse.
    """
    numbers = scoring_parameters()
    graph = {"m": numbers.hnsw_m, "ef_construction": numbers.hnsw_ef_construction, "ef_search": numbers.hnsw_ef_search}
    return IndexSpec.parse(text, graph)


def new_main(spec: IndexSpec, dimensions: int, folder: Path) -> MainIndex:
    """An empty index of a spec; files that it needs before it is saved lie in a folder.

    Raises:
        InvalidInput: the parameters do not suit the dimensions.
    """
    whole = _of_whole_vectors(spec)
    return whole(dimensions, spec) if whole else CodedVectors(dimensions, spec, folder)


def load_main(path: Path, spec: IndexSpec, dimensions: int, database_id: str) -> tuple[MainIndex, Positions]:
    """Map what save() wrote.

    Returns:
        The index, and (N,) where each slot's lot stands in the database.

    Raises:
        OSError: no such file.
        ValueError: damaged, of another database, or an index that is not searched as one of this spec.
    """
    return (_of_whole_vectors(spec) or CodedVectors).load(path, dimensions, database_id, spec)


def _of_whole_vectors(spec: IndexSpec) -> type[HnswGraph] | None:
    return {"hnsw": HnswGraph, "flat": FlatVectors}.get(spec.family) if not spec.pca else None
