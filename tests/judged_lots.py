"""A tiny catalogue with judgments, long over by the clock, and a release of it that WordEncoder embedded."""

import gzip
import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lots import TOWER_ID, WordEncoder

from catalog.folder import CatalogFolder, Qrels, SplitData, write_catalog, write_items
from retrieval.contracts.documents import IndexedItem, bulk_lines, document_of
from retrieval.contracts.items import Item, item_text
from retrieval.contracts.release import Manifest, Part

LISTED = datetime(2020, 5, 1, 12, tzinfo=UTC)
ENDS = LISTED + timedelta(days=7)
TITLES = (
    "red vase",
    "blue vase",
    "old red vase",
    "gold ring",
    "silver ring",
    "old watch",
    "luxury watch",
    "round lamp",
    "new lamp",
)
ENDED = "gone"


def judged_items() -> list[Item]:
    """Nine lots that are open when the newest is listed, and one whose auction has ended by then."""
    open_lots = [
        Item(f"lot-{n}", title, category=title.split()[-1], listed_at=LISTED - timedelta(hours=n), ends_at=ENDS)
        for n, title in enumerate(TITLES)
    ]
    return [
        *open_lots,
        Item(ENDED, "red vase", category="vase", listed_at=LISTED - timedelta(days=9), ends_at=LISTED - timedelta(days=2)),
    ]


def write_judged_catalog(folder: Path) -> CatalogFolder:
    """Queries of three words and of one; "lamp" has no relevant lot."""
    write_items(folder / "items" / "lots.parquet", judged_items())
    queries = {"q1": "red vase", "q2": "ring", "q3": "luxury watch", "q4": "lamp"}
    grades = {
        "q1": {"lot-0": 3, "lot-2": 2, "lot-1": 1, ENDED: 3},
        "q2": {"lot-3": 2, "lot-4": 2},
        "q3": {"lot-6": 3, "lot-5": 1},
        "q4": {"lot-7": 1},
    }
    write_catalog(
        folder, name="tiny", seed=0, splits={"test": SplitData(["lots.parquet"], qrels=Qrels(queries, grades))}, example_queries=[]
    )
    return CatalogFolder(folder)


def write_release(folder: Path, items: list[Item] | None = None) -> Path:
    """A release of the tiny catalogue's lots, in one part."""
    lots = judged_items() if items is None else items
    vectors = WordEncoder().encode([item_text(item.title, item.description) for item in lots])
    entries = [
        IndexedItem(
            item.item_id, item.version, document_of(item, has_image=False, tower_id=TOWER_ID, release_id=folder.name), vector
        )
        for item, vector in zip(lots, vectors, strict=True)
    ]
    content = gzip.compress("".join(f"{line}\n" for entry in entries for line in bulk_lines(entry)).encode())
    folder.mkdir(parents=True)
    name = "part-00000.ndjson.gz"
    (folder / name).write_bytes(content)
    part = Part(name, len(lots), len(content), hashlib.sha256(content).hexdigest())
    Manifest(folder.name, TOWER_ID, len(vectors[0]), len(lots), len(lots), 0, len(lots), [part]).save(folder)
    return folder
