"""Stages of a job that run at the same time: each in a thread of its own, a bounded number of items before the next."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import Full, Queue
from threading import Event, Lock, Thread
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.1  # how soon a stage that waits for room notices that nobody wants its items any more


class Stopwatch:
    """How long each stage of a job was busy; stages that run at the same time may add up to more than the job took."""

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()
        self._lock = Lock()

    def add(self, stage: str, seconds: float) -> None:
        """Count seconds in which a stage was busy; from any thread."""
        with self._lock:
            self._seconds[stage] += seconds

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Count the time that the block takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    @property
    def seconds(self) -> dict[str, float]:
        """Stage -> seconds, busy time of all its workers together."""
        with self._lock:
            return dict(self._seconds)


def prefetch(items: Iterable[T], depth: int) -> Iterator[T]:
    """Make items in a thread of their own, so that the next one is made while this one is used.

    Args:
        items: iterated in that thread alone.
        depth: items that may wait, > 0.

    Yields:
        The items in their order; an error of theirs is raised here. Closing the iterator ends the thread.
    """
    waiting: Queue[Callable[[], T]] = Queue(depth)
    unwanted = Event()
    thread = Thread(target=_make, args=(iter(items), waiting, unwanted), daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = waiting.get()()
            except _End:
                return
            yield item
    finally:
        unwanted.set()
        thread.join()


class _End(Exception):
    """There are no more items."""


def _make(items: Iterator[T], waiting: "Queue[Callable[[], T]]", unwanted: Event) -> None:
    """Hand over every item, then the end or the error, as a function that returns or raises it."""
    try:
        for item in items:
            if not _put(waiting, lambda item=item: item, unwanted):
                break
        else:
            _put(waiting, _raising(_End()), unwanted)
    except BaseException as error:  # whatever it is belongs to the thread that asked for the items
        _put(waiting, _raising(error), unwanted)
    finally:
        close = getattr(items, "close", None)
        if close:
            close()  # a generator ends in the thread that it ran in


def _raising(error: BaseException) -> Callable[[], T]:
    def fail() -> T:
        raise error

    return fail


def _put(waiting: "Queue[Callable[[], T]]", item: Callable[[], T], unwanted: Event) -> bool:
    """Put an item once there is room; False when nobody wants it any more."""
    while not unwanted.is_set():
        try:
            waiting.put(item, timeout=POLL_S)
            return True
        except Full:
            continue
    return False
