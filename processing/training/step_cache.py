"""A ledger of finished steps, so that a second run does only what is left to do."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.files import replace_file


@dataclass(frozen=True)
class StepResult:
    """A finished step.

    Attributes:
        value: what it made, as JSON holds it.
        seconds: how long it took when it ran.
        reused: it ran in an earlier run.
    """

    value: Any
    seconds: float
    reused: bool


class StepCache:
    """Remembers steps by name and by the key of what went into them."""

    def __init__(self, path: Path) -> None:
        """Read the ledger, or start one; an unreadable one counts as empty, for everything in it can be made again."""
        self._path = path
        try:
            read = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            read = {}
        steps = read.items() if isinstance(read, dict) else ()
        whole = {"key", "value", "seconds"}
        self._entries = {name: step for name, step in steps if isinstance(step, dict) and step.keys() >= whole}

    def step(
        self, name: str, key: str, run: Callable[[], Any], still_there: Callable[[Any], bool] = lambda value: True
    ) -> StepResult:
        """Run a step, unless it has run with the same key and what it made is still there.

        Args:
            name: of the step.
            key: everything that the step's result depends on.
            run: does the work; returns a JSON value.
            still_there: whether an earlier value can be used.
        """
        entry = self._entries.get(name)
        if entry and entry["key"] == key and still_there(entry["value"]):
            return StepResult(entry["value"], entry["seconds"], reused=True)
        start = time.perf_counter()
        value = run()
        seconds = round(time.perf_counter() - start, 1)
        self._entries[name] = {"key": key, "value": value, "seconds": seconds}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self._path, json.dumps(self._entries, indent=2) + "\n")
        return StepResult(value, seconds, reused=False)
