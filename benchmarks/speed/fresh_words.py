"""What new lots cost keyword and hybrid searches of an embedded index: when they are found by a word, and what searches feel of it.

One thread writes while another searches; then a delta that is overdue goes into the inverted lists while searches go on. Before
that the vectors of its lots are in the graph, so that what is felt comes from the words alone.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count, cycle

import numpy as np

from processing.evaluation.runs import Latency, summarise_ms
from retrieval.contracts.documents import IndexedItem, Vector
from retrieval.contracts.items import query_text
from retrieval.errors import GavelError
from retrieval.index.embedded.index import EmbeddedIndex
from retrieval.index.embedded.keywords import MERGE_SHARE, MIN_MERGE_ITEMS
from retrieval.index.port import Filter

K = 10
WARM_UP, IDLE = 200, 1_000
QUESTIONS = 400
QUESTION_WORDS = (2, 5)  # fewest and most of a question
A_WRITE = 1_000  # lots of one upsert, which is one transaction

Question = tuple[str, Vector]


@dataclass(frozen=True, slots=True)
class FreshWordsResult:
    """How the words of new lots came in. Searches are hybrid ones.

    Attributes:
        joined: lots of the delta that went into the inverted lists.
        first_found_ms: from the call that writes one lot to the keyword search that finds it by its word.
        caught_up_ms: the one keyword search that takes all of `joined` into the delta.
        joining_s: how long the lists took to be made.
        idle: searches with nothing else to do.
        writing: searches while lots were written.
        joining: searches while the lists were made.
    """

    joined: int
    first_found_ms: float
    caught_up_ms: float
    joining_s: float
    idle: Latency
    writing: Latency
    joining: Latency

    def to_dict(self) -> dict[str, object]:
        """As JSON can write it."""
        return {**asdict(self), "joining_to_idle_p99": round(self.joining.p99_ms / self.idle.p99_ms, 2)}


def measure(
    index: EmbeddedIndex, lots: Iterator[IndexedItem], written: int, asked: Sequence[Question], on_phase: Callable[[str], None]
) -> FreshWordsResult:
    """Measure on an index, which is changed.

    Args:
        index: of many lots.
        lots: new ones, each with a word of its own, its item_id without "-"; enough of them.
        written: how many are written while searches go on.
        asked: questions_of() the index.
        on_phase: called with the name of each phase as it begins.

    Raises:
        GavelError: a lot that was acknowledged is not found.
    """
    questions = cycle(asked)
    on_phase("hybrid, idle")
    _searches(index, questions, _times(WARM_UP))
    _wait(lambda: not (index.rebuilding_vectors or index.rebuilding_keywords))
    idle = _searches(index, questions, _times(IDLE))
    on_phase("hybrid, write")
    writer = threading.Thread(target=_write, args=(index, [next(lots) for _ in range(written)]), name="writer")
    writer.start()
    writing = _searches(index, questions, writer.is_alive)
    _searches(index, questions, lambda: index.rebuilding_vectors or index.rebuilding_keywords)
    on_phase("hybrid, join the words")
    joined = [next(lots) for _ in range(int(max(MIN_MERGE_ITEMS, MERGE_SHARE * index.count()) * 1.1) + 1)]
    _write(index, joined)
    index.semantic(next(questions)[1], K, Filter())
    _wait(lambda: not index.rebuilding_vectors)
    caught_up_ms = _find(index, joined[-1])
    start = time.perf_counter()
    joining = _searches(index, questions, lambda: index.rebuilding_keywords)
    joining_s = time.perf_counter() - start
    lot = next(lots)
    start = time.perf_counter()
    index.upsert([lot])
    _find(index, lot)
    found_ms = (time.perf_counter() - start) * 1000
    return FreshWordsResult(len(joined), round(found_ms, 2), round(caught_up_ms, 2), round(joining_s, 2), idle, writing, joining)


def words_of(item_id: str) -> str:
    """The one word of a new lot that no other has."""
    return item_id.replace("-", "")


def questions_of(index: EmbeddedIndex, rng: np.random.Generator) -> Sequence[Question]:
    """Words that follow each other in a lot's title, and a random vector."""
    asked: list[Question] = []
    while len(asked) < QUESTIONS:
        vector = rng.standard_normal(index.dimensions).astype(np.float32)
        for candidate in index.semantic(vector, K, Filter()):
            words = query_text(str(candidate.document["title"])).split()
            length = int(rng.integers(QUESTION_WORDS[0], QUESTION_WORDS[1] + 1))
            start = int(rng.integers(max(len(words) - length, 0) + 1))
            asked.append((" ".join(words[start : start + length]), vector))
    return asked


def _write(index: EmbeddedIndex, lots: Sequence[IndexedItem]) -> None:
    for first in range(0, len(lots), A_WRITE):
        index.upsert(lots[first : first + A_WRITE])


def _searches(index: EmbeddedIndex, questions: Iterator[Question], go_on: Callable[[], bool]) -> Latency:
    """Search, one after the other, as long as that is wanted; at least once."""
    taken: list[float] = []
    while not taken or go_on():
        text, vector = next(questions)
        start = time.perf_counter()
        found = index.hybrid(text, vector, K, Filter())
        taken.append((time.perf_counter() - start) * 1000)
        if len(found) < K:
            raise GavelError(f"a search found {len(found)} lots, not {K}")
    return summarise_ms(taken)


def _find(index: EmbeddedIndex, lot: IndexedItem) -> float:
    """How many ms the keyword search takes that finds a lot by its word."""
    start = time.perf_counter()
    found = index.keyword(words_of(lot.item_id), 1, Filter())
    if not found or found[0].item_id != lot.item_id:
        raise GavelError(f"{lot.item_id} was acknowledged and is not found by its word")
    return (time.perf_counter() - start) * 1000


def _times(times: int) -> Callable[[], bool]:
    left = count(1)
    return lambda: next(left) < times


def _wait(reached: Callable[[], bool]) -> None:
    while not reached():
        time.sleep(0.01)
