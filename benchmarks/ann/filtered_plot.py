"""Plot recall and latency over the share of vectors that pass a filter."""

from pathlib import Path

from benchmarks.ann.filtered import FilteredResult
from benchmarks.ann.filters import KINDS

INCHES = (14, 7)
MARKS = {"gavel": "-", "embedded": "-", "faiss": "--", "afterwards": ":"}


def plot(result: FilteredResult, k: int, path: Path) -> Path:
    """Draw one column per kind of filter: recall above, p50 below, one line per system. Return `path`.

    Args:
        result: result of a run.
        k: number of results of the drawn rows.
        path: path of the PNG; its folder is created.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws without a display
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.subplots(2, len(KINDS), sharex=True, sharey="row")
    for column, kind in enumerate(KINDS):
        rows = [row for row in result.rows if (row.kind, row.k) == (kind, k)]
        for system in dict.fromkeys(row.system for row in rows if row.system != "exact"):
            of_system = sorted((row for row in rows if row.system == system), key=lambda row: row.share)
            fractions, line = [row.share for row in of_system], MARKS[system.split()[0]]
            axes[0][column].plot(fractions, [row.recall for row in of_system], line, marker=".", linewidth=1, label=system)
            axes[1][column].plot(fractions, [row.p50_ms for row in of_system], line, marker=".", linewidth=1, label=system)
        axes[0][column].set(title=kind, xscale="log")
        axes[1][column].set(xlabel="share that passes", yscale="log")
    axes[0][0].set(ylabel=f"recall@{k}")
    axes[1][0].set(ylabel="p50 of single queries, ms, one thread")
    axes[0][0].legend(fontsize="x-small")
    figure.suptitle(f"{result.lots:,} x {result.data}")
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png")
    return path
