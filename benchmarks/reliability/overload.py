"""Load `gavel serve` beyond its capacity and with malicious clients.

python -m benchmarks.reliability.overload                                  # over a temporary workspace with random weights
GAVEL_HOME=.gavel python -m benchmarks.reliability.overload --given

The server runs on one core and its clients on another, over the loopback. A closed loop measures the capacity. Then requests arrive
as a Poisson process at 1, 2 and 3 times that rate. A client hangs up when its patience ends. Goodput is the number of answers per
second that come before their clients hang up and before the load ends. The speed of a machine varies. So each load is repeated, and
compared with the mean of the capacities measured before and after the load.

At half of the capacity, searches are timed three times: without other load, during repeated requests for a very large photo, and
with open connections whose requests never end. While these connections are open, the server receives SIGTERM. The server caches
neither answers nor encoded queries.
"""

import asyncio
import json
import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any
from urllib.parse import quote, urlencode, urlsplit

import psutil
import typer
from PIL import Image

from benchmarks.machine import describe_machine
from benchmarks.measurement import Measurement
from benchmarks.speed.embed import LOTS_FILE, make_lots
from benchmarks.speed.load import UNCACHED, USERS_CORE, served
from benchmarks.speed.many_lots import questions
from gavel.workspace.console import console, notes, show_table
from gavel.workspace.folders import Workspace
from gavel.workspace.options import print_json
from processing.evaluation.runs import Latency, summarise_ms
from retrieval.config.settings import Settings
from retrieval.errors import GavelError

TIMES = (1.0, 2.0, 3.0)  # rates of the loads, as multiples of the capacity
QUIET = 0.5  # rate of the other loads, as a share of the capacity
ROUNDS = 8  # rounds of each load at TIMES
CLIENTS = 16  # clients of the closed loop: enough to keep the server busy, few enough to wait for a slot
BACK_OFF_S = 0.1  # pause of a client after a refused request
QUERIES = 100
BOMB_ID, BOMB_SIDE = "bomb", 10_000  # pixels
HALF_SENT = 1_100
HALF_A_REQUEST = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
STOP_S = 30.0  # seconds after which a server that does not stop is killed
LATE, BROKEN = "late", "broken"


@dataclass(frozen=True, slots=True)
class Rush:
    """Outcome of searches at one rate.

    Attributes:
        requested_rate: searches per second that were sent.
        goodput: answers in time per second.
        shares: goodput of each round, divided by the capacity measured around the round, or by the rate if the rate is lower.
        outcomes: HTTP status, `late` or `broken` -> count.
        latency: latency of answers before the clients' patience ended; None if there are none.
    """

    requested_rate: float
    goodput: float
    shares: list[float]
    outcomes: dict[str, int]
    latency: Latency | None


@dataclass(frozen=True)
class OverloadResult(Measurement):
    """Results of one run.

    Attributes:
        lots: number of lots in the index.
        workers: number of the server's processes.
        patience_s: seconds after which a client hangs up.
        capacity: answers per second of the closed loop, mean of all measurements.
        rushes: name of a load -> outcome.
        half_sent: number of connections with unfinished requests, and number of these that were still open at the end of the load.
        stop_s: seconds from SIGTERM to the end of the server, while these connections are open.
        pss_mb: memory of all processes of the server in MB after the loads at TIMES, shared pages counted once.
    """

    lots: int
    workers: int
    patience_s: float
    capacity: float
    rushes: dict[str, Rush]
    half_sent: tuple[int, int]
    stop_s: float
    pss_mb: float


def main(
    given: Annotated[bool, typer.Option("--given", help="Serve GAVEL_HOME instead of a temporary workspace.")] = False,
    photo: Annotated[str, typer.Option(help="item_id of a lot with a very large photo.")] = BOMB_ID,
    lots: Annotated[int, typer.Option(min=10, help="Number of lots in the temporary workspace.")] = 2_000,
    seconds: Annotated[float, typer.Option(min=0.5, max=60.0, help="Seconds of each load.")] = 3.0,
    rounds: Annotated[int, typer.Option(min=1, max=20, help="Rounds of each load at or above the capacity.")] = ROUNDS,
    patience: Annotated[float, typer.Option(min=0.05, max=10.0, help="Seconds after which a client hangs up.")] = 1.0,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Processes of the server; a single one is pinned to a core.")] = 1,
    half_sent: Annotated[int, typer.Option(min=1, max=4_000, help="Connections whose requests never end.")] = HALF_SENT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Load a server beyond its capacity and with malicious clients, and print the outcomes."""
    with nullcontext(Settings.from_env().home) if given else temporary_workspace(lots) as home:
        result = run_benchmark(
            home, photo, seconds=seconds, rounds=rounds, patience_s=patience, workers=workers, half_sent=half_sent
        )
    if as_json:
        print_json(result.to_dict())
        return
    header = ("", "asked/s", "in time/s", "share", "p99 ms", "503", LATE)
    title = f"{result.lots:,} lots, workers {result.workers}, capacity {result.capacity:.1f}/s, patience {result.patience_s:g} s"
    show_table(title, header, [_row(name, rush) for name, rush in result.rushes.items()])
    held, still = result.half_sent
    note = f"of {held:,} half-sent requests {still:,} were held to the end; SIGTERM ends the server in {result.stop_s:.1f} s"
    console.print(f"{note}; {result.pss_mb:.0f} MB; {result.machine}", style="dim", highlight=False, soft_wrap=True)


def _row(name: str, rush: Rush) -> tuple[str, ...]:
    p99 = f"{rush.latency.p99_ms:.0f}" if rush.latency else ""
    refused, late = (sum(rush.outcomes.get(outcome, 0) for outcome in outcomes) for outcomes in (("503",), (LATE, BROKEN)))
    share = f"{fmean(rush.shares):.2f}" + (f" ({min(rush.shares):.2f} to {max(rush.shares):.2f})" if len(rush.shares) > 1 else "")
    return (name, f"{rush.requested_rate:.1f}", f"{rush.goodput:.1f}", share, p99, str(refused), str(late))


def run_benchmark(
    home: Path,
    photo: str,
    *,
    seconds: float = 3.0,
    rounds: int = ROUNDS,
    patience_s: float = 1.0,
    workers: int = 1,
    half_sent: int = HALF_SENT,
    on_phase: Callable[[str], None] = lambda phase: notes.print(phase, style="dim"),
) -> OverloadResult:
    """Serve a workspace and load the server.

    Args:
        home: folder of the workspace, with a release and an index of the release.
        photo: item_id of the item with the very large photo.
        seconds: seconds of each load.
        rounds: rounds of each load at TIMES, > 0.
        patience_s: seconds after which a client hangs up.
        workers: number of the server's processes.
        half_sent: number of connections whose requests never end.
        on_phase: called with the name of each phase as it begins.

    Raises:
        GavelError: the server did not start, or answered nothing.
    """
    _allow_files(half_sent + 2_000)
    machine, texts = describe_machine(), questions(Workspace(Settings(home=home)).release(None), QUERIES)
    with served({**UNCACHED, "GAVEL_HOME": str(home)}, workers) as (url, server), _on_core(USERS_CORE if workers == 1 else None):
        clients = _Clients(url, texts, patience_s)

        def measure_capacity() -> float:
            measured.append(asyncio.run(clients.capacity(seconds)))
            if not measured[-1]:
                raise GavelError("no search was answered; see what `gavel serve` says")
            return measured[-1]

        def rush(name: str, beside: Callable[[float], Coroutine[Any, Any, Any]] | None = None) -> None:
            on_phase(name)
            load = asyncio.run(clients.rush(measured[-1] * QUIET, seconds, beside))
            rushes[name] = _rush_of([load], [load.goodput / load.requested_rate])

        on_phase("warm up")
        asyncio.run(clients.capacity(min(seconds, 3.0)))
        on_phase("capacity")
        measured: list[float] = []
        rushes: dict[str, Rush] = {}
        before = measure_capacity()
        for times in TIMES:
            on_phase(f"{times:g} × capacity")
            loads, goodput_ratios = [], []
            for _ in range(rounds):
                loads.append(asyncio.run(clients.rush(before * times, seconds)))
                after = measure_capacity()
                goodput_ratios.append(loads[-1].goodput / min(loads[-1].requested_rate, (before + after) / 2))
                before = after
            rushes[f"{times:g} × capacity"] = _rush_of(loads, goodput_ratios)
        lots = json.loads(asyncio.run(clients.get("/health", 10.0))[1])["items"]
        pss_mb = _pss_mb(server)
        rush("half of the capacity")
        rush("half, and a monstrous photo", lambda seconds: clients.again_and_again(f"/photos/{quote(photo)}", seconds))
        with _half_sent(url, half_sent) as held:
            rush("half, and half-sent requests")
            still = sum(map(_is_open, held))
            stop_s = _stop(server)
    return OverloadResult(
        *(lots, workers, patience_s, round(fmean(measured), 1), rushes, (half_sent, still), round(stop_s, 1), pss_mb),
        machine=machine,
    )


class _Clients:
    """Clients of a server. Each request has its own connection, which is closed when the client's patience ends."""

    def __init__(self, url: str, texts: Sequence[str], patience_s: float) -> None:
        self._address = (urlsplit(url).hostname, urlsplit(url).port)
        self._texts, self._patience_s = cycle(texts), patience_s

    async def get(self, path: str, patience_s: float) -> tuple[str, bytes]:
        """Send one request; return the status, `late` or `broken`, and the body."""
        writer = None
        try:
            async with asyncio.timeout(patience_s):
                reader, writer = await asyncio.open_connection(*self._address)
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {self._address[0]}\r\nConnection: close\r\n\r\n".encode())
                head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
            return (head.split(b" ", 2)[1].decode() if head else BROKEN), body
        except TimeoutError:
            return LATE, b""
        except OSError:
            return BROKEN, b""
        finally:
            if writer is not None:
                writer.transport.abort()

    async def search(self, patience_s: float) -> str:
        """Search once; return the status, `late` or `broken`."""
        return (await self.get(f"/search?{urlencode({'q': next(self._texts)})}", patience_s))[0]

    async def capacity(self, seconds: float) -> float:
        """Return the answers per second of a closed loop with CLIENTS clients."""
        answered, started = 0, time.perf_counter()

        async def ask() -> None:
            nonlocal answered
            while time.perf_counter() < started + seconds:
                if await self.search(seconds) == "200":
                    answered += 1
                else:
                    await asyncio.sleep(BACK_OFF_S)

        await asyncio.gather(*(ask() for _ in range(CLIENTS)))
        return answered / (time.perf_counter() - started)

    async def again_and_again(self, path: str, seconds: float) -> None:
        """Send requests for one path, one after the other, for `seconds`."""
        started = time.perf_counter()
        while (left := started + seconds - time.perf_counter()) > 0:
            await self.get(path, left)

    async def rush(
        self, rate: float, seconds: float, beside: Callable[[float], Coroutine[Any, Any, None]] | None = None
    ) -> "_Load":
        """Search `rate` times per second on average, with Poisson arrivals, while `beside` runs."""
        outcomes: Counter[str] = Counter()
        in_time: list[float] = []
        answered = 0  # answers before the end of the load; later answers come from a server without load
        due = started = time.perf_counter()

        async def ask() -> None:
            nonlocal answered
            sent_at = time.perf_counter()
            outcome = await self.search(self._patience_s)
            outcomes[outcome] += 1
            if outcome == "200":
                in_time.append((time.perf_counter() - sent_at) * 1_000)
                answered += time.perf_counter() < started + seconds

        async with asyncio.TaskGroup() as group:
            if beside:
                group.create_task(beside(seconds))
            while (due := due + random.expovariate(rate)) < started + seconds:
                await asyncio.sleep(due - time.perf_counter())
                group.create_task(ask())
        return _Load(outcomes.total() / seconds, answered / seconds, outcomes, in_time)


@dataclass(frozen=True, slots=True)
class _Load:
    requested_rate: float
    goodput: float
    outcomes: Counter[str]
    in_time_ms: list[float]


def _rush_of(loads: Sequence[_Load], goodput_ratios: Sequence[float]) -> Rush:
    """Summarise the rounds of a load."""
    outcomes = sum((load.outcomes for load in loads), Counter[str]())
    in_time = [took for load in loads for took in load.in_time_ms]
    return Rush(
        round(fmean(load.requested_rate for load in loads), 1),
        round(fmean(load.goodput for load in loads), 1),
        [round(ratio, 3) for ratio in goodput_ratios],
        dict(outcomes),
        summarise_ms(in_time) if in_time else None,
    )


@contextmanager
def temporary_workspace(lots: int, bomb_side: int = BOMB_SIDE) -> Iterator[Path]:
    """Yield the folder of a temporary workspace with an index by a tower of random weights. One item has a very large photo."""
    from models.artefacts.tower_files import save_towers
    from models.towers.config import preset
    from models.towers.tokenizer import train_wordpiece
    from models.towers.two_towers import TwoTowers

    with tempfile.TemporaryDirectory(prefix="gavel-overload-") as folder:
        home, shop = Path(folder) / "home", Path(folder) / "shop"
        make_lots(shop, lots, 96)
        Image.new("RGB", (bomb_side, bomb_side)).save(shop / "photos" / f"{BOMB_ID}.png")
        row = {"item_id": BOMB_ID, "title": "a very large photo", "image": f"photos/{BOMB_ID}.png"}
        with (shop / LOTS_FILE).open("a") as file:
            file.write(json.dumps(row) + "\n")
        config = preset("compact").fresh()
        texts = [json.loads(line)["title"] for line in (shop / LOTS_FILE).read_text().splitlines()]
        save_towers(TwoTowers(config).eval(), train_wordpiece(texts, config.vocabulary), home / "towers")
        for command in (("embed", str(shop)), ("index",)):
            _run(home, *command)
        yield home


def _run(home: Path, *arguments: str) -> None:
    """Run a command of `gavel` in a workspace."""
    done = subprocess.run(
        [sys.executable, "-m", "gavel.cli.main", *arguments],
        env={**os.environ, "GAVEL_HOME": str(home)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise GavelError(f"`gavel {arguments[0]}` failed: {done.stderr.strip()}")


@contextmanager
def _half_sent(url: str, count: int) -> Iterator[list[socket.socket]]:
    """Hold open `count` connections, each with half a request, for the length of the block."""
    held: list[socket.socket] = []
    try:
        for _ in range(count):
            held.append(socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=5))
            held[-1].sendall(HALF_A_REQUEST)
            held[-1].setblocking(False)
        yield held
    finally:
        for each in held:
            each.close()


def _is_open(held: socket.socket) -> bool:
    """True if the server has neither answered on the connection nor closed it."""
    try:
        held.recv(1)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _stop(server: psutil.Process) -> float:
    """Send SIGTERM and return the seconds until the server ended. It is killed after STOP_S."""
    started = time.perf_counter()
    server.terminate()
    try:
        server.wait(STOP_S)
    except psutil.TimeoutExpired:
        for process in [server, *server.children(recursive=True)]:
            process.kill()
    return time.perf_counter() - started


def _pss_mb(server: psutil.Process) -> float:
    """Return the memory of a process and its children in MB, shared pages counted once."""
    return float(round(sum(process.memory_full_info().pss for process in [server, *server.children(recursive=True)]) / 1e6))


@contextmanager
def _on_core(core: int | None) -> Iterator[None]:
    """Pin this process to a core for the length of the block."""
    before = psutil.Process().cpu_affinity()
    if core is not None:
        psutil.Process().cpu_affinity([core])
    try:
        yield
    finally:
        psutil.Process().cpu_affinity(before)


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count if hard == resource.RLIM_INFINITY else min(count, hard), hard))


if __name__ == "__main__":
    typer.run(main)
