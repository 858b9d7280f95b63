"""As many lots as a benchmark asks for: those of a release, again and again, every copy somewhere near its original.

Texts, and with them the share of lots that a word is in, stay those of the real lots; so do prices and times. Vectors are cut to
the length that is asked for, and each copy is moved by noise, for equal vectors would make a graph of knots.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from processing.evaluation.corpus import release_items
from retrieval.contracts.documents import IndexedItem, Vector
from retrieval.contracts.items import query_text
from retrieval.contracts.release import load_release
from retrieval.encoders.query_encoder import to_unit_length
from retrieval.errors import IndexMissing, InvalidInput
from retrieval.index.port import IndexStore, VectorIndex
from retrieval.search.live_index import Encoder

NOISE = 0.3  # length of what is added to a unit vector: copies are at a cosine of about .96 to their lot, .92 to each other
A_WRITE = 20_000  # lots between two steps of the progress bar
QUERY_WORDS = (2, 5)  # fewest and most of a question


class CutEncoder:
    """A query tower whose vectors are cut to their first numbers, as those of the copies are; fit to be timed, not judged."""

    def __init__(self, encoder: Encoder, dimensions: int) -> None:
        self._encoder, self._dimensions = encoder, dimensions

    @property
    def tower_id(self) -> str:
        """The tower that it is."""
        return self._encoder.tower_id

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, dimensions) float32 of unit length."""
        return to_unit_length(self._encoder.encode(texts)[:, : self._dimensions])


def copies(release: Path, lots: int, dimensions: int, seed: int = 7) -> Iterator[IndexedItem]:
    """The lots of a release, over and over.

    Args:
        release: its lots have different ids.
        lots: how many to make.
        dimensions: of their vectors; at most those of the release.
        seed: of the noise.
    """
    originals, rng = list(release_items(release)), np.random.default_rng(seed)
    vectors = to_unit_length(np.stack([entry.vector for entry in originals])[:, :dimensions])  # (N, D)
    for copy, start in enumerate(range(0, lots, len(originals))):
        noise = rng.normal(scale=NOISE / np.sqrt(dimensions), size=vectors.shape).astype(np.float32)
        moved = to_unit_length(vectors + noise) if copy else vectors
        for entry, vector in zip(originals[: lots - start], moved, strict=False):
            yield _copy(entry, copy, vector)


def copy_ids(release: Path, lots: int) -> list[str]:
    """The ids of copies(), in their order."""
    originals = [entry.item_id for entry in release_items(release)]
    return [_id_of(originals[number % len(originals)], number // len(originals)) for number in range(lots)]


def _id_of(item_id: str, copy: int) -> str:
    return f"{item_id}~{copy}" if copy else item_id


def _copy(entry: IndexedItem, copy: int, vector: Vector) -> IndexedItem:
    item_id = _id_of(entry.item_id, copy)
    return replace(entry, item_id=item_id, document={**entry.document, "item_id": item_id}, vector=vector)


def index_of_copies(
    store: IndexStore, release: Path, lots: int, dimensions: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> VectorIndex:
    """The live index of a store, if it holds as many lots of this release's tower; else one that is made now.

    Args:
        store: of this benchmark alone.
        release: see copies().
        lots: how many.
        dimensions: of the vectors.
        progress: called with (lots written, lots).

    Raises:
        InvalidInput: the vectors of the release are shorter.
    """
    manifest = load_release(release)
    if manifest.dimensions < dimensions:
        raise InvalidInput(f"the vectors of release {manifest.release_id} have {manifest.dimensions} numbers, not {dimensions}")
    try:
        live = store.live()
        if (live.tower_id, live.count(), live.dimensions) == (manifest.tower_id, lots, dimensions):
            return live
    except IndexMissing:
        pass
    made, remaining = store.create(manifest.tower_id, dimensions), copies(release, lots, dimensions)
    try:
        for done in range(0, lots, A_WRITE):
            report = made.upsert(islice(remaining, A_WRITE))
            if report.rejected:
                raise InvalidInput(f"lot {report.rejected[0][0]} was refused: {report.rejected[0][1]}")
            progress(done + report.indexed, lots)
        made.refresh()
        store.publish(made.name)
    except BaseException:  # half an index is of no use to the next run
        store.drop(made.name)
        raise
    return store.live()


def questions(release: Path, count: int, seed: int = 7) -> list[str]:
    """Words as buyers type them: two to five that follow each other in a lot's title, every question once.

    Args:
        release: whose titles.
        count: how many.
        seed: of the draw.

    Raises:
        InvalidInput: the titles do not have so many.
    """
    rng = np.random.default_rng(seed)
    titles = [words for entry in release_items(release) if len(words := query_text(entry.document["title"]).split()) > 1]
    asked: dict[str, None] = {}
    for _ in range(20 * count):
        words = titles[int(rng.integers(len(titles)))]
        length = int(rng.integers(QUERY_WORDS[0], QUERY_WORDS[1] + 1))
        start = int(rng.integers(max(len(words) - length, 0) + 1))
        asked[" ".join(words[start : start + length])] = None
        if len(asked) == count:
            return list(asked)
    raise InvalidInput(f"the titles of {release} make {len(asked)} different questions, and {count} are wanted; ask for fewer")
