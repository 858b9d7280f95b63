"""Choice of an index type for a number of items and a memory: byte formulas, and effort and time from a measured table.

calibration.json beside this file names the command that measured it. At each of its sizes, effort and time at the target recall are
interpolated between measured points. Between sizes both grow as fitted powers of the items, within the limits of the algorithms,
because few sizes on a busy machine show noise. Beyond the measured sizes the result is an estimate, and marked.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from retrieval.config.index_spec import INDEX_TYPES, IndexSpec
from retrieval.errors import InvalidInput
from retrieval.files import replace_file

CALIBRATION = Path(__file__).with_name("calibration.json")
HEADROOM = 0.9  # of the memory; the process itself and the system need the rest
MIN_MISS = 1e-4  # a smaller miss rate is not visible with 100 queries
MIN_FRACTION = -1.0  # extrapolation below the lowest measured effort, in steps between two points
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True, slots=True)
class Growth:
    """Lowest and highest power of the items with which a cost grows at equal recall."""

    search_effort: tuple[float, float]
    p50: tuple[float, float]
    build: tuple[float, float]


# Number and length of lists grow with the root of the items; a graph search visits a logarithm of them (Malkov and Yashunin)
GROWTH: Mapping[str | None, Growth] = {
    None: Growth((0, 0), (1, 1), (0.5, 1)),
    "nprobe": Growth((0, 0.5), (0.5, 1), (1, 1.5)),
    "ef_search": Growth((0, 0.3), (0.1, 0.5), (1, 1.3)),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurement of one index at one effort.

    Attributes:
        spec: with its effort; the number of lists may be open.
        items: number of vectors.
        dimensions: length of the vectors.
        recall: @50.
        p50_ms: of single queries on one thread.
        build_s: processor time of two threads, divided by two.
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
        command: the command line that measured it; "made_by" in the file.
        data: description of the vectors and the machine.
        measured: rows of any index types and sizes.
    """

    command: str
    data: str
    measured: tuple[Measured, ...]

    @classmethod
    def load(cls, path: Path = CALIBRATION) -> "Calibration":
        """Read a calibration file.

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
        head = f'  "made_by": {json.dumps(self.command)},\n  "data": {json.dumps(self.data)},\n'
        replace_file(path, f'{{\n{head}  "measured": [\n{rows}\n  ]\n}}\n')


@dataclass(frozen=True, slots=True)
class Advice:
    """The expected costs of one index type.

    Attributes:
        family: the index type, see IndexSpec.
        spec: with the expected effort for the recall; to be tuned on the vectors themselves.
        memory_bytes: of the index.
        disk_bytes: of its files, with full vectors for rescoring.
        recall: @50, expected at that effort.
        p50_ms: expected of single queries on one thread, all of the index in memory.
        build_hours: expected with two threads.
        estimated: True beyond the measured sizes.
        fits: True if it is within the memory.
        reaches: True if its recall is enough.
        why_not: reasons against it; empty if it could be chosen.
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
    """Rate all measured index types: suitable ones by their time, then the others.

    Args:
        calibration: the measurements.
        items: number of vectors, > 0.
        dimensions: length of the vectors.
        memory_bytes: limit for the index and its process.
        recall: target @50, in (0, 1].
    """
    rows: dict[str, list[Measured]] = {}
    for row in calibration.measured:
        rows.setdefault(IndexSpec.parse(row.spec).index_type, []).append(row)
    advices = [_expect(rows[kind], items, dimensions, memory_bytes, recall) for kind in INDEX_TYPES if kind in rows]
    return sorted(advices, key=lambda advice: (bool(advice.why_not), not advice.fits, advice.p50_ms))


def shards_needed(advices: Sequence[Advice], memory_bytes: int) -> int:
    """Return how many machines of this memory the smallest index with enough recall needs; 0 if no index has enough recall."""
    enough = [advice.memory_bytes for advice in advices if advice.reaches]
    return math.ceil(min(enough) / (HEADROOM * memory_bytes)) if enough else 0


def parse_bytes(text: str) -> int:
    """Read 16GB, 512MB or 1.5TiB as bytes.

    Raises:
        InvalidInput: not a number with such a unit.
    """
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*([A-Z]+)", text.strip(), re.IGNORECASE)
    try:
        size = int(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    except (KeyError, ValueError):
        size = 0
    if size <= 0:
        raise InvalidInput(f"{text!r} is no size of memory; write it like 16GB or 512MiB")
    return size


def parse_items(text: str) -> int:
    """Read 50e6, 50000000 or 50_000_000 as a number.

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


def _expect(rows: Sequence[Measured], items: int, dimensions: int, memory_bytes: int, recall: float) -> Advice:
    """Return the expected costs of the index type of all rows."""
    sizes = {size: [row for row in rows if row.items == size] for size in sorted({row.items for row in rows})}
    at_recall = {size: _at_recall(of_size, recall) for size, of_size in sizes.items()}
    reaches = all(at_recall.values())
    best = {size: max(of_size, key=lambda row: row.recall) for size, of_size in sizes.items()}
    points = {size: at_recall[size] or (_effort(best[size]), best[size].p50_ms) for size in sizes}
    parameter, length_ratio = IndexSpec.parse(rows[0].spec).search_effort, dimensions / rows[0].dimensions
    growth = GROWTH[parameter]
    effort = _extrapolate([(size, point[0]) for size, point in points.items()], items, *growth.search_effort) if parameter else 0
    p50_ms = _extrapolate([(size, point[1]) for size, point in points.items()], items, *growth.p50) * length_ratio
    build_s = _extrapolate([(size, best[size].build_s) for size in sizes], items, *growth.build) * length_ratio
    spec = _fit(IndexSpec.parse(rows[0].spec), rows[0].dimensions, dimensions).sized(items).at(max(math.ceil(effort), 1))
    highest = min(row.recall for row in best.values())
    expected = recall if reaches and parameter else highest
    needed = spec.index_bytes(items, dimensions)
    fits = needed <= HEADROOM * memory_bytes
    against = [] if fits else [f"needs {needed / 1e9:,.1f} GB of the {HEADROOM * memory_bytes / 1e9:,.1f} that may be used"]
    against += [] if reaches else [f"recall {highest:.3f} at most, with what was measured"]
    return Advice(
        spec.index_type,
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
    """Return the spec for vectors of another length: product codes grow in proportion if their parts stay equal."""
    if "pq" not in spec.index_type:
        return spec
    parts = max(1, round(spec.pq_m * dimensions / measured))
    return replace(spec, pq_m=parts if dimensions % parts == 0 else math.gcd(parts, dimensions))


def _effort(row: Measured) -> float:
    spec = IndexSpec.parse(row.spec)
    return float(getattr(spec, spec.search_effort)) if spec.search_effort else 1.0


def _at_recall(rows: Sequence[Measured], recall: float) -> tuple[float, float] | None:
    """Return (effort, p50) of a recall at one size, interpolated between the points around it; None if no point reaches it.

    The miss rate falls as a power of the effort, so the interpolation is logarithmic.
    """
    ordered = sorted(rows, key=_effort)
    first = next((position for position, row in enumerate(ordered) if row.recall >= recall), None)
    if first is None:
        return None
    if len(ordered) == 1:
        return _effort(ordered[0]), ordered[0].p50_ms
    low, high = ordered[max(first - 1, 0)], ordered[max(first, 1)]
    misses = [math.log(max(1 - row.recall, MIN_MISS)) for row in (low, high)]
    target = math.log(max(1 - recall, MIN_MISS))
    fraction = (target - misses[0]) / (misses[1] - misses[0]) if misses[1] < misses[0] else 0.0
    fraction = min(max(fraction, MIN_FRACTION), 1.0)

    def interpolate(one: float, other: float) -> float:
        return math.exp(math.log(one) + fraction * (math.log(other) - math.log(one)))

    return interpolate(_effort(low), _effort(high)), interpolate(low.p50_ms, high.p50_ms)


def _extrapolate(pairs: Sequence[tuple[int, float]], items: int, lowest: float, highest: float) -> float:
    """Extrapolate a measured value to another size from the nearest one, by the fitted power within bounds."""
    sizes, values = [math.log(size) for size, _ in pairs], [math.log(max(value, 1e-3)) for _, value in pairs]
    slope = float(np.polyfit(sizes, values, 1)[0]) if len(pairs) > 1 else (lowest + highest) / 2
    nearest = min(range(len(pairs)), key=lambda position: abs(sizes[position] - math.log(items)))
    return math.exp(values[nearest] + min(max(slope, lowest), highest) * (math.log(items) - sizes[nearest]))
