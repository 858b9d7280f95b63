"""One index in a process of its own: builds it, or opens it and answers what the benchmark asks on stdin, a JSON line each.

python -m benchmarks.ann.worker build|serve <library> <spec> <folder> <vectors.npy> <queries.npy>
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.ann.candidates import LIBRARIES, CandidateIndex, build_cost
from retrieval.config.index_spec import IndexSpec

WARM_UP = 20


def memory() -> dict[str, int]:
    """Resident bytes of this process, and how many of them no file stands behind, so that the system cannot drop them."""
    process = psutil.Process()
    own = sum(getattr(mapped, "anonymous", mapped.rss) for mapped in process.memory_maps())
    return {"resident": process.memory_info().rss, "own": own}


def serve(candidate_index: CandidateIndex, folder: Path, queries: np.ndarray) -> None:
    """Open the index, say what it takes, then answer {"effort", "k", "first", "last"} with times and ids."""
    library = LIBRARIES[candidate_index.library]
    _import_all(candidate_index.library)
    queries = np.array(queries)  # the worker's own, in memory before the index is
    before, start = memory(), time.perf_counter()
    opened = library.open(candidate_index, folder)
    _answer({"open_s": time.perf_counter() - start, "before": before, "after": memory()})
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        ask = library.asker(candidate_index, opened, asked["effort"], asked["k"])
        for query in queries[:WARM_UP]:
            ask(query)
        times, ids = [], []
        for query in queries[asked["first"] : asked["last"]]:
            start = time.perf_counter()
            found = ask(query)
            times.append((time.perf_counter() - start) * 1000)
            ids.append(found.tolist())
        _answer({"times_ms": times, "ids": ids, "memory": memory()})


def _import_all(library: str) -> None:
    """Load the libraries before memory is first looked at."""
    if library in ("gavel", "faiss"):
        import retrieval.index.ann.families  # noqa: F401
    elif library == "hnswlib":
        import hnswlib  # noqa: F401
    else:
        import usearch.index  # noqa: F401


def _answer(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)


def main() -> None:
    """Do as the command line says."""
    verb, library, spec, folder, vectors, queries = sys.argv[1:]
    candidate_index = CandidateIndex(library, IndexSpec.parse(spec))
    if verb == "build":
        _answer(build_cost(candidate_index, np.load(vectors, mmap_mode="r"), Path(folder)))
    else:
        serve(candidate_index, Path(folder), np.load(queries))


if __name__ == "__main__":
    main()
