"""Plot recall and latency of many indices."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.ann.targets import IndexResult, Point

INCHES = (10, 6.5)
MARKS = {"gavel": "o-", "faiss": "s--", "hnswlib": "^--", "usearch": "v--"}
TICKS = (0.25, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
FULL_RECALL = 0.9995  # position of recall 1, which a logit axis never reaches


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other point beats in both recall and p50, by rising recall."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.recall, point.p50_ms)):
        if not front or point.p50_ms < front[-1].p50_ms:
            front.append(point)
    return front[::-1]


def plot(results: Sequence[IndexResult], title: str, path: Path) -> Path:
    """Draw p50 over recall with one line per candidate index, and the Pareto front of all points. Return `path`.

    Args:
        results: results of all candidates at one size.
        title: title above the plot.
        path: path of the PNG; its folder is created.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws without a display
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.add_subplot()
    colours: dict[str, str] = {}  # spec -> colour, for all libraries
    for result in results:
        colour = colours.setdefault(result.spec, f"C{len(colours)}")
        values = _coordinates(sorted(result.points, key=lambda point: point.recall))
        label = f"{result.name}, {result.file_bytes / result.items:.0f} B"
        axes.plot(*values, MARKS[result.library], color=colour, label=label, markersize=4, linewidth=1)
    front = pareto_front([point for result in results for point in result.points])
    axes.plot(*_coordinates(front), color="black", linewidth=5, alpha=0.15, label="front")
    axes.set(xlabel="recall@50", ylabel="p50 of single queries, ms, one thread", yscale="log", title=title)
    axes.set_xscale("logit")
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.set_xticks([], minor=True)
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize="x-small", ncols=2, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png")
    return path


def _coordinates(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [min(point.recall, FULL_RECALL) for point in points], [point.p50_ms for point in points]
