"""Recall and latency over the share of lots that a filter lets through, in one picture."""

from pathlib import Path

from benchmarks.ann.filtered import FilteredResult
from benchmarks.ann.filters import KINDS

INCHES = (14, 7)
MARKS = {"gavel": "-", "embedded": "-", "faiss": "--", "afterwards": ":"}


def plot(result: FilteredResult, k: int, path: Path) -> Path:
    """Draw a column a kind of filter: recall above, p50 below, a line a way of searching.

    Args:
        result: of which one k is drawn.
        k: lots that were wanted.
        path: of the PNG; its folder is made.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws without a display
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.subplots(2, len(KINDS), sharex=True, sharey="row")
    for column, kind in enumerate(KINDS):
        rows = [row for row in result.rows if (row.kind, row.k) == (kind, k)]
        for way in dict.fromkeys(row.way for row in rows if row.way != "exact"):
            mine = sorted((row for row in rows if row.way == way), key=lambda row: row.share)
            shares, line = [row.share for row in mine], MARKS[way.split()[0]]
            axes[0][column].plot(shares, [row.recall for row in mine], line, marker=".", linewidth=1, label=way)
            axes[1][column].plot(shares, [row.p50_ms for row in mine], line, marker=".", linewidth=1, label=way)
        axes[0][column].set(title=kind, xscale="log")
        axes[1][column].set(xlabel="share that passes", yscale="log")
    axes[0][0].set(ylabel=f"recall@{k}")
    axes[1][0].set(ylabel="p50 of single queries, ms, one thread")
    axes[0][0].legend(fontsize="x-small")
    figure.suptitle(f"{result.lots:,} x {result.data}")
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))
    return path
