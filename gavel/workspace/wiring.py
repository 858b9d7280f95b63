"""Choose the adapters of all ports on one machine from the settings."""

import multiprocessing
import os
from collections.abc import Hashable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gavel.workspace.folders import Workspace, newest_first
from retrieval.buyers.history_store import BuyerStore
from retrieval.buyers.vector import BuyerTower
from retrieval.config.settings import EVENTS_KEYS, Settings
from retrieval.contracts.release import MANIFESTS
from retrieval.contracts.tower_card import ITEM_ENCODER_FILES, TowerCard, split_tower_id
from retrieval.encoders.query_towers import load_query_tower
from retrieval.encoders.tower_store import folder_with, tower_buyers, tower_folder, tower_tuning
from retrieval.encoders.words_only import TOWER_ID as WORDS_ONLY
from retrieval.errors import TowerError
from retrieval.feedback.rows import EventSink
from retrieval.feedback.served_lists import ServedLists, parse_keys
from retrieval.index.hybrid_tuning import TUNING_FILE, Tuning
from retrieval.index.port import IndexStore
from retrieval.processes import end_with_parent
from retrieval.ranker.port import CrossEncoder, Ranker
from retrieval.search.image_query import PhotoEncoder, load_image_branch
from retrieval.search.service import Encoder, Mode, SearchLimits, SearchModels, SearchService

if TYPE_CHECKING:  # photos bring Pillow
    from gavel.workspace.item_writer import ItemWriter, PutEncoder


def open_store(settings: Settings) -> IndexStore:
    """Open the index that the settings choose: embedded FAISS, or OpenSearch."""
    if settings.index == "opensearch":
        from retrieval.index.opensearch import store as opensearch_client

        return opensearch_client.open_store(settings, partial(load_tuning, settings))
    from retrieval.index.embedded.segments import embedded_index
    from retrieval.index.embedded.store import EmbeddedStore

    return EmbeddedStore(
        Workspace(settings).index,
        settings.index_alias,
        spec=embedded_index(settings.embedded_index, settings.index_memory),
        language=settings.language,
        shards=settings.index_shards,
        tuning=partial(load_tuning, settings),
    )


def load_encoder(settings: Settings, tower_id: str) -> Encoder:
    """Load a tower's query tower, full or small as the settings say. Towers in a bucket are downloaded."""
    return load_query_tower(settings, tower_id, settings.home / "cache" / "towers")


def load_image_encoder(settings: Settings, tower_id: str) -> PhotoEncoder:
    """Load the image encoder of a tower. Towers in a bucket are downloaded."""
    return load_image_branch(settings.towers, settings.home / "cache" / "towers", tower_id)


def find_tower(settings: Settings, tower_id: str) -> Path:
    """Return the folder of a tower's artefact. Towers in a bucket are downloaded."""
    return tower_folder(settings.towers, tower_id, settings.home / "cache" / "towers")


def load_tuning(settings: Settings, tower_id: str) -> Tuning:
    """Load the tuning that `gavel tune hybrid` chose for a tower, or the default tuning."""
    return tower_tuning(settings.towers, tower_id, settings.home / "cache" / "towers")


def recommended_mode(settings: Settings) -> Mode:
    """Return the mode of searches that was recommended when the live index's tower was trained; hybrid by default.

    It is hybrid, too, if `gavel tune hybrid` has chosen other weights since, or if there is no index or the towers are in a bucket.
    """
    from models.artefacts.run_record import read_record

    tower_id = open_store(settings).live_tower()
    if tower_id is None or settings.towers.startswith("s3://"):
        return "hybrid"
    if tower_id == WORDS_ONLY:
        return "keyword"
    folder = Path(settings.towers) / split_tower_id(tower_id)[0]
    choice = read_record(folder).get("choice") or {}
    return "keyword" if choice.get("mode") == "keyword" and not (folder / TUNING_FILE).is_file() else "hybrid"


def load_buyers(settings: Settings, tower_id: str) -> BuyerTower:
    """Load the buyer tower that belongs to a tower."""
    return tower_buyers(settings.towers, tower_id, settings.home / "cache" / "towers")


def load_ranker(settings: Settings, tower_id: str) -> Ranker | None:
    """Return the re-ranker: the endpoint of the settings, or this tower's booster; None if no booster is trained yet."""
    if settings.ranker_endpoint:
        from retrieval.ranker.sagemaker_ranker import EndpointRanker

        return EndpointRanker(settings.ranker_endpoint, settings.ranker_timeout_s)
    path = Workspace(settings).ranker(tower_id)
    if not path.is_file():
        return None
    from retrieval.ranker.xgboost_ranker import BoosterRanker

    return BoosterRanker.load(path, tower_id)


def ranker_stamp(settings: Settings, tower_id: str) -> Hashable:
    """Return a value that changes when load_ranker() would load another booster."""
    try:
        stat = Workspace(settings).ranker(tower_id).stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def load_cross_encoder(settings: Settings) -> CrossEncoder | None:
    """Load the cross-encoder of the settings; None if they name none.

    Raises:
        RankerUnavailable: it cannot be loaded.
    """
    if not settings.cross_encoder:
        return None
    from models.artefacts.cross_encoder import PretrainedCrossEncoder  # imports torch, which a search needs for nothing else

    return PretrainedCrossEncoder(settings.cross_encoder)


def event_sink(settings: Settings) -> EventSink:
    """Return the sink of feedback: the delivery stream of the settings, or one file per day in the workspace."""
    if settings.events_stream:
        from retrieval.feedback.firehose_sink import EventStream

        return EventStream(settings.events_stream)
    from retrieval.feedback.file_sink import EventLog

    return EventLog(Workspace(settings).events)


def signing_lists(settings: Settings) -> ServedLists:
    """Load the keys that sign lists and verify events, from the environment or from this workspace."""
    if keys := os.environ.get(EVENTS_KEYS):
        return ServedLists(parse_keys(keys.encode(), EVENTS_KEYS))
    from retrieval.feedback.file_sink import served_lists

    return served_lists(Workspace(settings).events_keys)


def buyer_store(settings: Settings) -> BuyerStore:
    """Return the store of buyers' recent interactions: the table of the settings, or a file in the workspace."""
    if settings.buyer_events_table:
        from retrieval.buyers.dynamodb_history import BuyerTable

        return BuyerTable(settings.buyer_events_table, settings.buyer_events_days)
    from retrieval.buyers.sqlite_history import BuyerEvents

    return BuyerEvents(Workspace(settings).buyers, settings.buyer_events_days)


def item_writer(
    settings: Settings, service: SearchService, photos: Sequence[Path] = (), photo_hosts: Sequence[str] | None = ()
) -> "ItemWriter":
    """Create the writer of single lots to the live index of this machine.

    Args:
        settings: settings of this process.
        service: search service of the live index.
        photos: folders whose photos lots may name, besides those of the newest release's files.
        photo_hosts: hosts whose photos are fetched although they have no public address; None fetches from no host at all.
    """
    from gavel.workspace.item_writer import ItemWriter
    from processing.embedding.downloads import Downloads

    workspace = Workspace(settings)
    releases = newest_first(workspace.embeddings, MANIFESTS)
    folders = [folder for folder in (workspace.sources(releases[0].name) if releases else []) if folder.is_dir()]
    downloads = None if photo_hosts is None else Downloads(workspace.downloads, frozenset(photo_hosts))
    return ItemWriter(workspace, service, partial(load_item_encoder, settings), photos=[*photos, *folders], downloads=downloads)


def load_item_encoder(settings: Settings, tower_id: str) -> "PutEncoder":
    """Load the item encoder of a tower. A tower on this machine that has none gets one, in a process that imports torch.

    Raises:
        TowerError: there is no such tower, a file is damaged, or a tower in a bucket has no item encoder.
    """
    from retrieval.encoders.item_encoder import ItemEncoder
    from retrieval.encoders.words_only import WordsOnlyItems

    if tower_id == WORDS_ONLY:
        return WordsOnlyItems()
    folder = folder_with(settings.towers, tower_id, settings.home / "cache" / "towers", ITEM_ENCODER_FILES)
    if not settings.towers.startswith("s3://") and not TowerCard.load(folder).has_item_encoder:
        context = multiprocessing.get_context("spawn")  # not fork, because a server has threads
        with ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent, initargs=(partial(os._exit, 1),)) as process:
            try:
                process.submit(_add_item_encoder, folder).result()
            except BrokenProcessPool as error:
                raise TowerError(
                    f"the process that exports the item encoder of tower {folder.name} ended, perhaps for want of memory; "
                    f"`gavel export item {folder.name}` tries again"
                ) from error
    return ItemEncoder.load(folder, split_tower_id(tower_id)[1])


def _add_item_encoder(folder: Path) -> None:
    os.nice(5)  # searches come first
    from models.artefacts.tower_files import add_item_encoder

    add_item_encoder(folder)


def search_service(settings: Settings) -> SearchService:
    """Create the search service over the live index of this machine."""
    models = SearchModels(
        partial(load_encoder, settings),
        partial(load_ranker, settings),
        partial(load_image_encoder, settings),
        partial(load_buyers, settings),
        settings.tower_id,
        settings.query_tower,
        partial(load_cross_encoder, settings),
        partial(ranker_stamp, settings),
    )
    store = open_store(replace(settings, request_timeout_s=settings.retrieve_timeout_s))
    return SearchService(store, models, SearchLimits.from_settings(settings), buyer_store(settings))
