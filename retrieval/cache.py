"""A bounded cache that forgets what was not asked for longest, and what is too old."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class CacheUse:
    """How a cache does.

    Attributes:
        entries: what it holds.
        hits: lookups that found something, since the process started.
        misses: those that did not.
    """

    entries: int
    hits: int
    misses: int

    @property
    def hit_ratio(self) -> float:
        """Share of the lookups that found something; 0 before the first."""
        return self.hits / max(self.hits + self.misses, 1)


class LruCache(Generic[Value]):
    """Keeps values for a time. Threads may share it.

    Args:
        size: entries at most; 0 keeps nothing.
        seconds: how long an entry lives.
    """

    def __init__(self, size: int, seconds: float = math.inf) -> None:
        self._size, self._seconds = size if seconds > 0 else 0, seconds
        self._entries: OrderedDict[Hashable, tuple[float, Value]] = OrderedDict()
        self._lock = threading.Lock()
        self._hits = self._misses = 0

    def get(self, key: Hashable) -> Value | None:
        """The value of a key, or None when there is none that is young enough."""
        with self._lock:
            kept = self._entries.get(key)
            if kept is None or time.monotonic() - kept[0] > self._seconds:
                self._entries.pop(key, None)
                self._misses += 1
                return None
            self._entries.move_to_end(key)
            self._hits += 1
            return kept[1]

    def put(self, key: Hashable, value: Value) -> None:
        """Keep a value."""
        with self._lock:
            self._entries[key] = time.monotonic(), value
            self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)

    def drop(self, key: Hashable) -> None:
        """Forget a key whose value turned out to be of no use: its last lookup was a miss after all."""
        with self._lock:
            self._entries.pop(key, None)
            self._hits -= 1
            self._misses += 1

    def use(self) -> CacheUse:
        """How it does."""
        with self._lock:
            return CacheUse(len(self._entries), self._hits, self._misses)
