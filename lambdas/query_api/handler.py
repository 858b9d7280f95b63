"""The query Lambda: the app behind API Gateway, over OpenSearch, the tower that the index names, and the re-rank endpoint.

SnapStart takes its snapshot after this module is imported. So the index is opened and the tower loaded here. A process that is
restored from the snapshot keeps tower and re-ranker. It opens new connections and reads the alias of the index again.
"""

import os
from typing import Any

from mangum import Mangum

from lambdas.query_api.app import PROBLEM_TYPE, create_app
from lambdas.query_api.events import events_router
from lambdas.query_api.measurements import log_as_json, logger, measure, metrics
from lambdas.query_api.wiring import service
from retrieval.config.settings import EVENTS_KEYS, Settings
from retrieval.errors import GavelError
from retrieval.feedback.firehose_sink import EventStream
from retrieval.feedback.served_lists import ServedLists, parse_keys

TEXTS = ["text/", "application/json", PROBLEM_TYPE]  # Mangum encodes other types as base64, which this API does not decode


def warm_up() -> None:
    """Load index and models. Before the first release there are none; then the first search after the release loads them."""
    try:
        service().live().encoder.encode(["warm"])
    except GavelError as error:
        logger.warning("not warm yet", reason=str(error))


settings = Settings.from_env()
metrics.set_default_dimensions(stage=settings.stage)
keys = os.environ.get(EVENTS_KEYS)  # unset outside Lambda; then lists are not signed, and training uses no event
lists = ServedLists(parse_keys(keys.encode(), EVENTS_KEYS) if keys else ())
app = create_app(service, settings.origins, measure, queries_per_request=settings.queries_per_request, lists=lists)
app.include_router(
    events_router(EventStream(settings.events_stream), lambda interactions: service().record_interactions(interactions), lists)
)


@metrics.log_metrics(capture_cold_start_metric=True)
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one request of API Gateway, and log one line about it."""
    logger.clear_state()
    logger.append_keys(request_id=getattr(context, "aws_request_id", None), route=event.get("resource"))
    answer_http = Mangum(app, lifespan="off", text_mime_types=TEXTS)  # creates a loop if asyncio.run() has removed the thread's
    answer = answer_http(event, context)
    logger.info("answered", method=event.get("httpMethod"), status=answer["statusCode"])
    return answer


if "AWS_LAMBDA_INITIALIZATION_TYPE" in os.environ:  # only in Lambda
    log_as_json("retrieval", "lambdas", "mangum")
    warm_up()
    try:
        from snapshot_restore_py import register_after_restore  # type: ignore[import-not-found]  # only in Lambda's Python
    except ImportError:
        logger.warning("no hooks of SnapStart here")
    else:
        register_after_restore(service.cache_clear)  # the other end has closed the connections of the snapshot
