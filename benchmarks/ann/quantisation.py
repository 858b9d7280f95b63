"""Bytes per item, recall and latency of compressed vectors, in the embedded index and in OpenSearch.

python -m benchmarks.ann.quantisation --items 20000                  # clustered vectors; --release takes those of a release

Embedded: every index type is measured as plain faiss without rescoring, and with candidates rescored from full vectors.
OpenSearch: the same vectors are stored in each way in one index, merged to one segment. A node is started unless --url names one.
"""

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import faiss
import numpy as np
import typer
from opensearchpy import OpenSearch
from opensearchpy.exceptions import OpenSearchException

from benchmarks.ann.benchmark import run_benchmark
from benchmarks.ann.candidates import K, candidate_indices
from benchmarks.ann.data import release_vectors, synthetic_vectors
from benchmarks.machine import describe_machine
from gavel.opensearch import node as opensearch_node
from gavel.workspace.console import console, progress, show_table
from gavel.workspace.entry import run_command
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, print_json
from processing.evaluation.runs import summarise_ms
from retrieval.config.index_spec import IndexSpec
from retrieval.config.settings import Settings
from retrieval.contracts.documents import Vector
from retrieval.encoders.query_encoder import to_unit_length
from retrieval.index.ann.recall import exact_cut, recall_of
from retrieval.index.opensearch.client import connect

FIELD, INDEX = "embedding", "quantisation"
GRAPH = IndexSpec("hnsw", ef_search=100)  # parameters of every graph here
BYTE_SCALE = 127  # the largest number of a signed byte
BULK = 1_000
WARM_UP = 20
PROBE_S = 20  # a node that does not answer in this time counts as lacking the engine
Mapping = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """Measurements of one way of storing vectors.

    Attributes:
        engine: "embedded" or "opensearch".
        system: description of the way of storing vectors.
        bytes_per_item: bytes of the index per item, without full vectors that only rescoring reads.
        disk_per_item: bytes of all files per item.
        recall: recall@50, mean over the queries.
        p50_ms: median latency of single queries in milliseconds, over HTTP for OpenSearch.
        p99_ms: 99th percentile of the same latency.
        failed: reason of a failure; empty for a measurement.
    """

    engine: str
    system: str
    bytes_per_item: float = 0.0
    disk_per_item: float = 0.0
    recall: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    failed: str = ""


def embedded_specs(dimensions: int) -> list[IndexSpec]:
    """Return the measured specs: full vectors, half precision, bytes, principal axes and product codes, and three graphs."""
    half = dimensions // 2
    flat = ["flat", "fp16:rescore=2", "sq8:rescore=2", f"flat:pca={half}", f"sq8:rescore=4,pca={half}"]
    codes = [f"pq:pq_m={half},rescore=4", f"pq:pq_m={half // 2},rescore=8"]
    graphs = ["hnsw", "hnsw_sq8:rescore=2", f"hnsw:pca={half}"]
    return [IndexSpec.parse(text) for text in (*flat, *codes, *graphs)]


def embedded(vectors: Vector, queries: Vector, folder: Path) -> list[Row]:
    """Measure every spec with and without rescoring; graphs at the lowest measured ef_search from GRAPH.ef_search on."""
    specs, rows = embedded_specs(vectors.shape[1]), []
    with progress("embedded indices") as built:
        results = run_benchmark(vectors, queries, candidate_indices(specs, ("faiss",)), folder, rounds=2, on_built=built)
    for result in results:
        spec = IndexSpec.parse(result.spec)
        if result.library == "faiss" and spec.stores_vectors:
            continue  # without rescoring there is nothing to compare
        point = next(point for point in result.points if not point.effort or point.effort >= GRAPH.ef_search)
        system = spec.index_type + (f" of {spec.pca} axes" if spec.pca else "")
        system += f", {spec.pq_m} codes" if "pq" in spec.index_type else ""
        again = "" if spec.stores_vectors else ", scored again" if result.library == "gavel" else ", as it is"
        size = result.file_bytes / result.items
        disk = size + (0 if spec.stores_vectors or result.library == "faiss" else 4 * result.dimensions)
        rows.append(Row("embedded", system + again, size, disk, point.recall, point.p50_ms, point.p99_ms))
    return rows


def first_numbers(vectors: Vector, queries: Vector, length: int) -> Row:
    """Measure exact search over the first `length` numbers of the vectors, for towers trained at several lengths."""
    faiss.omp_set_num_threads(1)
    cut, index = exact_cut(vectors, queries, K), faiss.IndexFlatIP(length)
    index.add(to_unit_length(np.ascontiguousarray(vectors[:, :length])))
    short_queries = to_unit_length(np.ascontiguousarray(queries[:, :length]))
    times, recalls = [], []
    for query, short, limit in zip(queries, short_queries, cut, strict=True):
        start = time.perf_counter()
        ids = index.search(short[None], K)[1][0]
        times.append((time.perf_counter() - start) * 1000)
        recalls.append(recall_of(vectors[ids].astype(np.float64) @ query, limit, K))
    summary = summarise_ms(times)
    system = f"flat of the first {length} numbers, as it is"
    return Row("embedded", system, 4.0 * length, 4.0 * length, round(float(np.mean(recalls)), 4), summary.p50_ms, summary.p99_ms)


def opensearch_mappings(dimensions: int) -> dict[str, Mapping]:
    """Return system -> mapping of the vector field. Systems of the engine faiss come last, because they need native libraries."""

    def field(engine: str, space: str = "cosinesimil", encoder: Mapping | None = None, **more: Any) -> Mapping:
        parameters: Mapping = {"m": GRAPH.m, "ef_construction": GRAPH.ef_construction, **({"encoder": encoder} if encoder else {})}
        method = {"name": "hnsw", "engine": engine, "space_type": space, "parameters": parameters}
        return {"type": "knn_vector", "dimension": dimensions, "method": method, **more}

    on_disk = {"type": "knn_vector", "dimension": dimensions, "space_type": "innerproduct", "mode": "on_disk"}
    return {
        "lucene float32": field("lucene"),
        "lucene scalar quantisation, 7 bits": field("lucene", encoder={"name": "sq", "parameters": {"bits": 7}}),
        "lucene byte vectors": field("lucene", data_type="byte"),
        "faiss float32": field("faiss", "innerproduct"),
        "faiss fp16": field("faiss", "innerproduct", {"name": "sq", "parameters": {"type": "fp16"}}),
        "faiss on disk, 32 times smaller": {**on_disk, "compression_level": "32x"},
    }


def opensearch(client: OpenSearch, vectors: Vector, queries: Vector, log: Path | None = None) -> list[Row]:
    """Measure every way of storing vectors that a node supports. The row of an unsupported one holds the reason.

    Args:
        client: client of the node.
        vectors: (N, D) unit vectors.
        queries: (Q, D) unit vectors.
        log: log file of the node, which names missing libraries; None if the node is remote.
    """
    cut, rows, missing = exact_cut(vectors, queries, K), [], ""
    with progress("OpenSearch indices") as step:
        systems = opensearch_mappings(vectors.shape[1])
        for done, (system, mapping) in enumerate(systems.items(), 1):
            native = system.startswith("faiss")
            try:
                if native and not missing:
                    _probe(client, mapping)
                if not missing:
                    rows.append(_measure(client, system, mapping, vectors, queries, cut, mapping.get("data_type") == "byte"))
            except OpenSearchException as error:
                missing = _reason(error, log) if native else missing
                rows += [] if native else [Row("opensearch", system, failed=_reason(error, log))]
            if native and missing:
                rows.append(Row("opensearch", system, failed=missing))
            step(done, len(systems))
    return rows


def _probe(client: OpenSearch, mapping: Mapping) -> None:
    """Store one vector as a test. Without its native library the thread that builds the graph dies and the node never answers."""
    _create(client, mapping)
    client.index(index=INDEX, body={FIELD: [1.0] * mapping["dimension"]})
    client.indices.refresh(index=INDEX, request_timeout=PROBE_S)
    client.indices.stats(index=INDEX, request_timeout=PROBE_S)
    _nearest(client, [1.0] * mapping["dimension"], None)


def _create(client: OpenSearch, mapping: Mapping) -> None:
    client.indices.delete(index=INDEX, ignore_unavailable=True)
    settings: Mapping = {"knn": True, "number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": -1}
    if mapping.get("method", {}).get("engine") != "lucene":
        settings["knn.advanced.approximate_threshold"] = 0  # build a graph even for a segment of few vectors
    fields = {"_source": {"enabled": False}, "properties": {FIELD: mapping}}
    client.indices.create(index=INDEX, body={"settings": {"index": settings}, "mappings": fields})


def _measure(
    client: OpenSearch, system: str, mapping: Mapping, vectors: Vector, queries: Vector, cut: np.ndarray, as_bytes: bool
) -> Row:
    """Measure one way of storing vectors, over HTTP."""
    _create(client, mapping)
    for start in range(0, len(vectors), BULK):
        rows = range(start, min(start + BULK, len(vectors)))
        lines = [line for row in rows for line in ({"index": {"_id": str(row)}}, {FIELD: _stored(vectors[row], as_bytes)})]
        answer = client.bulk(index=INDEX, body=lines, request_timeout=120)
        if answer["errors"]:
            raise OpenSearchException(json.dumps(next(item for item in answer["items"] if "error" in item["index"]))[:300])
    client.indices.forcemerge(index=INDEX, max_num_segments=1, request_timeout=600)
    client.indices.refresh(index=INDEX)
    parameters = {"ef_search": GRAPH.ef_search} if "method" in mapping else None
    times, recalls = [], []
    for number, query in enumerate([*queries[:WARM_UP], *queries]):
        began = time.perf_counter()
        ids = _nearest(client, _stored(query, as_bytes), parameters)
        if number >= WARM_UP:
            times.append((time.perf_counter() - began) * 1000)
            recalls.append(recall_of(vectors[ids].astype(np.float64) @ query, cut[number - WARM_UP], K))
    summary = summarise_ms(times)
    searched, disk = _bytes(client, quantised="quantisation" in system)
    count = len(vectors)
    return Row(
        "opensearch", system, searched / count, disk / count, round(float(np.mean(recalls)), 4), summary.p50_ms, summary.p99_ms
    )


def _stored(vector: Vector, as_bytes: bool) -> list[float] | list[int]:
    if not as_bytes:
        return [float(number) for number in vector]
    scaled = vector / np.abs(vector).max() * BYTE_SCALE  # cosine does not see the length
    return [int(number) for number in np.rint(scaled)]


def _nearest(client: OpenSearch, vector: list[Any], parameters: Mapping | None) -> list[int]:
    knn: Mapping = {"vector": vector, "k": K, **({"method_parameters": parameters} if parameters else {})}
    body = {"size": K, "_source": False, "query": {"knn": {FIELD: knn}}}
    return [int(hit["_id"]) for hit in client.search(index=INDEX, body=body)["hits"]["hits"]]


def _bytes(client: OpenSearch, *, quantised: bool) -> tuple[int, int]:
    """Return the bytes of the vector files that a search reads, and of all vector files.

    With scalar quantisation, raw vectors are also stored, which only merges read.
    """
    stats = client.indices.stats(index=INDEX, metric="segments", include_segment_file_sizes=True)
    files = stats["_all"]["primaries"]["segments"]["file_sizes"]
    vector_files = {name: sizes["size_in_bytes"] for name, sizes in files.items() if name.startswith(("ve", "fa", "cfs"))}
    total = sum(vector_files.values())
    return total - (vector_files.get("vec", 0) if quantised else 0), total


def _reason(error: OpenSearchException, log: Path | None) -> str:
    """Return a message with the native library that the node's log reports as missing, or the error if there is none."""
    lines = log.read_text(errors="replace").splitlines() if log and log.is_file() else []
    missing = next((line for line in lines if "UnsatisfiedLinkError" in line), "")
    library = missing.partition("UnsatisfiedLinkError: ")[2].partition(" in java.library.path")[0]
    return f"this node has {library}, the native library of the engine" if library else " ".join(str(error).split())[:300]


@contextmanager
def _client(url: str | None) -> Iterator[tuple[OpenSearch, Path | None]]:
    """Yield a client of the node at `url`, or of a node started for the measurement, and the started node's log file."""
    if url:
        yield connect(url, 60), None
        return
    with tempfile.TemporaryDirectory(prefix="gavel-quantisation-") as folder:
        try:
            started = opensearch_node.start(Path(folder), opensearch_node.free_port())
            yield connect(started.url, 60), started.log
        finally:
            opensearch_node.stop(Path(folder))


def show(rows: Sequence[Row], title: str) -> None:
    """Print the rows as one table."""
    cells = [
        (row.engine, row.system, row.failed)
        if row.failed
        else (
            row.engine,
            row.system,
            *(f"{size:.0f}" for size in (row.bytes_per_item, row.disk_per_item)),
            f"{row.recall:.4f}",
            f"{row.p50_ms:.3f}",
            f"{row.p99_ms:.3f}",
        )
        for row in rows
    ]
    show_table(title, ("", "", "B an item", "on disk", "recall@50", "p50 ms", "p99 ms"), cells, right_from=2)


def main(
    items: Annotated[int, typer.Option(min=1_000, help="Number of clustered vectors.")] = 20_000,
    dimensions: Annotated[int, typer.Option(min=8, help="Length of the clustered vectors.")] = 128,
    release: Annotated[Path | None, typer.Option(help="Release folder or release_id, instead of clustered vectors.")] = None,
    queries: Annotated[int, typer.Option(min=20, help="Number of different queries.")] = 300,
    url: Annotated[str | None, typer.Option(help="URL of an OpenSearch; by default a node is started.")] = None,
    node: Annotated[bool, typer.Option("--opensearch/--no-opensearch", help="Measure OpenSearch, too.")] = True,
    as_json: Json = False,
) -> None:
    """Measure all ways of storing vectors, embedded and in OpenSearch."""
    workspace, machine = Workspace(Settings.from_env()), describe_machine()
    if release:
        data, source, (items,) = release_vectors(workspace.release(release), queries, 0.1)
    else:
        data, source = synthetic_vectors(dimensions, queries, 7)
    vectors, query_vectors = source(items)
    rows = [
        *embedded(vectors, query_vectors, workspace.benches / "quantisation"),
        first_numbers(vectors, query_vectors, vectors.shape[1] // 2),
    ]
    if node:
        with _client(url) as (client, log):
            rows += opensearch(client, vectors, query_vectors, log)
    if as_json:
        print_json({"data": f"{items} x {data}", "machine": machine, "rows": [asdict(row) for row in rows]})
        return
    show(rows, f"{items:,} x {data}")
    for row in rows:
        if row.failed:
            console.print(f"{row.system}: {row.failed}", style="dim", highlight=False, soft_wrap=True)
    console.print(machine, style="dim", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(lambda: typer.run(main), "benchmarks.ann.quantisation")
