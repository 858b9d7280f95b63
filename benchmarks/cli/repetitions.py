"""`gavel bench batches` and `gavel bench caches`: gains of batched searches and of cached results."""

from pathlib import Path
from typing import Annotated

import typer

from gavel.workspace.console import console, notes, progress, show_table
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, Seed, print_json
from retrieval.config.settings import Settings

RATES = (1, 10, 100)  # searches per second for which cache hits are computed


def batches(
    lots: Annotated[int, typer.Option(min=1_000, help="Number of clustered vectors.")] = 100_000,
    dimensions: Annotated[int, typer.Option(min=8, help="Length of the vectors.")] = 128,
    queries: Annotated[int, typer.Option(min=2, help="Number of different queries.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="Passes over the queries for each batch size; the median is reported.")] = 5,
    spec: Annotated[
        list[str] | None, typer.Option(help="Index type, such as hnsw:m=16; flat, ivf, ivf_sq8 and hnsw by default.")
    ] = None,
    seed: Seed = 7,
    as_json: Json = False,
) -> None:
    """Time vector searches for many queries in one call, on one thread and on two."""
    from benchmarks.ann import batches as bench
    from benchmarks.ann.data import synthetic_vectors

    vectors, query_vectors = synthetic_vectors(dimensions, queries, seed)[1](lots)
    folder = Workspace(Settings.from_env()).benches / "filters" / f"{lots}x{dimensions}-{seed}"
    with progress("passes") as step:
        result = bench.run_benchmark(vectors, query_vectors, folder, specs=spec or bench.SPECS, rounds=rounds, progress=step)
    if as_json:
        print_json(result.to_dict())
        return
    rows = [
        (
            row.family,
            *(f"{count}" for count in (row.threads, row.batch)),
            *(f"{ms:.4f}" for ms in (row.ms_a_query, row.cpu_ms_a_query)),
            *(f"{gain:.2f}" for gain in (row.gain, row.cpu_gain)),
        )
        for row in result.rows
    ]
    header = ("", "threads", "batch", "ms a query", "processor ms", "times faster", "by processor time")
    show_table(f"{lots:,} lots, {queries} queries", header, rows)
    console.print(result.machine, style="dim", highlight=False, soft_wrap=True)


def caches(
    release: Annotated[Path | None, typer.Option(help="Release whose titles are searched for; the newest one by default.")] = None,
    queries: Annotated[int, typer.Option(min=2, help="Number of different queries.")] = 5_000,
    exponent: Annotated[
        list[float] | None, typer.Option(help="Exponent of Zipf's law; may be repeated. 0.65 and 1 by default.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Fit the exponent to this file, which has one request per line.")] = None,
    seconds: Annotated[float, typer.Option(min=1.0, help="Duration of each load.")] = 15.0,
    as_json: Json = False,
) -> None:
    """Load `gavel serve` with repeated queries, with and without caches."""
    from benchmarks.speed.caches import expected_hits, run_benchmark, zipf_exponent
    from benchmarks.speed.many_lots import questions

    texts = questions(Workspace(Settings.from_env()).release(release), queries)
    exponents = [zipf_exponent(log.read_text(encoding="utf-8").splitlines())] if log else exponent or [0.65, 1.0]
    result = run_benchmark(texts, exponents, seconds=seconds, on_phase=lambda phase: notes.print(phase, style="dim"))
    expected = {f"{s}": {f"{rate}": expected_hits(queries, s, rate) for rate in RATES} for s in exponents}
    if as_json:
        print_json({**result.to_dict(), "expected_answer_hits": expected})
        return
    rows = [
        (
            f"{row.exponent}",
            row.system,
            f"{row.load.rate:.1f}",
            *(f"{ms:.1f}" for ms in (row.load.latency.p50_ms, row.load.latency.p99_ms)),
            f"{1000 * row.load.server_cpu / row.load.rate:.2f}",
            f"{row.vector_hits:.1%}",
            f"{row.answer_hits:.1%}",
        )
        for row in result.rows
    ]
    header = ("exponent", "cached", "queries/s", "p50 ms", "p99 ms", "processor ms a search", "vectors found", "answers found")
    show_table(f"{queries:,} different queries, hybrid, one core", header, rows)
    console.print(f"answers found at so many searches a second, expected: {expected}", highlight=False, soft_wrap=True)
    console.print(result.machine, style="dim", highlight=False, soft_wrap=True)
