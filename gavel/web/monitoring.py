"""Metrics and traces of one process of `gavel serve`, if settings and environment ask for them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI

from gavel.web.request_queues import Queue
from gavel.web.tracing import Tracing, requested_exporters, tracer_provider
from lambdas.query_api.app import UNTRACED
from retrieval.config.settings import Settings, split_address
from retrieval.search.service import SearchAnswer, SearchService

if TYPE_CHECKING:
    from gavel.web.metrics import ServerMetrics


class Monitoring:
    """Metrics, traces, both or neither. Without metrics prometheus_client is not imported, without traces no SDK.

    Attributes:
        metrics: metrics of this process; None if the settings ask for none.
        telemetry: configuration of FastAPI's spans, for create_app().
    """

    def __init__(self, settings: Settings, service: SearchService, queues: dict[str, Queue]) -> None:
        """Set up the metrics and traces that the settings and the OTEL_* variables ask for.

        Args:
            settings: settings of this process.
            service: search service whose caches, circuits and index are measured.
            queues: kind of request -> its queue.
        """
        self._address = split_address(settings.metrics_address) if settings.metrics_address else None
        self.metrics: ServerMetrics | None = None
        if self._address:
            from gavel.web import metrics

            self.metrics = metrics.ServerMetrics(service, queues)
        provider = tracer_provider(requested_exporters())
        self._tracing = Tracing(provider) if provider else None
        self.telemetry = self._tracing.config(self._address and self._address[1]) if self._tracing else UNTRACED

    def measure(self, answer: SearchAnswer) -> None:
        """Measure a search; called in the context of its request."""
        if self.metrics:
            self.metrics.measure(answer)
        if self._tracing:
            self._tracing.annotate(answer)

    def watch(self, app: FastAPI, hosts: Sequence[str] | None) -> None:
        """Count and trace the requests of an app. Call this after all other middleware is added.

        Args:
            app: app that was created with this object as its `telemetry`; it gets middleware and lifespans.
            hosts: values of the Host header, besides loopback, with which `/metrics` is answered; None allows any.
        """
        if self.metrics and self._address:
            from gavel.web.metrics_middleware import MetricsMiddleware

            host, port = self._address
            names = None if hosts is None else [host, *hosts]
            app.add_middleware(MetricsMiddleware, metrics=self.metrics, port=port, hosts=names)
            app.include_router(APIRouter(lifespan=self.metrics.lifespan))
        if self._tracing:
            self._tracing.watch(app)
