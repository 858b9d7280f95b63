"""`gavel bench …`: measurements of this machine."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from local.command_options import Json, print_json
from local.console import console, progress, show_table

bench_app = typer.Typer(no_args_is_help=True, help="Measure this machine; every figure is a ratio to something named.")


@bench_app.callback()
def bench() -> None:
    """Keep `embed` a command of its own name while it is the only one."""


@bench_app.command()
def embed(
    preset: Annotated[str, typer.Option(help="Architecture: compact, or distilbert-resnet50; its weights are random.")] = "compact",
    lots: Annotated[int, typer.Option(min=1, help="How many lots; each gets a JPEG of its own.")] = 1_024,
    photo_size: Annotated[int, typer.Option(min=16, help="Side of the JPEGs in pixels.")] = 640,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode photos; 0 decodes in a thread.")] = 0,
    device: Annotated[str | None, typer.Option(help="torch device; the GPU when there is one.")] = None,
    repetitions: Annotated[int, typer.Option(min=1, help="Passes of each, in turns; the median counts.")] = 5,
    as_json: Json = False,
) -> None:
    """Embed lots from JPEG files and titles, and compare with the model alone over the same batches in memory."""
    from benchmarks.embed import STAGES, run_benchmark

    with tempfile.TemporaryDirectory(prefix="gavel-bench-") as folder, progress("photos") as made, progress("passes") as passed:
        result = run_benchmark(
            preset,
            lots=lots,
            photo_size=photo_size,
            workers=workers,
            device=device,
            repetitions=repetitions,
            folder=Path(folder),
            photos=made,
            passes=passed,
        )
    if as_json:
        print_json(result.to_dict())
        return
    rows = [
        ("from JPEG files to a committed release", f"{result.items_per_s:,.1f} items/s"),
        ("the model alone, same batches in memory", f"{result.model_items_per_s:,.1f} items/s"),
        ("ratio, median of the repetitions", f"{result.ratio:.3f}"),
        ("ratio of processor time, model / job", f"{result.cpu_ratio:.3f}"),
        *((f"busy: {stage}", f"{result.share(stage):.1%}") for stage in STAGES),
    ]
    show_table(f"{preset}, {lots} lots, JPEGs of {photo_size} pixels ({result.photo_kb:.0f} kB), {workers} workers", ("", ""), rows)
    note = f"{result.hardware}; load before {result.load}; {result.date}; stages overlap"
    console.print(note, style="dim", highlight=False, soft_wrap=True)


@bench_app.command()
def encode(
    preset: Annotated[str, typer.Option(help="Architecture; its weights are random.")] = "distilbert-resnet50",
    tokens: Annotated[int, typer.Option(min=1, max=10, help="Of a query, without [CLS] and [SEP].")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Passes over the queries, the three in turns.")] = 15,
    as_json: Json = False,
) -> None:
    """Time how a query becomes a vector: torch in float32, the int8 artefact, a small query tower; one thread."""
    from benchmarks.encode import run_benchmark

    with progress("rounds") as step:
        result = run_benchmark(preset, tokens=tokens, rounds=rounds, progress=step)
    if as_json:
        print_json(result.to_dict())
        return
    rows = [
        (
            name,
            *(f"{ms:.3f}" for ms in (way.latency.p50_ms, way.latency.p99_ms, way.cpu_ms)),
            f"{way.ratio:.1f}",
            f"{way.cpu_ratio:.1f}",
        )
        for name, way in result.ways.items()
    ]
    header = ("", "p50 ms", "p99 ms", "processor ms", "times faster", "by processor time")
    show_table(f"{preset}: queries of {tokens} tokens, one thread, {rounds} rounds", header, rows)
    sizes = ", ".join(f"{file} {size / 1e6:.1f} MB" for file, size in result.bytes.items())
    console.print(f"{sizes}; {result.machine}; {result.date}", style="dim", highlight=False, soft_wrap=True)


@bench_app.command()
def rerank(
    candidates: Annotated[int, typer.Option(min=1, max=100, help="First-stage lots a query.")] = 50,
    repetitions: Annotated[int, typer.Option(min=1, help="Passes over the queries.")] = 3,
    as_json: Json = False,
) -> None:
    """Time features and scores of one query's candidates, in process and through the local ranker server."""
    from benchmarks.rerank import run_benchmark

    result = run_benchmark(candidates=candidates, repetitions=repetitions)
    if as_json:
        print_json(result.to_dict())
        return
    ways = {"features": result.features, "features + booster in process": result.in_process, "through the server": result.server}
    rows = [(way, *(f"{ms:.2f}" for ms in (took.p50_ms, took.p95_ms, took.p99_ms))) for way, took in ways.items()]
    show_table(f"{candidates} candidates, {result.features.searches} queries, ms", ("", "p50", "p95", "p99"), rows)
    busy = f"processor time: {result.in_process_cpu_ms:.2f} ms in process, {result.server_cpu_ms:.2f} ms through the server"
    console.print(f"{busy}; {result.machine}", style="dim", highlight=False, soft_wrap=True)
