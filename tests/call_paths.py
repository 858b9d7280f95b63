"""Record which functions of this repository a call passes, and in which shapes an item passes them."""

import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("retrieval", "catalog", "models", "processing", "lambdas", "gavel")
MAX_DEPTH = 3  # of a value that is looked into for an item


class CallPath:
    """A context manager that records the calls of all threads that start in its block, and of its own.

    Attributes:
        functions: (path below the repository, qualified name) in the order of the first call; lambdas and comprehensions do
            not count.
        shapes: descriptions of the returned values that hold an item.
    """

    def __init__(self) -> None:
        self.functions: dict[tuple[str, str], None] = {}
        self.shapes: set[str] = set()
        self._places: dict[CodeType, tuple[str, str] | None] = {}

    def __enter__(self) -> "CallPath":
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    @property
    def files(self) -> list[str]:
        """Paths below the repository, in the order of the first call."""
        return list(dict.fromkeys(file for file, _ in self.functions))

    def report(self) -> str:
        """Return the counts, and every function below its file."""
        lines = [f"{len(self.functions)} functions, {len(self.files)} files, {len(self.shapes)} shapes of an item"]
        for file in self.files:
            lines += [f"  {file}: {', '.join(name for place, name in self.functions if place == file)}"]
        return "\n".join([*lines, f"  shapes: {', '.join(sorted(self.shapes))}"])

    def _profile(self, frame: FrameType, event: str, value: Any) -> None:
        if event not in ("call", "return"):
            return
        code = frame.f_code
        if code not in self._places:
            self._places[code] = _place(code)
        place = self._places[code]
        if place is None:
            return
        if event == "call" and not code.co_name.startswith("<"):
            self.functions.setdefault(place)
        elif event == "return" and (shape := shape_of_item(value)):
            self.shapes.add(shape)


def _place(code: CodeType) -> tuple[str, str] | None:
    """Return the file and the qualified name of a function of this repository; None of others and of module bodies."""
    if not code.co_filename.startswith(f"{ROOT}/") or "<module>" in code.co_qualname:
        return None
    file = Path(code.co_filename).relative_to(ROOT).as_posix()
    return (file, code.co_qualname.replace(".<locals>", "")) if file.split("/")[0] in PACKAGES else None


def _names(value: Any) -> list[str]:
    return [field.name for field in fields(value)] if is_dataclass(value) else list(type(value).model_fields)


def shape_of_item(value: Any, depth: int = 0) -> str:
    """Describe the part of a value that holds an item; empty if there is none. Only the first element of a collection is read."""
    if depth > MAX_DEPTH:
        return ""
    if isinstance(value, Mapping):
        if "item_id" in value:
            return "dict"
        return shape_of_item(next(iter(value.values())), depth + 1) if value else ""
    if hasattr(value, "item_id"):
        return type(value).__name__
    if is_dataclass(value) or isinstance(value, BaseModel):
        return next(filter(None, (shape_of_item(getattr(value, name, None), depth + 1) for name in _names(value))), "")
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        parts = [shape_of_item(part, depth + 1) or type(part).__name__ for part in value[:4]]
        return f"({', '.join(parts)})" if any(shape_of_item(part, depth + 1) for part in value[:4]) else ""
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)) and len(value):
        return shape_of_item(value[0], depth + 1)
    return ""
