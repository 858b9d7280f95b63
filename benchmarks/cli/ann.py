"""`gavel bench ann`: vector indices of every type beside plain faiss, hnswlib and usearch."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gavel.workspace.console import console, notes, progress, show_table
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, Seed, print_json
from retrieval.config.settings import Settings
from retrieval.errors import InvalidInput

if TYPE_CHECKING:
    from benchmarks.ann.targets import AnnResult, IndexResult

RELEASE_QUERIES = 0.1  # maximum share of a release's items that become queries


def ann(
    release: Annotated[Path | None, typer.Option(help="Release folder or release_id, instead of synthetic vectors.")] = None,
    lots: Annotated[int, typer.Option(min=1_000, help="Number of synthetic vectors.")] = 1_000_000,
    sizes: Annotated[str, typer.Option(help="Several numbers of vectors, to see how costs grow, such as 10000,100000.")] = "",
    dimensions: Annotated[int, typer.Option(min=8, help="Length of synthetic vectors.")] = 128,
    spec: Annotated[
        list[str] | None, typer.Option(help="Index type, such as hnsw:m=16; may be repeated. All types by default.")
    ] = None,
    rival: Annotated[
        list[str] | None, typer.Option(help="Library to compare with: faiss, hnswlib or usearch; gavel for none. All by default.")
    ] = None,
    queries: Annotated[int, typer.Option(min=20, help="Number of different queries.")] = 300,
    rounds: Annotated[int, typer.Option(min=1, help="Passes over the queries; the indices take turns.")] = 3,
    seed: Seed = 7,
    reuse: Annotated[bool, typer.Option(help="Reuse indices that an earlier run built from the same vectors.")] = False,
    plot: Annotated[Path | None, typer.Option(help="PNG to write; <home>/reports/ann.png by default.")] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="File to write for `gavel index advise`; in an existing one, the rows of other indices and sizes stay."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Sweep recall, latency, memory and build time of vector indices beside plain faiss, hnswlib and usearch."""
    from benchmarks.ann import benchmark as bench
    from benchmarks.ann.candidates import RIVALS, candidate_indices
    from benchmarks.ann.data import release_vectors, synthetic_vectors
    from benchmarks.ann.plot import plot as draw
    from retrieval.config.index_spec import IndexSpec, default_specs, small_code_specs
    from retrieval.index.ann.advice import Calibration, parse_items

    workspace = Workspace(Settings.from_env())
    if release is not None:
        data, source, counts = release_vectors(workspace.release(release), queries, RELEASE_QUERIES)
    else:
        data, source = synthetic_vectors(dimensions, queries, seed)
        counts = [parse_items(size) for size in sizes.split(",") if size.strip()] or [lots]
    specs = [IndexSpec.parse(text) for text in spec or []]
    defaults = [*default_specs(source.dimensions), *small_code_specs(source.dimensions)]
    rivals = tuple(rival) if rival else RIVALS
    if unknown := set(rivals) - {*RIVALS, "gavel"}:
        raise InvalidInput(f"there is no rival {', '.join(sorted(unknown))}; there are {', '.join(RIVALS)}, and gavel for none")
    with progress("build") as built, progress("ask") as passes:
        result = bench.run_sizes(
            data,
            source,
            counts,
            lambda size: candidate_indices(specs or defaults, rivals),
            workspace.benches / "ann",
            rounds=rounds,
            reuse=reuse,
            on_built=built,
            on_pass=passes,
        )
    picture = draw(result.largest(), f"{result.largest()[0].items:,} x {data}", plot or workspace.reports / "ann.png")
    if calibration is not None:
        measured = result.calibration(" ".join(["gavel", *sys.argv[1:]]))
        (Calibration.load(calibration).merged(measured) if calibration.exists() else measured).save(calibration)
    if as_json:
        print_json({**result.to_dict(), "plot": str(picture)})
    else:
        _print(result, data, picture)


def _print(result: "AnnResult", data: str, picture: Path) -> None:
    for size in sorted({each.items for each in result.results}):
        _show([each for each in result.results if each.items == size], data)
    _show_growth(result)
    console.print(f"bars: {result.targets()}; {result.machine}", style="dim", highlight=False, soft_wrap=True)
    notes.print(f"picture: {picture}", style="dim", highlight=False, soft_wrap=True)


def _show(results: "list[IndexResult]", data: str) -> None:
    rows = [
        (
            result.name,
            f"{point.effort or ''}",
            f"{point.recall:.4f}",
            f"{point.p50_ms:.3f}",
            f"{point.p99_ms:.3f}",
            f"{result.file_bytes / result.items:.0f}",
            f"{result.resident_bytes / 1e6:,.0f}",
            f"{result.own_bytes / 1e6:,.0f}",
            "" if result.build_s is None else f"{result.build_s:,.1f}",
            "" if result.build_cpu_s is None else f"{result.build_cpu_s:,.1f}",
        )
        for result in results
        for point in result.points
    ]
    header = ("", "effort", "recall@50", "p50 ms", "p99 ms", "B an item", "resident MB", "not of files", "build s", "CPU s")
    show_table(f"{results[0].items:,} x {data}", header, rows)


def _show_growth(result: "AnnResult") -> None:
    grown = result.exponents()
    if grown:
        rows = [
            (name, *(f"{fits[measure]:.2f}" if measure in fits else "" for measure in ("p50_ms", "build_cpu_s", "file_bytes")))
            for name, fits in grown.items()
        ]
        show_table("cost grows with the items to the power of", ("", "p50 at recall .95", "build, processor time", "bytes"), rows)
