"""What the page suggests: the categories, brands and phrases of lots that can be bid on now."""

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

from retrieval.index.port import Filter, VectorIndex

SAMPLE, FEW = 2_000, 100  # lots that are looked at: at most, and where their texts are long at least
SAMPLE_CHARS = 32_000_000  # of their texts, which come along
KEEP_S = 300.0  # until they are looked at again
MOST = {"categories": 60, "brands": 300, "phrases": 2_000}
WORDS_IN_PHRASE = 3
PART_SHARE = 0.8  # of a phrase's lots: if a longer one has as many, the shorter is a part of it, as "art" of "art deco"
# letters, digits, and what stands at them in most scripts of Asia, which Python's \w does not have
_LETTER = f"[^\\W_]|[\u200c\u200d{''.join(c for c in map(chr, range(0x300, 0x20000)) if unicodedata.category(c)[0] == 'M')}]"
_WORD = re.compile(rf"(?:{_LETTER})+(?:['’\-](?:{_LETTER})+)*")
LINKS = frozenset(("a", "an", "and", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"))  # no end of a phrase


class PageWords:
    """The words of the live index, looked up again every few minutes."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: tuple[str, float, dict[str, Any]] | None = None

    def of(self, index: VectorIndex) -> dict[str, Any]:
        """The words of an index.

        Raises:
            IndexUnavailable: it does not answer.
        """
        with self._lock:
            now = time.monotonic()
            if self._kept is None or self._kept[0] != index.name or now - self._kept[1] > KEEP_S:
                most = _sample_size(index)
                self._kept = (index.name, now, words_of(_sample(index, most), most))
            return self._kept[2]


def words_of(documents: Sequence[Mapping[str, Any]], most: int) -> dict[str, Any]:
    """Categories, brands and phrases of lots, the most frequent first, ties by name.

    Args:
        documents: of lots.
        most: as many lots as this are a sample, and counts of them are not told.

    Returns:
        categories: name, lots (how many; None in a sample), photo_of (item_id of a lot with a photo, or None); brands: name;
        phrases: runs of one to three words of the titles, in lower case.
    """
    phrases: Counter[str] = Counter()
    for document in documents:
        phrases.update(set(_phrases(str(document["title"]))))
    whole = len(documents) < most
    photos = {str(d.get("category")): d["item_id"] for d in reversed(documents) if d.get("has_image")}
    return {
        "categories": [
            {"name": name, "lots": lots if whole else None, "photo_of": photos.get(name)}
            for name, lots in _frequent(Counter(str(d["category"]) for d in documents if d.get("category")), MOST["categories"])
        ],
        "brands": [
            {"name": name} for name, _ in _frequent(Counter(str(d["brand"]) for d in documents if d.get("brand")), MOST["brands"])
        ],
        "phrases": [phrase for phrase, _ in _frequent(_whole(phrases), MOST["phrases"])],
    }


def _sample_size(index: VectorIndex) -> int:
    """Return how many lots may be held in memory together, by the length of the texts of a few."""
    lengths = [sum(len(text) for text in lot.values() if isinstance(text, str)) for lot in _sample(index, FEW)]
    return int(np.clip(SAMPLE_CHARS / max(float(np.mean(lengths or [0])), 1.0), FEW, SAMPLE))


def _sample(index: VectorIndex, most: int) -> list[Mapping[str, Any]]:
    """Live lots: the port has no listing, but every lot has a cosine with any direction."""
    direction = np.full(index.dimensions, 1 / math.sqrt(index.dimensions), dtype=np.float32)  # (D,)
    return [candidate.document for candidate in index.semantic(direction, most, Filter())]


def _phrases(title: str) -> Iterable[str]:
    words = _WORD.findall(title.lower())
    for start in range(len(words)):
        for end in range(start + 1, min(start + WORDS_IN_PHRASE, len(words)) + 1):
            phrase = words[start:end]
            stutters = any(one == other for one, other in pairwise(phrase))
            if not stutters and not LINKS & {phrase[0], phrase[-1]} and len(" ".join(phrase)) > 2:
                yield " ".join(phrase)


def _whole(phrases: Counter[str]) -> Counter[str]:
    """The phrases that are no part of a longer one."""
    parts = {
        part
        for phrase, lots in phrases.items()
        for part in (phrase.rpartition(" ")[0], phrase.partition(" ")[2])
        if part and lots >= 2 and lots >= PART_SHARE * phrases[part]
    }
    return Counter({phrase: lots for phrase, lots in phrases.items() if phrase not in parts})


def _frequent(counts: Counter[str], most: int) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:most]
