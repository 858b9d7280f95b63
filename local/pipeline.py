"""The steps from a catalogue to a searchable index on one machine; the commands and the demo run the same ones."""

from collections.abc import Sequence
from pathlib import Path

from catalog.folder import CatalogFolder
from local.console import Step
from local.home import Home
from local.wiring import open_store, search_service
from retrieval.indexing import ReleaseReport, index_release
from retrieval.settings import Settings

# torch and what stands on it take seconds to import: a search must not wait for them, so they are imported where they work


def train_towers(home: Home, catalog: CatalogFolder, *, preset: str, text_only: bool, seed: int, progress: Step) -> Path:
    """Train a pair of towers on a catalogue and save the artefact.

    Returns:
        The tower's folder.
    """
    from models.training import TrainingConfig, train_towers

    config = TrainingConfig.for_catalog(catalog.name, preset=preset, use_image=not text_only, seed=seed)
    return train_towers(catalog, config, home.towers, progress).tower_folder


def embed(home: Home, inputs: Sequence[Path], tower: Path, *, release_id: str | None, workers: int, progress: Step) -> Path:
    """Embed catalogue files into a release.

    Returns:
        The release's folder.
    """
    from processing.embed_items import embed

    manifest = embed(list(inputs), tower, home.embeddings, release_id=release_id, workers=workers, progress=progress)
    return home.embeddings / manifest.release_id


def index(settings: Settings, release: Path, *, progress: Step) -> ReleaseReport:
    """Index a release and make it live."""
    return index_release(release, open_store(settings), progress)


def train_reranker(home: Home, catalog: CatalogFolder, *, seed: int, progress: Step) -> Path:
    """Train the re-ranker of the live index's tower on a catalogue's clicks.

    Returns:
        The booster's file.
    """
    from processing.train_reranker import train_reranker

    service = search_service(home.settings)
    path = home.ranker(service.live().index.tower_id)
    return train_reranker(catalog, service, path, candidates=home.settings.candidates, seed=seed, progress=progress).path
