"""Large indices for benchmarks: copies of a release's items, with vectors near the original's.

Texts, prices and times are those of the originals. So words have the same relative document frequencies. Vectors are cut to the
given length. Noise moves each copy, because equal vectors would degenerate the graph.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from processing.evaluation.corpus import release_items
from retrieval.config.settings import Settings
from retrieval.contracts.documents import IndexedItem, Vector
from retrieval.contracts.items import query_text
from retrieval.contracts.release import load_release
from retrieval.encoders.query_encoder import to_unit_length
from retrieval.errors import IndexMissing, InvalidInput
from retrieval.index.port import IndexStore, VectorIndex
from retrieval.search.live_index import Encoder

WRITE_TIMEOUT_S = 120.0
NOISE = 0.3  # norm of the noise on a unit vector: cosines are about .96 to the original, .92 between copies
ITEMS_PER_WRITE = 20_000  # items between two steps of the progress bar
WORDS_PER_QUERY = (2, 5)  # minimum and maximum


@contextmanager
def opensearch_copies(
    settings: Settings, release: Path, lots: int, dimensions: int, progress: Callable[[int, int], None]
) -> Iterator[tuple[VectorIndex, Callable[[], float]]]:
    """Yield an index of copies on the OpenSearch of the settings, and a function that returns the servers' processor time.

    The index and its states are deleted afterwards. The processor time is in seconds, of all nodes since their start.
    """
    from retrieval.index.opensearch.client import connect
    from retrieval.index.opensearch.store import open_store

    alias = f"bench-{uuid4().hex[:8]}"
    client = connect(settings.opensearch_url, WRITE_TIMEOUT_S)

    def cpu_s() -> float:
        nodes = client.nodes.stats(metric="process")["nodes"].values()
        return float(sum(node["process"]["cpu"]["total_in_millis"] for node in nodes)) / 1_000

    try:
        yield index_of_copies(open_store(replace(settings, index_alias=alias)), release, lots, dimensions, progress), cpu_s
    finally:
        client.indices.delete(index=f"{alias}-*", params={"request_timeout": WRITE_TIMEOUT_S})
        client.close()


class CutEncoder:
    """A query tower with vectors cut like those of the copies. It is for timing, not for quality."""

    def __init__(self, encoder: Encoder, dimensions: int) -> None:
        self._encoder, self._dimensions = encoder, dimensions

    @property
    def tower_id(self) -> str:
        """Id of the tower."""
        return self._encoder.tower_id

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts to (N, dimensions) float32 vectors of unit length."""
        return to_unit_length(self._encoder.encode(texts)[:, : self._dimensions])


def copies(release: Path, lots: int, dimensions: int, seed: int = 7) -> Iterator[IndexedItem]:
    """Yield `lots` items: the items of a release, then copies of them with new ids and noise.

    Args:
        release: folder of a release with unique item ids.
        lots: number of items.
        dimensions: length of the vectors, at most the length in the release.
        seed: seed of the noise.
    """
    originals, rng = list(release_items(release)), np.random.default_rng(seed)
    vectors = to_unit_length(np.stack([entry.vector for entry in originals])[:, :dimensions])  # (N, D)
    for copy, start in enumerate(range(0, lots, len(originals))):
        noise = rng.normal(scale=NOISE / np.sqrt(dimensions), size=vectors.shape).astype(np.float32)
        moved = to_unit_length(vectors + noise) if copy else vectors
        for entry, vector in zip(originals[: lots - start], moved, strict=False):
            yield _copy(entry, copy, vector)


def copy_ids(release: Path, lots: int) -> list[str]:
    """Return the ids of the items of copies(), in the same order."""
    originals = [entry.item_id for entry in release_items(release)]
    return [_id_of(originals[number % len(originals)], number // len(originals)) for number in range(lots)]


def _id_of(item_id: str, copy: int) -> str:
    return f"{item_id}~{copy}" if copy else item_id


def _copy(entry: IndexedItem, copy: int, vector: Vector) -> IndexedItem:
    item_id = _id_of(entry.item_id, copy)
    return replace(entry, item_id=item_id, document={**entry.document, "item_id": item_id}, vector=vector)


def index_of_copies(
    store: IndexStore, release: Path, lots: int, dimensions: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> VectorIndex:
    """Return the live index of a store if it fits. Otherwise build it from copies() and publish it.

    Args:
        store: store that only this benchmark uses.
        release: see copies().
        lots: number of items.
        dimensions: length of the vectors.
        progress: called with (items written, items in all).

    Raises:
        InvalidInput: the vectors of the release are shorter than `dimensions`, or the index refused an item.
    """
    manifest = load_release(release)
    if manifest.dimensions < dimensions:
        raise InvalidInput(f"the vectors of release {manifest.release_id} have {manifest.dimensions} numbers, not {dimensions}")
    try:
        live = store.live()
        if (live.tower_id, live.count(), live.dimensions) == (manifest.tower_id, lots, dimensions):
            return live
    except IndexMissing:
        pass
    index, remaining = store.create(manifest.tower_id, dimensions), copies(release, lots, dimensions)
    try:
        for done in range(0, lots, ITEMS_PER_WRITE):
            report = index.upsert(islice(remaining, ITEMS_PER_WRITE))
            if report.rejected:
                raise InvalidInput(f"lot {report.rejected[0][0]} was refused: {report.rejected[0][1]}")
            progress(done + report.indexed, lots)
        index.refresh()
        store.publish(index.name)
    except BaseException:  # the next run cannot use an incomplete index
        store.drop(index.name)
        raise
    return store.live()


def questions(release: Path, count: int, seed: int = 7) -> list[str]:
    """Return different queries of two to five consecutive words of a title.

    Args:
        release: folder of the release with the titles.
        count: number of queries.
        seed: seed of the random queries.

    Raises:
        InvalidInput: the titles do not give that many different queries.
    """
    rng = np.random.default_rng(seed)
    titles = [words for entry in release_items(release) if len(words := query_text(entry.document["title"]).split()) > 1]
    queries: dict[str, None] = {}
    for _ in range(20 * count):
        words = titles[int(rng.integers(len(titles)))]
        length = int(rng.integers(WORDS_PER_QUERY[0], WORDS_PER_QUERY[1] + 1))
        start = int(rng.integers(max(len(words) - length, 0) + 1))
        queries[" ".join(words[start : start + length])] = None
        if len(queries) == count:
            return list(queries)
    raise InvalidInput(f"the titles of {release} make {len(queries)} different questions, and {count} are wanted; ask for fewer")
