"""Plots of an evaluation, as PNG files on white."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")  # plots go to files: no display is needed

from matplotlib import pyplot as plt

# Okabe and Ito's palette, distinct for the colour-blind, without its yellow, which is too faint on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
DPI = 150
BARS_SHOWN = ("recall@10", "recall@50", "ndcg@10", "mrr")
CATEGORIES_SHOWN = 18  # the largest ones; the others share one grey
OTHER = "#c8c8c8"
MIN_POINTS = 5
PERPLEXITY = 30.0  # effective neighbours of a point (van der Maaten and Hinton 2008)


def plot_metrics(quality: Mapping[str, Mapping[str, float]], title: str, path: Path) -> None:
    """Draw a panel for each measure with a labelled bar for each system.

    Args:
        quality: system -> measure -> mean over the queries, in [0, 1].
        title: title above the plot.
        path: path of the PNG file.
    """
    names = list(quality)
    measures = [measure for measure in BARS_SHOWN if all(measure in values for values in quality.values())]
    with _figure(path, title, (2.6 * len(measures) + 2, 0.42 * len(names) + 1.5), columns=len(measures), sharey=True) as panels:
        for axes, measure in zip(panels, measures, strict=True):
            values = [quality[name][measure] for name in names]
            bars = axes.barh(names, values, 0.72, color=[_colour(place) for place in range(len(names))])
            axes.bar_label(bars, [f"{value:.3f}" for value in values], padding=3, fontsize=8)
            axes.set(title=measure, xlim=(0, 1.18), xticks=(0, 0.5, 1))
        panels[0].invert_yaxis()


def plot_recall_by_depth(quality: Mapping[str, Mapping[str, float]], title: str, path: Path) -> None:
    """Draw recall over depth, one line per system.

    Args:
        quality: system -> measure -> mean; the measures called recall@<depth> are drawn.
        title: title above the plot.
        path: path of the PNG file.
    """
    depths = [int(name.partition("@")[2]) for name in next(iter(quality.values())) if name.startswith("recall@")]
    with _figure(path, title, (8, 4.6)) as (axes,):
        for place, (name, values) in enumerate(quality.items()):
            recalls = [values[f"recall@{depth}"] for depth in depths]
            axes.plot(depths, recalls, marker="o", markersize=4, linewidth=1.8, label=name, color=_colour(place))
        axes.set(xscale="log", ylim=(0, 1.02), xlabel="lots looked at", ylabel="recall, mean over queries")
        axes.set_xticks(depths, [str(depth) for depth in depths])
        axes.minorticks_off()
        axes.grid(color="#e6e6e6")
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))


def plot_fusion_weights(
    curves: Mapping[str, Sequence[tuple[float, float]]], chosen: tuple[float, float], title: str, path: Path
) -> None:
    """Draw nDCG@10 of fused lists over the weight of the keyword list.

    Args:
        curves: kind of fusion -> points (weight of the keyword list in [0, 1], nDCG@10), ascending by weight.
        chosen: (weight, nDCG@10) of the point to mark.
        title: title above the plot.
        path: path of the PNG file.
    """
    with _figure(path, title, (8, 4.2)) as (axes,):
        for place, (name, points) in enumerate(curves.items()):
            weights, values = zip(*points, strict=True) if points else ((), ())
            axes.plot(weights, values, marker="o", markersize=4, linewidth=1.8, label=name, color=_colour(place))
        axes.plot(*chosen, "o", markersize=12, markerfacecolor="none", markeredgecolor="#333333", label="chosen")
        axes.set(xlabel="weight of the keyword list", ylabel="nDCG@10, mean over queries")
        axes.grid(color="#e6e6e6")
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))


def plot_latency(latency: Mapping[str, Mapping[str, float]], title: str, path: Path) -> None:
    """Draw the latency of one search: the median as a bar, the 95th and the 99th percentile as marks.

    Args:
        latency: system -> p50_ms, p95_ms, p99_ms in milliseconds.
        title: title above the plot.
        path: path of the PNG file.
    """
    names = list(latency)
    p50, p95, p99 = ([latency[name][key] for name in names] for key in ("p50_ms", "p95_ms", "p99_ms"))
    with _figure(path, title, (8, 0.42 * len(names) + 1.7)) as (axes,):
        bars = axes.barh(names, p50, 0.6, color="#0072B2", label="median")
        marks = [
            axes.plot(values, names, "|", color=colour, markersize=14, markeredgewidth=2.5, label=label)[0]
            for values, colour, label in ((p95, "#D55E00", "95 %"), (p99, "#555555", "99 %"))
        ]
        for place, worst in enumerate(p99):
            axes.annotate(f"{p50[place]:.1f} / {p95[place]:.1f} / {worst:.1f}", (worst, place), (9, 0), **_BESIDE)
        axes.set(xlabel="milliseconds a search", xlim=(0, 1.3 * max(p99)))
        axes.invert_yaxis()
        axes.legend(handles=[bars, *marks], frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), labelspacing=1)


def plot_space(vectors: NDArray[np.float32], categories: Sequence[str], title: str, path: Path, *, seed: int = 0) -> bool:
    """Draw items as points on a plane by the similarity of their vectors (t-SNE), coloured by category.

    Args:
        vectors: (N, D) float32 of unit length; sample a large release to a few thousand.
        categories: N names, "" for an item without a category. Each of the eighteen most frequent gets its own colour.
        title: title above the plot.
        path: path of the PNG file.
        seed: seed of the layout.

        Returns:
            True if the plot was drawn; False for fewer than 5 items.
    """
    from sklearn.manifold import TSNE

    if len(vectors) < MIN_POINTS:
        return False
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    layout = TSNE(perplexity=perplexity, metric="cosine", init="random", random_state=seed, n_jobs=1)
    points = layout.fit_transform(vectors)  # (N, D) -> (N, 2)
    names = np.array([category or "no category" for category in categories])
    shown = [name for name, _ in sorted(Counter(names.tolist()).items(), key=lambda pair: (-pair[1], pair[0]))][:CATEGORIES_SHOWN]
    with _figure(path, title, (8.4, 6)) as (axes,):
        size = 9 if len(vectors) > 1_000 else 16
        for place, name in enumerate(shown):
            own = points[names == name]
            axes.scatter(*own.T, s=size, color=plt.get_cmap("tab20")(_SPREAD[place]), linewidths=0, label=f"{name} ({len(own)})")
        rest = ~np.isin(names, shown)
        if rest.any():  # last in the legend, and below the others
            axes.scatter(*points[rest].T, s=size, color=OTHER, linewidths=0, label=f"other ({rest.sum()})", zorder=0)
        axes.set(xticks=(), yticks=())
        axes.spines[:].set_visible(False)
        axes.set_aspect("equal", adjustable="datalim")
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), markerscale=2.2)
    return True


_BESIDE: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 8}
_SPREAD = (0, 2, 4, 6, 8, 10, 12, 16, 18, 1, 3, 5, 7, 9, 11, 13, 17, 19)  # of tab20: full colours, then light ones; no grey


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


@contextmanager
def _figure(path: Path, title: str, size: tuple[float, float], *, columns: int = 1, sharey: bool = False) -> Iterator[list[Any]]:
    """Yield panels side by side and write the figure to the path at the end."""
    figure, panels = plt.subplots(1, columns, figsize=size, layout="constrained", squeeze=False, sharey=sharey)
    try:
        figure.suptitle(title, fontsize=11)
        for axes in panels[0]:
            axes.spines[["top", "right"]].set_visible(False)
        yield list(panels[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI, facecolor="white")
    finally:
        plt.close(figure)
