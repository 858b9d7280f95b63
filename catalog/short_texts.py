"""Sample short texts of a catalogue as buyers might type them: training queries, and adjacent words of its items."""

from collections.abc import Iterator, Sequence

import numpy as np

from catalog.folder import CatalogFolder
from catalog.query_splits import query_key
from retrieval.contracts.item_files import read_items
from retrieval.contracts.items import Item, item_text, query_text

MAX_WORDS = 4  # largest number of words in a text from an item
MAX_QUERY_WORDS = 8  # largest number of words in a training query; longer queries are titles, which no buyer types
TITLE_SHARE = 0.5  # share of the texts from items that are from the title only
DRAWS_PER_TEXT = 4  # largest number of draws per requested text; one is not enough, because common words repeat


def short_texts(catalog: CatalogFolder, count: int, seed: int) -> list[str]:
    """Sample short texts from the train split; none is a query of another split, in any spelling.

    Args:
        catalog: catalogue with a train split.
        count: largest number of texts; at most half are training queries, unless other texts run out.
        seed: seed of the sample.

    Returns:
        Distinct texts, cleaned by query_text, training queries first; the same for the same catalogue and seed.
    """
    random = np.random.default_rng(seed)
    held_out = {query_key(text) for split in catalog.splits if split != "train" for text in catalog.qrels(split).queries.values()}
    queries = list(dict.fromkeys(query_text(pair.query) for pair in catalog.pairs("train")))
    queries = [text for text in queries if len(text.split()) <= MAX_QUERY_WORDS]
    random.shuffle(queries)
    items = [item for path in catalog.item_files("train") for item in read_items(path) if isinstance(item, Item)]
    sample: dict[str, str] = {}

    def take(texts: Iterator[str] | Sequence[str], limit: int) -> None:
        for text in texts:
            if len(sample) >= limit:
                return
            key = query_key(text)
            if key and key not in held_out:
                sample.setdefault(key, text)

    take(queries, count // 2)
    take(_adjacent_words(items, random, DRAWS_PER_TEXT * count), count)
    take(queries, count)  # if the items have too few words
    return list(sample.values())


def _adjacent_words(items: Sequence[Item], random: np.random.Generator, draws: int) -> Iterator[str]:
    """Yield texts of one to MAX_WORDS adjacent words."""
    for _ in range(draws if items else 0):
        item = items[int(random.integers(len(items)))]
        words = query_text(item.title if random.random() < TITLE_SHARE else item_text(item.title, item.description)).split()
        length = int(random.integers(1, MAX_WORDS + 1))
        start = int(random.integers(max(1, len(words) - length + 1)))
        yield " ".join(words[start : start + length]).strip(".,;:()[]")
