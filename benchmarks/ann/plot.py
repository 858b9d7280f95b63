"""The recall and latency of many indices in one picture."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.ann.targets import Point, Standing

INCHES = (10, 6.5)
MARKS = {"gavel": "o-", "faiss": "s--", "hnswlib": "^--", "usearch": "v--"}
TICKS = (0.25, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
WHOLE = 0.9995  # where a recall of 1 is drawn, for the axis never gets there


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both recall and p50, by rising recall."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.recall, point.p50_ms)):
        if not front or point.p50_ms < front[-1].p50_ms:
            front.append(point)
    return front[::-1]


def plot(standings: Sequence[Standing], title: str, path: Path) -> Path:
    """Draw p50 over recall, a line a contender, and the Pareto front of all of them.

    Args:
        standings: of one size.
        title: above it.
        path: of the PNG; its folder is made.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws without a display
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.add_subplot()
    colours: dict[str, str] = {}  # of a spec, whoever searches it
    for standing in standings:
        colour = colours.setdefault(standing.spec, f"C{len(colours)}")
        values = _drawn(sorted(standing.points, key=lambda point: point.recall))
        label = f"{standing.name}, {standing.file_bytes / standing.items:.0f} B"
        axes.plot(*values, MARKS[standing.library], color=colour, label=label, markersize=4, linewidth=1)
    front = pareto_front([point for standing in standings for point in standing.points])
    axes.plot(*_drawn(front), color="black", linewidth=5, alpha=0.15, label="front")
    axes.set(xlabel="recall@50", ylabel="p50 of single queries, ms, one thread", yscale="log", title=title)
    axes.set_xscale("logit")  # type: ignore[arg-type]  # which the stubs leave out
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.set_xticks([], minor=True)
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize="x-small", ncols=2, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))
    return path


def _drawn(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [min(point.recall, WHOLE) for point in points], [point.p50_ms for point in points]
