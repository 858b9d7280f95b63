"""What the query Lambda tells of itself: one JSON line a request, and metrics as CloudWatch reads them from the log (EMF).

What buyers search for stays out of both.
"""

import logging
import os
import warnings

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from retrieval.search.service import SearchAnswer

NAMESPACE = "Gavel"
MEASURED = ("load", "encode", "retrieve", "rerank", "total")

logger = Logger(service="query-api")
metrics = Metrics(namespace=NAMESPACE, function_name=os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "query-api"))
warnings.filterwarnings("ignore", message="No application metrics to publish")  # a look at /health measures nothing


def log_as_json(*rooms: str) -> None:
    """Have loggers of the standard library, and those below them, write as this function's own does."""
    for room in rooms:
        logging.getLogger(room).addHandler(logger.registered_handler)
        logging.getLogger(room).propagate = False  # Lambda's own handler would write it again, as text


def measure(answer: SearchAnswer) -> None:
    """Put a search's own timings into the metrics and into the request's log line."""
    timings = {f"{stage}_ms": answer.timings_ms[stage] for stage in MEASURED if stage in answer.timings_ms}
    for name, value in timings.items():
        metrics.add_metric(name, MetricUnit.Milliseconds, value)
    metrics.add_metric("searches", MetricUnit.Count, 1)
    metrics.add_metric("cached_answers", MetricUnit.Count, int(answer.cached))
    metrics.add_metric("half_searches", MetricUnit.Count, int(not {"semantic", "keyword"}.isdisjoint(answer.failed_components)))
    metrics.add_metric("rerank_fallbacks", MetricUnit.Count, int("rerank" in answer.failed_components))
    logger.append_keys(
        mode=answer.mode,
        tower_id=answer.tower_id,
        reranked=answer.reranked,
        degraded=list(answer.failed_components),
        cached=answer.cached,
        timings=timings,
    )
