"""Short texts of a catalogue, such as buyers might type: its training queries, and words that stand side by side in its lots."""

from collections.abc import Iterator, Sequence

import numpy as np

from catalog.folder import CatalogFolder
from catalog.query_splits import query_key
from retrieval.contracts.item_files import read_items
from retrieval.contracts.items import Item, item_text, query_text

MAX_WORDS = 4  # of a text that is cut from a lot's
MAX_QUERY_WORDS = 8  # of a training query: a whole title that shall find its description is none that a buyer types
TITLE_SHARE = 0.5  # of those, the ones cut from the title alone
DRAWS_PER_TEXT = 4  # so many are drawn at most for each that is wanted: common words come again and again


def short_texts(catalog: CatalogFolder, count: int, seed: int) -> list[str]:
    """Draw short texts from the train split; none is a query of another split, in no spelling of it.

    Args:
        catalog: with a train split.
        count: most texts; training queries fill half of them at most, where there is enough else.
        seed: of the draw.

    Returns:
        Different texts, the training queries first, as query_text cleans them; the same for the same catalogue and seed.
    """
    random = np.random.default_rng(seed)
    held_back = {query_key(text) for split in catalog.splits if split != "train" for text in catalog.qrels(split).queries.values()}
    queries = list(dict.fromkeys(query_text(pair.query) for pair in catalog.pairs("train")))
    queries = [text for text in queries if len(text.split()) <= MAX_QUERY_WORDS]
    random.shuffle(queries)
    lots = [item for path in catalog.item_files("train") for item in read_items(path) if isinstance(item, Item)]
    chosen: dict[str, str] = {}

    def take(texts: Iterator[str] | Sequence[str], most: int) -> None:
        for text in texts:
            if len(chosen) >= most:
                return
            key = query_key(text)
            if key and key not in held_back:
                chosen.setdefault(key, text)

    take(queries, count // 2)
    take(_cut(lots, random, DRAWS_PER_TEXT * count), count)
    take(queries, count)  # a catalogue of few words
    return list(chosen.values())


def _cut(lots: Sequence[Item], random: np.random.Generator, draws: int) -> Iterator[str]:
    """Words that stand side by side, one to MAX_WORDS of them."""
    for _ in range(draws if lots else 0):
        lot = lots[int(random.integers(len(lots)))]
        words = query_text(lot.title if random.random() < TITLE_SHARE else item_text(lot.title, lot.description)).split()
        length = int(random.integers(1, MAX_WORDS + 1))
        start = int(random.integers(max(1, len(words) - length + 1)))
        yield " ".join(words[start : start + length]).strip(".,;:()[]")
