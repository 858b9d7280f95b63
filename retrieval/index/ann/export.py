"""Export of a release as plain files for other tools: vectors, ids, and a FAISS index over them.

product_embeddings.npy       (N, D) float32 vectors of unit length, one row per item
product_ids.npy              (N,) text, the item id of each row
product_id_to_index.json     item id -> row, from 0
product_index.faiss          FAISS index over the rows in their order, by inner product, which is the cosine
export.json                  release, tower, and sha256 of the files; written last
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.config.index_spec import IndexSpec
from retrieval.contracts.documents import Deletion, Vector
from retrieval.contracts.parts import read_part
from retrieval.contracts.release import check_part, load_release
from retrieval.errors import InvalidInput, ReleaseError
from retrieval.files import replacing, sha256_of
from retrieval.index.ann.faiss_factory import train_faiss_index
from retrieval.progress import Progress, ignore_progress

EMBEDDINGS_FILE = "product_embeddings.npy"
IDS_FILE = "product_ids.npy"
ROWS_FILE = "product_id_to_index.json"
INDEX_FILE = "product_index.faiss"
EXPORT_FILE = "export.json"
STEP_ROWS = 10_000  # vectors between two steps of the progress bar


@dataclass(frozen=True)
class Export:
    """The content of `export.json`.

    Attributes:
        release_id: id of the exported release.
        tower_id: id of the tower of the vectors; queries must be encoded with the same tower.
        lots: number of rows, ended auctions included; a search over the files must leave these out.
        dimensions: length of the vectors.
        spec: spec of the FAISS index, with its number of lists.
        files: file name -> hexadecimal sha256.
    """

    release_id: str
    tower_id: str
    lots: int
    dimensions: int
    spec: str
    files: dict[str, str]


def export_release(
    release: Path,
    folder: Path,
    spec: IndexSpec,
    *,
    on_read: Progress = ignore_progress,
    on_built: Progress = ignore_progress,
) -> Export:
    """Write a release as plain files. All vectors are in memory, and twice while the index is built.

    Args:
        release: folder of the release, `embeddings/<release_id>`.
        folder: folder to write to, created if missing; files of an older export are replaced, each in one step.
        spec: spec of the FAISS index; training needs enough items (IndexSpec.min_to_train).
        on_read: progress of reading; the unit is operations.
        on_built: progress of building the index; the unit is rows.

    Returns:
        The content of export.json. Rows have the order of the items in the release. An item with several versions has the row of
        the first one and the vector of the newest one.

    Raises:
        ReleaseError: the release is unfinished, damaged or has no item.
        InvalidInput: the parameters do not suit the vectors, or there are too few items.
        OSError: the folder cannot be written.
    """
    manifest = load_release(release)
    item_ids, vectors = _rows(release, on_read)
    if not item_ids:
        raise ReleaseError(f"release {manifest.release_id} holds no lot; see rejects.ndjson in {release}")
    sized = spec.sized(len(item_ids))
    _check(sized, vectors)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EXPORT_FILE).unlink(missing_ok=True)  # its files are about to change
    writers: dict[str, Callable[[Path], None]] = {
        EMBEDDINGS_FILE: lambda path: _save_array(path, vectors),
        IDS_FILE: lambda path: _save_array(path, np.array(item_ids)),  # an array of text, not of objects: readable without pickle
        ROWS_FILE: lambda path: _save_json(path, {item_id: row for row, item_id in enumerate(item_ids)}),
        INDEX_FILE: lambda path: faiss.write_index(_build(vectors, sized, on_built), str(path)),
    }
    files = {name: _write(folder / name, write) for name, write in writers.items()}
    export = Export(manifest.release_id, manifest.tower_id, len(item_ids), manifest.dimensions, str(sized), files)
    _write(folder / EXPORT_FILE, lambda path: _save_json(path, asdict(export)))
    return export


def _rows(release: Path, progress: Progress) -> tuple[list[str], Vector]:
    """Return the N ids and (N, D) vectors of the items that an index of the release would store."""
    manifest = load_release(release)
    vectors = np.empty((manifest.items_embedded, manifest.dimensions), dtype=np.float32)
    rows: dict[str, int] = {}
    versions: dict[str, int] = {}
    deleted: set[str] = set()
    read = 0
    for part in manifest.parts:
        check_part(part, release / part.name)
        for entry in read_part(release / part.name):
            read += 1
            progress(read, max(read, manifest.items_embedded))
            if entry.version < versions.get(entry.item_id, 0):
                continue
            versions[entry.item_id] = entry.version
            if isinstance(entry, Deletion):
                deleted.add(entry.item_id)
                continue
            deleted.discard(entry.item_id)
            vectors[rows.setdefault(entry.item_id, len(rows))] = entry.vector
    remaining = [item_id for item_id in rows if item_id not in deleted]
    return remaining, vectors[: len(rows)] if not deleted else vectors[[rows[item_id] for item_id in remaining]]


def _check(spec: IndexSpec, vectors: Vector) -> None:
    spec.check_fit(vectors.shape[1])
    if len(vectors) < spec.min_to_train():
        raise InvalidInput(f"{len(vectors)} lots cannot train {spec}, which takes {spec.min_to_train()}; choose hnsw or flat")


def _build(vectors: Vector, spec: IndexSpec, progress: Progress) -> Any:
    index = train_faiss_index(spec, vectors)
    for start in range(0, len(vectors), STEP_ROWS):
        index.add(vectors[start : start + STEP_ROWS])
        progress(index.ntotal, len(vectors))
    return index


def _write(path: Path, write: Callable[[Path], None]) -> str:
    """Write a file in one step, and return its hexadecimal sha256."""
    with replacing(path) as partial:
        write(partial)
        return sha256_of(partial)


def _save_array(path: Path, values: NDArray[Any]) -> None:
    with path.open("wb") as file:  # np.save() would add a suffix to a path
        np.save(file, values, allow_pickle=False)


def _save_json(path: Path, values: object) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
