"""The tower of an index that is searched by words alone, because no text encoder was at hand when it was built.

Its items have vectors of their words, so that similar items can be found. It has no query encoder: hybrid searches use keywords.
"""

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.contracts.documents import Vector
from retrieval.contracts.items import Item, item_text
from retrieval.errors import NoQueryEncoder
from retrieval.text.analysis import words

TOWER_ID = "words-only"
DIMENSIONS = 256


class WordsOnly:
    """The missing query encoder of an index that is searched by words alone."""

    tower_id = TOWER_ID

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Raise NoQueryEncoder."""
        raise NoQueryEncoder("the index was built without a text encoder and is searched by words alone")


class WordsOnlyItems:
    """The item encoder of such an index."""

    tower_id = TOWER_ID
    image_size = 32  # photos are read only to learn if a lot has one

    def encode(self, items: Sequence[Item], photos: Sequence[object]) -> Vector:
        """Return the vectors of N items, (N, DIMENSIONS) float32 of unit length; photos are ignored."""
        return word_vectors([item_text(item.title, item.description) for item in items])


def word_vectors(texts: Sequence[str]) -> Vector:
    """Return the words of N texts as vectors, (N, DIMENSIONS) float32 of unit length: each word adds to one number, by its hash."""
    vectors = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in set(words(text)):
            code = zlib.crc32(word.encode())
            vectors[row, code % DIMENSIONS] += 1.0 if code & 1 << 31 else -1.0
    vectors[~vectors.any(axis=1), 0] = 1.0
    unit: Vector = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
