"""Measure what a release's lots look like to its tower, and warn if the tower does not fit them.

A tower that was trained on other lots embeds any text, and its vectors then say little: words are unknown to it, lots of different
words get one vector, and the nearest lots share no words. All three are measured on a sample of the release.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from retrieval.contracts.documents import IndexedItem, Vector
from retrieval.contracts.items import item_text
from retrieval.contracts.parts import PartReader
from retrieval.contracts.release import load_release
from retrieval.contracts.tower_card import TOKENIZER_FILE
from retrieval.text.analysis import words

SAMPLE = 800
SAMPLED_PARTS = 4
MIN_LOTS = 50  # fewer say nothing about neighbours
WORDS_READ = 48  # of each lot's text
SPELLED_FROM = 4  # letters from which on a word in pieces of one or two letters is unknown
SAME_COSINE = 0.98  # from which on two vectors fall together
OTHER_WORDS = 0.3  # similarity of words below which two lots say different things

MAX_UNKNOWN_WORDS = 0.25
MAX_FALLEN_TOGETHER = 0.2
MIN_AGREEMENT = 0.25
MAX_PHOTOS = 0.5  # share of lots with a photo from which on lots of other words may look alike

_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class TowerFit:
    """Measurements of a sample of lots as a tower sees them.

    Attributes:
        lots: number of lots in the sample.
        unknown_words: share of their words that the tower's tokenizer does not know: it spells them letter by letter.
        fallen_together: share of the lots with a vector like that of a lot with other words.
        agreement: words that a lot shares with the nearest lot by vector: 0 as with any lot, 1 as with the nearest lot by words.
            None if too few lots share words.
        photos: share of the lots with a photo in their vector.
    """

    lots: int
    unknown_words: float
    fallen_together: float
    agreement: float | None
    photos: float

    @property
    def faults(self) -> list[str]:
        """Measurements out of bounds, in words; empty if the tower fits, or too few lots tell."""
        if self.lots < MIN_LOTS:
            return []
        faults = []
        if self.unknown_words > MAX_UNKNOWN_WORDS:
            faults.append(f"{self.unknown_words:.0%} of their words are unknown to it")
        if self.photos >= MAX_PHOTOS:
            return faults
        if self.fallen_together > MAX_FALLEN_TOGETHER:
            faults.append(f"{self.fallen_together:.0%} of the lots have the vector of a lot with other words")
        if self.agreement is not None and self.agreement < MIN_AGREEMENT:
            faults.append(f"neighbours by vector share {self.agreement:.0%} of the words that they could")
        return faults

    def warning(self, tower_id: str) -> str:
        """Return a warning with the remedy; empty if the tower fits."""
        if not self.faults:
            return ""
        return (
            f"tower {tower_id} does not fit these lots: {'; '.join(self.faults)}. Semantic and hybrid search will be poor: make a "
            "tower for them with `gavel try FILE`, or `gavel catalog prepare items --items FILE` and `gavel adapt`; for other "
            "languages than English with `gavel adapt --model multilingual`; until then search with `--mode keyword`"
        )


def measure_fit(release: Path, tower: Path) -> TowerFit:
    """Measure a sample of a release's lots.

    Args:
        release: folder of a whole release.
        tower: folder of its tower. Without a tokenizer in it, as of towers over users and items, nothing is measured.
    """
    file = tower / TOKENIZER_FILE
    items = _sample(release) if file.is_file() else []
    texts = [item_text(str(item.document.get("title", "")), str(item.document.get("description", ""))) for item in items]
    tokens = [words(text)[:WORDS_READ] for text in texts]
    unknown = _unknown_share(Tokenizer.from_file(str(file)), tokens) if items else 0.0
    vectors = np.stack([item.vector for item in items]) if items else np.empty((0, 1), np.float32)
    together, agreement = _compare(vectors, tokens) if len(items) >= MIN_LOTS else (0.0, None)
    photos = sum(bool(item.document.get("has_image")) for item in items) / max(len(items), 1)
    return TowerFit(len(items), unknown, together, agreement, photos)


def unknown_words(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Return the share of the words of texts that a tokenizer does not know, in [0, 1]."""
    return _unknown_share(tokenizer, [words(text)[:WORDS_READ] for text in texts])


def _sample(release: Path) -> list[IndexedItem]:
    """Return every n-th item of a few parts, so that long releases are not read whole."""
    manifest = load_release(release)
    parts = manifest.parts[:: max(1, -(-len(manifest.parts) // SAMPLED_PARTS))]
    step = max(1, sum(part.items for part in parts) // SAMPLE)
    items: list[IndexedItem] = []
    for part in parts:
        ops = (op for op in PartReader(release / part.name) if isinstance(op, IndexedItem))
        items += [op for number, op in enumerate(ops) if number % step == 0]
    return items[:SAMPLE]


def _unknown_share(tokenizer: Tokenizer, texts: Sequence[Sequence[str]]) -> float:
    counts = Counter(word for text in texts for word in text if _LETTER.search(word) and not any(c.isdigit() for c in word))
    if not counts:
        return 0.0
    unknown = sum(count for word, count in counts.items() if _is_unknown(tokenizer, word))
    return unknown / counts.total()


def _is_unknown(tokenizer: Tokenizer, word: str) -> bool:
    pieces = tokenizer.encode(word, add_special_tokens=False).tokens
    if any(piece.strip("[]<>").lower() == "unk" for piece in pieces):
        return True
    return len(word) >= SPELLED_FROM and len(pieces) > len(word) / 2


def _compare(vectors: Vector, texts: Sequence[Sequence[str]]) -> tuple[float, float | None]:
    """Return the share of vectors that fall together, and the agreement of neighbours, see TowerFit."""
    shared = _word_similarity(texts)  # (N, N)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1.0)
    together = float(np.mean(np.any((cosines >= SAME_COSINE) & (shared < OTHER_WORDS), axis=1)))
    nearest = shared[np.arange(len(shared)), cosines.argmax(axis=1)].mean()
    usual = shared.sum() / (len(shared) * (len(shared) - 1))
    best = shared.max(axis=1).mean()
    return together, float((nearest - usual) / (best - usual)) if best - usual > 0.05 else None


def _word_similarity(texts: Sequence[Sequence[str]]) -> NDArray[np.float32]:
    """Return the cosines (N, N) of the texts' words, each weighted by its rarity; 0 on the diagonal."""
    frequency = Counter(word for text in texts for word in set(text))
    columns = {word: column for column, word in enumerate(word for word, count in frequency.items() if count > 1)}
    table = np.zeros((len(texts), max(len(columns), 1)), dtype=np.float32)  # words of a single text are shared with no other
    lengths = np.zeros(len(texts), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in set(text):
            weight = np.log(1 + len(texts) / frequency[word])
            lengths[row] += weight**2
            if word in columns:
                table[row, columns[word]] = weight
    table /= np.sqrt(np.maximum(lengths, 1e-6))[:, None]
    similarity: NDArray[np.float32] = table @ table.T
    np.fill_diagonal(similarity, 0.0)
    return similarity
