"""Worker process for one index: build it, or open it and answer the benchmark's requests, one JSON line each on stdin.

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
    """Return the resident bytes of this process ("resident"), and those without a file, which the system cannot drop ("own")."""
    process = psutil.Process()
    own = sum(getattr(mapped, "anonymous", mapped.rss) for mapped in process.memory_maps())
    return {"resident": process.memory_info().rss, "own": own}


def serve(candidate_index: CandidateIndex, folder: Path, queries: np.ndarray) -> None:
    """Open the index and print the cost. Then answer each {"effort", "k", "first", "last"} with times, ids and memory."""
    library = LIBRARIES[candidate_index.library]
    _import_all(candidate_index.library)
    queries = np.array(queries)  # a copy in memory before the index is opened
    before, start = memory(), time.perf_counter()
    opened = library.open(candidate_index, folder)
    _send({"open_s": time.perf_counter() - start, "before": before, "after": memory()})
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        search = library.make_search(candidate_index, opened, request["effort"], request["k"])
        for query in queries[:WARM_UP]:
            search(query)
        times, cpu, ids = [], [], []
        for query in queries[request["first"] : request["last"]]:
            start, cpu_start = time.perf_counter(), time.process_time()
            result = search(query)
            cpu.append((time.process_time() - cpu_start) * 1000)
            times.append((time.perf_counter() - start) * 1000)
            ids.append(result.tolist())
        _send({"times_ms": times, "cpu_ms": cpu, "ids": ids, "memory": memory()})


def _import_all(library: str) -> None:
    """Import the library's modules before the first measurement of memory."""
    if library in ("gavel", "faiss"):
        import retrieval.index.ann.vector_index  # noqa: F401
    elif library == "hnswlib":
        import hnswlib  # noqa: F401
    else:
        import usearch.index  # noqa: F401


def _send(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)


def main() -> None:
    """Run the command line."""
    verb, library, spec, folder, vectors, queries = sys.argv[1:]
    candidate_index = CandidateIndex(library, IndexSpec.parse(spec))
    if verb == "build":
        _send(build_cost(candidate_index, np.load(vectors, mmap_mode="r"), Path(folder)))
    else:
        serve(candidate_index, Path(folder), np.load(queries))


if __name__ == "__main__":
    main()
