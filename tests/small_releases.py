"""Releases of a few lots, written as the embedding job writes them."""

import gzip
import hashlib
from dataclasses import replace

from lots import TOWER_ID, lot

from retrieval.contracts.documents import bulk_lines
from retrieval.contracts.release import Manifest, Part

OTHER_TOWER = "f" * 12
TITLES = ("red vase", "gold watch", "silver ring", "blue lamp")


def lots(count, start=0, **fields):
    return [lot(f"lot-{i}", f"{TITLES[i % 4]} {i}", **fields) for i in range(start, start + count)]


def of_other_tower(entry):
    return replace(entry, document={**entry.document, "tower_id": OTHER_TOWER})


def packed(entries) -> bytes:
    return gzip.compress("".join(line + "\n" for entry in entries for line in bulk_lines(entry)).encode())


def write_release(folder, *parts, tower_id=TOWER_ID, **counts):
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, entries in enumerate(parts):
        data = packed(entries)
        name = f"part-{number:05}.ndjson.gz"
        (folder / name).write_bytes(data)
        rows.append(Part(name, len(entries), len(data), hashlib.sha256(data).hexdigest()))
    embedded = sum(part.items for part in rows)
    manifest = Manifest("release", tower_id, 13, embedded, embedded, 0, 0, rows, **counts)
    manifest.save(folder)
    return manifest
