"""A release of rows whose vectors exist already, such as those of a feature tower."""

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from processing.embedding.parts import LocatedItem, PartFolder
from processing.embedding.photos import PhotoPlace, PhotoState
from retrieval.contracts.documents import IndexedItem, Vector, document_of
from retrieval.contracts.items import Item, Reject, parse_item
from retrieval.contracts.release import REJECTS_FILE, Manifest
from retrieval.errors import InvalidInput
from retrieval.files import replace_file
from retrieval.progress import Progress, ignore_progress

PART_ITEMS = 5_000


def write_vector_release(
    output: Path,
    rows: Sequence[Mapping[str, Any]],
    vectors: Vector,
    *,
    tower_id: str,
    source: str,
    photo_of: Callable[[Item], object] = lambda item: None,
    progress: Progress = ignore_progress,
) -> Manifest:
    """Write a release of items and their vectors; rows that break the item contract go to rejects.ndjson.

    Args:
        output: folder of the releases; this release is `<output>/<tower_id>-items`.
        rows: rows of the items with the columns of retrieval.contracts.items. A row without updated_at is of the present time.
        vectors: (N, D) float32 of unit length, one per row.
        tower_id: id of the tower of the vectors.
        source: name of the table of the rows, for rejects.
        photo_of: returns something true for an item whose photo can be shown.
        progress: called with (rows written, rows).

    Returns:
        The manifest of the release.
    """
    release_id, now = f"{tower_id}-items", datetime.now(UTC)
    parts = PartFolder(output / release_id, release_id, tower_id, 0, 1)
    parts.withdraw()
    items: list[tuple[Item, Vector]] = []
    rejects: list[Reject] = []
    for line, (row, vector) in enumerate(zip(rows, vectors, strict=True), 1):
        try:
            items.append((parse_item({"updated_at": now, **row}, now), vector))
        except InvalidInput as error:
            rejects.append(Reject(source, line, str(error), str(row.get("item_id"))))
    with_photo = {item.item_id for item, _ in items if photo_of(item)}
    records = []
    for number in range(math.ceil(len(items) / PART_ITEMS)):
        part = items[number * PART_ITEMS :][:PART_ITEMS]
        fingerprint = parts.fingerprint([LocatedItem(item, PhotoPlace(None, output)) for item, _ in part])
        records.append(parts.write(number, fingerprint, _documents(part, with_photo, tower_id, release_id)))
        progress(number * PART_ITEMS + len(part), len(items))
    replace_file(output / release_id / REJECTS_FILE, "".join(f"{reject.to_json()}\n" for reject in rejects))
    manifest = Manifest(
        release_id=release_id,
        tower_id=tower_id,
        dimensions=vectors.shape[1],
        items_in=len(rows),
        items_embedded=len(items),
        items_rejected=len(rejects),
        items_without_image=len(items) - len(with_photo),
        parts=[record.part for record in records],
    )
    parts.commit(manifest)
    return manifest


def _documents(
    items: Sequence[tuple[Item, Vector]], with_photo: Container[str], tower_id: str, release_id: str
) -> Iterator[tuple[IndexedItem, PhotoState, Sequence[Mapping[str, Any]]]]:
    for item, vector in items:
        document = document_of(item, has_image=item.item_id in with_photo, tower_id=tower_id, release_id=release_id)
        yield IndexedItem(item.item_id, item.version, document, vector), PhotoState.NOT_LISTED, ()
