"""Wire the query Lambda: create the adapters of its ports and cache them for the life of the process."""

from dataclasses import replace
from functools import cache, lru_cache, partial
from pathlib import Path
from tempfile import gettempdir

from retrieval.buyers.history_store import BuyerStore, NoBuyerStore
from retrieval.buyers.vector import BuyerTower
from retrieval.config.settings import Settings
from retrieval.encoders.query_towers import load_query_tower
from retrieval.encoders.tower_store import tower_buyers, tower_tuning
from retrieval.index.hybrid_tuning import Tuning
from retrieval.index.opensearch.store import open_store
from retrieval.ranker.port import Ranker
from retrieval.search.image_query import load_image_branch
from retrieval.search.service import Encoder, SearchLimits, SearchModels, SearchService

TOWER_CACHE = Path(gettempdir()) / "towers"  # /tmp, the only folder that a Lambda function may write to


@cache
def service() -> SearchService:
    """Return the search service of this process, configured by the environment."""
    settings = Settings.from_env()
    models = SearchModels(
        partial(_encoder, settings),
        partial(_ranker, settings),
        partial(load_image_branch, settings.towers, TOWER_CACHE),
        partial(_buyers, settings),
        settings.tower_id,
        settings.query_tower,
    )
    store = open_store(replace(settings, request_timeout_s=settings.retrieve_timeout_s), partial(_tuning, settings))
    return SearchService(store, models, SearchLimits.from_settings(settings), _buyer_store(settings))


@lru_cache(maxsize=1)  # only the tower of the live index is cached
def _encoder(settings: Settings, tower_id: str) -> Encoder:
    return load_query_tower(settings, tower_id, TOWER_CACHE)


@lru_cache(maxsize=1)
def _tuning(settings: Settings, tower_id: str) -> Tuning:
    return tower_tuning(settings.towers, tower_id, TOWER_CACHE)


@lru_cache(maxsize=1)
def _buyers(settings: Settings, tower_id: str) -> BuyerTower:
    return tower_buyers(settings.towers, tower_id, TOWER_CACHE)


def _buyer_store(settings: Settings) -> BuyerStore:
    if not settings.buyer_events_table:
        return NoBuyerStore()
    from retrieval.buyers.dynamodb_history import BuyerTable

    return BuyerTable(settings.buyer_events_table, settings.buyer_events_days)


@lru_cache(maxsize=1)
def _ranker(settings: Settings, tower_id: str) -> Ranker | None:
    if not settings.ranker_endpoint:
        return None
    from retrieval.ranker.sagemaker_ranker import EndpointRanker  # a stage without an endpoint does not load boto3

    return EndpointRanker(settings.ranker_endpoint, settings.ranker_timeout_s)
