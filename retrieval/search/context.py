"""The context of one request, which all its steps share: active index, deadline, circuits, timings and failures."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from retrieval.buyers.vector import BuyerVector
from retrieval.config.settings import QueryExpansion, Settings
from retrieval.deadline import ARRIVAL, Deadline
from retrieval.errors import FeedbackUnavailable, IndexUnavailable, RankerUnavailable
from retrieval.index.port import VectorIndex
from retrieval.resilience import Circuit
from retrieval.search.cache import LruCache
from retrieval.search.live_index import ActiveIndex
from retrieval.spans import start_span

Result = TypeVar("Result")
INDEX_OPERATIONS = ("hybrid", "semantic", "keyword", "fetch", "spelling", "top")


@dataclass(frozen=True, slots=True)
class SearchLimits:
    """Limits of a search service.

    Attributes:
        rerank_candidates: number of candidates that are re-ranked.
        cross_encoder_candidates: number of the best of these that the cross-encoder orders.
        cross_encoder_timeout_s: seconds until the cross-encoder is given up.
        query_expansion: "rm3", or "none" to search with the words as typed.
        retrieve_timeout_s: seconds until one request to the index is given up.
        deadline_s: seconds after the arrival of a request from which its search begins no further step. The time to load a tower
            does not count.
        cached_queries: maximum number of cached query vectors, and of cached buyer vectors.
        cached_answers_s: seconds that an answer is cached; 0 caches none.
        cached_bytes: maximum bytes of each cache. The caches hold query vectors, photo vectors, buyer vectors and answers.
    """

    rerank_candidates: int = 50
    cross_encoder_candidates: int = 20
    cross_encoder_timeout_s: float = 0.5
    query_expansion: QueryExpansion = "none"
    retrieve_timeout_s: float = 2.0
    deadline_s: float = 5.0
    cached_queries: int = 10_000
    cached_answers_s: float = 0.0
    cached_bytes: float = 64e6

    @classmethod
    def from_settings(cls, settings: Settings) -> "SearchLimits":
        """Return the limits in the settings of a process."""
        return cls(
            rerank_candidates=settings.candidates,
            cross_encoder_candidates=settings.cross_encoder_candidates,
            cross_encoder_timeout_s=settings.cross_encoder_timeout_s,
            query_expansion=settings.query_expansion,
            retrieve_timeout_s=settings.retrieve_timeout_s,
            deadline_s=settings.deadline_s,
            cached_queries=settings.cached_queries,
            cached_answers_s=settings.cached_answers_s,
            cached_bytes=settings.cached_mb * 1e6,
        )


# for measurements: on a busy machine, too, no search leaves out a step for lack of time
UNHURRIED = SearchLimits(cross_encoder_timeout_s=600.0, retrieve_timeout_s=600.0, deadline_s=600.0)


def new_circuits() -> dict[str, Circuit]:
    """Return component -> circuit for a service. Each index operation has its own, so slow k-NN cannot stop keyword search."""
    return {
        **{operation: Circuit(f"{operation} on the index", IndexUnavailable) for operation in INDEX_OPERATIONS},
        "rerank": Circuit("the re-ranker", RankerUnavailable),
        "cross_encode": Circuit("the cross-encoder", RankerUnavailable),
        "buyers": Circuit("the store of buyers' acts", FeedbackUnavailable),
    }


class SearchContext:
    """One request on the active index. It belongs to one thread.

    Attributes:
        active: index to search, and the models of its tower.
        limits: limits of the service.
        circuits: component -> circuit; threads share them.
        buyer_vectors: cached vectors of buyers; threads share them.
        deadline: deadline of the request.
        timings_ms: step -> milliseconds.
        failed_components: components that the answer does without, in the order of their failures.
    """

    def __init__(
        self,
        active: ActiveIndex,
        limits: SearchLimits,
        circuits: Mapping[str, Circuit],
        buyer_vectors: LruCache[BuyerVector],
        timings_ms: Mapping[str, float] | None = None,
    ) -> None:
        """Start the clock of the request.

        Args:
            active: index to search, and the models of its tower.
            limits: limits of the service.
            circuits: component -> circuit, made by new_circuits().
            buyer_vectors: cache for candidates.encode_interactions().
            timings_ms: step -> milliseconds, for earlier steps; None for none.
        """
        self.active, self.limits, self.circuits, self.buyer_vectors = active, limits, circuits, buyer_vectors
        self.deadline = Deadline(limits.deadline_s, ARRIVAL.get())
        self.timings_ms = dict(timings_ms or {})
        self.failed_components: list[str] = []

    def branch(self) -> "SearchContext":
        """Return a context for one of several queries, with the timings so far, no failures, and a new deadline.

        The deadline counts from the arrival of the request if a server has set it, otherwise from now.
        """
        return SearchContext(self.active, self.limits, self.circuits, self.buyer_vectors, self.timings_ms)

    def ask(self, operation: str, call: Callable[[VectorIndex], Result]) -> Result:
        """Return the result of `call` on the index, with a timeout that ends at the deadline at the latest.

        Args:
            operation: one of INDEX_OPERATIONS, whose circuit counts the call.
            call: function of the index.

        Raises:
            IndexUnavailable: the index does not answer in time, the circuit is open, or the deadline has passed.
            RequestAbandoned: the client has hung up.
        """
        index = self.active.index.within(self.deadline.limit(self.limits.retrieve_timeout_s))
        with self.circuits[operation].guard():
            return call(index)

    def fail(self, component: str) -> None:
        """Record that the answer does without a component."""
        if component not in self.failed_components:
            self.failed_components.append(component)

    @contextmanager
    def timed(self, step: str, span: str | None = None) -> Iterator[None]:
        """Add the duration of the block to the time of a step, and trace it.

        Args:
            step: key of timings_ms.
            span: name of the span; None takes that of the step.
        """
        started = time.perf_counter()
        try:
            with start_span(span or step):
                yield
        finally:
            self.record(step, started)

    def record(self, step: str, started: float) -> None:
        """Add the time since `started`, a value of time.perf_counter(), to the time of a step."""
        elapsed_ms = (time.perf_counter() - started) * 1000
        self.timings_ms[step] = round(self.timings_ms.get(step, 0.0) + elapsed_ms, 3)
