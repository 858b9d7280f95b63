"""A release of items that are searched by words alone, for catalogues without a text encoder."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from processing.embedding.vector_release import write_vector_release
from retrieval.contracts.items import Item, item_text
from retrieval.contracts.release import Manifest
from retrieval.encoders.words_only import TOWER_ID, word_vectors
from retrieval.progress import Progress, ignore_progress


def write_words_release(output: Path, items: Sequence[Item], *, source: str, progress: Progress = ignore_progress) -> Manifest:
    """Write a release of the tower "words-only"; see retrieval.encoders.words_only.

    Args:
        output: folder of the releases.
        items: items of the catalogue.
        source: name of their file, for rejects.
        progress: called with (items written, items).
    """
    rows = [{name: value for name, value in asdict(item).items() if value not in (None, "")} for item in items]
    vectors = word_vectors([item_text(item.title, item.description) for item in items])
    return write_vector_release(output, rows, vectors, tower_id=TOWER_ID, source=source, progress=progress)
