"""The query Lambda: the app behind API Gateway, over OpenSearch and the tower that its index names."""

from functools import cache
from pathlib import Path

from mangum import Mangum
from mangum.adapter import DEFAULT_TEXT_MIME_TYPES

from lambdas.query_api.app import PROBLEM_TYPE, create_app
from retrieval.encoder import QueryEncoder
from retrieval.index.opensearch_client import open_store
from retrieval.search import SearchService
from retrieval.settings import Settings
from retrieval.tower import split_tower_id
from retrieval.tower_files import tower_folder

TOWER_CACHE = Path("/tmp/towers")  # the one folder that Lambda lets a function write to


@cache
def service() -> SearchService:
    """The service of this process, wired from its environment."""
    settings = Settings.from_env()
    return SearchService(
        open_store(settings),
        lambda tower_id: QueryEncoder.load(tower_folder(settings.towers, tower_id, TOWER_CACHE), split_tower_id(tower_id)[1]),
        candidates=settings.candidates,
        tower_id=settings.tower_id,
    )


def _origins() -> list[str]:
    return [origin for origin in Settings.from_env().cors_origins.split(",") if origin]


handler = Mangum(create_app(service, _origins()), lifespan="off", text_mime_types=[*DEFAULT_TEXT_MIME_TYPES, PROBLEM_TYPE])
