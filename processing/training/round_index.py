"""The index of one training round: one database of lots, searched exactly (Flat) and by graph (HNSW)."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from threadpoolctl import threadpool_limits

from catalog.folder import CatalogFolder
from processing.evaluation.corpus import release_entries
from processing.evaluation.runs import RememberingEncoder, Variant, measure
from retrieval.contracts.release import load_release
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.errors import IndexMissing, ReleaseError
from retrieval.index.embedded.segments import embedded_spec
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.search.service import SearchService

Progress = Callable[[int, int], None]
KINDS = ("flat", "hnsw")


def open_store(folder: Path, kind: str) -> EmbeddedStore:
    """The index in a folder; its graph is asked however few lots there are."""
    return EmbeddedStore(folder, exact_below=0, spec=embedded_spec(kind))


def is_built(folder: Path) -> bool:
    """Whether build() came to its end there."""
    try:
        open_store(folder, "flat").live().close()
    except IndexMissing:
        return False
    return True


def build(release: Path, folder: Path, progress: Progress | None = None) -> dict[str, float]:
    """Index a release in a folder of its own, Flat and HNSW.

    Both are built on one thread: two would link the graph differently every time.

    Args:
        release: `embeddings/<release_id>`.
        folder: what an interrupted build left there goes.
        progress: called with (kinds built, kinds in all).

    Returns:
        kind -> seconds from the stored vectors to an index that answers.

    Raises:
        ReleaseError: the index refused lots of the release.
    """
    shutil.rmtree(folder, ignore_errors=True)
    manifest, seconds = load_release(release), dict[str, float]()
    stored = open_store(folder, "hnsw").create(manifest.tower_id, manifest.dimensions)
    report = stored.upsert(release_entries(release))
    stored.close()
    if report.rejected:
        raise ReleaseError(f"release {release} holds {len(report.rejected)} lots that no index takes, as {report.rejected[0]}")
    with threadpool_limits(1):
        for kind in KINDS:
            store = open_store(folder, kind)
            index = store.find(manifest.tower_id)
            assert index is not None
            start = time.perf_counter()
            index.refresh()
            seconds[kind] = round(time.perf_counter() - start, 3)
            store.publish(index.name)
            index.close()
            if progress:
                progress(len(seconds), len(KINDS))
    return seconds


def measure_kinds(
    catalog: CatalogFolder, split: str, folder: Path, tower: Path, progress: Progress | None = None
) -> dict[str, dict[str, float]]:
    """Search the queries of a split in both kinds, through the search that serves.

    Args:
        catalog: its judgments are measured against.
        split: whose lots are indexed in the folder.
        folder: what build() made.
        tower: the artefact that the lots were embedded with.
        progress: called with (searches done, searches in all).

    Returns:
        kind -> measure -> mean over the queries.
    """
    encoder = RememberingEncoder(QueryEncoder.load(tower))
    stores = {kind: open_store(folder, kind) for kind in KINDS}
    try:
        services = {kind: SearchService(store, lambda tower_id: encoder) for kind, store in stores.items()}
        return measure(catalog, split, [Variant(kind, service, "semantic") for kind, service in services.items()], progress)
    finally:
        for store in stores.values():
            store.live().close()
