"""`gavel bench …`: measurements of this machine."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.cli.ann import ann
from benchmarks.cli.esci import esci
from benchmarks.cli.filters import filters
from benchmarks.cli.repetitions import batches, caches
from gavel.workspace.console import console, notes, progress, show_table
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, print_json, report
from retrieval.config.settings import Settings

if TYPE_CHECKING:
    from benchmarks.speed.query_path import QueryPathResult
    from processing.evaluation.runs import Latency
    from retrieval.index.embedded.store import EmbeddedStore

Lots = Annotated[int, typer.Option(min=100, help="Number of lots; copies of the release's lots.")]
Dimensions = Annotated[int, typer.Option(min=8, help="Length to which the vectors are cut.")]
Release = Annotated[Path | None, typer.Option(help="Release folder or release_id; the newest release by default.")]

bench_app = typer.Typer(no_args_is_help=True, help="Benchmark this machine beside named references.")
bench_app.command()(ann)
bench_app.command()(filters)
bench_app.command()(batches)
bench_app.command()(caches)
bench_app.command()(esci)


@bench_app.command()
def embed(
    preset: Annotated[str, typer.Option(help="Architecture: compact, or distilbert-resnet50; its weights are random.")] = "compact",
    lots: Annotated[int, typer.Option(min=1, help="Number of lots; each gets its own JPEG.")] = 1_024,
    photo_size: Annotated[int, typer.Option(min=16, help="Side of the JPEGs in pixels.")] = 640,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode photos; 0 decodes in a thread.")] = 0,
    device: Annotated[str | None, typer.Option(help="torch device; the GPU by default, if there is one.")] = None,
    repetitions: Annotated[int, typer.Option(min=1, help="Passes of job and model, in turns; the median is reported.")] = 5,
    as_json: Json = False,
) -> None:
    """Time embedding of lots from JPEG files and titles, beside the bare model over the same batches in memory."""
    from benchmarks.speed.embed import PHASES, run_benchmark

    with (
        tempfile.TemporaryDirectory(prefix="gavel-bench-") as folder,
        progress("photos") as photo_progress,
        progress("passes") as pass_progress,
    ):
        result = run_benchmark(
            preset,
            lots=lots,
            photo_size=photo_size,
            workers=workers,
            device=device,
            repetitions=repetitions,
            folder=Path(folder),
            photos=photo_progress,
            passes=pass_progress,
        )
    if as_json:
        print_json(result.to_dict())
        return
    rows = [
        ("from JPEG files to a committed release", f"{result.items_per_s:,.1f} items/s"),
        ("the model alone, same batches in memory", f"{result.model_items_per_s:,.1f} items/s"),
        ("ratio, median of the repetitions", f"{result.ratio:.3f}"),
        ("ratio of processor time, model / job", f"{result.cpu_ratio:.3f}"),
        *((f"busy: {stage}", f"{result.share(stage):.1%}") for stage in PHASES),
    ]
    show_table(f"{preset}, {lots} lots, JPEGs of {photo_size} pixels ({result.photo_kb:.0f} kB), {workers} workers", ("", ""), rows)
    note = f"{result.hardware}; load before {result.load}; {result.date}; stages overlap"
    console.print(note, style="dim", highlight=False, soft_wrap=True)


@bench_app.command()
def encode(
    preset: Annotated[str, typer.Option(help="Architecture; its weights are random.")] = "distilbert-resnet50",
    tokens: Annotated[int, typer.Option(min=1, max=10, help="Tokens of a query, without [CLS] and [SEP].")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Passes over the queries; the three encoders take turns.")] = 15,
    as_json: Json = False,
) -> None:
    """Time the encoding of a query on one thread: torch in float32, the int8 artefact, a small query tower."""
    from benchmarks.speed.encode import run_benchmark

    with progress("rounds") as step:
        result = run_benchmark(preset, tokens=tokens, rounds=rounds, progress=step)
    if as_json:
        print_json(result.to_dict())
        return
    rows = [
        (
            name,
            *(f"{ms:.3f}" for ms in (system.latency.p50_ms, system.latency.p99_ms, system.cpu_ms)),
            f"{system.ratio:.1f}",
            f"{system.cpu_ratio:.1f}",
        )
        for name, system in result.encoders.items()
    ]
    header = ("", "p50 ms", "p99 ms", "processor ms", "times faster", "by processor time")
    show_table(f"{preset}: queries of {tokens} tokens, one thread, {rounds} rounds", header, rows)
    sizes = ", ".join(f"{file} {size / 1e6:.1f} MB" for file, size in result.bytes.items())
    console.print(f"{sizes}; {result.machine}; {result.date}", style="dim", highlight=False, soft_wrap=True)


@bench_app.command()
def rerank(
    candidates: Annotated[int, typer.Option(min=1, max=100, help="Candidates per query.")] = 50,
    repetitions: Annotated[int, typer.Option(min=1, help="Passes over the queries.")] = 3,
    as_json: Json = False,
) -> None:
    """Time features and scores of one query's candidates, in this process and through the local ranker server."""
    from benchmarks.speed.rerank import run_benchmark

    result = run_benchmark(candidates=candidates, repetitions=repetitions)
    if as_json:
        print_json(result.to_dict())
        return
    latencies = {
        "features": result.features,
        "features + booster in process": result.in_process,
        "through the server": result.server,
    }
    _show_latencies(f"{candidates} candidates, {result.features.searches} queries, ms", latencies)
    busy = f"processor time: {result.in_process_cpu_ms:.2f} ms in process, {result.server_cpu_ms:.2f} ms through the server"
    console.print(f"{busy}; {result.machine}", style="dim", highlight=False, soft_wrap=True)


@bench_app.command()
def query(
    lots: Lots = 1_000_000,
    dimensions: Dimensions = 128,
    release: Release = None,
    queries: Annotated[int, typer.Option(min=1, help="Number of different queries, made of the lots' titles.")] = 300,
    repetitions: Annotated[int, typer.Option(min=1, help="Passes over the queries.")] = 3,
    as_json: Json = False,
) -> None:
    """Time complete searches over many lots, and their parts by themselves; GAVEL_INDEX selects the index."""
    from benchmarks.speed.many_lots import CutEncoder, index_of_copies, questions
    from benchmarks.speed.query_path import run_benchmark
    from gavel.workspace.wiring import load_encoder, load_ranker, open_store
    from retrieval.contracts.release import load_release

    settings = Settings.from_env()
    workspace = Workspace(settings)
    release_folder = workspace.release(release)
    tower_id = load_release(release_folder).tower_id
    alias = _bench_alias(release_folder, lots, dimensions)
    bench_settings = replace(settings, index_alias=alias, request_timeout_s=600.0)
    bare = None
    if settings.index == "opensearch":
        from retrieval.index.opensearch.client import connect

        store, bare = open_store(bench_settings), connect(settings.opensearch_url, settings.request_timeout_s)
    else:
        from retrieval.index.embedded.store import EmbeddedStore

        store = EmbeddedStore(workspace.benches, alias)
    encoder, ranker = CutEncoder(load_encoder(settings, tower_id), dimensions), load_ranker(settings, tower_id)
    texts = questions(release_folder, queries)
    with progress("index lots") as written:
        index_of_copies(store, release_folder, lots, dimensions, written)
    with progress("queries") as query_progress:
        result = run_benchmark(store, encoder, ranker, texts, repetitions=repetitions, bare=bare, progress=query_progress)
    if as_json:
        print_json(result.to_dict())
    else:
        _show_query_path(result, reranked=ranker is not None)


@bench_app.command()
def habits(
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions with other lots, buyers and clicks.")] = 3,
    as_json: Json = False,
) -> None:
    """Compare re-rankers with and without the features of a known buyer, on clicks of simulated buyers."""
    from benchmarks.quality.known_buyers import SYSTEMS, run_benchmark

    result = run_benchmark(seeds)
    if as_json:
        print_json(result.to_dict())
        return
    for kind in result.known:
        rows = [
            (s, f"{result.known[kind][s]:.3f}", f"{result.anonymous[kind][s]:.3f}", f"{result.accepted[kind][s]} of {seeds}")
            for s in SYSTEMS
        ]
        header = ("features", "nDCG@10, known", "nDCG@10, anonymous", "trained on known buyers")
        show_table(f"buyers {kind}: {result.lists} test lists, {seeds} seeds", header, rows)
    console.print(f"{result.machine}; {result.date}", style="dim", highlight=False, soft_wrap=True)


@bench_app.command()
def buyers(
    lots: Lots = 1_000_000,
    dimensions: Dimensions = 128,
    release: Release = None,
    count: Annotated[
        int, typer.Option("--buyers", min=1, help="Number of different buyers, with 1 to 200 interactions each.")
    ] = 300,
    heads: Annotated[
        int, typer.Option(min=0, help="Attention heads of a buyer tower with random weights; 0 takes the weighted average.")
    ] = 1,
    repetitions: Annotated[int, typer.Option(min=1, help="Passes over the buyers.")] = 3,
    as_json: Json = False,
) -> None:
    """Time `/encode_buyer` and `/retrieve` over many lots in the embedded index, beside a bare vector search by faiss."""
    from benchmarks.speed.buyer_path import random_attention, run_benchmark
    from benchmarks.speed.many_lots import copy_ids
    from retrieval.buyers.vector import AVERAGE

    workspace = Workspace(Settings.from_env())
    release_folder = workspace.release(release)
    store = _copies(workspace, release_folder, lots, dimensions)
    with progress("buyers") as query_progress:
        tower = random_attention(dimensions, heads) if heads else AVERAGE
        result = run_benchmark(
            store,
            workspace.benches,
            tower,
            copy_ids(release_folder, lots),
            buyers=count,
            repetitions=repetitions,
            progress=query_progress,
        )
    if as_json:
        print_json(result.to_dict())
        return
    latencies = {
        "POST /encode_buyer": result.encode_buyer,
        "POST /retrieve with the vector": result.retrieve,
        "both, one after the other": result.both,
        "POST /retrieve with the interactions": result.in_one,
        "bare vector search, plain faiss": result.bare,
    }
    size = f"{result.lots:,} lots of {result.dimensions} dimensions"
    title = f"{size}, buyers with {result.mean_interactions} interactions on average, ms"
    _show_latencies(title, latencies)
    console.print(f"{result.index}; {result.machine}", style="dim", highlight=False, soft_wrap=True)


@bench_app.command()
def fresh(
    lots: Lots = 1_000_000,
    dimensions: Dimensions = 128,
    release: Release = None,
    written: Annotated[int, typer.Option(min=1, help="Number of new lots.")] = 30_000,
    as_json: Json = False,
) -> None:
    """Time writes of new lots to the embedded index, and concurrent searches."""
    from benchmarks.speed.fresh_lots import run_benchmark

    workspace = Workspace(Settings.from_env())
    release_folder = workspace.release(release)
    _copies(workspace, release_folder, lots, dimensions).close()
    alias = _bench_alias(release_folder, lots, dimensions)
    result = run_benchmark(workspace.benches, alias, written=written, on_phase=lambda phase: notes.print(phase, style="dim"))
    if as_json:
        print_json(result.to_dict())
        return
    latencies = {"idle": result.idle, "while lots are written": result.writing, "during the graph rebuild": result.renewing}
    _show_latencies(f"searches over {result.lots:,} lots and {result.written:,} new ones, ms", latencies)
    words = result.words
    latencies = {"idle": words.idle, "while lots are written": words.writing, "during the keyword merge": words.joining}
    _show_latencies(f"hybrid searches; {words.joined:,} lots are merged in {words.joining_s:.1f} s, ms", latencies)
    search_note = (
        f"a lot is found {result.first_visible_ms:.1f} ms after it is sent, by its word after {words.first_visible_ms:.1f} ms"
    )
    merge_note = f"the keyword search that takes {words.joined:,} in takes {words.caught_up_ms:.0f} ms"
    note = f"{result.upserts_a_second:,.0f} upserts a second; {search_note}; {merge_note}"
    console.print(f"{note}; {result.machine}", style="dim", highlight=False, soft_wrap=True)


@bench_app.command()
def live(
    lots: Lots = 50_000,
    dimensions: Dimensions = 128,
    release: Release = None,
    updates: Annotated[int, typer.Option(min=100, help="Updates of states per second.")] = 5_000,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each phase.")] = 20.0,
    new_lots: Annotated[
        int,
        typer.Option(
            min=0,
            help="Instead put so many new lots with photos, one a second, encoded by DistilBERT and ResNet50 with random weights.",
        ),
    ] = 0,
    as_json: Json = False,
) -> None:
    """Time bids beside searches, in the index of the settings: when they count, what they cost, what searches take."""
    if new_lots:
        _time_new_lots(new_lots, as_json)
        return
    from benchmarks.speed.fresh_lots import copied_index
    from benchmarks.speed.live_states import LiveStatesResult, run_benchmark
    from benchmarks.speed.many_lots import copy_ids, opensearch_copies
    from retrieval.index.port import VectorIndex

    settings = Settings.from_env()
    workspace = Workspace(settings)
    release_folder = workspace.release(release)
    ids, alias = copy_ids(release_folder, lots), _bench_alias(release_folder, lots, dimensions)

    def measure(
        index: VectorIndex, server_cpu_s: Callable[[], float] = lambda: 0.0, rebuilding: Callable[[], bool] = lambda: False
    ) -> LiveStatesResult:
        return run_benchmark(
            index,
            settings.index,
            ids,
            updates_per_second=updates,
            seconds=seconds,
            server_cpu_s=server_cpu_s,
            rebuilding=rebuilding,
            on_phase=lambda phase: notes.print(phase, style="dim"),
        )

    if settings.index == "opensearch":
        with progress("index lots") as step, opensearch_copies(settings, release_folder, lots, dimensions, step) as (index, cpu_s):
            result = measure(index, cpu_s)
    else:
        _copies(workspace, release_folder, lots, dimensions).close()
        with copied_index(workspace.benches, alias) as embedded:
            result = measure(embedded, rebuilding=lambda: embedded.rebuilding_vectors)

    def show() -> None:
        latencies = {"quiet": result.quiet, "during the updates": result.busy, "afterwards": result.after}
        _show_latencies(f"searches over {result.lots:,} lots in {result.index}, {updates:,} updates a second wanted, ms", latencies)
        _show_latencies("from an update to the answer that sees it, ms", {"visible": result.visible})
        console.print(
            f"{result.updates_a_second:,.0f} updates a second; an update takes {result.update_cpu_us:,.0f} us of processor time, "
            f"indexing a lot {result.item_to_update_cpu:.0f} times as much; {result.rebuilds} rebuilds of the graph",
            highlight=False,
            soft_wrap=True,
        )

    result.report(as_json, show)


def _time_new_lots(count: int, as_json: bool) -> None:
    from benchmarks.speed.live_items import run_benchmark

    settings = Settings.from_env()
    with tempfile.TemporaryDirectory(prefix="gavel-live-") as folder:
        home = replace(settings, home=Path(folder), towers_uri="")
        result = run_benchmark(home, count, on_phase=lambda phase: notes.print(phase, style="dim"))

    def show() -> None:
        steps = {
            "from the row to the answer": result.visible,
            "photo": result.photo,
            "encode": result.encode,
            "index": result.index,
        }
        _show_latencies(f"{result.put} new lots of {result.preset}, one a second, beside {result.lots:,} lots, ms", steps)

    result.report(as_json, show)


def _copies(workspace: Workspace, release: Path, lots: int, dimensions: int) -> "EmbeddedStore":
    """Open the benchmark index of `lots` copies of a release's items; build it if it is missing."""
    from benchmarks.speed.many_lots import index_of_copies
    from retrieval.index.embedded.store import EmbeddedStore

    store = EmbeddedStore(workspace.benches, _bench_alias(release, lots, dimensions))
    with progress("index lots") as written:
        index_of_copies(store, release, lots, dimensions, written)
    return store


def _bench_alias(release: Path, lots: int, dimensions: int) -> str:
    """Return the alias of the benchmark index of `lots` copies of a release's items."""
    return f"bench-{release.name}-{lots}x{dimensions}".lower()


def _show_query_path(result: "QueryPathResult", reranked: bool) -> None:
    """Print the latencies of served searches, of their steps, and of the same steps by themselves."""
    stages = {f"  {stage}, in it": latency for stage, latency in result.stages.items()}
    alone = {f"{part} alone": latency for part, latency in result.alone.items()}
    latencies = {"search, as it is served": result.whole, **stages, **alone, "encode + retrieve + rerank": result.sum_alone}
    title = f"{result.lots:,} lots of {result.dimensions} dimensions, {result.whole.searches} searches, ms"
    _show_latencies(title, latencies)
    note = "" if reranked else "; nothing was re-ranked, because this tower has no re-ranker: `gavel train --reranker`"
    console.print(f"p50 {result.overhead:.3f} of its parts, p99 {result.tail:.2f} of p50{note}", highlight=False, soft_wrap=True)
    console.print(f"{result.index}; {result.machine}", style="dim", highlight=False, soft_wrap=True)


def _show_latencies(title: str, latencies: Mapping[str, "Latency"]) -> None:
    rows = [
        (name, *(f"{ms:.2f}" for ms in (latency.p50_ms, latency.p95_ms, latency.p99_ms))) for name, latency in latencies.items()
    ]
    show_table(title, ("", "p50", "p95", "p99"), rows)


@bench_app.command()
def load(
    release: Annotated[Path | None, typer.Option(help="Release whose titles are searched for; the newest one by default.")] = None,
    queries: Annotated[int, typer.Option(min=1, help="Number of different queries.")] = 2_000,
    seconds: Annotated[float, typer.Option(min=1.0, help="Duration of each load.")] = 20.0,
    as_json: Json = False,
) -> None:
    """Load `gavel serve`, pinned to one core, at full speed, then at half of that rate; only over loopback."""
    from benchmarks.speed.load import run_benchmark
    from benchmarks.speed.many_lots import questions

    texts = questions(Workspace(Settings.from_env()).release(release), queries)
    result = run_benchmark(texts, seconds=seconds, on_phase=lambda phase: notes.print(phase, style="dim"))
    if as_json:
        print_json(result.to_dict())
        return
    loads = {"as fast as it answers": result.limit, "half of that": result.half}
    rows = [
        (
            name,
            f"{run.rate:.1f}",
            *(f"{ms:.1f}" for ms in (run.latency.p50_ms, run.latency.p95_ms, run.latency.p99_ms)),
            f"{sum(run.errors.values())}",
            f"{run.reranked:.0%}",
            f"{run.server_cpu:.2f}",
        )
        for name, run in loads.items()
    ]
    header = ("", "queries/s", "p50 ms", "p95 ms", "p99 ms", "errors", "re-ranked", "server's core")
    show_table(f"{result.lots:,} lots, hybrid, one core", header, rows)
    console.print(f"server {result.rss_mb:.0f} MB; {result.machine}", style="dim", highlight=False, soft_wrap=True)


@bench_app.command()
def monitoring(
    release: Annotated[Path | None, typer.Option(help="Release whose titles are searched for; the newest one by default.")] = None,
    queries: Annotated[int, typer.Option(min=1, help="Number of different queries.")] = 500,
    rounds: Annotated[int, typer.Option(min=1, help="Passes over the queries.")] = 5,
    as_json: Json = False,
) -> None:
    """Time searches with and without metrics, in turns in one process, without caches."""
    from benchmarks.speed.many_lots import questions
    from benchmarks.speed.monitoring import run_benchmark

    texts = questions(Workspace(Settings.from_env()).release(release), queries)
    with progress("searches") as searched:
        result = run_benchmark(texts, rounds=rounds, on_search=searched)
    report(result.to_dict(), as_json)


@bench_app.command()
def start(
    query: Annotated[str | None, typer.Option(help="Query to search for, in the OpenSearch of the settings.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Number of fresh interpreters.")] = 5,
    as_json: Json = False,
) -> None:
    """Time the query Lambda's start: its imports, and the time until its first answer."""
    from benchmarks.speed.cold_start import run_benchmark

    with progress("starts") as started:
        result = run_benchmark(query, runs=runs, on_run=started)
    report(result.to_dict(), as_json)
