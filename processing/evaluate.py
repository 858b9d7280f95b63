"""Measures the ways of searching against each other, on the judgments of one split and over that split's own corpus."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib

from catalog.folder import CatalogFolder
from retrieval.errors import ReleaseError
from retrieval.evaluation import evaluate
from retrieval.index.base import Filter, IndexedItem, IndexStore, utc_now
from retrieval.indexing import read_part
from retrieval.item_files import read_items
from retrieval.items import Item
from retrieval.release import load_release
from retrieval.search import Mode, SearchRequest, SearchService

matplotlib.use("Agg")  # plots go to files: no display is needed

Progress = Callable[[int, int], None]
K = 50  # depth of the runs, as deep as the measures look and as serving retrieves


@dataclass(frozen=True)
class Variant:
    """One way of searching.

    Attributes:
        name: as the tables show it.
        service: searches the split's corpus.
        mode: hybrid, semantic or keyword.
        rerank: whether the re-ranker may order the candidates.
    """

    name: str
    service: SearchService
    mode: Mode
    rerank: bool = False


def build_corpus(catalog: CatalogFolder, split: str, release: Path, store: IndexStore) -> None:
    """Index the lots of one split, from a release that holds them among others, into a store of their own.

    Raises:
        ReleaseError: the release lacks lots of the split.
    """
    wanted = {item.item_id for item in _corpus_items(catalog, split)}
    manifest = load_release(release)
    index = store.create(manifest.tower_id, manifest.dimensions)
    report = index.upsert(entry for entry in _entries(release) if entry.item_id in wanted)
    if report.indexed != len(wanted):
        raise ReleaseError(
            f"release {release} holds {report.indexed} of the {len(wanted)} lots of split {split!r}; run `gavel embed`"
        )
    index.refresh()
    store.publish(index.name)


def measure(
    catalog: CatalogFolder, split: str, variants: list[Variant], progress: Progress | None = None
) -> dict[str, dict[str, float]]:
    """Run every judged query of a split through every variant.

    Lots whose auction has ended can no longer be found and do not count as relevant.

    Args:
        catalog: its judgments are measured against.
        split: val for choices, test for the report.
        variants: the ways of searching.
        progress: called with (searches done, searches in all).

    Returns:
        variant name -> measure name -> mean over the queries, in [0, 1].
    """
    now = utc_now()
    qrels = catalog.qrels(split)
    open_ids = {item.item_id for item in _corpus_items(catalog, split) if item.ends_at is None or item.ends_at > now}
    grades = {q: {i: g for i, g in graded.items() if i in open_ids} for q, graded in qrels.grades.items()}
    total, done = len(variants) * len(qrels.queries), 0
    quality: dict[str, dict[str, float]] = {}
    for variant in variants:
        run: dict[str, list[str]] = {}
        for query_id, query in qrels.queries.items():
            request = SearchRequest(query, K, variant.mode, Filter(now=now), variant.rerank)
            run[query_id] = [result.item_id for result in variant.service.search(request).results]
            done += 1
            if progress:
                progress(done, total)
        quality[variant.name] = evaluate(grades, run)
    return quality


def plot_quality(quality: Mapping[str, Mapping[str, float]], title: str, path: Path) -> None:
    """Draw the measures of every variant as grouped bars, with their figures, into a PNG.

    Args:
        quality: what measure() returned.
        title: above the plot.
        path: of the PNG.
    """
    from matplotlib import pyplot as plt

    measures = [name for name in next(iter(quality.values())) if name != "mrr"]
    width = 0.8 / len(quality)
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for number, (variant, values) in enumerate(quality.items()):
        places = [place + (number - (len(quality) - 1) / 2) * width for place in range(len(measures))]
        bars = axes.bar(places, [values[name] for name in measures], width * 0.92, label=variant)
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.set(title=title, ylim=(0, 1), xticks=range(len(measures)), ylabel="mean over queries")
    axes.set_xticklabels(measures)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=len(quality), loc="upper center", bbox_to_anchor=(0.5, -0.08))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _corpus_items(catalog: CatalogFolder, split: str) -> Iterator[Item]:
    return (row for path in catalog.item_files(split) for row in read_items(path) if isinstance(row, Item))


def _entries(release: Path) -> Iterator[IndexedItem]:
    for part in load_release(release).parts:
        yield from (entry for entry in read_part(release / part.name) if isinstance(entry, IndexedItem))
