"""Continuous searches and writes while nodes of a cluster are lost; every answer is checked."""

import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np

from benchmarks.reliability.cluster_items import NOW, K, Question, ids
from processing.evaluation.runs import Latency, summarise_ms
from retrieval.contracts.documents import IndexedItem
from retrieval.index.opensearch.store import OpenSearchIndex, OpenSearchStore
from retrieval.index.port import Candidate
from retrieval.index.ranking import SCORE_DECIMALS

LIVE_EVERY = 20  # searches between two look-ups of the alias, which a server repeats every few seconds
A_WRITE, BETWEEN_WRITES_S = 50, 0.1
ItemsById = Mapping[str, IndexedItem]


@dataclass
class PhaseResult:
    """The searches of one phase.

    Attributes:
        answers: number of searches.
        failed: errors of searches without an answer.
        wrong: descriptions of wrong answers.
        ms: durations in milliseconds.
        recall: recall of each approximate search.
    """

    answers: int = 0
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    recall: list[float] = field(default_factory=list)

    @property
    def latency(self) -> Latency:
        """Percentiles of the durations."""
        return summarise_ms(self.ms)

    def to_dict(self) -> dict[str, object]:
        """Return a summary for JSON."""
        return {
            "answers": self.answers,
            "failed": len(self.failed),
            "wrong": len(self.wrong),
            "p50_ms": self.latency.p50_ms,
            "p99_ms": self.latency.p99_ms,
            "longest_ms": round(max(self.ms), 1),
            "recall": round(float(np.mean(self.recall)), 4) if self.recall else None,
            "first_failures": [*self.failed, *self.wrong][:3],
        }


def fault(question: Question, candidates: Sequence[Candidate], items: ItemsById) -> str:
    """Return a description of the fault in an answer to an approximate search by vector; empty if the answer has no fault.

    Faults are a lot that does not exist or does not pass the filter, a wrong score, a wrong order and a repeated lot. The number of
    lots must be that of the exact answer. A missed near lot is no fault.
    """
    for lot in candidates:
        entry = items.get(lot.item_id)
        if entry is None or not _allowed(question, entry):
            return f"{lot.item_id} must not come"
        cosine = float(entry.vector.astype(np.float64) @ question.vector / np.linalg.norm(question.vector))
        if abs(cosine - lot.score) > 10 * 10**-SCORE_DECIMALS:
            return f"{lot.item_id} has the cosine {cosine:.6f}, not {lot.score}"
    in_order = sorted(candidates, key=lambda lot: (-lot.score, lot.item_id))
    if ids(in_order) != ids(candidates) or len(set(ids(candidates))) < len(candidates):
        return "the order is another"
    return "" if len(candidates) == len(question.nearest) else f"{len(candidates)} lots, not {len(question.nearest)}"


def _allowed(question: Question, entry: IndexedItem) -> bool:
    filters, lot = question.filters, entry.document
    return (
        lot["ends_at"] > NOW.timestamp() * 1000
        and (not filters.categories or lot["category"] in filters.categories)
        and (not filters.brands or lot["brand"] in filters.brands)
        and (filters.min_price is None or lot["current_price"] >= filters.min_price)
        and (filters.max_price is None or lot["current_price"] <= filters.max_price)
        and (filters.min_seller_rating is None or lot["seller_rating"] >= filters.min_seller_rating)
    )


class Load:
    """Threads that search continuously and count results by phase. A context manager, which starts and stops the threads.

    Args:
        url: URLs of all nodes, separated by commas.
        alias: alias of the index.
        questions: questions with the correct answers.
        items: id -> indexed item.
        threads: number of threads, each with its own connections.
        seconds: time limit of a search.
    """

    def __init__(
        self, url: str, alias: str, questions: Sequence[Question], items: ItemsById, *, threads: int, seconds: float
    ) -> None:
        self.phase = "before"
        self.phases: dict[str, PhaseResult] = defaultdict(PhaseResult)
        self._url, self._alias, self._questions, self._items, self._seconds = url, alias, questions, items, seconds
        self._stopped, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._search_on, args=(number,)) for number in range(threads)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _search_on(self, first: int) -> None:
        store = OpenSearchStore(self._url, self._alias)
        index: OpenSearchIndex | None = None
        for number in count(first * 7):
            if self._stopped.is_set():
                break
            phase, start = self.phase, time.perf_counter()
            failed, wrong, recall = "", "", None
            try:
                if index is None or number % LIVE_EVERY == 0:
                    index = store.live().within(self._seconds)
                wrong, recall = self._search(index, number)
            except Exception as error:  # any failure counts as no answer
                failed = f"{type(error).__name__}: {error}"
            ms = (time.perf_counter() - start) * 1000
            with self._lock:
                self._count(self.phases[phase], ms, failed, wrong, recall)

    def _search(self, index: OpenSearchIndex, number: int) -> tuple[str, float | None]:
        """Search for one question exactly, by words or approximately; return the fault, and the recall of an approximate answer."""
        question = self._questions[number // 3 % len(self._questions)]
        if number % 3 == 0:
            results = ids(index.semantic(question.vector, K, question.filters, exact=True))
            return ("" if results == question.nearest else f"exact: {results}, not {question.nearest}"), None
        if number % 3 == 1:
            results = ids(index.keyword(question.text, K, question.filters))
            return ("" if results == question.by_words else f"by words: {results}, not {question.by_words}"), None
        near = index.semantic(question.vector, K, question.filters)
        return fault(question, near, self._items), recall_of(question, near)

    @staticmethod
    def _count(result: PhaseResult, ms: float, failed: str, wrong: str, recall: float | None) -> None:
        result.answers += 1
        result.ms.append(ms)
        result.failed += [failed] if failed else []
        result.wrong += [wrong] if wrong else []
        result.recall += [recall] if recall is not None else []


def recall_of(question: Question, candidates: Sequence[Candidate]) -> float:
    """Return the share of the question's nearest lots that are among the candidates; 1 if there are none."""
    return len(set(question.nearest) & set(ids(candidates))) / len(question.nearest) if question.nearest else 1.0


class Writes:
    """A thread that writes new lots into a separate index, and records the acknowledged lots. A context manager like Load.

    Args:
        index: empty index.
        lots: lots to write repeatedly under new ids. Their vectors differ, because a graph of equal vectors is slow to build.
    """

    def __init__(self, index: OpenSearchIndex, lots: Sequence[IndexedItem]) -> None:
        self.acknowledged: list[str] = []
        self.failed: list[str] = []
        self._index, self._lots = index, lots
        self._stopped, self._thread = threading.Event(), threading.Thread(target=self._write_on)

    def __enter__(self) -> "Writes":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def lost(self) -> int:
        """Return the number of acknowledged lots that are missing. Call this after the context has ended."""
        self._index.refresh()
        return len(self.acknowledged) - len(self._index.fetch(self.acknowledged))

    def _write_on(self) -> None:
        for first in count(0, A_WRITE):
            if self._stopped.wait(BETWEEN_WRITES_S):
                break
            lots = [self._copy(number) for number in range(first, first + A_WRITE)]
            try:
                report = self._index.upsert(lots)
                if report.indexed < len(lots):
                    self.failed.append(str(report))
                else:
                    self.acknowledged += [lot.item_id for lot in lots]
            except Exception as error:  # any failure counts as not written
                self.failed.append(f"{type(error).__name__}: {error}")

    def _copy(self, number: int) -> IndexedItem:
        lot, item_id = self._lots[number % len(self._lots)], f"written-{number}"
        return replace(lot, item_id=item_id, document={**lot.document, "item_id": item_id})
