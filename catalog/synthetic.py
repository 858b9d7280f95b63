"""Generate the synthetic auction house: lots whose photos show traits that their text omits, queries, judgments and clicks."""

import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from catalog.clicks import simulate_clicks
from catalog.folder import ITEMS_FOLDER, SPLITS, CatalogFolder, Qrels, SplitData, replace_folder, write_catalog, write_items
from catalog.lots import Lot, draw_lots
from catalog.photos import render
from catalog.questions import draw_questions, pairs_of, qrels_of
from retrieval.errors import InvalidInput
from retrieval.progress import Progress

EXAMPLE_QUERIES = ("luxury vintage watches", "cracked red round vase", "a green jewelled ring", "acoustic guitars blue")
ITEMS_FILE = "lots.parquet"
PHOTO_SIZE = 256
QUERIES = {"train": 900, "val": 100, "test": 150}
FULL_SIZE = 800  # number of lots from which on QUERIES are drawn in full; fewer lots get proportionally fewer
_LOTS, _PHOTOS, _QUESTIONS, _PAIRS, _CLICKS = range(5)  # independent random streams


def generate(
    folder: Path,
    *,
    lots: int = 2000,
    seed: int = 7,
    progress: Progress | None = None,
    now: datetime | None = None,
    photo_size: int = PHOTO_SIZE,
) -> CatalogFolder:
    """Write a catalogue of synthetic lots. The complete catalogue replaces an older one in the folder.

    Args:
        folder: folder of the catalogue: new, empty, or with an older catalogue, which is replaced.
        lots: number of lots, >= 1; with fewer than FULL_SIZE there are fewer queries, too.
        seed: the same seed and `now` give the same catalogue, except for the encoding of the files.
        progress: called with (photos drawn, lots).
        now: origin of all times, in UTC; None takes the start of the current hour.
        photo_size: side of the photos in pixels.

    Returns:
        The catalogue; its three splits search the same corpus.

    Raises:
        InvalidInput: lots < 1, or the folder holds other things.
    """
    if lots < 1:
        raise InvalidInput(f"a catalogue needs at least 1 lot, not {lots}")
    moment = now or datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    with replace_folder(folder) as building:
        sample = draw_lots(lots, np.random.default_rng([seed, _LOTS]), moment)
        _write_photos(building / ITEMS_FOLDER, sample, seed, photo_size, progress)
        write_items(building / ITEMS_FOLDER / ITEMS_FILE, (lot.item for lot in sample))
        splits = _splits(sample, seed, moment)
        write_catalog(building, name="synthetic", seed=seed, splits=splits, example_queries=EXAMPLE_QUERIES)
    return CatalogFolder(folder)


def _write_photos(items: Path, lots: list[Lot], seed: int, size: int, progress: Progress | None) -> None:
    (items / "photos").mkdir(parents=True)
    for number, lot in enumerate(lots):
        category, shape, colour, condition = (lot.traits[trait] for trait in ("category", "shape", "colour", "condition"))
        photo = render(category, shape, colour, condition, np.random.default_rng([seed, _PHOTOS, number]), size)
        assert lot.item.image is not None
        (items / lot.item.image).write_bytes(photo)
        if progress:
            progress(number + 1, len(lots))


def _splits(lots: list[Lot], seed: int, now: datetime) -> dict[str, SplitData]:
    """Return the data of every split; training pairs come from train queries only, clicks from train and val."""
    rng = {stream: np.random.default_rng([seed, stream]) for stream in (_QUESTIONS, _PAIRS, _CLICKS)}
    counts = {split: math.ceil(count * min(1, len(lots) / FULL_SIZE)) for split, count in QUERIES.items()}
    questions = draw_questions(lots, counts, rng[_QUESTIONS])
    data = {}
    for split in SPLITS:
        answered = [question for question in questions[split] if question.grades]
        data[split] = SplitData(
            item_files=[ITEMS_FILE],
            pairs=pairs_of(answered, rng[_PAIRS]) if split == "train" else (),
            qrels=qrels_of(answered, split) if answered else Qrels(),
            clicks=() if split == "test" else simulate_clicks(answered, lots, rng[_CLICKS], now),
        )
    return data
