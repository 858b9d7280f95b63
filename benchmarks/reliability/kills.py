"""Durability of an embedded index: a writer is killed with SIGKILL at random moments of add, delete, merge and swap.

python -m benchmarks.reliability.kills --rounds 200

The writer logs each operation on standard output before it starts and after it is acknowledged. After a kill the index is opened
again. Then every acknowledged write must be present, and the interrupted write completely or not at all. Every search must answer,
and no search may find an item that was deleted or whose auction has ended.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.machine import describe_machine
from benchmarks.measurement import Measurement
from gavel.workspace.console import console, progress
from retrieval.contracts.documents import Deletion, IndexedItem, Vector
from retrieval.errors import GavelError
from retrieval.index.embedded import keywords as lot_keywords
from retrieval.index.embedded.segments import DEFAULT_INDEX, embedded_spec
from retrieval.index.embedded.store import EmbeddedStore, OpenIndex
from retrieval.index.filters import Filter

DIMENSIONS, TOWER = 16, "killed"
ITEMS = 3_000  # different ids that are added and deleted
BATCH = (1, 600)  # minimum and maximum of entries in one write, which is one transaction
MAX_DELAY_S = 1.5  # longest time from the start of the writer to its kill
ENDED_MS = 1_000_000_000_000  # long ago
ENDING = 5  # every fifth lot has ended
NOW = datetime(2026, 11, 21, tzinfo=UTC)

State = dict[int, int]  # number of a present item -> its version


@dataclass(frozen=True)
class KillReport(Measurement):
    """Counts of kills and writes over all rounds.

    Attributes:
        killed_during: operation at the moment of a kill -> number of kills.
        write_sizes: number of items or deletions in each acknowledged write.
    """

    machine: str
    killed_during: Counter[str] = field(default_factory=Counter)
    write_sizes: list[int] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        """Number of kills of the writer."""
        return self.killed_during.total()

    def add(self, log: Sequence[Mapping[str, Any]]) -> None:
        """Count a round, given the log of its writer."""
        self.killed_during[log[-1]["op"] if log and not log[-1]["done"] else "nothing"] += 1
        self.write_sizes.extend(len(step["numbers"]) for step in log if step["done"] and step["numbers"])

    def to_dict(self) -> dict[str, Any]:
        """Return the counts for JSON."""
        conditions = {"machine": self.machine, "date": self.date, "command": self.command}
        counts = {"acknowledged": len(self.write_sizes), "entries": sum(self.write_sizes)}
        return {"rounds": self.rounds, "killed_during": dict(self.killed_during), **counts, **conditions}


class Lost(GavelError):
    """The index differs from the acknowledged writes."""


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Times that the writer is killed.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the writes and of the moments of the kills.")] = 7,
    spec: Annotated[str, typer.Option(help="Vector index, as GAVEL_EMBEDDED_INDEX takes it.")] = DEFAULT_INDEX,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Kill a writer again and again, and check the index after each kill."""
    with tempfile.TemporaryDirectory(prefix="gavel-kills-") as folder, progress("kills") as step:
        report = KillReport(describe_machine())
        for number in survive(Path(folder), rounds, seed, report, spec):
            step(number, rounds)
    during = ", ".join(f"{op} {count}" for op, count in report.killed_during.most_common())
    writes = f"{len(report.write_sizes)} writes of {sum(report.write_sizes)} entries, none lost"
    report.report(as_json, lambda: console.print(f"{report.rounds} kills ({during}): {writes}"))


def survive(root: Path, rounds: int, seed: int, report: KillReport, spec: str = DEFAULT_INDEX) -> Iterator[int]:
    """Kill a writer of one index repeatedly, and check the index after each kill.

    Args:
        root: root folder of the store; new or empty.
        rounds: number of kills.
        seed: seed of everything random.
        report: report that counts the rounds.
        spec: type and parameters of the vector index.

    Yields:
        The number of each passed round.

    Raises:
        Lost: after a kill the index differs from the acknowledged writes.
    """
    chance, state, version = random.Random(seed), State(), 0
    store = EmbeddedStore(root, spec=embedded_spec(spec))
    store.publish(store.create(TOWER, DIMENSIONS).name)
    store.live().close()
    for number in range(1, rounds + 1):
        arguments = {"root": str(root), "state": list(state.items()), "version": version, "seed": chance.randrange(2**31)}
        arguments["spec"] = spec
        log = _run_and_kill(arguments, after_s=chance.uniform(0.0, MAX_DELAY_S))
        state, highest = _check(root, log, state, spec)
        version = max(version, highest)
        report.add(log)
        yield number


def _run_and_kill(arguments: Mapping[str, Any], after_s: float) -> list[dict[str, Any]]:
    """Start a writer, kill it after `after_s` seconds, and return its log."""
    command = [sys.executable, "-c", "from benchmarks.reliability.kills import write; write()"]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert writer.stdin is not None
    assert writer.stdout is not None
    writer.stdin.write(json.dumps(arguments))
    writer.stdin.close()
    assert writer.stdout.readline() == "ready\n"
    time.sleep(after_s)
    os.kill(writer.pid, signal.SIGKILL)
    whole_lines = writer.stdout.read().split("\n")[:-1]
    writer.wait()
    return [json.loads(line) for line in whole_lines]


def write() -> None:
    """Run the writer: read its arguments from stdin, then write and log until it is killed."""
    arguments = json.load(sys.stdin)
    chance, state = random.Random(arguments["seed"]), dict(arguments["state"])
    version = arguments["version"]
    lot_keywords.SMALL = 0  # otherwise the words of so few items would never merge in the background
    store = EmbeddedStore(Path(arguments["root"]), spec=embedded_spec(arguments["spec"]))
    index = store.live()
    print("ready", flush=True)
    while True:
        version += 1
        step = _next_step(chance, state, version)
        print(json.dumps({**step, "done": False}), flush=True)
        index = _execute(step, index, store, state)
        print(json.dumps({**step, "done": True}), flush=True)


def _next_step(chance: random.Random, state: State, version: int) -> dict[str, Any]:
    op = chance.choices(["add", "delete", "merge", "search", "swap"], [6, 3, 2, 3, 1])[0]
    numbers = {"add": range(ITEMS), "delete": list(state)}.get(op, [])
    return {"op": op, "version": version, "numbers": chance.sample(numbers, min(len(numbers), chance.randint(*BATCH)))}


def _execute(step: Mapping[str, Any], index: OpenIndex, store: EmbeddedStore, state: State) -> OpenIndex:
    """Execute a step, and return the index that is live afterwards."""
    if step["op"] in ("add", "delete"):
        report = index.upsert(_entries(step))
        assert report.indexed + report.deleted == len(step["numbers"]), report
        _apply(state, step)
    elif step["op"] == "merge":
        index.prepare()
    elif step["op"] == "search":
        index.hybrid("lot", _vector(1, 1), 10, Filter(now=NOW))
    else:
        old, index = index, store.create(TOWER, DIMENSIONS)
        index.upsert(_lot(number, version) for number, version in state.items())
        store.publish(index.name)
        store.drop(old.name)
    return index


def _entries(step: Mapping[str, Any]) -> list[IndexedItem | Deletion]:
    if step["op"] == "delete":
        return [Deletion(_id(number), step["version"]) for number in step["numbers"]]
    return [_lot(number, step["version"]) for number in step["numbers"]]


def _apply(state: State, step: Mapping[str, Any]) -> None:
    """Apply a write to the expected items."""
    for number in step["numbers"]:
        if step["op"] == "add":
            state[number] = step["version"]
        elif step["op"] == "delete":
            del state[number]


def _check(root: Path, log: Sequence[Mapping[str, Any]], before: State, spec: str) -> tuple[State, int]:
    """Compare the index with the writer's log. Return the items in the index and the highest version in the log.

    Raises:
        Lost: the index differs from the acknowledged writes.
    """
    acknowledged = dict(before)
    for step in log:
        if step["done"]:
            _apply(acknowledged, step)
    interrupted = log[-1] if log and not log[-1]["done"] else None
    completed = dict(acknowledged)
    if interrupted:
        _apply(completed, interrupted)
    index = EmbeddedStore(root, spec=embedded_spec(spec)).live()
    try:
        stored = {int(c.item_id[4:]): int(c.document["version"]) for c in index.fetch([_id(number) for number in range(ITEMS)])}
        if stored not in (acknowledged, completed):
            raise Lost(f"after {interrupted or log[-1:]}: {_difference(stored, acknowledged)}")
        _check_searches(index, stored)
    finally:
        index.close()
    return stored, max((step["version"] for step in log), default=0)


def _check_searches(index: OpenIndex, stored: State) -> None:
    """Check that searches by vector and by word find every open item, and no item that was deleted, replaced or has ended."""
    filters, open_items = Filter(now=NOW), {_id(number): version for number, version in stored.items() if number % ENDING}
    if index.count() != len(stored):
        raise Lost(f"{index.count()} lots are counted, {len(stored)} are there")
    for results in (index.semantic(_vector(1, 1), ITEMS, filters, exact=True), index.keyword("lot", ITEMS, filters)):
        if {c.item_id: c.document["version"] for c in results} != open_items:
            raise Lost(f"a search finds {len(results)} lots, {len(open_items)} are open")
    for number in list(stored)[::100]:
        nearest = index.semantic(_vector(number, stored[number]), 1, filters)
        if number % ENDING and nearest[0].item_id != _id(number):
            raise Lost(f"{_id(number)} is not nearest to itself")


def _difference(stored: State, expected: State) -> str:
    missing, extra = expected.keys() - stored.keys(), stored.keys() - expected.keys()
    changed = [number for number in expected.keys() & stored.keys() if expected[number] != stored[number]]
    return f"{len(missing)} acknowledged lots are missing, {len(extra)} deleted ones are there, {len(changed)} have another version"


def _lot(number: int, version: int) -> IndexedItem:
    ended = {"ends_at": ENDED_MS} if number % ENDING == 0 else {}
    document = {"item_id": _id(number), "title": f"lot {number}", "text": f"lot {number}", "version": version, **ended}
    return IndexedItem(_id(number), version, document, _vector(number, version))


def _vector(number: int, version: int) -> Vector:
    numbers = np.random.default_rng([number, version]).standard_normal(DIMENSIONS)
    return (numbers / np.linalg.norm(numbers)).astype(np.float32)


def _id(number: int) -> str:
    return f"lot-{number}"


if __name__ == "__main__":
    typer.run(main)
