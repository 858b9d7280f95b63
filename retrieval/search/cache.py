"""A least-recently-used cache with a maximum number, size and age of its entries."""

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
ENTRY_BYTES = 300  # estimated overhead per entry


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Counts of a cache.

    Attributes:
        entries: number of stored values.
        hits: number of lookups that found a value, since the process started.
        misses: number of lookups that found none.
        bytes: estimated memory of the entries.
    """

    entries: int
    hits: int
    misses: int
    bytes: int = 0

    @property
    def hit_ratio(self) -> float:
        """Return the share of lookups with a value; 0 before the first."""
        return self.hits / max(self.hits + self.misses, 1)


class LruCache(Generic[Value]):
    """A cache whose entries expire. Threads may share it.

    Args:
        size: maximum number of entries; 0 stores nothing.
        seconds: maximum age of an entry in seconds; 0 stores nothing.
        max_bytes: maximum bytes of all entries together, as size_of() estimates them; a value that is larger is not stored.

    Attributes:
        size: maximum number of entries; 0 if nothing is stored.
    """

    def __init__(self, size: int, seconds: float = math.inf, max_bytes: float = math.inf) -> None:
        self.size = size if seconds > 0 else 0
        self._seconds, self._max_bytes = seconds, max_bytes
        self._entries: OrderedDict[Hashable, tuple[float, int, Value]] = OrderedDict()  # time stored, bytes, value
        self._lock = threading.Lock()
        self._hits = self._misses = self._bytes = 0
        self._swept = time.monotonic()

    def get(self, key: Hashable) -> Value | None:
        """Return the value of a key; None if there is none, or if it is too old."""
        with self._lock:
            self._sweep()
            entry = self._entries.get(key)
            if entry is None or time.monotonic() - entry[0] > self._seconds:
                self._remove(key)
                self._misses += 1
                return None
            self._entries.move_to_end(key)
            self._hits += 1
            return entry[2]

    def put(self, key: Hashable, value: Value) -> None:
        """Store a value; remove the least recently used entries while the cache is too large."""
        if not self.size:
            return
        size = ENTRY_BYTES + size_of(key) + size_of(value)
        with self._lock:
            self._sweep()
            self._remove(key)
            if size > self._max_bytes:
                return
            self._entries[key] = time.monotonic(), size, value
            self._bytes += size
            while len(self._entries) > self.size or self._bytes > self._max_bytes:
                self._remove(next(iter(self._entries)))

    def drop(self, key: Hashable) -> None:
        """Remove a key whose value turned out to be unusable, and count its last lookup as a miss."""
        with self._lock:
            self._remove(key)
            self._hits -= 1
            self._misses += 1

    def clear(self) -> None:
        """Remove all entries."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def use(self) -> CacheUse:
        """Return the counts."""
        with self._lock:
            self._sweep()
            return CacheUse(len(self._entries), self._hits, self._misses, self._bytes)

    def _remove(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        self._bytes -= entry[1] if entry else 0

    def _sweep(self) -> None:
        """Remove entries that are too old, at most once per maximum age."""
        now = time.monotonic()
        if now - self._swept > self._seconds:
            self._swept = now
            for key in [key for key, entry in self._entries.items() if now - entry[0] > self._seconds]:
                self._remove(key)


def size_of(value: Any) -> int:
    """Estimate the bytes of a value in memory with its parts; a part that occurs twice counts twice.

    Args:
        value: text, number or array, or a mapping, sequence or dataclass of such values.
    """
    if isinstance(value, np.ndarray):
        return sys.getsizeof(value) + (0 if value.base is None else value.nbytes)
    if isinstance(value, Mapping):
        return sys.getsizeof(value) + sum(size_of(one) for one in value.values())  # field names are shared
    if isinstance(value, (tuple, list, set, frozenset)):
        return sys.getsizeof(value) + sum(map(size_of, value))
    if is_dataclass(value):
        return sys.getsizeof(value) + sum(size_of(getattr(value, field.name)) for field in fields(value))
    return sys.getsizeof(value)
