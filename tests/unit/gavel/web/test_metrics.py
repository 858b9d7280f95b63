"""`/metrics` of `gavel serve`, as Prometheus reads it, after real searches."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from lots import WordEncoder, lot, publish
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as text_string_to_families
from starlette.middleware import Middleware
from typer.testing import CliRunner

from gavel.cli.main import app as command
from gavel.cli.serve import listen
from gavel.opensearch.node import free_port
from gavel.web.http_server import served_in_thread
from gavel.web.monitoring import Monitoring
from gavel.web.request_queues import Queue, QueueMiddleware, request_queues
from lambdas.query_api.app import create_app
from lambdas.query_api.callers import CallerLimits
from retrieval.config.settings import Settings, split_address
from retrieval.errors import IndexUnavailable, InvalidInput
from retrieval.index.embedded.index import EmbeddedIndex
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.port import created_at
from retrieval.resilience import FAILURES
from retrieval.search.service import SearchLimits, SearchModels, SearchService

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
LISTED_AT = datetime(2026, 11, 1, tzinfo=UTC)
Labels = Mapping[str, str]


@dataclass(frozen=True)
class Shop:
    """A served app over two lots.

    Attributes:
        url: of the page and the API.
        metrics_url: of the port of `/metrics`.
        index: its name.
    """

    url: str
    metrics_url: str
    index: str

    def status(self, path: str, **headers: str) -> int:
        return status_of(Request(f"{self.url}{path}", headers=headers))

    def samples(self) -> dict[str, list[tuple[Labels, float]]]:
        """Name -> labels and value of each sample of a scrape."""
        with urlopen(Request(f"{self.metrics_url}/metrics", headers={"Accept": OPENMETRICS}), timeout=20) as answer:
            assert answer.headers["content-type"].startswith("application/openmetrics-text")
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples: dict[str, list[tuple[Labels, float]]] = {}
        for sample in (sample for family in families for sample in family.samples):
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
        return samples

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels; 0 if there are none."""
        return sum(value for own, value in self.samples().get(name, []) if labels.items() <= own.items())


def status_of(request: Request | str) -> int:
    try:
        with urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


@contextmanager
def served(
    folder: Path, encoder: type[WordEncoder] = WordEncoder, queues: Mapping[str, Queue] | None = None, hosts: Sequence[str] = ()
) -> Iterator[Shop]:
    store = EmbeddedStore(folder)
    index = publish(store, [lot("v1", "red vase", listed_at=LISTED_AT), lot("v2", "blue vase")])
    service = SearchService(store, SearchModels(encoder), SearchLimits(cached_answers_s=60))
    service.live()
    slots = dict(queues or request_queues(Settings()))
    settings = Settings(metrics_address=f"127.0.0.1:{free_port()}")
    with listen(*split_address(settings.metrics_address)) as scrapes:
        monitoring = Monitoring(settings, service, slots)
        limits = CallerLimits(hosts, writes_per_second=10)
        app = create_app(lambda: service, on_answer=monitoring.measure, limits=limits, telemetry=monitoring.telemetry)
        app.user_middleware.append(Middleware(QueueMiddleware, queues=slots))

        @app.get("/broken")
        def broken() -> None:
            raise ZeroDivisionError

        monitoring.watch(app, hosts)
        with served_in_thread(app, scrapes) as url:
            yield Shop(url, f"http://{settings.metrics_address}", index.name)


def test_searches_are_counted_with_their_phases(tmp_path: Path) -> None:
    with served(tmp_path) as shop:
        assert [shop.status(f"/search?q={words}") for words in ("vase", "red", "blue&mode=keyword")] == [200] * 3
        assert shop.value("gavel_searches_total", mode="hybrid") == 2
        assert shop.value("gavel_searches_total", mode="keyword") == 1
        for phase in ("load", "encode", "retrieve", "total"):
            assert shop.value("gavel_search_phase_seconds_count", phase=phase) == 3
        total_s = shop.value("gavel_search_phase_seconds_sum", phase="total")
        assert 0 < shop.value("gavel_search_phase_seconds_sum", phase="retrieve") < total_s < 20
        assert shop.value("gavel_search_phase_seconds_bucket", phase="total", le="+Inf") == 3


def test_several_searches_of_a_request_are_counted_one_by_one(tmp_path: Path) -> None:
    with served(tmp_path) as shop:
        body = json.dumps([{"q": "vase"}, {"q": "red"}]).encode()
        assert status_of(Request(f"{shop.url}/search", body, {"Content-Type": "application/json"})) == 200
        assert shop.value("gavel_searches_total") == 2
        assert shop.value("gavel_http_requests_total", method="POST", route="/search", status="200") == 1


def test_a_search_without_a_lot_is_an_empty_answer(tmp_path: Path) -> None:
    with served(tmp_path) as shop:
        assert shop.value("gavel_empty_answers_total") == 0
        assert shop.status("/search?q=vase&category=cars") == 200
        assert shop.status("/search?q=vase") == 200
        assert shop.value("gavel_empty_answers_total", mode="hybrid") == 1


def test_hits_and_misses_of_caches_are_counted(tmp_path: Path) -> None:
    with served(tmp_path) as shop:
        assert [shop.status("/search?q=vase") for _ in range(3)] == [200] * 3
        assert shop.status("/search?q=vase&k=1") == 200
        assert shop.value("gavel_cache_hits_total", cache="answers") == 2
        assert shop.value("gavel_cache_misses_total", cache="answers") == 2
        assert shop.value("gavel_cache_hits_total", cache="embeddings") == 1
        assert shop.value("gavel_cache_entries", cache="embeddings") == 1
        assert shop.value("gavel_cache_bytes", cache="answers") > 100
        assert shop.value("gavel_cached_answers_total") == 2


def test_an_open_circuit_shows_and_so_does_what_answers_did_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any, **more: Any) -> None:
        raise IndexUnavailable("the disk is away")

    with served(tmp_path) as shop:
        assert shop.value("gavel_circuits", state="open") == 0
        monkeypatch.setattr(EmbeddedIndex, "hybrid", fail)
        monkeypatch.setattr(EmbeddedIndex, "semantic", fail)
        for number in range(FAILURES):
            assert shop.status(f"/search?q=vase&k={number + 1}") == 200
        assert shop.value("gavel_circuits", component="hybrid", state="open") == 1
        assert shop.value("gavel_circuits", component="hybrid", state="closed") == 0
        assert shop.value("gavel_circuits", component="keyword", state="closed") == 1
        assert shop.value("gavel_failed_components_total", component="semantic") == FAILURES


def test_requests_are_counted_by_route_and_status_however_they_are_refused(tmp_path: Path) -> None:
    with served(tmp_path) as shop:
        assert shop.status("/items/v1") == 200
        assert shop.status("/items/v9") == 404
        assert shop.status("/search?q=vase&k=1000") == 400
        assert shop.status("/search?q=vase", Host="evil.example") == 421
        assert shop.status("/nowhere/v1") == 404
        assert shop.status("/broken") == 500
        assert status_of(Request(f"{shop.url}/items/v1", method="PROPFIND")) == 405
        samples = shop.samples()["gavel_http_requests_total"]
        requests = {(own["route"], own["status"]): count for own, count in samples if own["method"] == "GET"}
        assert requests == {
            ("/items/{item_id}", "200"): 1,
            ("/items/{item_id}", "404"): 1,
            ("/search", "400"): 1,
            ("/search", "421"): 1,
            ("other", "404"): 1,
            ("/broken", "500"): 1,
        }
        assert {own["method"] for own, _ in samples} == {"GET", "other"}
        assert shop.value("gavel_http_request_seconds_count", route="/items/{item_id}") == 3


def test_a_full_queue_shows_its_refusals(tmp_path: Path) -> None:
    class SlowEncoder(WordEncoder):
        def encode(self, texts: Sequence[str]) -> Any:
            time.sleep(0.5)
            return super().encode(texts)

    queues = {kind: Queue(1, 0.1) for kind in request_queues(Settings())}
    with served(tmp_path, SlowEncoder, queues) as shop, ThreadPoolExecutor(4) as buyers:
        statuses = list(buyers.map(lambda word: shop.status(f"/search?q={word}"), ("red", "blue", "gold", "vase")))
        refused = statuses.count(503)
        assert refused == 3
        assert shop.value("gavel_queue_refusals_total", kind="searches") == refused
        assert shop.value("gavel_http_requests_total", route="/search", status="503") == refused
        assert shop.value("gavel_queue_slots", kind="searches") == 1
        assert shop.value("gavel_queue_waiting", kind="searches") == 0


def test_number_and_age_of_the_lots_show_and_an_index_that_is_away_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> None:
        raise IndexUnavailable("the disk is away")

    with served(tmp_path) as shop:
        created = created_at(shop.index)
        assert created is not None
        assert shop.value("gavel_index_up") == 1
        assert shop.value("gavel_index_items") == 2
        assert shop.value("gavel_index_created_timestamp_seconds") == pytest.approx(created.timestamp(), abs=1)
        assert time.time() - created.timestamp() < 60
        assert shop.value("gavel_index_newest_listed_timestamp_seconds") == LISTED_AT.timestamp()
        monkeypatch.setattr(EmbeddedIndex, "count", fail)
        assert shop.value("gavel_index_up") == 0
        assert shop.value("gavel_index_items") == 2


def test_an_index_that_somebody_else_named_has_no_age() -> None:
    assert created_at("auction-items") is None


def test_metrics_are_not_on_the_port_of_the_page_nor_the_page_on_theirs(tmp_path: Path) -> None:
    with served(tmp_path) as shop:
        assert shop.status("/metrics") == 404
        assert status_of(f"{shop.metrics_url}/search?q=vase") == 404
        assert status_of(Request(f"{shop.metrics_url}/metrics", b"", method="POST")) in (403, 405)
        assert shop.value("gavel_searches_total") == 0
        assert shop.value("gavel_http_requests_total", route="other", status="404") == 1  # scrapes are no requests


def test_a_page_that_points_its_own_name_here_reads_no_metrics(tmp_path: Path) -> None:
    with served(tmp_path, hosts=["monitor.example"]) as shop:
        scrape = f"{shop.metrics_url}/metrics"
        assert status_of(Request(scrape, headers={"Host": "evil.example"})) == 421
        assert status_of(Request(scrape, headers={"Host": "monitor.example:9464"})) == 200


@pytest.mark.parametrize("address", ["9464", ":9464", "localhost", "localhost:0", "localhost:65536", "::1:9464", "a:-1", "a:²"])
def test_an_address_without_host_or_port_is_refused(address: str) -> None:
    with pytest.raises(InvalidInput, match=r"127\.0\.0\.1:9464"):
        split_address(address)


def test_addresses_of_both_families_are_read() -> None:
    assert split_address("127.0.0.1:9464") == ("127.0.0.1", 9464)
    assert split_address("[::1]:9464") == ("::1", 9464)


@pytest.mark.parametrize(
    ("address", "remedy"), [("9464", "such as 127.0.0.1:9464"), ("localhost:8000", "give --metrics another one")]
)
def test_the_command_refuses_an_address_that_cannot_serve_metrics(address: str, remedy: str) -> None:
    run = CliRunner().invoke(command, ["serve", "--port", "8000", "--metrics", address])
    assert isinstance(run.exception, InvalidInput)
    assert remedy in str(run.exception)


def test_without_an_address_nothing_is_imported_or_counted() -> None:
    program = (
        "import sys; from gavel.web.monitoring import Monitoring; from retrieval.config.settings import Settings\n"
        "from fastapi import FastAPI; app = FastAPI(); monitoring = Monitoring(Settings(), None, {}); monitoring.watch(app, ())\n"
        "print(*(m for m in ('prometheus_client', 'opentelemetry.sdk', 'opentelemetry.exporter') if m in sys.modules))\n"
        "print(app.user_middleware, monitoring.telemetry['tracing'])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "\n[] False\n"


def test_queries_and_alerts_of_the_documentation_name_metrics_that_exist(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[4] / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.split("\n## Metrics and traces of gavel serve\n")[1].split("\n## ")[0]
    named = set(re.findall(r"\bgavel_\w+", section))
    with served(tmp_path) as shop, urlopen(f"{shop.metrics_url}/metrics", timeout=20) as answer:
        families = {family.name: family.type for family in text_string_to_families(answer.read().decode())}
    samples = {f"{name}_total" if kind == "counter" else name for name, kind in families.items()}
    buckets = {f"{name}_bucket" for name, kind in families.items() if kind == "histogram"}
    assert named - buckets == samples
    assert buckets >= {name for name in named if name.endswith("_bucket")}
