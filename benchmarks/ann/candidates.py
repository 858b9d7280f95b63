"""The indices of a comparison: Gavel's, plain faiss on the same files, hnswlib and usearch.

Each index is built and searched in a separate process (benchmarks.ann.worker), so that its memory can be measured.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.config.index_spec import IndexSpec
from retrieval.contracts.documents import Vector
from retrieval.errors import MissingPrerequisite
from retrieval.index.port import OVERFETCH

Ids = NDArray[np.int64]
Search = Callable[[Vector], Ids]  # one (D,) query -> ids of the nearest, best first
K = 50
EFFORTS = {"ef_search": (64, 100, 200, 400, 600, 800), "nprobe": (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)}
BUILD_THREADS = 2
RIVALS = ("faiss", "hnswlib", "usearch")


@dataclass(frozen=True, slots=True)
class CandidateIndex:
    """One index of a comparison.

    Attributes:
        library: gavel, faiss, hnswlib or usearch.
        spec: index type and parameters; at equal specs, libraries are searched with equal effort.
        full_name: True if the name contains the complete spec, because other candidates have the same index type.
        sweep: True measures several efforts; False only that of the spec.
    """

    library: str
    spec: IndexSpec
    full_name: bool = False
    sweep: bool = True

    @property
    def name(self) -> str:
        """Name of the candidate in tables."""
        if self.full_name:
            return f"{self.library} {self.spec}"
        return f"{self.library} {self.spec.index_type}" + (f" pca={self.spec.pca}" if self.spec.pca else "")

    @property
    def efforts(self) -> tuple[int, ...]:
        """Values of ef_search or nprobe to measure, ascending; (0,) if the index type has neither parameter.

        An ef_search of 0 is derived from the number of vectors.
        """
        if self.spec.search_effort is None:
            return (0,)
        if not self.sweep:
            return (int(getattr(self.spec, self.spec.search_effort)),)
        # ef_search is at least the number of results
        lowest = K * self.spec.candidates + OVERFETCH if self.spec.search_effort == "ef_search" else 1
        return tuple(sorted({max(effort, lowest) for effort in EFFORTS[self.spec.search_effort]}))

    @property
    def folder(self) -> str:
        """Name of the folder with the index's files; plain faiss opens Gavel's files."""
        owner = "gavel" if self.library == "faiss" else self.library
        return f"{owner}-{self.spec.built}".replace(":", "-").replace(",", "-").replace("=", "")

    @property
    def builds(self) -> bool:
        """True if the library writes its own files."""
        return self.library != "faiss"


class Library(Protocol):
    """A library that builds, opens and searches indices."""

    def build(self, candidate_index: CandidateIndex, vectors: Vector, folder: Path) -> None:
        """Write the index of all vectors, with two threads."""
        ...

    def open(self, candidate_index: CandidateIndex, folder: Path) -> Any:
        """Open the index that build() wrote, for searches on one thread."""
        ...

    def make_search(self, candidate_index: CandidateIndex, opened: Any, effort: int, k: int) -> Search:
        """Return a function that searches for single queries with an effort (ef_search or nprobe)."""
        ...


class Gavel:
    """Gavel's indices (retrieval.index.ann): mapped from the disk, with answers in the order of exact cosines."""

    def build(self, candidate_index: CandidateIndex, vectors: Vector, folder: Path) -> None:
        """Build the index from batches with build_index()."""
        import faiss

        from retrieval.index.ann.build import build_index

        faiss.omp_set_num_threads(BUILD_THREADS)
        build_index(candidate_index.spec, np.array_split(vectors, max(1, len(vectors) // 50_000)), vectors.shape[1], folder)

    def open(self, candidate_index: CandidateIndex, folder: Path) -> Any:
        """Map the files without checking their checksums."""
        import faiss

        from retrieval.index.ann.build import open_index

        faiss.omp_set_num_threads(1)
        return open_index(folder, check=False)

    def make_search(self, candidate_index: CandidateIndex, opened: Any, effort: int, k: int) -> Search:
        """Return a search with an effort and with the candidate's rescoring."""
        spec = replace(opened.spec, rescore=candidate_index.spec.rescore).at(effort)
        return lambda query: opened.search(query, k, spec=spec).vector_ids


class PlainFaiss:
    """Plain faiss: it reads Gavel's files into memory, searches them directly and does not rescore candidates."""

    def build(self, candidate_index: CandidateIndex, vectors: Vector, folder: Path) -> None:
        """Do nothing, because plain faiss opens Gavel's files."""

    def open(self, candidate_index: CandidateIndex, folder: Path) -> Any:
        """Read the index into memory."""
        import faiss

        faiss.omp_set_num_threads(1)
        return faiss.read_index(str(folder / "index.faiss"))

    def make_search(self, candidate_index: CandidateIndex, opened: Any, effort: int, k: int) -> Search:
        """Return a search with one set of parameters for all queries."""
        import faiss

        lib: Any = faiss
        by_effort = {
            "ef_search": lambda: lib.SearchParametersHNSW(efSearch=effort),
            "nprobe": lambda: lib.SearchParametersIVF(nprobe=effort),
        }
        parameters = by_effort[candidate_index.spec.search_effort]() if candidate_index.spec.search_effort else None
        if isinstance(lib.downcast_index(opened), lib.IndexPreTransform) and parameters is not None:
            parameters = lib.SearchParametersPreTransform(index_params=parameters)
        return lambda query: opened.search(query[None], k, params=parameters)[1][0]


class Hnswlib:
    """nmslib/hnswlib, the HNSW library of the method's authors."""

    def build(self, candidate_index: CandidateIndex, vectors: Vector, folder: Path) -> None:
        """Build a graph with the spec's M and ef_construction."""
        index = _hnswlib(vectors.shape[1])
        spec = candidate_index.spec
        index.init_index(len(vectors), ef_construction=spec.ef_construction, M=spec.m, random_seed=7)
        index.add_items(np.ascontiguousarray(vectors), num_threads=BUILD_THREADS)
        folder.mkdir(parents=True, exist_ok=True)
        index.save_index(str(folder / "index.hnswlib"))
        (folder / "dimensions").write_text(str(vectors.shape[1]))

    def open(self, candidate_index: CandidateIndex, folder: Path) -> Any:
        """Read the index into memory; hnswlib cannot map it."""
        index = _hnswlib(int((folder / "dimensions").read_text()))
        index.load_index(str(folder / "index.hnswlib"))
        index.set_num_threads(1)
        return index

    def make_search(self, candidate_index: CandidateIndex, opened: Any, effort: int, k: int) -> Search:
        """Return a search with `ef`, which FAISS calls efSearch."""
        opened.set_ef(max(effort, k))
        return lambda query: opened.knn_query(query, k)[0][0].astype(np.int64)


class Usearch:
    """unum-cloud/usearch in float32."""

    def build(self, candidate_index: CandidateIndex, vectors: Vector, folder: Path) -> None:
        """Build a graph; usearch calls M connectivity and ef_construction expansion_add."""
        index, spec = _usearch(vectors.shape[1], candidate_index.spec), candidate_index.spec
        index.expansion_add = spec.ef_construction
        index.add(np.arange(len(vectors)), np.ascontiguousarray(vectors), threads=BUILD_THREADS)
        folder.mkdir(parents=True, exist_ok=True)
        index.save(str(folder / "index.usearch"))
        (folder / "dimensions").write_text(str(vectors.shape[1]))

    def open(self, candidate_index: CandidateIndex, folder: Path) -> Any:
        """Map the index from the disk, as usearch advises for serving."""
        index = _usearch(int((folder / "dimensions").read_text()), candidate_index.spec)
        index.view(str(folder / "index.usearch"))
        return index

    def make_search(self, candidate_index: CandidateIndex, opened: Any, effort: int, k: int) -> Search:
        """Return a search; usearch calls ef_search expansion_search."""
        opened.expansion_search = max(effort, k)
        return lambda query: opened.search(query, k, threads=1).keys.astype(np.int64)


LIBRARIES: dict[str, Library] = {"gavel": Gavel(), "faiss": PlainFaiss(), "hnswlib": Hnswlib(), "usearch": Usearch()}


def candidate_indices(specs: list[IndexSpec], rivals: tuple[str, ...] = RIVALS) -> list[CandidateIndex]:
    """Return candidates of Gavel and plain faiss for every spec, and of the graph libraries for every hnsw without PCA."""
    graphs = [name for name in ("hnswlib", "usearch") if name in rivals]
    type_counts = Counter(spec.index_type for spec in specs)
    candidates = []
    for spec in specs:
        libraries = [
            "gavel",
            *(["faiss"] if "faiss" in rivals else []),
            *(graphs if spec.index_type == "hnsw" and not spec.pca else []),
        ]
        candidates += [CandidateIndex(library, spec, type_counts[spec.index_type] > 1) for library in libraries]
    return candidates


def build_cost(candidate_index: CandidateIndex, vectors: Vector, folder: Path) -> dict[str, float]:
    """Build an index with its files; return the wall-clock seconds and the processor seconds, summed over all cores."""
    start, cpu_start = time.perf_counter(), time.process_time()
    LIBRARIES[candidate_index.library].build(candidate_index, vectors, folder)
    return {"build_s": time.perf_counter() - start, "build_cpu_s": time.process_time() - cpu_start}


def _hnswlib(dimensions: int) -> Any:
    try:
        import hnswlib
    except ImportError as missing:
        raise MissingPrerequisite(
            "hnswlib is not installed; `make .venv/installed-dev` installs it; --rival names others"
        ) from missing
    return hnswlib.Index(space="ip", dim=dimensions)


def _usearch(dimensions: int, spec: IndexSpec) -> Any:
    try:
        from usearch.index import Index
    except ImportError as missing:
        raise MissingPrerequisite(
            "usearch is not installed; `make .venv/installed-dev` installs it; --rival names others"
        ) from missing
    return Index(ndim=dimensions, metric="ip", dtype="f32", connectivity=spec.m)
