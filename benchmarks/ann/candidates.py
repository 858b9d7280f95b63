"""The indices that are held against each other: those of Gavel, plain faiss on the very same files, hnswlib and usearch.

Each is built and searched in a process of its own (benchmarks.ann.worker), so that memory is that of one index.
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
Ask = Callable[[Vector], Ids]  # one (D,) query -> ids of the nearest, best first
K = 50
EFFORTS = {"ef_search": (64, 100, 200, 400, 600, 800), "nprobe": (4, 8, 16, 32, 64, 128, 256, 512)}
BUILD_THREADS = 2
RIVALS = ("faiss", "hnswlib", "usearch")


@dataclass(frozen=True, slots=True)
class CandidateIndex:
    """One index of a comparison.

    Attributes:
        library: gavel, faiss, hnswlib or usearch.
        spec: what is built; at equal specs libraries are asked with equal effort.
        whole: whether its name is the whole spec, because others of its family stand beside it.
    """

    library: str
    spec: IndexSpec
    whole: bool = False

    @property
    def name(self) -> str:
        """As it stands in tables."""
        if self.whole:
            return f"{self.library} {self.spec}"
        return f"{self.library} {self.spec.family}" + (f" pca={self.spec.pca}" if self.spec.pca else "")

    @property
    def efforts(self) -> tuple[int, ...]:
        """The values of the family's effort that are measured; one of no meaning where there is none."""
        if self.spec.effort is None:
            return (0,)
        least = K * self.spec.candidates + OVERFETCH if self.spec.effort == "ef_search" else 1  # what a beam must bring
        return tuple(sorted({max(effort, least) for effort in EFFORTS[self.spec.effort]}))

    @property
    def folder(self) -> str:
        """Name of its files' folder; plain faiss opens those of Gavel."""
        owner = "gavel" if self.library == "faiss" else self.library
        return f"{owner}-{self.spec.built}".replace(":", "-").replace(",", "-").replace("=", "")

    @property
    def builds(self) -> bool:
        """Whether it has files of its own."""
        return self.library != "faiss"


class Library(Protocol):
    """How a library is built and asked."""

    def build(self, candidate_index: CandidateIndex, vectors: Vector, folder: Path) -> None:
        """Write the index of all vectors, with two threads."""
        ...

    def open(self, candidate_index: CandidateIndex, folder: Path) -> Any:
        """Open what build() wrote, ready for one thread."""
        ...

    def asker(self, candidate_index: CandidateIndex, opened: Any, effort: int, k: int) -> Ask:
        """Single queries at an effort."""
        ...


class Gavel:
    """retrieval.index.ann.families: mapped from the disk, answers in the order of exact cosines."""

    def build(self, candidate_index: CandidateIndex, vectors: Vector, folder: Path) -> None:
        """As family_build.build() does, in steps."""
        import faiss

        from retrieval.index.ann.build import build

        faiss.omp_set_num_threads(BUILD_THREADS)
        build(candidate_index.spec, np.array_split(vectors, max(1, len(vectors) // 50_000)), vectors.shape[1], folder)

    def open(self, candidate_index: CandidateIndex, folder: Path) -> Any:
        """Mapped, its checksum looked at before."""
        import faiss

        from retrieval.index.ann.families import AnnIndex

        faiss.omp_set_num_threads(1)
        return AnnIndex.open(folder, check=False)

    def asker(self, candidate_index: CandidateIndex, opened: Any, effort: int, k: int) -> Ask:
        """Search parameters of the effort."""
        spec = replace(opened.spec, rescore=candidate_index.spec.rescore).at(effort)
        return lambda query: opened.search(query, k, spec=spec).slots


class PlainFaiss:
    """The files that Gavel wrote, read into memory and asked with nothing around; what is compressed stays so."""

    def build(self, candidate_index: CandidateIndex, vectors: Vector, folder: Path) -> None:
        """It has no files of its own."""

    def open(self, candidate_index: CandidateIndex, folder: Path) -> Any:
        """faiss.read_index."""
        import faiss

        faiss.omp_set_num_threads(1)
        return faiss.read_index(str(folder / "index.faiss"))

    def asker(self, candidate_index: CandidateIndex, opened: Any, effort: int, k: int) -> Ask:
        """One set of search parameters for all queries."""
        import faiss

        lib: Any = faiss
        made = {
            "ef_search": lambda: lib.SearchParametersHNSW(efSearch=effort),
            "nprobe": lambda: lib.SearchParametersIVF(nprobe=effort),
        }
        parameters = made[candidate_index.spec.effort]() if candidate_index.spec.effort else None
        if isinstance(lib.downcast_index(opened), lib.IndexPreTransform) and parameters is not None:
            parameters = lib.SearchParametersPreTransform(index_params=parameters)
        return lambda query: opened.search(query[None], k, params=parameters)[1][0]


class Hnswlib:
    """nmslib/hnswlib, the authors' own HNSW."""

    def build(self, candidate_index: CandidateIndex, vectors: Vector, folder: Path) -> None:
        """With the same M and ef_construction."""
        index = _hnswlib(vectors.shape[1])
        spec = candidate_index.spec
        index.init_index(len(vectors), ef_construction=spec.ef_construction, M=spec.m, random_seed=7)
        index.add_items(np.ascontiguousarray(vectors), num_threads=BUILD_THREADS)
        folder.mkdir(parents=True, exist_ok=True)
        index.save_index(str(folder / "index.hnswlib"))
        (folder / "dimensions").write_text(str(vectors.shape[1]))

    def open(self, candidate_index: CandidateIndex, folder: Path) -> Any:
        """Into memory, the only way it has."""
        index = _hnswlib(int((folder / "dimensions").read_text()))
        index.load_index(str(folder / "index.hnswlib"))
        index.set_num_threads(1)
        return index

    def asker(self, candidate_index: CandidateIndex, opened: Any, effort: int, k: int) -> Ask:
        """Its `ef` is what FAISS calls efSearch."""
        opened.set_ef(max(effort, k))
        return lambda query: opened.knn_query(query, k)[0][0].astype(np.int64)


class Usearch:
    """unum-cloud/usearch in float32."""

    def build(self, candidate_index: CandidateIndex, vectors: Vector, folder: Path) -> None:
        """connectivity is M, expansion_add is ef_construction."""
        index, spec = _usearch(vectors.shape[1], candidate_index.spec), candidate_index.spec
        index.expansion_add = spec.ef_construction
        index.add(np.arange(len(vectors)), np.ascontiguousarray(vectors), threads=BUILD_THREADS)
        folder.mkdir(parents=True, exist_ok=True)
        index.save(str(folder / "index.usearch"))
        (folder / "dimensions").write_text(str(vectors.shape[1]))

    def open(self, candidate_index: CandidateIndex, folder: Path) -> Any:
        """Mapped from the disk, as it advises for serving."""
        index = _usearch(int((folder / "dimensions").read_text()), candidate_index.spec)
        index.view(str(folder / "index.usearch"))
        return index

    def asker(self, candidate_index: CandidateIndex, opened: Any, effort: int, k: int) -> Ask:
        """expansion_search is ef_search."""
        opened.expansion_search = max(effort, k)
        return lambda query: opened.search(query, k, threads=1).keys.astype(np.int64)


LIBRARIES: dict[str, Library] = {"gavel": Gavel(), "faiss": PlainFaiss(), "hnswlib": Hnswlib(), "usearch": Usearch()}


def candidate_indices(specs: list[IndexSpec], rivals: tuple[str, ...] = RIVALS) -> list[CandidateIndex]:
    """Gavel and plain faiss for every spec, the graph libraries beside each plain graph."""
    graphs = [name for name in ("hnswlib", "usearch") if name in rivals]
    seen = Counter(spec.family for spec in specs)
    made = []
    for spec in specs:
        libraries = [
            "gavel",
            *(["faiss"] if "faiss" in rivals else []),
            *(graphs if spec.family == "hnsw" and not spec.pca else []),
        ]
        made += [CandidateIndex(library, spec, seen[spec.family] > 1) for library in libraries]
    return made


def build_cost(candidate_index: CandidateIndex, vectors: Vector, folder: Path) -> dict[str, float]:
    """Build one, and say what it took in seconds with writing its files: by the clock, and of all processors together."""
    start, worked = time.perf_counter(), time.process_time()
    LIBRARIES[candidate_index.library].build(candidate_index, vectors, folder)
    return {"build_s": time.perf_counter() - start, "build_cpu_s": time.process_time() - worked}


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
