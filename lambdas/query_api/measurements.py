"""Logs and metrics of the query Lambda: one JSON line per request, and metrics that CloudWatch reads from the log (EMF).

Logs and metrics hold no words of a search.
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
warnings.filterwarnings("ignore", message="No application metrics to publish")  # /health has no metrics


def log_as_json(*packages: str) -> None:
    """Make the loggers of packages write JSON lines, too."""
    for package in packages:
        logging.getLogger(package).addHandler(logger.registered_handler)
        logging.getLogger(package).propagate = False  # otherwise Lambda's own handler would write each line again, as text


def measure(answer: SearchAnswer) -> None:
    """Add the timings of a search to the metrics and to the log line of its request."""
    timings = {f"{step}_ms": answer.timings_ms[step] for step in MEASURED if step in answer.timings_ms}
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
