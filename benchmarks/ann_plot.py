"""The recall and latency of many indices in one picture."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.ann_standings import Point, Standing

INCHES = (10, 6.5)


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
    marks = {"gavel": "o-", "faiss": "s--", "hnswlib": "^--", "usearch": "v--"}
    for standing in standings:
        by_recall = sorted(standing.points, key=lambda point: point.recall)
        label = f"{standing.name}, {standing.file_bytes / standing.items:.0f} B"
        values = [point.recall for point in by_recall], [point.p50_ms for point in by_recall]
        axes.plot(*values, marks[standing.library], label=label, markersize=4, linewidth=1)
    front = pareto_front([point for standing in standings for point in standing.points])
    axes.plot(
        [point.recall for point in front], [point.p50_ms for point in front], color="black", linewidth=5, alpha=0.15, label="front"
    )
    axes.set(xlabel="recall@50", ylabel="p50 of single queries, ms, one thread", yscale="log", title=title)
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize="x-small", ncols=2, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))
    return path
