"""Gain of a search server's caches for repeated queries.

Queries follow Zipf's law as in logs of search engines (Xie and O'Hallaron, INFOCOM 2002). The exponent is given or fitted to a log.
`gavel serve` runs on one core at its limit: without caches, with cached query vectors, and with cached vectors and answers.
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

CACHES: Mapping[str, Mapping[str, str]] = {
    "nothing": UNCACHED,
    "vectors of queries": {**UNCACHED, "GAVEL_CACHED_QUERIES": "10000"},
    "vectors, and answers for 5 s": {"GAVEL_CACHED_QUERIES": "10000", "GAVEL_CACHED_ANSWERS_S": "5"},
}
REQUESTS = 20_000
SEED = 7


@dataclass(frozen=True, slots=True)
class Row:
    """Measurements of one cache configuration under one exponent.

    Attributes:
        exponent: exponent of Zipf's law.
        system: name of the configuration.
        load: result of the load at the server's limit.
        vector_hits: hit rate of the cache of vectors.
        answer_hits: hit rate of the cache of answers.
    """

    exponent: float
    system: str
    load: Load
    vector_hits: float
    answer_hits: float


@dataclass(frozen=True)
class CachesResult(Measurement):
    """Measurements of all cache configurations.

    Attributes:
        queries: number of different queries.
        rows: measurements by exponent and configuration.
    """

    queries: int
    rows: tuple[Row, ...]


def run_benchmark(
    texts: Sequence[str], exponents: Sequence[float], *, seconds: float = 15.0, on_phase: Callable[[str], None] = lambda phase: None
) -> CachesResult:
    """Serve the index of this workspace in every configuration and load the server.

    Args:
        texts: different queries, the most frequent first.
        exponents: exponents of Zipf's law.
        seconds: seconds of each load.
        on_phase: called with the name of each phase as it begins.
    """
    machine, rows = describe_machine(), []
    for exponent in exponents:
        requests = zipf_draws(texts, exponent, REQUESTS)
        for name, environment in CACHES.items():
            on_phase(f"{exponent}: {name}")
            load, caches = limit_of(requests, seconds, environment)
            hits = {cache: _hit_rate(use) for cache, use in caches.items()}
            rows.append(Row(exponent, name, load, hits["embeddings"], hits["answers"]))
    return CachesResult(len(texts), tuple(rows), machine=machine)


def zipf_draws(texts: Sequence[str], exponent: float, count: int) -> list[str]:
    """Return `count` random requests. The i-th text has a probability proportional to i to the power of -exponent."""
    chances = np.arange(1, len(texts) + 1, dtype=np.float64) ** -exponent
    indices = np.random.default_rng(SEED).choice(len(texts), count, p=chances / chances.sum())
    return [texts[number] for number in indices]


def zipf_exponent(requests: Iterable[str]) -> float:
    """Return the maximum-likelihood exponent of Zipf's law for a log, from .2 to 2 in steps of .01.

    Raises:
        InvalidInput: the log has fewer than two different requests.
    """
    counts = np.array(sorted(Counter(requests).values(), reverse=True), dtype=np.float64)  # (R,)
    if len(counts) < 2:
        raise InvalidInput("a log needs two different queries for their frequencies to be fitted")
    ranks = np.log(np.arange(1, len(counts) + 1))
    exponents = np.arange(0.2, 2.005, 0.01)
    likelihoods = [-(counts @ (s * ranks + np.log(np.exp(-s * ranks).sum()))) for s in exponents]
    return round(float(exponents[int(np.argmax(likelihoods))]), 2)


def expected_hits(queries: int, exponent: float, rate: float, seconds: float = 5.0) -> float:
    """Return the expected hit rate of cached answers for Poisson arrivals.

    An answer expires after a fixed time. So for a query with r arrivals per second, one in 1 + r * seconds answers is computed
    (Jung et al., INFOCOM 2003).

    Args:
        queries: number of different queries.
        exponent: exponent of Zipf's law.
        rate: searches per second of all queries together.
        seconds: lifetime of an answer in seconds.
    """
    chances = np.arange(1, queries + 1, dtype=np.float64) ** -exponent
    chances /= chances.sum()
    again = chances * rate * seconds
    return round(float((chances * again / (1 + again)).sum()), 4)


def _hit_rate(use: Mapping[str, Any]) -> float:
    hits, misses = int(use["hits"]), int(use["misses"])
    return round(hits / max(hits + misses, 1), 4)
