"""`gavel index compare`: two index configurations on the vectors of a release."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gavel.workspace.console import console, progress, show_table
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json
from gavel.workspace.wiring import load_encoder
from retrieval.config.settings import Settings
from retrieval.contracts.release import load_release
from retrieval.errors import InvalidInput

if TYPE_CHECKING:
    from benchmarks.ann.compare import ComparedIndices

ITEM_QUERIES = 0.1  # maximum share of a release's items that become queries
MIN_VECTORS = 50  # recall@50 needs as many


def compare(
    first: Annotated[str, typer.Argument(help="One configuration, such as hnsw or ivf_pq:pq_m=32,nprobe=64.")],
    second: Annotated[str, typer.Argument(help="The other configuration.")],
    release: Annotated[Path | None, typer.Option(help="Release folder or release_id; the newest one by default.")] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="File with one query per line, or events (.ndjson, .jsonl) whose queries are taken; sampled items by default.",
        ),
    ] = None,
    most: Annotated[int, typer.Option("--most", min=20, help="Most queries that are asked.")] = 500,
    lots: Annotated[
        int, typer.Option(min=0, help="Compare on so many synthetic vectors instead of a release; 0 takes the release.")
    ] = 0,
    rounds: Annotated[int, typer.Option(min=1, help="Passes over the queries; the two indices take turns.")] = 5,
    as_json: Json = False,
) -> None:
    """Compare two index configurations on live-like queries: recall, latency, memory, build time, answers that differ."""
    from benchmarks.ann.compare import compare_indices
    from benchmarks.ann.data import SEED, release_vectors, synthetic_vectors, vectors_of
    from retrieval.index.embedded.segments import embedded_spec

    specs = embedded_spec(first), embedded_spec(second)
    settings = Settings.from_env()
    workspace = Workspace(settings)
    if lots and (release or queries):
        raise InvalidInput("--lots makes vectors and queries of its own; leave --release and --queries away")
    if lots:
        data, source = synthetic_vectors(128, most, SEED)
        vectors, query_vectors = source(lots)
    elif queries is None:
        data, source, (count,) = release_vectors(workspace.release(release), most, ITEM_QUERIES)
        (vectors, query_vectors), data = source(count), f"{data}; queries are items that were left out"
    else:
        folder = workspace.release(release)
        texts = read_queries(queries, most)
        vectors = vectors_of(folder)
        query_vectors = load_encoder(settings, load_release(folder).tower_id).encode(texts)
        data = f"{vectors.shape[1]} of release {folder.name}; queries of {queries.name}"
    if len(vectors) < MIN_VECTORS:
        raise InvalidInput(f"there are {len(vectors)} lots; a comparison needs {MIN_VECTORS}")
    with progress("build") as built, progress("ask") as passes:
        result = compare_indices(
            *specs, vectors, query_vectors, data, workspace.benches / "compare", rounds=rounds, on_built=built, on_pass=passes
        )
    result.report(as_json, lambda: _show(result, len(vectors)))


def read_queries(path: Path, most: int) -> list[str]:
    """Read query texts from a file: one per line, or the field `query` of events; repeated queries count once.

    Args:
        path: text file, or a file of JSON lines that ends in .ndjson or .jsonl.
        most: maximum number of queries; the first ones are taken.

    Raises:
        InvalidInput: the file cannot be read, or has no query.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        if path.suffix in (".ndjson", ".jsonl"):
            rows: list[Any] = [json.loads(line) for line in lines if line.strip()]
            lines = [str(row.get("query") or "") for row in rows if isinstance(row, dict)]
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read ({error}); give one query per line, or events as JSON lines") from error
    texts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))[:most]
    if not texts:
        raise InvalidInput(f"{path} holds no query; give one query per line, or events with a field `query`")
    return texts


def _show(result: "ComparedIndices", items: int) -> None:
    rows = [
        (
            index.spec,
            f"{index.points[0].recall:.4f}",
            f"{index.points[0].p50_ms:.3f}",
            f"{index.points[0].p99_ms:.3f}",
            f"{index.file_bytes / 1e6:,.1f}",
            f"{index.resident_bytes / 1e6:,.1f}",
            f"{index.build_s or 0:,.1f}",
        )
        for index in result.indices
    ]
    header = ("index", "recall@50", "p50 ms", "p99 ms", "file MB", "resident MB", "build s")
    show_table(f"{items:,} x {result.data}", header, rows)
    console.print(
        f"{result.different_answers:.1%} of {result.queries} queries have another set of ten best items, "
        f"{result.overlap_at_10:.1%} of these items are in both; p50 of the second / first {result.p50_ratio:g}",
        highlight=False,
        soft_wrap=True,
    )
