"""Lots whose colour only their photo tells: the smallest catalogue on which a photo must be understood."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from catalog.folder import CatalogFolder, Qrels, SplitData, TrainingPair, write_catalog, write_items
from retrieval.contracts.items import Item

COLOURS = {"red": (205, 40, 40), "blue": (40, 60, 200), "green": (40, 160, 60), "yellow": (225, 205, 50)}
KINDS = ("vase", "watch", "lamp", "chair")
TRAINED_ON = 10  # lots of each colour and kind
SIDE = 40


def paint(path: Path, colour: str, seed: int) -> Path:
    """Write a noisy photo of one colour."""
    rng = np.random.default_rng(seed)
    pixels = np.array(COLOURS[colour]) + rng.normal(0, 12, 3) + rng.normal(0, 10, (SIDE, SIDE, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


def names() -> Iterable[tuple[str, str]]:
    """Every colour with every kind."""
    return ((colour, kind) for colour in COLOURS for kind in KINDS)


def write_painted_catalog(folder: Path) -> CatalogFolder:
    """A catalogue to train on: titles name the kind alone, queries ask for colour and kind."""
    items, pairs = [], []
    for number, (colour, kind) in enumerate((c, k) for _ in range(TRAINED_ON) for c, k in names()):
        item_id = f"lot-{number:03}"
        photo = paint(folder / "items" / "photos" / f"{item_id}.png", colour, number)
        items.append(Item(item_id, kind.title(), image=f"photos/{photo.name}"))
        pairs.append(TrainingPair(f"{colour} {kind}", item_id))
    write_items(folder / "items" / "lots.parquet", items)
    graded = {query: {p.item_id: 3 for p in pairs if p.query == query} for query in {p.query for p in pairs}}
    qrels = Qrels({query: query for query in graded}, graded)
    splits = {"train": SplitData(["lots.parquet"], pairs), "val": SplitData(["lots.parquet"], qrels=qrels)}
    write_catalog(folder, name="painted", seed=0, splits=splits, example_queries=["red vase"])
    return CatalogFolder(folder)
