"""Whether an embedded index survives kill -9: a writer is killed at random moments of add, delete, merge and swap.

python -m benchmarks.reliability.kills --rounds 200

The writer tells on its standard output what it is about to do and what was acknowledged; it is killed at a random moment and the
index is opened again. Then every acknowledged write must be there, the one under way whole or not at all, every search must
answer, and none may find a lot that was deleted or whose auction has ended.
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
from gavel.workspace.console import console, progress
from retrieval.contracts.documents import Deletion, IndexedItem, Vector
from retrieval.errors import GavelError
from retrieval.index.embedded import keywords as lot_keywords
from retrieval.index.embedded.segments import DEFAULT_INDEX, embedded_spec
from retrieval.index.embedded.store import EmbeddedIndex, EmbeddedStore
from retrieval.index.port import Filter

DIMENSIONS, TOWER = 16, "killed"
ITEMS = 3_000  # different ids that come and go
BATCH = (1, 600)  # entries of one write, which is one transaction
LONGEST_S = 1.5
ENDED_MS = 1_000_000_000_000  # long ago
ENDING = 5  # every fifth lot has ended
NOW = datetime(2026, 11, 21, tzinfo=UTC)

State = dict[int, int]  # number of a lot that is there -> its version


@dataclass
class KillReport:
    """What came of all rounds.

    Attributes:
        rounds: times that the writer was killed.
        killed_during: what it was doing -> how often.
        acknowledged: writes, over all rounds.
        entries: lots and tombstones in them.
        machine: what it ran on.
    """

    machine: str
    rounds: int = 0
    killed_during: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    entries: int = 0

    def add(self, told: Sequence[Mapping[str, Any]]) -> None:
        """Count a round."""
        done = [step for step in told if step["done"] and step["numbers"]]
        self.rounds += 1
        self.killed_during[told[-1]["op"] if told and not told[-1]["done"] else "nothing"] += 1
        self.acknowledged += len(done)
        self.entries += sum(len(step["numbers"]) for step in done)


class Lost(GavelError):
    """The index is not what was acknowledged."""


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Times that the writer is killed.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the writes and the moments.")] = 7,
    spec: Annotated[str, typer.Option(help="Vector index, as GAVEL_EMBEDDED_INDEX takes it.")] = DEFAULT_INDEX,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Kill a writer again and again, and check after each time."""
    with tempfile.TemporaryDirectory(prefix="gavel-kills-") as folder, progress("kills") as step:
        report = KillReport(describe_machine())
        for number in survive(Path(folder), rounds, seed, report, spec):
            step(number, rounds)
    if as_json:
        print(json.dumps(vars(report), indent=2))  # asdict() takes a Counter's pairs for its keys
        return
    during = ", ".join(f"{what} {count}" for what, count in report.killed_during.most_common())
    console.print(f"{report.rounds} kills ({during}): {report.acknowledged} writes of {report.entries} entries, none lost")
    console.print(report.machine, style="dim", highlight=False)


def survive(root: Path, rounds: int, seed: int, report: KillReport, spec: str = DEFAULT_INDEX) -> Iterator[int]:
    """Kill and check, again and again, over the same index.

    Args:
        root: of the store; new or empty.
        rounds: how many.
        seed: of everything random.
        report: is added to.
        spec: text of the vector index.

    Yields:
        The number of each round that the index survived.

    Raises:
        Lost: after a kill the index was not what had been acknowledged.
    """
    chance, state, version = random.Random(seed), State(), 0
    store = EmbeddedStore(root, spec=embedded_spec(spec))
    store.publish(store.create(TOWER, DIMENSIONS).name)
    store.live().close()
    for number in range(1, rounds + 1):
        given = {"root": str(root), "state": list(state.items()), "version": version, "seed": chance.randrange(2**31)}
        given["spec"] = spec
        told = _killed(given, after_s=chance.uniform(0.0, LONGEST_S))
        state, highest = _check(root, told, state, spec)
        version = max(version, highest)
        report.add(told)
        yield number


def _killed(given: Mapping[str, Any], after_s: float) -> list[dict[str, Any]]:
    """What a writer told until it was killed."""
    command = [sys.executable, "-c", "from benchmarks.reliability.kills import write; write()"]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert writer.stdin is not None
    assert writer.stdout is not None
    writer.stdin.write(json.dumps(given))
    writer.stdin.close()
    assert writer.stdout.readline() == "ready\n"
    time.sleep(after_s)
    os.kill(writer.pid, signal.SIGKILL)
    whole_lines = writer.stdout.read().split("\n")[:-1]
    writer.wait()
    return [json.loads(line) for line in whole_lines]


def write() -> None:
    """The writer: reads what there is from stdin, then writes and tells until it is killed."""
    given = json.load(sys.stdin)
    chance, state = random.Random(given["seed"]), dict(given["state"])
    version = given["version"]
    lot_keywords.SMALL = 0  # else the words of so few lots would never be joined in a thread apart
    store = EmbeddedStore(Path(given["root"]), spec=embedded_spec(given["spec"]))
    index = store.live()
    print("ready", flush=True)
    while True:
        version += 1
        step = _next_step(chance, state, version)
        print(json.dumps({**step, "done": False}), flush=True)
        index = _carried_out(step, index, store, state)
        print(json.dumps({**step, "done": True}), flush=True)


def _next_step(chance: random.Random, state: State, version: int) -> dict[str, Any]:
    op = chance.choices(["add", "delete", "merge", "search", "swap"], [6, 3, 2, 3, 1])[0]
    known = {"add": range(ITEMS), "delete": list(state)}.get(op, [])
    return {"op": op, "version": version, "numbers": chance.sample(known, min(len(known), chance.randint(*BATCH)))}


def _carried_out(step: Mapping[str, Any], index: EmbeddedIndex, store: EmbeddedStore, state: State) -> EmbeddedIndex:
    """Do what a step says; the index that is live then."""
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
    """Do to the expected lots what a write does to the index."""
    for number in step["numbers"]:
        if step["op"] == "add":
            state[number] = step["version"]
        elif step["op"] == "delete":
            del state[number]


def _check(root: Path, told: Sequence[Mapping[str, Any]], before: State, spec: str) -> tuple[State, int]:
    """Hold the index against what the writer told; what is there, and the highest version that may have been given out."""
    sure = dict(before)
    for step in told:
        if step["done"]:
            _apply(sure, step)
    under_way = told[-1] if told and not told[-1]["done"] else None
    perhaps = dict(sure)
    if under_way:
        _apply(perhaps, under_way)
    index = EmbeddedStore(root, spec=embedded_spec(spec)).live()
    try:
        stored = {int(c.item_id[4:]): int(c.document["version"]) for c in index.fetch([_id(number) for number in range(ITEMS)])}
        if stored not in (sure, perhaps):
            raise Lost(f"after {under_way or told[-1:]}: {_difference(stored, sure)}")
        _check_searches(index, stored)
    finally:
        index.close()
    return stored, max((step["version"] for step in told), default=0)


def _check_searches(index: EmbeddedIndex, stored: State) -> None:
    """Every open lot is found by its vector, and by its word; none that was deleted, replaced or has ended is."""
    filters, open_lots = Filter(now=NOW), {_id(number): version for number, version in stored.items() if number % ENDING}
    if index.count() != len(stored):
        raise Lost(f"{index.count()} lots are counted, {len(stored)} are there")
    for found in (index.semantic(_vector(1, 1), ITEMS, filters, exact=True), index.keyword("lot", ITEMS, filters)):
        if {c.item_id: c.document["version"] for c in found} != open_lots:
            raise Lost(f"a search finds {len(found)} lots, {len(open_lots)} are open")
    for number in list(stored)[::100]:
        nearest = index.semantic(_vector(number, stored[number]), 1, filters)
        if number % ENDING and nearest[0].item_id != _id(number):
            raise Lost(f"{_id(number)} is not nearest to itself")


def _difference(stored: State, sure: State) -> str:
    lost, odd = sure.keys() - stored.keys(), stored.keys() - sure.keys()
    other = [number for number in sure.keys() & stored.keys() if sure[number] != stored[number]]
    return f"{len(lost)} acknowledged lots are missing, {len(odd)} deleted ones are there, {len(other)} have another version"


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
