"""The rejects of a run, summed up by reason."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

_VALUES = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`[^`]*`|\([^()]*\)|(?<![\w.])-?\d[\d.,:]*""")
_FILE = re.compile(r"\S+:…")


@dataclass(frozen=True, slots=True)
class RejectedKind:
    """Rejects that have one reason.

    Attributes:
        reason: the reason without the values of a row, which are "…".
        count: number of the rejects.
        first: file and line of the first one, such as "lots.csv:3".
        example: reason of the first one.
    """

    reason: str
    count: int
    first: str
    example: str


def summarise_rejects(path: Path) -> list[RejectedKind]:
    """Sum up a file of rejects by reason, the most frequent first; a missing file has none."""
    counts: dict[str, int] = {}
    firsts: dict[str, tuple[str, str]] = {}
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        for line in file:
            reject = json.loads(line)
            kind = _kind(reject["reason"])
            counts[kind] = counts.get(kind, 0) + 1
            firsts.setdefault(kind, (f"{reject['source']}:{reject['line']}", reject["reason"]))
    return [RejectedKind(kind, count, *firsts[kind]) for kind, count in sorted(counts.items(), key=lambda pair: -pair[1])]


def _kind(reason: str) -> str:
    if reason.startswith("duplicate item_id"):
        return "duplicate item_id"
    return _FILE.sub("…", _VALUES.sub("…", reason.split("; ")[0])).replace("… …", "…").strip(" :")
