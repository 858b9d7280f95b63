"""Choice of an index type for a number of items and a memory size. Bytes come from formulas, effort and time from a measured table.

calibration.json beside this file is the table, and names the command that measured it. For each measured number of items, effort
and time at the target recall are interpolated between measured points. For other numbers of items, both grow as fitted powers of
that number. The powers are limited to what the algorithms allow, because few measurements on a busy machine are noisy. Advice for
numbers outside the measured range is marked as estimated: it is a projection, not a measurement.

The effort of lists is the share of all lists that a search reads, so measurements with different numbers of lists can be compared.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from retrieval.config.index_spec import IndexSpec
from retrieval.errors import InvalidInput
from retrieval.files import reason_of, replace_file

CALIBRATION = Path(__file__).with_name("calibration.json")
DEPTH = 50  # number of results of a measured search
HEADROOM = 0.9  # share of the memory that an index may use; process and system need the rest
MIN_VALUE = 1e-6  # smaller values count as this one, because they have no logarithm at 0
MIN_MISS = 1e-4  # smaller miss rates count as this one, because 100 queries cannot show them
CODE_MISS_GROWTH = (0.0, 0.5)  # lowest and highest power of the number of items by which misses / hits of product codes can grow
MIN_CEILING_EFFORT = 0.5  # with at least this share of the lists read, misses come from the codes
RECALLS = (0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)  # of recall_by_time()
MIN_FRACTION = -1.0  # lowest fraction in _at_recall(): extrapolation below the lowest effort is limited to one step


@dataclass(frozen=True, slots=True)
class Growth:
    """The lowest and highest power of the number of items by which each cost can grow at equal recall.

    Attributes:
        search_effort: powers of ef_search, or of the share of lists that a search reads.
        p50: powers of the median search time.
        build: powers of the build time.
    """

    search_effort: tuple[float, float]
    p50: tuple[float, float]
    build: tuple[float, float]


# search effort -> growth. Number and length of lists grow with the square root of the number of items. The number of vectors that a
# graph search visits grows with its logarithm (Malkov and Yashunin)
GROWTH: Mapping[str | None, Growth] = {
    None: Growth((0, 0), (1, 1), (0.5, 1)),
    "nprobe": Growth((-0.5, 0), (0.5, 1), (1, 1.5)),
    "ef_search": Growth((0, 0.3), (0.1, 0.5), (1, 1.3)),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurement of one index at one effort.

    Attributes:
        spec: spec of the index with its search effort; nlist may be 0.
        items: number of vectors.
        dimensions: length of the vectors.
        recall: recall@50, in [0, 1].
        p50_ms: median time of a query in milliseconds, on one thread; its processor time if other programs made it wait.
        build_s: processor time in seconds of a build with two threads, divided by two.
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
        command: command line that measured the table; "made_by" in the file.
        data: description of the vectors and the machine.
        measured: measurements of any index types and numbers of items.
    """

    command: str
    data: str
    measured: tuple[Measured, ...]

    @classmethod
    def load(cls, path: Path = CALIBRATION) -> "Calibration":
        """Read a calibration file.

        Raises:
            InvalidInput: there is no such file, or it is not a calibration.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(values["made_by"], values["data"], tuple(Measured(**row) for row in values["measured"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            message = f"{path} is no calibration ({reason_of(error)}); make one with `gavel bench ann --calibration {path}`"
            raise InvalidInput(message) from error

    def merged(self, newer: "Calibration") -> "Calibration":
        """Return a table with the rows of both. A newer row replaces the older ones of the same built index and number of items."""
        replaced = {(IndexSpec.parse(row.spec).built, row.items, row.dimensions) for row in newer.measured}
        older = [row for row in self.measured if (IndexSpec.parse(row.spec).built, row.items, row.dimensions) not in replaced]
        command, data = (
            old if new in old.split(" | ") else f"{old} | {new}"
            for old, new in ((self.command, newer.command), (self.data, newer.data))
        )
        return Calibration(command, data, (*older, *newer.measured))

    def save(self, path: Path) -> None:
        """Write the table as JSON, one measurement per line."""
        rows = ",\n".join(f"    {json.dumps(asdict(row))}" for row in self.measured)
        head = f'  "made_by": {json.dumps(self.command)},\n  "data": {json.dumps(self.data)},\n'
        replace_file(path, f'{{\n{head}  "measured": [\n{rows}\n  ]\n}}\n')


@dataclass(frozen=True, slots=True)
class Advice:
    """The expected costs of one index type.

    Attributes:
        family: index type, see IndexSpec.
        spec: spec with the expected search effort for the recall, which should be tuned on the actual vectors.
        memory_bytes: bytes of the index in memory.
        disk_bytes: bytes of the files, with full vectors for rescoring.
        recall: expected recall@50 with that effort.
        p50_ms: expected median time of a query in milliseconds, on one thread, with the whole index in memory.
        build_hours: expected hours of a build with two threads.
        disk_reads: full vectors that a search reads to score candidates; their time is not in p50_ms if they lie on a disk.
        estimated: True if the number of items is outside the measured range, or vectors of another length were measured.
        fits: True if the index fits into the memory.
        reaches: True if the index reaches the target recall.
        why_not: reasons against this index type; empty if there are none.
    """

    family: str
    spec: str
    memory_bytes: int
    disk_bytes: int
    recall: float
    p50_ms: float
    build_hours: float
    disk_reads: int
    estimated: bool
    fits: bool
    reaches: bool
    why_not: str


def advise(calibration: Calibration, items: int, dimensions: int, memory_bytes: int, recall: float) -> list[Advice]:
    """Return the expected costs of all measured index types and code sizes: suitable ones by their query time, then the others.

    Args:
        calibration: table of measurements.
        items: number of vectors, > 0.
        dimensions: length of the vectors.
        memory_bytes: memory of the machine; the index may use 90 % of it.
        recall: target recall@50, in (0, 1].
    """
    rows: dict[IndexSpec, list[Measured]] = {}
    for row in calibration.measured:
        rows.setdefault(replace(IndexSpec.parse(row.spec).built, nlist=0), []).append(row)
    advices = [_expect(measured, items, dimensions, memory_bytes, recall) for measured in rows.values()]
    return sorted(advices, key=lambda advice: (bool(advice.why_not), not advice.fits, advice.p50_ms))


def closest(advices: Sequence[Advice]) -> Advice | None:
    """Return the index with the highest expected recall that fits into the memory, though none reaches the recall; else None."""
    return max((advice for advice in advices if advice.fits), key=lambda advice: advice.recall, default=None)


def recall_by_time(calibration: Calibration, items: int, dimensions: int, memory_bytes: int) -> list[Advice]:
    """Return for each recall in RECALLS the quickest index that fits into the memory, without recalls that none reaches."""
    best = (advise(calibration, items, dimensions, memory_bytes, recall) for recall in RECALLS)
    return [advices[0] for advices in best if advices and not advices[0].why_not]


def shards_needed(advices: Sequence[Advice], memory_bytes: int) -> int:
    """Return the number of machines of this memory for the smallest index that reaches the recall; 0 if none reaches it."""
    enough = [advice.memory_bytes for advice in advices if advice.reaches]
    return math.ceil(min(enough) / (HEADROOM * memory_bytes)) if enough else 0


def parse_items(text: str) -> int:
    """Return the whole number in a text such as 50e6, 50000000 or 50_000_000.

    Raises:
        InvalidInput: the text is not a whole number above 0.
    """
    try:
        number = float(text)
        if number < 1 or number != int(number):
            raise ValueError
    except (ValueError, OverflowError):
        raise InvalidInput(f"{text!r} is no number of items; write it like 50e6") from None
    return int(number)


def _expect(rows: Sequence[Measured], items: int, dimensions: int, memory_bytes: int, recall: float) -> Advice:
    """Return the expected costs of the one index type and code size of these rows; the other arguments are those of advise()."""
    sizes = {size: [row for row in rows if row.items == size] for size in sorted({row.items for row in rows})}
    at_recall = {size: _at_recall(of_size, recall) for size, of_size in sizes.items()}
    best = {size: max(of_size, key=lambda row: row.recall) for size, of_size in sizes.items()}
    highest = _highest_recall(best, items)
    reaches = all(at_recall.values()) and highest >= recall
    points = {size: at_recall[size] or (_effort(best[size]), best[size].p50_ms) for size in sizes}
    parameter, length_ratio = IndexSpec.parse(rows[0].spec).search_effort, dimensions / rows[0].dimensions
    growth = GROWTH[parameter]
    effort = _extrapolate([(size, point[0]) for size, point in points.items()], items, *growth.search_effort) if parameter else 0
    p50_ms = _extrapolate([(size, point[1]) for size, point in points.items()], items, *growth.p50) * length_ratio
    build_s = _extrapolate([(size, _build_s(best[size])) for size in sizes], items, *growth.build) * length_ratio
    spec = _fit(replace(IndexSpec.parse(rows[0].spec), nlist=0), rows[0].dimensions, dimensions).sized(items)
    spec = spec.at(max(math.ceil(effort * spec.nlist if parameter == "nprobe" else effort), 1))
    expected = recall if reaches and parameter else highest
    needed = spec.index_bytes(items, dimensions)
    fits = needed <= HEADROOM * memory_bytes
    against = [] if fits else [f"needs {needed / 1e9:,.1f} GB of the {HEADROOM * memory_bytes / 1e9:,.1f} that may be used"]
    projected = items > max(sizes) and "pq" in spec.index_type
    against += [] if reaches else [f"recall {highest:.3f} at most, {'projected from' if projected else 'with'} what was measured"]
    return Advice(
        spec.index_type,
        str(spec),
        needed,
        spec.disk_bytes(items, dimensions),
        round(expected, 4),
        float(f"{p50_ms:.3g}"),
        float(f"{build_s / 3600:.3g}"),
        0 if spec.stores_vectors else DEPTH * spec.candidates,
        not min(sizes) <= items <= max(sizes) or dimensions != rows[0].dimensions,
        fits,
        reaches,
        "; ".join(against),
    )


def _fit(spec: IndexSpec, measured: int, dimensions: int) -> IndexSpec:
    """Return the spec for vectors of another length. pq_m changes in proportion, or to a divisor of the new length."""
    if "pq" not in spec.index_type:
        return spec
    parts = max(1, round(spec.pq_m * dimensions / measured))
    return replace(spec, pq_m=parts if dimensions % parts == 0 else math.gcd(parts, dimensions))


def _highest_recall(best: Mapping[int, Measured], items: int) -> float:
    """Return the highest recall to expect. The more vectors, the more of them have nearly equal product codes.

    Args:
        best: number of items -> the measurement with the highest recall.
        items: number of items to estimate for.
    """
    measured = min(row.recall for row in best.values())
    by_codes = all("pq" in row.spec and _effort(row) >= MIN_CEILING_EFFORT for row in best.values())
    if not by_codes or items <= max(best):
        return measured  # a larger effort than the measured ones may reach more
    odds = [(size, max(1 - row.recall, MIN_MISS) / max(row.recall, MIN_MISS)) for size, row in best.items()]
    return min(measured, 1 / (1 + _extrapolate(odds, items, *CODE_MISS_GROWTH)))


def _build_s(row: Measured) -> float:
    """Return the build time, in proportion to the usual number of lists if the row was measured with fewer lists."""
    spec = IndexSpec.parse(row.spec)
    usual = replace(spec, nlist=0).sized(row.items).nlist
    return row.build_s * max(usual / spec.nlist, 1.0) if spec.nlist else row.build_s


def _effort(row: Measured) -> float:
    """Return the search effort of a measurement: ef_search, or the share of lists that were read; 1 for neither."""
    spec = IndexSpec.parse(row.spec).sized(row.items)
    if spec.search_effort == "nprobe":
        return min(spec.nprobe / spec.nlist, 1.0)
    return float(spec.ef_search) if spec.search_effort else 1.0


def _at_recall(rows: Sequence[Measured], recall: float) -> tuple[float, float] | None:
    """Return (effort, p50_ms) at a recall, interpolated between the measured points around it; None if no point reaches it.

    The miss rate falls as a power of the effort, so the interpolation is logarithmic.

    Args:
        rows: measurements of one index type with one number of items.
        recall: target recall@50.
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
    """Estimate a value for another number of items, from the measured number nearest to it.

    The value grows with a power of the number, which is fitted to the pairs and limited to `lowest` and `highest`.

    Args:
        pairs: (number of items, measured value).
        items: number of items to estimate for.
        lowest: lowest power.
        highest: highest power.
    """
    sizes, values = [math.log(size) for size, _ in pairs], [math.log(max(value, MIN_VALUE)) for _, value in pairs]
    slope = float(np.polyfit(sizes, values, 1)[0]) if len(pairs) > 1 else (lowest + highest) / 2
    nearest = min(range(len(pairs)), key=lambda position: abs(sizes[position] - math.log(items)))
    return math.exp(values[nearest] + min(max(slope, lowest), highest) * (math.log(items) - sizes[nearest]))
