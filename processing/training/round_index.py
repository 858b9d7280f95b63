"""The index of one training round: one database, searched exactly (Flat) and by graph (HNSW)."""

import shutil
import time
from pathlib import Path

from threadpoolctl import threadpool_limits

from catalog.folder import CatalogFolder
from processing.evaluation.corpus import release_items
from processing.evaluation.runs import RememberingEncoder, System, measure
from retrieval.contracts.release import load_release
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.errors import IndexMissing, ReleaseError
from retrieval.index.embedded.segments import embedded_spec
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.progress import Progress
from retrieval.search.context import UNHURRIED
from retrieval.search.service import SearchModels, SearchService

INDEX_TYPES = ("flat", "hnsw")


def open_store(folder: Path, index_type: str) -> EmbeddedStore:
    """Open the store of the index in a folder. Exact search never replaces the graph, however few items there are."""
    return EmbeddedStore(folder, exact_below=0, spec=embedded_spec(index_type))


def is_built(folder: Path) -> bool:
    """Return True if build() has finished in this folder."""
    try:
        open_store(folder, "flat").live().close()
    except IndexMissing:
        return False
    return True


def build(release: Path, folder: Path, progress: Progress | None = None) -> dict[str, float]:
    """Index a release in its own folder, as Flat and HNSW.

    Single-threaded, because several threads link the graph differently every time.

    Args:
        release: `embeddings/<release_id>`.
        folder: folder of the index; what it holds is deleted first.
        progress: called with (index types built, index types).

    Returns:
        index type -> seconds from the stored vectors to a searchable index.

    Raises:
        ReleaseError: the index rejected items of the release.
    """
    shutil.rmtree(folder, ignore_errors=True)
    manifest, seconds = load_release(release), dict[str, float]()
    stored = open_store(folder, "hnsw").create(manifest.tower_id, manifest.dimensions)
    report = stored.upsert(release_items(release))
    stored.close()
    if report.rejected:
        raise ReleaseError(f"release {release} holds {len(report.rejected)} lots that no index takes, as {report.rejected[0]}")
    with threadpool_limits(1):
        for index_type in INDEX_TYPES:
            store = open_store(folder, index_type)
            index = store.find(manifest.tower_id)
            assert index is not None
            start = time.perf_counter()
            index.refresh()
            seconds[index_type] = round(time.perf_counter() - start, 3)
            store.publish(index.name)
            index.close()
            if progress:
                progress(len(seconds), len(INDEX_TYPES))
    return seconds


def measure_index_types(
    catalog: CatalogFolder, split: str, folder: Path, tower: Path, progress: Progress | None = None
) -> dict[str, dict[str, float]]:
    """Measure both index types on the queries of a split, through the search service.

    Args:
        catalog: source of the judgments.
        split: split of the indexed items.
        folder: folder that build() filled.
        tower: folder of the tower that embedded the items.
        progress: called with (searches done, searches).

    Returns:
        index type -> measure -> mean over the queries.
    """
    encoder = RememberingEncoder(QueryEncoder.load(tower))
    stores = {index_type: open_store(folder, index_type) for index_type in INDEX_TYPES}
    try:
        systems = [
            System(name, SearchService(store, SearchModels(lambda tower_id: encoder), UNHURRIED), "semantic")
            for name, store in stores.items()
        ]
        return measure(catalog, split, systems, progress)
    finally:
        for store in stores.values():
            store.live().close()
