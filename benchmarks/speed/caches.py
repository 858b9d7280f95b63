"""What the caches of a search server gain when buyers ask the same again.

Queries are drawn with the frequencies of Zipf's law, which logs of search engines follow (Xie and O'Hallaron, INFOCOM 2002); how
steep, is the choice of who runs it, or fitted to a log. `gavel serve` runs on one core without caches, with the vectors of queries
kept, and with their answers kept too, and is asked as fast as it answers.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.measurement import Measurement
from benchmarks.speed.load import UNCACHED, Load, limit_of
from retrieval.errors import InvalidInput

WAYS: Mapping[str, Mapping[str, str]] = {
    "nothing kept": UNCACHED,
    "vectors of queries": {**UNCACHED, "GAVEL_CACHED_QUERIES": "10000"},
    "vectors, and answers for 5 s": {"GAVEL_CACHED_QUERIES": "10000", "GAVEL_CACHED_ANSWERS_S": "5"},
}
DRAWN = 20_000
SEED = 7


@dataclass(frozen=True, slots=True)
class Row:
    """One way of keeping under one steepness.

    Attributes:
        exponent: of Zipf's law.
        way: what is kept.
        load: as fast as the server answers.
        vector_hits: share of the lookups of vectors that found one.
        answer_hits: of the lookups of answers.
    """

    exponent: float
    way: str
    load: Load
    vector_hits: float
    answer_hits: float


@dataclass(frozen=True)
class CachesResult(Measurement):
    """All of a run.

    Attributes:
        queries: different ones.
        rows: exponents in their order, ways in theirs.
    """

    queries: int
    rows: tuple[Row, ...]


def run_benchmark(
    texts: Sequence[str], exponents: Sequence[float], *, seconds: float = 15.0, on_phase: Callable[[str], None] = lambda phase: None
) -> CachesResult:
    """Serve the index of this home in every way, and load it.

    Args:
        texts: different queries; the first is asked most.
        exponents: of Zipf's law.
        seconds: of each load.
        on_phase: called with the name of each phase as it begins.
    """
    machine, rows = describe_machine(), []
    for exponent in exponents:
        asked = zipf_draws(texts, exponent, DRAWN)
        for way, environment in WAYS.items():
            on_phase(f"{exponent}: {way}")
            load, caches = limit_of(asked, seconds, environment)
            hits = {name: _ratio(use) for name, use in caches.items()}
            rows.append(Row(exponent, way, load, hits["embeddings"], hits["answers"]))
    return CachesResult(len(texts), tuple(rows), machine=machine)


def zipf_draws(texts: Sequence[str], exponent: float, count: int) -> list[str]:
    """Queries as they come: the i-th of the texts with a probability that falls with i to the power of the exponent."""
    chances = np.arange(1, len(texts) + 1, dtype=np.float64) ** -exponent
    drawn = np.random.default_rng(SEED).choice(len(texts), count, p=chances / chances.sum())
    return [texts[number] for number in drawn]


def zipf_exponent(requests: Iterable[str]) -> float:
    """The exponent of Zipf's law under which a log is likeliest, among .2 to 2 in steps of a hundredth.

    Raises:
        InvalidInput: the log names fewer than two different things.
    """
    counts = np.array(sorted(Counter(requests).values(), reverse=True), dtype=np.float64)  # (R,)
    if len(counts) < 2:
        raise InvalidInput("a log needs two different queries for their frequencies to be fitted")
    ranks = np.log(np.arange(1, len(counts) + 1))
    tried = np.arange(0.2, 2.005, 0.01)
    likely = [-(counts @ (s * ranks + np.log(np.exp(-s * ranks).sum()))) for s in tried]
    return round(float(tried[int(np.argmax(likely))]), 2)


def expected_hits(queries: int, exponent: float, rate: float, seconds: float = 5.0) -> float:
    """Share of searches that a kept answer can serve, where queries come by chance at a rate.

    An answer is kept for a time from when it was worked out, so of a query that comes r times a second one in 1 + r * seconds is
    worked out (Jung et al., INFOCOM 2003).

    Args:
        queries: different ones.
        exponent: of Zipf's law.
        rate: searches a second of all queries.
        seconds: how long an answer is kept.
    """
    chances = np.arange(1, queries + 1, dtype=np.float64) ** -exponent
    chances /= chances.sum()
    again = chances * rate * seconds
    return round(float((chances * again / (1 + again)).sum()), 4)


def _ratio(use: Mapping[str, Any]) -> float:
    hits, misses = int(use["hits"]), int(use["misses"])
    return round(hits / max(hits + misses, 1), 4)
