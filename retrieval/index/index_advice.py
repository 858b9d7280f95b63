"""Which family for how many items in how much memory: byte formulas, and recall and time from a measured table.

calibration.json beside this file was made by the command that it names. Between and beyond its sizes, time grows as a power of the
items and the share of what is missed likewise, both fitted; beyond them that is an estimate and is marked as one.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import InvalidInput
from retrieval.index.index_spec import FAMILIES, IndexSpec

CALIBRATION = Path(__file__).with_name("calibration.json")
HEADROOM = 0.9  # of the memory; the rest is the process's own, and what the system needs
LEAST_MISSED = 1e-4  # what is missed by less than this, 100 queries do not show
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True, slots=True)
class Measured:
    """One index at one effort, as it was measured.

    Attributes:
        spec: with its effort; lists left open.
        items: vectors in it.
        dimensions: of them.
        recall: @50.
        p50_ms: of single queries on one thread.
        build_s: with two threads.
    """

    spec: str
    items: int
    dimensions: int
    recall: float
    p50_ms: float
    build_s: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """A table of measurements.

    Attributes:
        made_by: the command.
        data: what the vectors were, and the machine.
        measured: rows of any families and sizes.
    """

    made_by: str
    data: str
    measured: tuple[Measured, ...]

    @classmethod
    def load(cls, path: Path = CALIBRATION) -> "Calibration":
        """Read what save() wrote.

        Raises:
            InvalidInput: no such file, or not a calibration.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(values["made_by"], values["data"], tuple(Measured(**row) for row in values["measured"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            message = f"{path} is no calibration ({error}); make one with `gavel bench ann --calibration {path}`"
            raise InvalidInput(message) from error

    def save(self, path: Path) -> None:
        """Write it as JSON, a row a line."""
        rows = ",\n".join(f"    {json.dumps(asdict(row))}" for row in self.measured)
        head = f'  "made_by": {json.dumps(self.made_by)},\n  "data": {json.dumps(self.data)},\n'
        path.write_text(f'{{\n{head}  "measured": [\n{rows}\n  ]\n}}\n', encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Advice:
    """What is expected of one family.

    Attributes:
        family: see IndexSpec.
        spec: the quickest parameters of enough recall; those of most recall where none is enough.
        memory_bytes: of the index.
        disk_bytes: of its files, full vectors to score from included.
        recall: @50, expected.
        p50_ms: expected of single queries on one thread, all of the index in memory.
        build_hours: expected with two threads.
        estimated: whether these lie beyond the sizes that were measured.
        fits: whether it is within the memory.
        reaches: whether its recall is enough.
        why_not: what speaks against it; empty for what could be chosen.
    """

    family: str
    spec: str
    memory_bytes: int
    disk_bytes: int
    recall: float
    p50_ms: float
    build_hours: float
    estimated: bool
    fits: bool
    reaches: bool
    why_not: str


def advise(calibration: Calibration, items: int, dimensions: int, memory_bytes: int, recall: float) -> list[Advice]:
    """All families that were measured, best first: those that could be chosen by their time, then the others.

    Args:
        calibration: what was measured.
        items: vectors, > 0.
        dimensions: of them.
        memory_bytes: that the index and its process may take.
        recall: wanted @50, in (0, 1].
    """
    lines: dict[str, dict[str, list[Measured]]] = {}
    for row in calibration.measured:
        lines.setdefault(IndexSpec.parse(row.spec).family, {}).setdefault(row.spec, []).append(row)
    found = [
        _of_family([_expected(rows, items, dimensions, memory_bytes, recall) for rows in lines[family].values()])
        for family in FAMILIES
        if family in lines
    ]
    return sorted(found, key=lambda advice: (bool(advice.why_not), not advice.fits, advice.p50_ms))


def shards_needed(advices: Sequence[Advice], memory_bytes: int) -> int:
    """How many machines of this memory the smallest index of enough recall would need; 0 if none has enough recall."""
    enough = [advice.memory_bytes for advice in advices if advice.reaches]
    return math.ceil(min(enough) / (HEADROOM * memory_bytes)) if enough else 0


def parse_bytes(text: str) -> int:
    """16GB, 512MB, 1.5TiB as bytes.

    Raises:
        InvalidInput: not a number with such a unit.
    """
    found = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*([A-Z]+)", text.strip(), re.IGNORECASE)
    try:
        size = int(float(found[1]) * UNITS[found[2].upper()]) if found else 0
    except (KeyError, ValueError):
        size = 0
    if size <= 0:
        raise InvalidInput(f"{text!r} is no size of memory; write it like 16GB or 512MiB")
    return size


def parse_items(text: str) -> int:
    """50e6, 50000000 or 50_000_000 as a number.

    Raises:
        InvalidInput: not a whole number above 0.
    """
    try:
        number = float(text)
        if number < 1 or number != int(number):
            raise ValueError
    except (ValueError, OverflowError):
        raise InvalidInput(f"{text!r} is no number of items; write it like 50e6") from None
    return int(number)


def _of_family(expected: list[Advice]) -> Advice:
    enough = [advice for advice in expected if advice.reaches]
    if enough:
        return min(enough, key=lambda advice: advice.p50_ms)
    return max(expected, key=lambda advice: advice.recall)


def _expected(rows: list[Measured], items: int, dimensions: int, memory_bytes: int, recall: float) -> Advice:
    spec, rows = IndexSpec.parse(rows[0].spec), sorted(rows, key=lambda row: row.items)
    if "pq" in spec.family:  # codes grow with the vectors, as long as the parts stay equal
        parts = max(1, round(spec.pq_m * dimensions / rows[0].dimensions))
        spec = replace(spec, pq_m=parts if dimensions % parts == 0 else math.gcd(parts, dimensions))
    longer = dimensions / rows[0].dimensions
    missed = 1 - min(_fitted([(row.items, max(1 - row.recall, LEAST_MISSED)) for row in rows], items, 0), 1.0)
    if items > rows[-1].items:
        missed = min(missed, rows[-1].recall)  # more items never make it easier to find them
    expected = round(missed, 4)
    growth = {"ef_search": 0.2, "nprobe": 0.5, None: 1.0}[spec.effort]
    p50_ms = _fitted([(row.items, row.p50_ms) for row in rows], items, growth) * longer
    hours = _fitted([(row.items, max(row.build_s, 1e-3)) for row in rows], items, 1.0) * longer / 3600
    needed = spec.index_bytes(items, dimensions)
    fits, reaches = needed <= HEADROOM * memory_bytes, expected >= recall
    against = [] if fits else [f"needs {needed / 1e9:,.1f} GB of the {HEADROOM * memory_bytes / 1e9:,.1f} that may be used"]
    against += [] if reaches else [f"recall {expected:.3f} at most, with what was measured"]
    return Advice(
        spec.family,
        str(spec.sized(items)),
        needed,
        spec.disk_bytes(items, dimensions),
        expected,
        float(f"{p50_ms:.3g}"),
        float(f"{hours:.3g}"),
        items > rows[-1].items or items < rows[0].items or dimensions != rows[0].dimensions,
        fits,
        reaches,
        "; ".join(against),
    )


def _fitted(pairs: Iterable[tuple[int, float]], items: int, growth: float) -> float:
    """a * items ** b through measured (size, value); b is `growth` where one size alone was measured."""
    sizes, values = (np.log(column) for column in zip(*pairs, strict=True))
    if len(sizes) > 1:
        growth, level = np.polyfit(sizes, values, 1)
    else:
        level = float(values[0]) - growth * float(sizes[0])
    fitted: Any = math.exp(level + growth * math.log(items))
    return float(fitted)
