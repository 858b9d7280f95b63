"""Traces of `gavel serve`, set up by OpenTelemetry's own environment variables; the extra `gavel[otel]` installs the SDK.

FastAPI creates the span of a request; the phases of a search are child spans. Traces hold no words of a search, no ids of buyers
and no messages of errors.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI
from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from starlette.types import ASGIApp, Receive, Scope, Send

from retrieval.search.response import SearchAnswer
from retrieval.spans import SPANS, StartSpan

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger(__name__)

SWITCHES = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")  # any turns traces on
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")  # the first variable that is set decides
EXPORTERS = "opentelemetry_traces_exporter"  # group of entry points
HIDDEN = "REDACTED"
BUYERS = "/buyers/"
SERVICE_NAME = "gavel"  # unless the environment names another service


def requested_exporters(env: Mapping[str, str] = os.environ) -> list[str]:
    """Return the entry-point names of the exporters that OTEL_* variables name; empty if none of SWITCHES is set."""
    if not any(env.get(switch) for switch in SWITCHES) or env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    protocol = next((env[name] for name in PROTOCOLS if env.get(name)), "http/protobuf")
    otlp = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    names = [name.strip() for name in (env.get("OTEL_TRACES_EXPORTER") or "otlp").split(",")]
    return [otlp if name == "otlp" else name for name in names if name not in ("", "none")]


def tracer_provider(exporters: Sequence[str]) -> "TracerProvider | None":
    """Create the tracer provider of this process; the SDK reads sampling, resource and limits from the environment.

    Args:
        exporters: entry-point names, as requested_exporters() returns them.

    Returns:
        The provider; None if there are no exporters, or if one cannot be used. A warning then says why, because a server without
        traces is better than no server.
    """
    if not exporters:
        return None
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning("no traces: OTEL_* variables ask for them, but their SDK is missing; pip install 'gavel[otel]'")
        return None
    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(resource=Resource.create({} if named else {"service.name": SERVICE_NAME}))
    installed = {one.name: one for one in entry_points(group=EXPORTERS)}
    for name in exporters:
        try:
            provider.add_span_processor(BatchSpanProcessor(installed[name].load()()))
        except Exception as error:  # an exporter is another package
            reason = "it is not installed" if isinstance(error, KeyError) else str(error)
            logger.warning("no traces: exporter %s cannot be used, %s; there are %s", name, reason, ", ".join(sorted(installed)))
            provider.shutdown()
            return None
    return provider


class Tracing:
    """The traces of one process."""

    def __init__(self, provider: "TracerProvider") -> None:
        """Trace with a provider, which is shut down when the server stops."""
        self._provider = provider
        self._tracer = provider.get_tracer("gavel")

    def config(self, untraced_port: int | None = None) -> TelemetryConfig:
        """Return the configuration for FastAPI: spans of requests, without its metrics, logs and inner spans.

        Args:
            untraced_port: port whose requests are not traced, such as scrapes; None traces all.
        """
        return {
            "tracer_provider": self._provider,
            "tracing": True,
            "metrics": False,
            "logs": False,  # they hold messages of errors
            "operation_spans": False,
            "auto_configure": False,
            "exclude": lambda scope: untraced_port is not None and scope["server"][1] == untraced_port,
        }

    def annotate(self, answer: SearchAnswer) -> None:
        """Add the outcome of a search to the span of its request. If a request has several searches, the last one overwrites."""
        trace.get_current_span().set_attributes(
            {
                "gavel.mode": answer.mode,
                "gavel.results": len(answer.results),
                "gavel.cached": answer.cached,
                "gavel.reranked": answer.reranked,
                "gavel.degraded": list(answer.failed_components),
            }
        )

    @contextmanager
    def start_span(self, phase: str) -> Iterator[None]:
        """Run the block in the span of a phase, a child of the current span. An error sets its type on the span."""
        with self._tracer.start_as_current_span(f"search.{phase}", record_exception=False, set_status_on_exception=False) as span:
            try:
                yield
            except Exception as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(trace.StatusCode.ERROR)
                raise

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(self._provider.shutdown)  # sends the spans that are still buffered

    def watch(self, app: FastAPI) -> None:
        """Trace the phases of the requests of an app that was created with config()."""
        app.add_middleware(_TracingMiddleware, start_span=self.start_span)
        app.include_router(APIRouter(lifespan=self._lifespan))


class _TracingMiddleware:
    """The outermost middleware, which traces the phases of a request and hides query strings and buyer ids."""

    def __init__(self, app: ASGIApp, start_span: StartSpan) -> None:
        """Wrap an app.

        Args:
            app: any ASGI app.
            start_span: starts the span of a phase.
        """
        self._app, self._start_span = app, start_span

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        span = trace.get_current_span()  # FastAPI's, of this request
        if scope["type"] == "http" and span.is_recording():
            if scope["query_string"]:
                span.set_attribute("url.query", HIDDEN)
            if scope["path"].startswith(BUYERS):
                span.set_attribute("url.path", BUYERS + HIDDEN)
            SPANS.set(self._start_span)
        await self._app(scope, receive, send)
