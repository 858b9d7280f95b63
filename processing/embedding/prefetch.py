"""Steps of a job that run concurrently: each in its own thread, a bounded number of items ahead of the next."""

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from queue import Full, Queue
from threading import Event, Lock, Thread
from typing import NoReturn, TypeVar

T = TypeVar("T")
POLL_S = 0.1  # seconds after which a step that waits for room notices that its items are no longer needed


class Stopwatch:
    """Busy seconds of each step of a job; concurrent steps may add up to more than the job took."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = Lock()

    def add(self, step: str, seconds: float) -> None:
        """Add busy seconds of a step; any thread may call this."""
        with self._lock:
            self._seconds[step] += seconds

    @contextmanager
    def time(self, step: str) -> Iterator[None]:
        """Add the duration of the block to the busy seconds of a step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(step, time.perf_counter() - start)

    @property
    def seconds(self) -> dict[str, float]:
        """Step -> busy seconds of all its workers together."""
        with self._lock:
            return dict(self._seconds)


def prefetch(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Compute items in a separate thread, so that the next item is computed while the current item is used.

    Args:
        items: items to compute, iterated only in that thread.
        depth: largest number of computed items that wait, > 0.

    Yields:
        The items in their order. An error of `items` is raised here. Closing the generator ends the thread.
    """
    waiting: Queue[Callable[[], T]] = Queue(depth)
    cancelled = Event()
    thread = Thread(target=_produce, args=(iter(items), waiting, cancelled), daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = waiting.get()()
            except _End:
                return
            yield item
    finally:
        cancelled.set()
        thread.join()


class _End(Exception):
    """There are no more items."""


def _produce(items: Iterator[T], waiting: "Queue[Callable[[], T]]", cancelled: Event) -> None:
    """Queue a function for each item that returns it, and a last one that raises _End or the error of `items`."""
    try:
        for item in items:
            if not _put(waiting, partial(_return, item), cancelled):
                break
        else:
            _put(waiting, partial(_raise, _End()), cancelled)
    except BaseException as error:  # any error belongs to the thread that consumes the items
        _put(waiting, partial(_raise, error), cancelled)
    finally:
        close = getattr(items, "close", None)
        if close:
            close()  # a generator must end in the thread that ran it


def _return(item: T) -> T:
    return item


def _raise(error: BaseException) -> NoReturn:
    raise error


def _put(waiting: "Queue[Callable[[], T]]", item: Callable[[], T], cancelled: Event) -> bool:
    """Queue an item when there is room. Return True, or False if the consumer has ended."""
    while not cancelled.is_set():
        try:
            waiting.put(item, timeout=POLL_S)
            return True
        except Full:
            continue
    return False
