"""`gavel serve --workers 2 --metrics`: the metrics of both processes together, whichever of them is scraped, and their traces."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from small_tower import save_spread_tower

from gavel.opensearch.node import free_port
from processing.embedding.job import embed
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.ingestion import index_release

TITLES = [f"{colour} {kind} {n}" for n in range(20) for colour in ("red", "gold") for kind in ("vase", "watch")]
WORKERS = 2
SEARCH_SLOTS = WORKERS * max(2, len(os.sched_getaffinity(0)) // WORKERS)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a tower and a live index of TITLES."""
    home = tmp_path_factory.mktemp("monitored")
    items = home / "items.ndjson"
    items.write_text("".join(json.dumps({"item_id": f"lot-{n}", "title": title}) + "\n" for n, title in enumerate(TITLES)))
    tower = save_spread_tower(TITLES, home / "towers")
    embed([items], tower, home / "embeddings", release_id="night", batch_size=40, workers=0)
    store = EmbeddedStore(home / "index")
    index_release(home / "embeddings" / "night", store)
    store.close()
    return home


class Server:
    """A served workspace.

    Attributes:
        process: parent of the workers.
        url: of the API.
        output: file of its standard output and error.
        files: folder of the temporary files of all its processes.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", url: str, metrics_url: str, output: Path, files: Path) -> None:
        self.process, self.url, self.output, self.files = process, url, output, files
        self._metrics_url = metrics_url

    def search(self, query: str) -> None:
        with urlopen(f"{self.url}/search?q={query}", timeout=30) as answer:  # a connection of its own, which any worker may take
            assert answer.status == 200

    def value(self, name: str, **labels: str) -> float:
        scrape = Request(self._metrics_url, headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        families = text_string_to_metric_families(urlopen(scrape, timeout=30).read().decode())
        samples = [sample for family in families for sample in family.samples]
        return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())

    def searching_workers(self) -> list[int]:
        """Searches that each worker has answered, by its cache of queries, from the largest."""
        use = set()
        for _ in range(30):
            caches = json.load(urlopen(f"{self.url}/health", timeout=30))["caches"]["answers"]
            use.add(caches["hits"] + caches["misses"])
        return sorted(use, reverse=True)


def until(true: Callable[[], bool], seconds: float = 90) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.2)


@contextmanager
def served(home: Path, folder: Path, **variables: str) -> Iterator[Server]:
    port, metrics = free_port(), f"127.0.0.1:{free_port()}"
    flags = ["--port", str(port), "--workers", str(WORKERS), "--metrics", metrics]
    output, files = folder / "output", folder / "files_of_a_path_that_is_too_long_for_a_socket_of_multiprocessing_in_it"
    files.mkdir()
    environment = {**os.environ, "GAVEL_HOME": str(home), "OMP_NUM_THREADS": "1", "TMPDIR": str(files), **variables}
    command = [sys.executable, "-m", "gavel.cli.main", "serve", *flags]
    with output.open("wb") as text, subprocess.Popen(command, env=environment, stdout=text, stderr=subprocess.STDOUT) as process:
        server = Server(process, f"http://127.0.0.1:{port}", f"http://{metrics}/metrics", output, files)
        try:
            until(lambda: "/metrics" in output.read_text())
            until(lambda: server.value("gavel_queue_slots", kind="searches") == SEARCH_SLOTS)
            yield server
        finally:
            process.terminate()
            process.wait(20)
            print(output.read_text())  # shown by pytest if the test fails


def test_counts_are_those_of_both_workers_and_outlive_a_worker(home: Path, tmp_path: Path) -> None:
    with served(home, tmp_path) as server:
        searches = 0
        while len(server.searching_workers()) < WORKERS or 0 in server.searching_workers():
            server.search(f"vase+{searches}")
            searches += 1
            assert searches < 300
        for number in range(10):
            server.search(f"watch+{number}&category=cars")
        searches += 10
        until(lambda: server.value("gavel_searches_total", mode="hybrid") == searches)  # each worker writes twice a second
        assert server.value("gavel_http_requests_total", route="/search", status="200") == searches
        assert server.value("gavel_search_phase_seconds_count", phase="total") == searches
        assert server.value("gavel_empty_answers_total") == 10
        assert server.value("gavel_index_items") == len(TITLES)
        assert server.value("gavel_circuits", component="hybrid", state="closed") == WORKERS

        def lookups() -> float:
            return sum(server.value(f"gavel_cache_{kind}_total", cache="answers") for kind in ("hits", "misses"))

        assert lookups() == searches
        killed = int(next(server.files.glob("gavel-metrics-*/counter_*.db")).stem.partition("_")[2])
        os.kill(killed, signal.SIGKILL)
        until(lambda: f"worker {killed} ended" in server.output.read_text())
        until(lambda: server.value("gavel_queue_slots", kind="searches") == SEARCH_SLOTS)  # the other one's and the new one's
        assert server.value("gavel_searches_total", mode="hybrid") == searches
        assert lookups() == searches
        server.search("lamp")
        until(lambda: server.value("gavel_searches_total", mode="hybrid") == searches + 1)
        server.process.terminate()
        server.process.wait(20)
        assert list(server.files.glob("gavel-metrics-*")) == []


def test_traces_are_sent_as_the_environment_says_and_whole_at_a_stop(home: Path, tmp_path: Path) -> None:
    with served(home, tmp_path, OTEL_TRACES_EXPORTER="console", OTEL_SERVICE_NAME="shop") as server:
        server.search("secret")
        server.process.terminate()
        server.process.wait(20)
        output = server.output.read_text()
    for name in ("GET /search", "search.encode", "search.answer", "search.retrieve"):
        assert output.count(f'"name": "{name}"') == 1
    assert '"service.name": "shop"' in output
    assert "secret" not in output
    assert '"name": "GET"' not in output  # scrapes are not traced
