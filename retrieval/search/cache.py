"""A cache that is bounded in bytes, and forgets what was not asked for longest and what is too old."""

import math
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Generic, TypeVar

import numpy as np

Value = TypeVar("Value")
ENTRY_BYTES = 300  # of the entry itself: its place in the cache, and the time it came


@dataclass(frozen=True, slots=True)
class CacheUse:
    """How a cache does.

    Attributes:
        entries: what it holds.
        hits: lookups that found something, since the process started.
        misses: those that did not.
        bytes: estimated memory of its entries.
    """

    entries: int
    hits: int
    misses: int
    bytes: int = 0

    @property
    def hit_ratio(self) -> float:
        """Share of the lookups that found something; 0 before the first."""
        return self.hits / max(self.hits + self.misses, 1)


class LruCache(Generic[Value]):
    """Keeps values for a time. Threads may share it.

    Args:
        size: entries at most; 0 keeps nothing.
        seconds: how long an entry lives; what is older is gone at the first use of the cache after that.
        most_bytes: what all entries may take, as size_of() counts them; one that is larger alone is not kept.
    """

    def __init__(self, size: int, seconds: float = math.inf, max_bytes: float = math.inf) -> None:
        self._size, self._seconds, self._most_bytes = size if seconds > 0 else 0, seconds, max_bytes
        self._entries: OrderedDict[Hashable, tuple[float, int, Value]] = OrderedDict()  # when it came, its bytes, the value
        self._lock = threading.Lock()
        self._hits = self._misses = self._bytes = 0
        self._swept = time.monotonic()

    def get(self, key: Hashable) -> Value | None:
        """The value of a key, or None when there is none that is young enough."""
        with self._lock:
            self._sweep()
            kept = self._entries.get(key)
            if kept is None or time.monotonic() - kept[0] > self._seconds:
                self._remove(key)
                self._misses += 1
                return None
            self._entries.move_to_end(key)
            self._hits += 1
            return kept[2]

    def put(self, key: Hashable, value: Value) -> None:
        """Keep a value."""
        if not self._size:
            return
        size = ENTRY_BYTES + size_of(key) + size_of(value)
        with self._lock:
            self._sweep()
            self._remove(key)
            if size > self._most_bytes:
                return
            self._entries[key] = time.monotonic(), size, value
            self._bytes += size
            while len(self._entries) > self._size or self._bytes > self._most_bytes:
                self._remove(next(iter(self._entries)))

    def drop(self, key: Hashable) -> None:
        """Forget a key whose value turned out to be of no use: its last lookup was a miss after all."""
        with self._lock:
            self._remove(key)
            self._hits -= 1
            self._misses += 1

    def use(self) -> CacheUse:
        """How it does."""
        with self._lock:
            self._sweep()
            return CacheUse(len(self._entries), self._hits, self._misses, self._bytes)

    def _remove(self, key: Hashable) -> None:
        kept = self._entries.pop(key, None)
        self._bytes -= kept[1] if kept else 0

    def _sweep(self) -> None:
        """Drop entries that are too old, once in a lifetime of an entry."""
        now = time.monotonic()
        if now - self._swept > self._seconds:
            self._swept = now
            for key in [key for key, kept in self._entries.items() if now - kept[0] > self._seconds]:
                self._remove(key)


def size_of(value: Any) -> int:
    """Estimate the bytes of a value in memory, its parts included; a part that is held twice counts twice.

    Args:
        value: text, numbers, arrays, and mappings, sequences and dataclasses of them.
    """
    if isinstance(value, np.ndarray):
        return sys.getsizeof(value) + (0 if value.base is None else value.nbytes)
    if isinstance(value, Mapping):
        return sys.getsizeof(value) + sum(size_of(one) for one in value.values())  # names of fields are shared
    if isinstance(value, (tuple, list, set, frozenset)):
        return sys.getsizeof(value) + sum(map(size_of, value))
    if is_dataclass(value):
        return sys.getsizeof(value) + sum(size_of(getattr(value, field.name)) for field in fields(value))
    return sys.getsizeof(value)
