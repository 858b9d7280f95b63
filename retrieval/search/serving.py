"""A search service with the limits of a process's settings; what stands behind its ports is the process's own affair."""

from collections.abc import Callable

from retrieval.buyers.history_store import BuyerStore
from retrieval.buyers.vector import BuyerTower
from retrieval.config.settings import Settings
from retrieval.index.port import IndexStore
from retrieval.ranker.port import Ranker
from retrieval.search.image_query import PhotoEncoder
from retrieval.search.live_index import Encoder
from retrieval.search.service import SearchService


def search_service(
    settings: Settings,
    store: IndexStore,
    load_encoder: Callable[[str], Encoder],
    load_ranker: Callable[[str], Ranker | None],
    load_image_encoder: Callable[[str], PhotoEncoder],
    load_buyer_tower: Callable[[str], BuyerTower],
    buyer_store: BuyerStore,
) -> SearchService:
    """Wire a service.

    Args:
        settings: of this process.
        store: where the live index stands.
        load_encoder: tower_id -> its query tower.
        load_ranker: tower_id -> its re-ranker, or None.
        load_image_encoder: tower_id -> its image branch.
        load_buyer_tower: tower_id -> its buyer tower, or the weighted average.
        buyer_store: where the recent acts of buyers are kept.
    """
    return SearchService(
        store,
        load_encoder,
        load_ranker,
        candidates=settings.candidates,
        tower_id=settings.tower_id,
        retrieve_timeout_s=settings.retrieve_timeout_s,
        deadline_s=settings.deadline_s,
        cached_queries=settings.cached_queries,
        cached_answers_s=settings.cached_answers_s,
        cached_bytes=settings.cached_mb * 1e6,
        load_image_encoder=load_image_encoder,
        load_buyer_tower=load_buyer_tower,
        query_tower=settings.query_tower,
        buyer_store=buyer_store,
    )
