"""Suggestions for the page: categories, brands and phrases of lots that can be bid on now."""

import math
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np

from retrieval.index.filters import Filter
from retrieval.index.port import VectorIndex

MAX_SAMPLE, MIN_SAMPLE = 2_000, 100  # items; the sample is smaller if their texts are long
SAMPLE_CHARS = 32_000_000  # limit of all texts of a sample, because whole items are loaded
REFRESH_S = 300.0
LIMITS = {"categories": 60, "brands": 300, "phrases": 2_000}
WORDS_IN_PHRASE = 3
PART_SHARE = 0.8  # a phrase is dropped if a longer phrase has this share of its items, as "art deco" may have of "art"
# letters, digits and the combining marks of Asian scripts, which Python's \w lacks
_LETTER = f"[^\\W_]|[\u200c\u200d{''.join(c for c in map(chr, range(0x300, 0x20000)) if unicodedata.category(c)[0] == 'M')}]"
_WORD = re.compile(rf"(?:{_LETTER})+(?:['’\-](?:{_LETTER})+)*")
LINKS = frozenset(("a", "an", "and", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"))  # begin and end no phrase


class Suggestions:
    """The suggestions of the live index, refreshed every few minutes."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._cached: tuple[str, float, dict[str, Any]] | None = None

    def of(self, index: VectorIndex) -> dict[str, Any]:
        """Return the suggestions of an index.

        Raises:
            IndexUnavailable: the index does not answer.
        """
        with self._lock:
            now = time.monotonic()
            if self._cached is None or self._cached[0] != index.name or now - self._cached[1] > REFRESH_S:
                size = _sample_size(index)
                self._cached = (index.name, now, suggest(_sample(index, size), size))
            return self._cached[2]


def suggest(documents: Sequence[Mapping[str, Any]], sample_size: int) -> dict[str, Any]:
    """Return categories, brands and phrases of items, the most frequent first, ties by name.

    Args:
        documents: documents of items.
        sample_size: size of a sample. If there are this many documents, they are a sample and counts are left out.

    Returns:
        "categories": list of {"name", "lots" (count; None in a sample), "photo_of" (item_id of an item with a photo, or None)};
        "brands": list of {"name"}; "phrases": runs of one to three words of the titles, in lower case.
    """
    phrases: Counter[str] = Counter()
    for document in documents:
        phrases.update(set(_phrases(str(document["title"]))))
    complete = len(documents) < sample_size
    photos = {str(d.get("category")): d["item_id"] for d in reversed(documents) if d.get("has_image")}
    return {
        "categories": [
            {"name": name, "lots": count if complete else None, "photo_of": photos.get(name)}
            for name, count in _frequent(Counter(str(d["category"]) for d in documents if d.get("category")), LIMITS["categories"])
        ],
        "brands": [
            {"name": name} for name, _ in _frequent(Counter(str(d["brand"]) for d in documents if d.get("brand")), LIMITS["brands"])
        ],
        "phrases": [phrase for phrase, _ in _frequent(_drop_parts(phrases), LIMITS["phrases"])],
    }


def _sample_size(index: VectorIndex) -> int:
    """Return the number of items whose texts fit into SAMPLE_CHARS, estimated from MIN_SAMPLE items."""
    lengths = [sum(len(text) for text in item.values() if isinstance(text, str)) for item in _sample(index, MIN_SAMPLE)]
    return int(np.clip(SAMPLE_CHARS / max(float(np.mean(lengths or [0])), 1.0), MIN_SAMPLE, MAX_SAMPLE))


def _sample(index: VectorIndex, size: int) -> list[Mapping[str, Any]]:
    """Return documents of open items: the nearest to an arbitrary vector, because the port cannot list items."""
    direction = np.full(index.dimensions, 1 / math.sqrt(index.dimensions), dtype=np.float32)  # (D,)
    return [candidate.document for candidate in index.semantic(direction, size, Filter())]


def _phrases(title: str) -> Iterable[str]:
    words = _WORD.findall(title.lower())
    for start in range(len(words)):
        for end in range(start + 1, min(start + WORDS_IN_PHRASE, len(words)) + 1):
            phrase = words[start:end]
            repeats = any(one == other for one, other in pairwise(phrase))
            if not repeats and not LINKS & {phrase[0], phrase[-1]} and len(" ".join(phrase)) > 2:
                yield " ".join(phrase)


def _drop_parts(phrases: Counter[str]) -> Counter[str]:
    """Return the phrases without those that a longer phrase mostly covers, see PART_SHARE."""
    parts = {
        part
        for phrase, count in phrases.items()
        for part in (phrase.rpartition(" ")[0], phrase.partition(" ")[2])
        if part and count >= 2 and count >= PART_SHARE * phrases[part]
    }
    return Counter({phrase: count for phrase, count in phrases.items() if phrase not in parts})


def _frequent(counts: Counter[str], limit: int) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:limit]
