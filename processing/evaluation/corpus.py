"""The corpus of one split for an evaluation: items, index, judgments, and the moment of its searches."""

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
from retrieval.index.filters import utc_now
from retrieval.index.port import IndexStore


@dataclass(frozen=True, slots=True)
class PublishedIndex:
    """An index that has been built and made live.

    Attributes:
        name: physical name of the index.
        items: number of distinct items in the index.
        dimensions: length of the vectors.
        build_s: seconds from the vectors to the finished index: database, graph and keyword index.
    """

    name: str
    items: int
    dimensions: int
    build_s: float


def split_items(catalog: CatalogFolder, split: str) -> Iterator[Item]:
    """Yield the items that a split's queries search."""
    return (row for path in catalog.item_files(split) for row in read_items(path) if isinstance(row, Item))


def catalog_moment(catalog: CatalogFolder) -> datetime:
    """Return a catalogue's own moment: the time of its newest listing, change or click, in UTC; the present if it has no times.

    Searches for measurements and training happen at this moment. Otherwise the hours to the end of an auction would differ from
    run to run, and results would not repeat.
    """
    moments = [
        moment
        for path in catalog.item_files()
        for item in read_items(path)
        if isinstance(item, Item)
        for moment in (item.listed_at, item.updated_at)
        if moment is not None
    ]
    moments += [click.timestamp for split in catalog.splits for click in catalog.clicks(split)]
    return max(moments, default=None) or utc_now()


def open_grades(catalog: CatalogFolder, split: str, now: datetime) -> dict[str, dict[str, int]]:
    """Return the judgments of a split without items whose auction has ended, because no search returns those.

    Returns:
        query_id -> item_id -> grade, 0 to 3.
    """
    open_ids = {item.item_id for item in split_items(catalog, split) if item.ends_at is None or item.ends_at > now}
    graded = catalog.qrels(split).grades
    return {query: {item: grade for item, grade in grades.items() if item in open_ids} for query, grades in graded.items()}


def build_corpus(catalog: CatalogFolder, split: str, release: Path, store: IndexStore) -> PublishedIndex:
    """Index the items of one split, taken from a release, and make the index live.

    Raises:
        ReleaseError: the release lacks items of the split.
    """
    item_ids = {item.item_id for item in split_items(catalog, split)}
    manifest = load_release(release)
    items = [item for item in release_items(release) if item.item_id in item_ids]
    published = publish_corpus(store, manifest.tower_id, manifest.dimensions, items)
    if published.items != len(item_ids):
        raise ReleaseError(
            f"release {release} holds {published.items} of the {len(item_ids)} lots of split {split!r}; run `gavel embed`"
        )
    return published


def publish_corpus(store: IndexStore, tower_id: str, dimensions: int, items: Iterable[IndexedItem]) -> PublishedIndex:
    """Index items and make the index live. Single-threaded, because several threads link a graph differently every time."""
    started = time.perf_counter()
    with threadpool_limits(1):
        index = store.create(tower_id, dimensions)
        index.upsert(items)
        index.refresh()
        store.publish(index.name)
    return PublishedIndex(index.name, index.count(), dimensions, round(time.perf_counter() - started, 3))


def sample_items(catalog: CatalogFolder, split: str, release: Path, size: int, seed: int = 0) -> list[IndexedItem]:
    """Return a uniform sample of a split's items from a release (reservoir sampling, Vitter 1985).

    Args:
        catalog: source of the items.
        split: split whose corpus is sampled.
        release: folder of the release with the vectors.
        size: largest number of items in the sample.
        seed: seed of the sample.

        Returns:
            At most `size` items. If the split has no more than `size`, all of its items in the release's order.
    """
    item_ids = {item.item_id for item in split_items(catalog, split)}
    rng, sample = np.random.default_rng(seed), list[IndexedItem]()
    for number, item in enumerate(item for item in release_items(release) if item.item_id in item_ids):
        if number < size:
            sample.append(item)
        elif (place := int(rng.integers(number + 1))) < size:
            sample[place] = item
    return sample


def release_items(release: Path) -> Iterator[IndexedItem]:
    """Yield the items of a release with their vectors, part by part."""
    for part in load_release(release).parts:
        yield from (item for item in read_part(release / part.name) if isinstance(item, IndexedItem))
