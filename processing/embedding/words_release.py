"""A release of items that are searched by words alone, for catalogues without a text encoder."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from processing.embedding.vector_release import write_vector_release
from retrieval.contracts.items import Item, item_text
from retrieval.contracts.release import Manifest
from retrieval.encoders.photos import locate_photo
from retrieval.encoders.words_only import TOWER_ID, word_vectors
from retrieval.errors import InvalidPhoto
from retrieval.progress import Progress, ignore_progress


def write_words_release(
    output: Path,
    items: Sequence[Item],
    *,
    source: str,
    photo_folders: Sequence[Path] = (),
    progress: Progress = ignore_progress,
) -> Manifest:
    """Write a release of the tower "words-only"; see retrieval.encoders.words_only.

    Args:
        output: folder of the releases.
        items: items of the catalogue.
        source: name of their file, for rejects.
        photo_folders: folders below which the items' photos lie; a photo elsewhere is not shown.
        progress: called with (items written, items).
    """
    rows = [{name: value for name, value in asdict(item).items() if value not in (None, "")} for item in items]
    vectors = word_vectors([item_text(item.title, item.description) for item in items])

    def has_photo(item: Item) -> bool:
        return item.image is not None and any(_lies_below(item.image, folder) for folder in photo_folders)

    return write_vector_release(output, rows, vectors, tower_id=TOWER_ID, source=source, photo_of=has_photo, progress=progress)


def _lies_below(image: str, folder: Path) -> bool:
    try:
        return locate_photo(image, folder).is_file()
    except InvalidPhoto:
        return False
