"""Traces of `gavel serve`: the phases of a search below the span of its request, without what buyers type."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from lots import WordEncoder, lot, publish
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from trained_booster import trained_booster

from gavel.web.http_server import served_in_thread
from gavel.web.tracing import Tracing, requested_exporters, tracer_provider
from lambdas.query_api.app import create_app
from retrieval.errors import IndexUnavailable
from retrieval.index.embedded.index import EmbeddedIndex
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.search.service import SearchModels, SearchService

PARENT = "0af7651916cd43dd8448eb211c80319c"  # the example of the W3C recommendation
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


class Traced:
    """A served app and its exported spans."""

    def __init__(self, url: str, exporter: InMemorySpanExporter) -> None:
        self.url, self._exporter = url, exporter

    def get(self, path: str, **headers: str) -> None:
        try:
            urlopen(Request(f"{self.url}{path}", headers=headers), timeout=20).read()
        except HTTPError as error:
            error.read()

    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def span(self, name: str) -> ReadableSpan:
        (span,) = (span for span in self.spans() if span.name == name)
        return span

    def tree(self) -> set[tuple[str, str]]:
        """Each span with its parent; a span without a parent here has an empty one."""
        names = {span.get_span_context().span_id: span.name for span in self.spans()}
        return {(span.name, names.get(span.parent.span_id, "") if span.parent else "") for span in self.spans()}


@contextmanager
def traced(folder: Path, sampler: Sampler = ALWAYS_ON) -> Iterator[Traced]:
    store, ranker = EmbeddedStore(folder), trained_booster()
    publish(store, [lot(f"v{n}", f"red vase {n}") for n in range(20)])
    service = SearchService(store, SearchModels(WordEncoder, lambda tower_id: ranker))
    service.live()
    exporter, provider = InMemorySpanExporter(), TracerProvider(sampler)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(provider)
    app = create_app(lambda: service, on_answer=tracing.annotate, telemetry=tracing.config())
    tracing.watch(app)
    with served_in_thread(app) as url:
        yield Traced(url, exporter)


def test_the_phases_of_a_search_are_children_of_its_request(tmp_path: Path) -> None:
    with traced(tmp_path) as shop:
        shop.get("/search?q=red+vace&diversity=0.5")
        assert shop.tree() == {
            ("GET /search", ""),
            ("search.load", "GET /search"),
            ("search.encode", "GET /search"),
            ("search.answer", "GET /search"),
            ("search.retrieve", "search.answer"),
            ("search.rerank", "search.answer"),
            ("search.diversify", "search.answer"),
            ("search.spelling", "search.answer"),
        }
        attributes = dict(shop.span("GET /search").attributes or {})
        assert attributes["http.route"] == "/search"
        assert attributes["http.response.status_code"] == 200
        assert (attributes["gavel.mode"], attributes["gavel.results"], attributes["gavel.reranked"]) == ("hybrid", 10, True)


def test_a_trace_of_the_caller_goes_on_here(tmp_path: Path) -> None:
    with traced(tmp_path) as shop:
        shop.get("/items/v1/similar", traceparent=f"00-{PARENT}-b7ad6b7169203331-01")
        assert shop.tree() == {
            ("GET /items/{item_id}/similar", ""),
            ("search.answer", "GET /items/{item_id}/similar"),
            ("search.retrieve", "search.answer"),
        }
        assert {f"{span.get_span_context().trace_id:032x}" for span in shop.spans()} == {PARENT}


def test_traces_hold_no_words_no_buyers_and_no_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> None:
        raise IndexUnavailable("secret-address does not answer")

    with traced(tmp_path) as shop:
        shop.get("/search?q=secret-words&buyer_id=secret-buyer")
        shop.get("/buyers/secret-buyer")
        shop.get("/nowhere?q=secret-words")
        shop.get("/search?q=secret-words", Host="evil.example")
        for method in ("hybrid", "semantic", "keyword"):
            monkeypatch.setattr(EmbeddedIndex, method, fail)
        shop.get("/search?q=secret-words&k=3")
        failed = next(span for span in shop.spans() if span.name == "search.retrieve" and not span.status.is_ok)
        assert dict(failed.attributes or {}) == {"error.type": "IndexUnavailable"}
        assert "secret" not in "".join(span.to_json() for span in shop.spans())
        assert "REDACTED" in shop.span("GET /buyers/{buyer_id}").to_json()


def test_a_request_that_is_not_sampled_has_no_spans(tmp_path: Path) -> None:
    with traced(tmp_path, ALWAYS_OFF) as shop:
        shop.get("/search?q=vase")
        assert shop.spans() == []


def test_an_app_that_is_not_traced_sends_nothing_to_a_provider_of_the_process(tmp_path: Path) -> None:
    assert create_app(lambda: None)._native_telemetry.enabled() is False  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("variables", "exporters"),
    [
        ({}, []),
        ({"OTEL_SERVICE_NAME": "shop"}, []),
        ({ENDPOINT: "http://127.0.0.1:4318"}, ["otlp_proto_http"]),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ["otlp_proto_http"]),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ["otlp_proto_grpc"]),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", "otlp_proto_http"]),
        ({"OTEL_TRACES_EXPORTER": "none", ENDPOINT: "http://127.0.0.1:4318"}, []),
        ({"OTEL_SDK_DISABLED": "true", ENDPOINT: "http://127.0.0.1:4318"}, []),
    ],
)
def test_exporters_are_chosen_by_the_variables_of_opentelemetry(variables: dict[str, str], exporters: list[str]) -> None:
    assert requested_exporters(variables) == exporters


def test_an_exporter_that_is_missing_is_a_warning_and_the_server_starts(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert tracer_provider(["zipkin"]) is None
    assert "exporter zipkin cannot be used, it is not installed; there are console, " in caplog.text


def test_without_the_sdk_a_warning_names_the_extra(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with caplog.at_level(logging.WARNING):
        assert tracer_provider(["otlp_proto_http"]) is None
    assert "pip install 'gavel[otel]'" in caplog.text


def test_the_service_has_the_name_of_the_environment_or_gavel(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value, expected in (
        ("OTEL_SERVICE_NAME", "", "gavel"),
        ("OTEL_SERVICE_NAME", "shop", "shop"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=market", "market"),
    ):
        with monkeypatch.context() as environment:
            environment.setenv(name, value)
            provider = tracer_provider(["console"])
            assert provider is not None
            assert provider.resource.attributes["service.name"] == expected
            provider.shutdown()
