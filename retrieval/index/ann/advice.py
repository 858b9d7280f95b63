"""Which family for how many items in how much memory: byte formulas, and effort and time from a measured table.

calibration.json beside this file was made by the command that it names. At each of its sizes the effort and the time of the wanted
recall are read between the points that were measured. From size to size both grow as powers of the items, fitted, and kept within
what the algorithms can do, since few sizes on a busy machine show noise; beyond the measured sizes that is an estimate, and marked.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from retrieval.config.index_spec import FAMILIES, IndexSpec
from retrieval.errors import InvalidInput

CALIBRATION = Path(__file__).with_name("calibration.json")
HEADROOM = 0.9  # of the memory; the rest is the process's own, and what the system needs
LEAST_MISSED = 1e-4  # what is missed by less than this, 100 queries do not show
LEAST_WAY = -1.0  # how far below the least effort that was measured the line is followed, in steps between two points
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True, slots=True)
class Growth:
    """Least and most power of the items with which something grows at equal recall."""

    effort: tuple[float, float]
    p50: tuple[float, float]
    build: tuple[float, float]


# Lists are as many as the root of the items and as long; a graph's beam meets a logarithm of them (Malkov and Yashunin)
GROWTH: Mapping[str | None, Growth] = {
    None: Growth((0, 0), (1, 1), (0.5, 1)),
    "nprobe": Growth((0, 0.5), (0.5, 1), (1, 1.5)),
    "ef_search": Growth((0, 0.3), (0.1, 0.5), (1, 1.3)),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One index at one effort, as it was measured.

    Attributes:
        spec: with its effort; lists left open.
        items: vectors in it.
        dimensions: of them.
        recall: @50.
        p50_ms: of single queries on one thread.
        build_s: processor time of two threads, by two.
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
        spec: with the effort that the recall is expected to take; to be tuned on the vectors themselves.
        memory_bytes: of the index.
        disk_bytes: of its files, full vectors to score from included.
        recall: @50, expected at that effort.
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
    lines: dict[str, list[Measured]] = {}
    for row in calibration.measured:
        lines.setdefault(IndexSpec.parse(row.spec).family, []).append(row)
    found = [_expected(lines[family], items, dimensions, memory_bytes, recall) for family in FAMILIES if family in lines]
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


def _expected(rows: Sequence[Measured], items: int, dimensions: int, memory_bytes: int, recall: float) -> Advice:
    """What is expected of the family that all rows are of."""
    sizes = {size: [row for row in rows if row.items == size] for size in sorted({row.items for row in rows})}
    at_recall = {size: _at_recall(of_size, recall) for size, of_size in sizes.items()}
    reaches = all(at_recall.values())
    best = {size: max(of_size, key=lambda row: row.recall) for size, of_size in sizes.items()}
    points = {size: at_recall[size] or (_effort(best[size]), best[size].p50_ms) for size in sizes}
    kind, longer = IndexSpec.parse(rows[0].spec).effort, dimensions / rows[0].dimensions
    grown = GROWTH[kind]
    effort = _grown([(size, point[0]) for size, point in points.items()], items, *grown.effort) if kind else 0
    p50_ms = _grown([(size, point[1]) for size, point in points.items()], items, *grown.p50) * longer
    build_s = _grown([(size, best[size].build_s) for size in sizes], items, *grown.build) * longer
    spec = _fit(IndexSpec.parse(rows[0].spec), rows[0].dimensions, dimensions).sized(items).at(max(math.ceil(effort), 1))
    reached = min(row.recall for row in best.values())
    expected = recall if reaches and kind else reached
    needed = spec.index_bytes(items, dimensions)
    fits = needed <= HEADROOM * memory_bytes
    against = [] if fits else [f"needs {needed / 1e9:,.1f} GB of the {HEADROOM * memory_bytes / 1e9:,.1f} that may be used"]
    against += [] if reaches else [f"recall {reached:.3f} at most, with what was measured"]
    return Advice(
        spec.family,
        str(spec),
        needed,
        spec.disk_bytes(items, dimensions),
        round(expected, 4),
        float(f"{p50_ms:.3g}"),
        float(f"{build_s / 3600:.3g}"),
        not min(sizes) <= items <= max(sizes) or dimensions != rows[0].dimensions,
        fits,
        reaches,
        "; ".join(against),
    )


def _fit(spec: IndexSpec, measured: int, dimensions: int) -> IndexSpec:
    """The same for vectors of another length: product codes grow with them, as long as the parts stay equal."""
    if "pq" not in spec.family:
        return spec
    parts = max(1, round(spec.pq_m * dimensions / measured))
    return replace(spec, pq_m=parts if dimensions % parts == 0 else math.gcd(parts, dimensions))


def _effort(row: Measured) -> float:
    spec = IndexSpec.parse(row.spec)
    return float(getattr(spec, spec.effort)) if spec.effort else 1.0


def _at_recall(rows: Sequence[Measured], recall: float) -> tuple[float, float] | None:
    """(effort, p50) of a recall at one size, on the line between the points around it; None where none reaches it.

    What is missed falls as a power of the effort, so the line is one of logarithms.
    """
    ordered = sorted(rows, key=_effort)
    first = next((place for place, row in enumerate(ordered) if row.recall >= recall), None)
    if first is None:
        return None
    if len(ordered) == 1:
        return _effort(ordered[0]), ordered[0].p50_ms
    low, high = ordered[max(first - 1, 0)], ordered[max(first, 1)]
    missed = [math.log(max(1 - row.recall, LEAST_MISSED)) for row in (low, high)]
    wanted = math.log(max(1 - recall, LEAST_MISSED))
    way = (wanted - missed[0]) / (missed[1] - missed[0]) if missed[1] < missed[0] else 0.0
    way = min(max(way, LEAST_WAY), 1.0)

    def between(one: float, other: float) -> float:
        return math.exp(math.log(one) + way * (math.log(other) - math.log(one)))

    return between(_effort(low), _effort(high)), between(low.p50_ms, high.p50_ms)


def _grown(pairs: Sequence[tuple[int, float]], items: int, least: float, most: float) -> float:
    """A measured value at another size: from the nearest measured one by the fitted power, within bounds."""
    sizes, values = [math.log(size) for size, _ in pairs], [math.log(max(value, 1e-3)) for _, value in pairs]
    slope = float(np.polyfit(sizes, values, 1)[0]) if len(pairs) > 1 else (least + most) / 2
    nearest = min(range(len(pairs)), key=lambda place: abs(sizes[place] - math.log(items)))
    return math.exp(values[nearest] + min(max(slope, least), most) * (math.log(items) - sizes[nearest]))
