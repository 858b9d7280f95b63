"""A cache of finished steps on disk, so that a second run does only the remaining steps."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.files import replace_file


@dataclass(frozen=True)
class StepResult:
    """The result of a step.

    Attributes:
        value: value that the step returned, a JSON value.
        seconds: duration in seconds, measured when the step ran.
        reused: True if the step ran in an earlier run.
    """

    value: Any
    seconds: float
    reused: bool


class StepCache:
    """The stored results of steps, by name and by a key of the step's input."""

    def __init__(self, path: Path) -> None:
        """Read the cache file. An unreadable file counts as empty, because every step can be repeated."""
        self._path = path
        try:
            content = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            content = {}
        steps = content.items() if isinstance(content, dict) else ()
        fields = {"key", "value", "seconds"}
        self._entries = {name: step for name, step in steps if isinstance(step, dict) and step.keys() >= fields}

    def step(self, name: str, key: str, run: Callable[[], Any], is_valid: Callable[[Any], bool] = lambda value: True) -> StepResult:
        """Return the stored result of a step if it has the same key and is valid; otherwise run the step.

        Args:
            name: name of the step.
            key: text of everything that the step's result depends on.
            run: function that does the work and returns a JSON value.
            is_valid: function that returns True if a stored value can be reused.
        """
        entry = self._entries.get(name)
        if entry and entry["key"] == key and is_valid(entry["value"]):
            return StepResult(entry["value"], entry["seconds"], reused=True)
        start = time.perf_counter()
        value = run()
        seconds = round(time.perf_counter() - start, 1)
        self._entries[name] = {"key": key, "value": value, "seconds": seconds}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self._path, json.dumps(self._entries, indent=2) + "\n")
        return StepResult(value, seconds, reused=False)
