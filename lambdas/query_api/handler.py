"""The query Lambda: the app behind API Gateway, over OpenSearch, the tower that its index names, and the re-rank endpoint.

SnapStart takes its picture after this module is imported, so the index is opened and the tower loaded here. A process that
wakes from the picture keeps tower and re-ranker, makes its connections anew and looks at the index's alias again.
"""

import os
from typing import Any

from mangum import Mangum

from lambdas.query_api.app import PROBLEM_TYPE, create_app
from lambdas.query_api.event_stream import EventStream
from lambdas.query_api.events import events_router
from lambdas.query_api.measurements import log_as_json, logger, measure, metrics
from lambdas.query_api.wiring import service
from retrieval.errors import GavelError
from retrieval.served_lists import ServedLists, parse_keys
from retrieval.settings import EVENTS_KEYS, Settings

TEXTS = ["text/", "application/json", PROBLEM_TYPE]  # of others Mangum makes base64, which this API passes on as it is


def warm_up() -> None:
    """Load what a search needs; before the first release there is nothing to load, and the first search after it will."""
    try:
        service().live().encoder.encode(["warm"])
    except GavelError as error:
        logger.warning("not warm yet", reason=str(error))


settings = Settings.from_env()
metrics.set_default_dimensions(stage=settings.stage)
keys = os.environ.get(EVENTS_KEYS)  # unset where somebody imports this elsewhere: lists are not signed, and no event teaches
lists = ServedLists(parse_keys(keys.encode(), EVENTS_KEYS) if keys else ())
app = create_app(service, settings.origins, measure, queries_per_request=settings.queries_per_request, lists=lists)
app.include_router(events_router(EventStream(settings.events_stream), lambda acts: service().record_interactions(acts), lists))


@metrics.log_metrics(capture_cold_start_metric=True)
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one request of API Gateway, and log one line about it."""
    logger.clear_state()
    logger.append_keys(request_id=getattr(context, "aws_request_id", None), route=event.get("resource"))
    answer_http = Mangum(app, lifespan="off", text_mime_types=TEXTS)  # it makes a loop if asyncio.run() has removed the thread's
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
