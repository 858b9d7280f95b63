"""The query Lambda: the app behind API Gateway, over OpenSearch, the tower that its index names, and the re-rank endpoint.

SnapStart takes its picture after this module is imported, so the index is opened and the tower loaded here. A process that
wakes from the picture keeps tower and re-ranker, makes its connections anew and looks at the index's alias again.
"""

import os
from dataclasses import replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

from mangum import Mangum

from lambdas.query_api.app import PROBLEM_TYPE, create_app
from lambdas.query_api.measurements import log_as_json, logger, measure, metrics
from retrieval.encoder import QueryEncoder
from retrieval.errors import GavelError
from retrieval.index.opensearch_client import open_store
from retrieval.photo_search import load_image_branch
from retrieval.ranker.base import Ranker
from retrieval.search import SearchService
from retrieval.settings import Settings
from retrieval.tower import split_tower_id
from retrieval.tower_files import tower_folder, tower_tuning
from retrieval.tuning import Tuning

TOWER_CACHE = Path("/tmp/towers")  # the one folder that Lambda lets a function write to
TEXTS = ["text/", "application/json", PROBLEM_TYPE]  # of others Mangum makes base64, which this API passes on as it is


@cache
def service() -> SearchService:
    """The service of this process, wired from its environment."""
    settings = Settings.from_env()
    return SearchService(
        open_store(replace(settings, request_timeout_s=settings.retrieve_timeout_s), partial(_tuning, settings)),
        partial(_encoder, settings),
        partial(_ranker, settings),
        candidates=settings.candidates,
        tower_id=settings.tower_id,
        retrieve_timeout_s=settings.retrieve_timeout_s,
        deadline_s=settings.deadline_s,
        cached_queries=settings.cached_queries,
        cached_answers_s=settings.cached_answers_s,
        load_image_encoder=partial(load_image_branch, settings.towers, TOWER_CACHE),
    )


@lru_cache(maxsize=1)  # the tower of the live index; the one before goes when the alias is swapped
def _encoder(settings: Settings, tower_id: str) -> QueryEncoder:
    return QueryEncoder.load(tower_folder(settings.towers, tower_id, TOWER_CACHE), split_tower_id(tower_id)[1])


@lru_cache(maxsize=1)
def _tuning(settings: Settings, tower_id: str) -> Tuning:
    return tower_tuning(settings.towers, tower_id, TOWER_CACHE)


@lru_cache(maxsize=1)
def _ranker(settings: Settings, tower_id: str) -> Ranker | None:
    if not settings.ranker_endpoint:
        return None
    from retrieval.ranker.sagemaker import EndpointRanker  # boto3 costs a stage without an endpoint nothing

    return EndpointRanker(settings.ranker_endpoint, settings.ranker_timeout_s)


def warm_up() -> None:
    """Load what a search needs; before the first release there is nothing to load, and the first search after it will."""
    try:
        service().live().encoder.encode(["warm"])
    except GavelError as error:
        logger.warning("not warm yet", reason=str(error))


metrics.set_default_dimensions(stage=Settings.from_env().stage)
answer_http = Mangum(create_app(service, Settings.from_env().origins, measure), lifespan="off", text_mime_types=TEXTS)


@metrics.log_metrics(capture_cold_start_metric=True)
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one request of API Gateway, and log one line about it."""
    logger.clear_state()
    logger.append_keys(request_id=getattr(context, "aws_request_id", None), route=event.get("resource"))
    answer = answer_http(event, context)
    logger.info("answered", method=event.get("httpMethod"), status=answer["statusCode"])
    return answer


if "AWS_LAMBDA_INITIALIZATION_TYPE" in os.environ:  # in Lambda, not in whoever imports this elsewhere
    log_as_json("retrieval", "lambdas", "mangum")
    warm_up()
    try:
        from snapshot_restore_py import register_after_restore  # part of Lambda's Python, of no other
    except ImportError:
        logger.warning("no hooks of SnapStart here")
    else:
        register_after_restore(service.cache_clear)  # nobody holds the other end of the picture's connections any more
