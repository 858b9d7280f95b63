"""The corpus of one split, as an evaluation searches it: its lots, its index, its judgments, and the moment it is searched at."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from catalog.folder import CatalogFolder
from retrieval.contracts.documents import IndexedItem
from retrieval.contracts.item_files import read_items
from retrieval.contracts.items import Item
from retrieval.contracts.parts import read_part
from retrieval.contracts.release import load_release
from retrieval.errors import ReleaseError
from retrieval.index.port import IndexStore, utc_now


@dataclass(frozen=True, slots=True)
class PublishedIndex:
    """An index that was built and made live.

    Attributes:
        name: physical name of the index.
        lots: different lots in it.
        dimensions: length of their vectors.
        build_s: seconds from the vectors to the finished index: database, graph and keyword index.
    """

    name: str
    lots: int
    dimensions: int
    build_s: float


def split_items(catalog: CatalogFolder, split: str) -> Iterator[Item]:
    """The lots that a split's queries search."""
    return (row for path in catalog.item_files(split) for row in read_items(path) if isinstance(row, Item))


def catalog_moment(catalog: CatalogFolder) -> datetime:
    """The moment that a catalogue speaks of: the newest listing, change or click in it, UTC.

    Searches over a catalogue that are measured or trained on happen then, whenever they are run: against the clock, hours to
    the end of an auction would be other features every time, and figures would not repeat.

    Returns:
        That moment; the present for a catalogue without any time.
    """
    known = [
        moment
        for path in catalog.item_files()
        for item in read_items(path)
        if isinstance(item, Item)
        for moment in (item.listed_at, item.updated_at)
        if moment is not None
    ]
    known += [click.timestamp for split in catalog.splits for click in catalog.clicks(split)]
    return max(known, default=None) or utc_now()


def open_grades(catalog: CatalogFolder, split: str, now: datetime) -> dict[str, dict[str, int]]:
    """The judgments of a split without the lots whose auction has ended: those can no longer be found.

    Returns:
        query_id -> item_id -> grade, 0 to 3.
    """
    open_ids = {item.item_id for item in split_items(catalog, split) if item.ends_at is None or item.ends_at > now}
    graded = catalog.qrels(split).grades
    return {query: {item: grade for item, grade in grades.items() if item in open_ids} for query, grades in graded.items()}


def build_corpus(catalog: CatalogFolder, split: str, release: Path, store: IndexStore) -> PublishedIndex:
    """Index the lots of one split, from a release that holds them among others, into a store of their own.

    Raises:
        ReleaseError: the release lacks lots of the split.
    """
    wanted = {item.item_id for item in split_items(catalog, split)}
    manifest = load_release(release)
    entries = [entry for entry in release_entries(release) if entry.item_id in wanted]
    published = publish_corpus(store, manifest.tower_id, manifest.dimensions, entries)
    if published.lots != len(wanted):
        raise ReleaseError(
            f"release {release} holds {published.lots} of the {len(wanted)} lots of split {split!r}; run `gavel embed`"
        )
    return published


def publish_corpus(store: IndexStore, tower_id: str, dimensions: int, entries: Iterable[IndexedItem]) -> PublishedIndex:
    """Index lots and make them live, on one thread: several may link a graph differently every time."""
    started = time.perf_counter()
    with threadpool_limits(1):
        index = store.create(tower_id, dimensions)
        index.upsert(entries)
        index.refresh()
        store.publish(index.name)
    return PublishedIndex(index.name, index.count(), dimensions, round(time.perf_counter() - started, 3))


def sample_items(catalog: CatalogFolder, split: str, release: Path, size: int, seed: int = 0) -> list[IndexedItem]:
    """Draw lots of a split from a release, each as likely as any other (reservoir sampling, Vitter 1985).

    Args:
        catalog: where the lots are from.
        split: whose corpus.
        release: holds their vectors.
        size: most lots that are drawn.
        seed: of the draw.

    Returns:
        At most `size` lots; all of them in the release's order when there are no more.
    """
    wanted = {item.item_id for item in split_items(catalog, split)}
    rng, kept = np.random.default_rng(seed), []
    for number, entry in enumerate(entry for entry in release_entries(release) if entry.item_id in wanted):
        if number < size:
            kept.append(entry)
        elif (place := int(rng.integers(number + 1))) < size:
            kept[place] = entry
    return kept


def release_entries(release: Path) -> Iterator[IndexedItem]:
    """The lots of a release with their vectors, part by part."""
    for part in load_release(release).parts:
        yield from (entry for entry in read_part(release / part.name) if isinstance(entry, IndexedItem))
