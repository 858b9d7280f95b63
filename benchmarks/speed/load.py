"""Throughput limit of searches on one core, and latency at half of that limit.

`gavel serve` runs on one core and Locust on another, over the loopback. A closed loop measures the limit. Poisson arrivals at half
of the limit measure the latency. The server caches neither answers nor encoded queries.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import psutil
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from benchmarks.machine import describe_machine
from benchmarks.measurement import Measurement
from benchmarks.speed.load_users import LoadPlan, LoadResponse
from gavel.opensearch.node import free_port
from processing.evaluation.runs import Latency, summarise_ms
from retrieval.errors import GavelError, InvalidInput

START_S = 120.0
WARM_UP_S = 3.0
USERS_AT_LIMIT = 8  # users that keep one core busy
USERS_AT_RATE = 64  # users that may wait for answers before a query is sent late
SERVER_CORE, USERS_CORE = 0, 1
UNCACHED = {"GAVEL_CACHED_ANSWERS_S": "0", "GAVEL_CACHED_QUERIES": "0"}


@dataclass(frozen=True, slots=True)
class Load:
    """Result of one load.

    Attributes:
        requested_rate: requested queries per second; 0 is a closed loop.
        rate: answers per second.
        latency: latency at the client in milliseconds.
        reranked: share of the answers that were re-ranked.
        degraded: number of answers with a failed component.
        errors: message -> count.
        server_cpu: processor seconds of the server per second.
    """

    requested_rate: float
    rate: float
    latency: Latency
    reranked: float
    degraded: int
    errors: dict[str, int]
    server_cpu: float


@dataclass(frozen=True)
class LoadResult(Measurement):
    """Results of a server at its limit and at half of the limit.

    Attributes:
        lots: number of items in the index.
        limit: result of a closed loop.
        half: result of a load at half the rate of `limit`.
        rss_mb: resident memory of the server at the end in MB.
    """

    lots: int
    limit: Load
    half: Load
    rss_mb: float


def run_benchmark(
    texts: Sequence[str], *, seconds: float = 20.0, on_phase: Callable[[str], None] = lambda phase: None
) -> LoadResult:
    """Serve the index of this workspace and load the server.

    Args:
        texts: queries, repeated in their order.
        seconds: seconds of each of the two loads.
        on_phase: called with the name of each phase as it begins.

    Raises:
        InvalidInput: this machine has one core, or no Locust.
        GavelError: the server did not start (the message has its output), or a load failed.
    """
    if (psutil.cpu_count() or 1) < 2:
        raise InvalidInput("server and load tool want a core each, and this machine has one")
    if find_spec("locust") is None:
        raise InvalidInput("`gavel bench load` wants Locust; `make .venv/installed-dev` or `pip install locust` installs it")
    machine = describe_machine()
    on_phase("start")
    with served() as (url, server):
        health = json.load(urlopen(f"{url}/health"))
        on_phase("warm up")
        _warm_up(url, texts, server)
        on_phase("limit")
        limit = _load(LoadPlan(url, list(texts), USERS_AT_LIMIT, seconds), server)
        on_phase("half of the limit")
        half = _load(LoadPlan(url, list(texts), USERS_AT_RATE, seconds, limit.rate / 2), server)
        return LoadResult(health["items"], limit, half, round(server.memory_info().rss / 1e6, 1), machine=machine)


def limit_of(texts: Sequence[str], seconds: float, settings: Mapping[str, str] = UNCACHED) -> tuple[Load, dict[str, Any]]:
    """Measure the limit of a server of this workspace; return the load, and cache -> hits and misses during the load.

    Args:
        texts: queries in order; the warm-up begins with the last.
        seconds: seconds of the load.
        settings: environment variables of the server.
    """
    with served(settings) as (url, server):
        _warm_up(url, texts[::-1], server)
        before = _caches(url)
        load = _load(LoadPlan(url, list(texts), USERS_AT_LIMIT, seconds), server)
        after = _caches(url)
        return load, {cache: {kind: after[cache][kind] - before[cache][kind] for kind in ("hits", "misses")} for cache in after}


def _caches(url: str) -> dict[str, Any]:
    caches: dict[str, Any] = json.load(urlopen(f"{url}/health"))["caches"]
    return caches


@contextmanager
def served(settings: Mapping[str, str] = UNCACHED, workers: int = 1) -> Iterator[tuple[str, psutil.Process]]:
    """Run `gavel serve` for the length of the block, and yield its URL and process. A single worker is pinned to SERVER_CORE."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "gavel.cli.main",
        "serve",
        "--port",
        str(port),
        *(["--workers", str(workers)] if workers > 1 else []),
    ]
    server = subprocess.Popen(command, env={**os.environ, **settings}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        process = psutil.Process(server.pid)
        if workers == 1:
            process.cpu_affinity([SERVER_CORE])
        url = f"http://127.0.0.1:{port}"
        _wait_for(f"{url}/health", server)
        yield url, process
    finally:
        server.terminate()
        server.wait()


@retry(retry=retry_if_exception_type(OSError), stop=stop_after_delay(START_S), wait=wait_fixed(0.1), reraise=True)
def _wait_for(url: str, server: "subprocess.Popen[str]") -> None:
    if server.poll() is not None:
        output = server.stderr.read().strip() if server.stderr else ""
        raise GavelError(f"`gavel serve` ended before it answered: {output or 'without a word'}")
    with urlopen(url, timeout=5):
        pass


def _warm_up(url: str, texts: Sequence[str], server: psutil.Process) -> None:
    """Search once, which loads the models, and then run a load for WARM_UP_S."""
    with urlopen(f"{url}/search?{urlencode({'q': texts[0]})}", timeout=START_S):
        pass
    _load(LoadPlan(url, list(texts), USERS_AT_LIMIT, WARM_UP_S), server)


def _load(plan: LoadPlan, server: psutil.Process) -> Load:
    busy = sum(server.cpu_times()[:2])
    command = [sys.executable, "-m", "benchmarks.speed.load_users"]
    users = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    psutil.Process(users.pid).cpu_affinity([USERS_CORE])
    output, errors = users.communicate(json.dumps(asdict(plan)))
    if users.returncode:
        raise GavelError(f"the load tool failed: {errors.strip().splitlines()[-1] if errors.strip() else users.returncode}")
    result = LoadResponse(**json.loads(output))
    if not result.milliseconds:
        raise GavelError(f"no search was answered: {result.errors}")
    return Load(
        round(plan.rate, 1),
        round(result.rate, 1),
        summarise_ms(result.milliseconds),
        round(result.reranked / len(result.milliseconds), 3),
        result.degraded,
        result.errors,
        round((sum(server.cpu_times()[:2]) - busy) / result.seconds, 2),
    )
