"""`gavel index advise`: recommend an index type for a number of items, a memory and a recall."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gavel.workspace.console import console, progress, show_table
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, print_json
from retrieval.config.index_spec import parse_bytes
from retrieval.config.settings import Settings
from retrieval.errors import InvalidInput

if TYPE_CHECKING:
    from retrieval.index.ann.advice import Advice, Calibration

SAMPLE = 100_000  # maximum number of vectors of a release that are measured
QUERIES = 200


def advise(
    items: Annotated[str, typer.Option(help="Number of items, such as 50e6.")],
    memory: Annotated[str, typer.Option(help="Memory for the index and its process, such as 16GB.")],
    dimensions: Annotated[int, typer.Option(min=2, help="Length of the vectors.")] = 128,
    recall: Annotated[float, typer.Option(min=0.01, max=1.0, help="Target recall@50.")] = 0.98,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Measure on a sample of the newest release, instead of using the shipped measurements."),
    ] = False,
    release: Annotated[Path | None, typer.Option(help="Release folder or release_id to measure; implies --measure.")] = None,
    as_json: Json = False,
) -> None:
    """Recommend an index type for a number of items, a memory and a recall."""
    from retrieval.index.ann.advice import Calibration, closest, parse_items, recall_by_time, shards_needed
    from retrieval.index.ann.advice import advise as weigh

    count, limit = parse_items(items), parse_bytes(memory)
    calibration = _measure(release) if measure or release else Calibration.load()
    advices = weigh(calibration, count, dimensions, limit, recall)
    if not advices:
        raise InvalidInput("the calibration holds no measurement; make one with `gavel bench ann --calibration FILE`")
    chosen = advices[0] if not advices[0].why_not else None
    by_time = recall_by_time(calibration, count, dimensions, limit)
    if as_json:
        print_json(
            {
                "recommended": asdict(chosen) if chosen else None,
                "closest": None if chosen or not (near := closest(advices)) else asdict(near),
                "shards": 1 if chosen else shards_needed(advices, limit),
                "families": [asdict(advice) for advice in advices],
                "recall_by_time": [asdict(advice) for advice in by_time],
                "calibration": {"made_by": calibration.command, "data": calibration.data},
            }
        )
        return
    _show(advices, f"{count:,} x {dimensions} in {memory}, recall@50 {recall:g}")
    if by_time:
        pairs = (f"{advice.recall:g} in {'~' * advice.estimated}{advice.p50_ms:g} ms ({advice.family})" for advice in by_time)
        console.print(f"recall@50 by time, of what fits: {', '.join(pairs)}", highlight=False, soft_wrap=True)
    note = (
        "~ is a projection: the measured size nearest to this one, scaled by powers of the number of items that are fitted to the "
        "measured sizes; GB by formula; p50 on one thread with everything in memory: the full vectors to score from are on the "
        "disk, and reading them comes on top if they are not cached"
    )
    console.print(f"{note}; {calibration.command}; {calibration.data}", style="dim", highlight=False, soft_wrap=True)
    if chosen:
        console.print(f"GAVEL_EMBEDDED_INDEX={chosen.spec}", style="bold", highlight=False, soft_wrap=True)
    else:
        shards = shards_needed(advices, limit)
        advice = f"{shards} machines of this memory hold the smallest: OpenSearch shards it" if shards else "ask for less recall"
        console.print(f"no family is fit; {advice}", style="bold", highlight=False, soft_wrap=True)
        if near := closest(advices):
            mark = "~" * near.estimated
            what = f"{near.memory_bytes / 1e9:,.1f} GB, recall {mark}{near.recall:.3f}, p50 {mark}{near.p50_ms:g} ms"
            console.print(f"closest that fits: {what}; a larger rescore finds more and reads more", highlight=False, soft_wrap=True)
            console.print(f"GAVEL_EMBEDDED_INDEX={near.spec}", style="bold", highlight=False, soft_wrap=True)


def _show(advices: "list[Advice]", title: str) -> None:
    rows = [
        (
            advice.spec,
            f"{advice.memory_bytes / 1e9:,.2f}",
            f"{advice.disk_bytes / 1e9:,.2f}",
            f"{'~' * advice.estimated}{advice.recall:.3f}",
            f"{'~' * advice.estimated}{advice.p50_ms:g}",
            f"{'~' * advice.estimated}{advice.build_hours:g}",
            f"{advice.disk_reads or ''}",
            advice.why_not or "fits",
        )
        for advice in advices
    ]
    show_table(title, ("index", "memory GB", "disk GB", "recall@50", "p50 ms", "build h", "reads", ""), rows)


def _measure(release: Path | None) -> "Calibration":
    """Measure every index type on a sample of a release, at a third of the sample's size and at its full size."""
    from benchmarks.ann.benchmark import run_sizes
    from benchmarks.ann.candidates import candidate_indices
    from benchmarks.ann.data import release_vectors
    from retrieval.config.index_spec import default_specs

    workspace = Workspace(Settings.from_env())
    data, source, (count,) = release_vectors(workspace.release(release), QUERIES, 0.1)
    size = min(count, SAMPLE)
    with progress("build") as built, progress("ask") as passes:
        result = run_sizes(
            data,
            source,
            [size // 3, size],
            lambda _: candidate_indices(default_specs(source.dimensions), ()),
            workspace.benches / "advise",
            rounds=1,
            on_built=built,
            on_pass=passes,
        )
    return result.calibration("gavel index advise --measure")
