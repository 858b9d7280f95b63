"""Items, queries and photos as arrays that a training step can index."""

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from catalog.folder import CatalogFolder, Qrels, TrainingPair
from retrieval.contracts.item_files import read_items
from retrieval.contracts.items import Item, item_text, query_text
from retrieval.encoders.photos import read_photo
from retrieval.encoders.query_encoder import tokenize
from retrieval.errors import InvalidInput
from retrieval.files import replacing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ItemTable:
    """The items of some item files, in the order of the files.

    Attributes:
        ids: N item ids.
        texts: item_text of each item.
        photos: path of each item's photo; None for an item without a photo.
        records: the N items, for towers that read structured features; empty unless requested.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    photos: Sequence[Path | None]
    records: Sequence[Item] = ()

    @classmethod
    def read(cls, files: Iterable[Path], *, keep_records: bool = False) -> "ItemTable":
        """Read item files; rows that break the item contract are logged and left out. `keep_records` fills `records`."""
        rows: dict[str, tuple[Item, Path]] = {}
        for file in files:
            for row in read_items(file):
                if isinstance(row, Item):
                    rows[row.item_id] = (row, file)
                else:
                    log.warning("%s line %d is left out: %s", row.source, row.line, row.reason)
        return cls(
            ids=list(rows),
            texts=[item_text(item.title, item.description) for item, _ in rows.values()],
            photos=[file.parent / item.image if item.image else None for item, file in rows.values()],
            records=[item for item, _ in rows.values()] if keep_records else (),
        )


@dataclass(frozen=True)
class Queries:
    """The distinct training queries and the items that answer them. Query q has the answers starts[q]:starts[q + 1].

    Attributes:
        texts: Q cleaned queries.
        starts: (Q + 1,) int64, place of each query's first answer, then A.
        item_rows: (A,) int64, row of each answer's item in ItemTable; rows ascend within a query.
        shown: (A,) int64, text of each answer: a row of ItemTable.texts or, from N on, N + a row of item_texts.
        weights: (A,) float64, > 0, weight of each answer.
        relevant_starts: (Q + 1,) int64, place of each query's first row in relevant_items, then K.
        relevant_items: (K,) int64, rows of all items known to answer a query, including items that are not trained on.
        item_texts: texts that some pairs show in place of the item's own text.
    """

    texts: Sequence[str]
    starts: NDArray[np.int64]
    item_rows: NDArray[np.int64]
    shown: NDArray[np.int64]
    weights: NDArray[np.float64]
    relevant_starts: NDArray[np.int64]
    relevant_items: NDArray[np.int64]
    item_texts: Sequence[str] = ()

    @classmethod
    def group(
        cls, pairs: Iterable[TrainingPair], items: ItemTable, min_weight: float = 0.0, judged: Qrels | None = None
    ) -> "Queries":
        """Group pairs by query; the weights of repeated pairs are added.

        Args:
            pairs: training pairs; a pair is left out if its item is not in `items`, or its weight is 0 or less.
            items: the corpus.
            min_weight: minimum weight of a pair to train on; the item of a lighter pair is no negative of the query, either.
            judged: judgments; an item with a grade above 0 is no negative of the query.

        Raises:
            InvalidInput: fewer than two queries have a pair whose item is among the items.
        """
        rows = {item_id: row for row, item_id in enumerate(items.ids)}
        texts: dict[str, int] = {}
        grouped: dict[str, dict[tuple[int, int], float]] = {}
        relevant = _graded(judged, rows)
        for pair in pairs:
            if pair.item_id not in rows or pair.weight <= 0:
                continue
            row, query = rows[pair.item_id], query_text(pair.query)
            relevant[query].add(row)
            if pair.weight >= min_weight:
                shown = row if pair.lot_text is None else len(items.ids) + texts.setdefault(pair.lot_text, len(texts))
                answers = grouped.setdefault(query, {})
                answers[row, shown] = answers.get((row, shown), 0.0) + pair.weight
        if len(grouped) < 2:
            least = f" and a weight of {min_weight:g} or more" if min_weight else ""
            raise InvalidInput(
                f"training needs pairs of two different queries or more, with lots of the catalogue{least}; too few fit; "
                "add lots with other words, judgments or clicks"
            )
        entries = [sorted(answers.items()) for answers in grouped.values()]
        table = np.array([place for answers in entries for place, _ in answers], dtype=np.int64)  # (A, 2)
        relevant_rows = [sorted(relevant[query]) for query in grouped]
        return cls(
            texts=list(grouped),
            starts=np.cumsum([0, *map(len, entries)], dtype=np.int64),
            item_rows=table[:, 0],
            shown=table[:, 1],
            weights=np.array([weight for answers in entries for _, weight in answers]),
            relevant_starts=np.cumsum([0, *map(len, relevant_rows)], dtype=np.int64),
            relevant_items=np.array([row for answers in relevant_rows for row in answers], dtype=np.int64),
            item_texts=list(texts),
        )

    def draw(self, queries: NDArray[np.int64], random: np.random.Generator, *, by_weight: bool) -> NDArray[np.int64]:
        """Draw one answer of each query.

        Args:
            queries: (B,) rows of texts.
            random: random generator.
            by_weight: True draws in proportion to the weights, False uniformly.

        Returns:
            (B,) int64, places in item_rows, shown and weights.
        """
        first, end = self.starts[queries], self.starts[queries + 1]
        share = random.random(len(queries))  # in [0, 1)
        if not by_weight:
            return np.asarray(first + (share * (end - first)).astype(np.int64))
        before = np.concatenate([[0.0], np.cumsum(self.weights)])  # (A + 1,)
        targets = before[first] + share * (before[end] - before[first])
        return np.asarray(np.clip(np.searchsorted(before, targets, side="right") - 1, first, end - 1), dtype=np.int64)

    def is_relevant(self, queries: NDArray[np.int64], item_rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (Q, B) bool, True where an item (B,) is known to answer a query (Q,)."""
        columns, place = np.unique(item_rows, return_inverse=True)
        first = self.relevant_starts[queries]
        counts = self.relevant_starts[queries + 1] - first
        row = np.repeat(np.arange(len(queries)), counts)  # (E,) one entry for each relevant item of each query
        entry = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
        column = np.minimum(np.searchsorted(columns, self.relevant_items[entry]), len(columns) - 1)
        hit = columns[column] == self.relevant_items[entry]
        relevant = np.zeros((len(queries), len(columns)), dtype=np.bool_)
        relevant[row[hit], column[hit]] = True
        return relevant[:, place]


@dataclass(frozen=True)
class TokenTable:
    """Tokenised texts.

    Attributes:
        ids: (N, L) int32, token ids, padded.
        lengths: (N,) tokens of each text.
    """

    ids: NDArray[np.int32]
    lengths: NDArray[np.int64]

    @classmethod
    def build(cls, tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> "TokenTable":
        """Tokenise texts once for the whole training."""
        ids, mask = tokenize(tokenizer, texts, max_length)
        return cls(ids.astype(np.int32), mask.sum(axis=1))

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return ids and mask (B, L) of some rows, cut to the longest text."""
        lengths = self.lengths[rows]
        width = int(lengths.max())
        return self.ids[rows, :width].astype(np.int64), (np.arange(width) < lengths[:, None]).astype(np.int64)

    def rows(self, rows: NDArray[np.int64]) -> "TokenTable":
        """Return a table of some of the texts."""
        return TokenTable(self.ids[rows], self.lengths[rows])


@dataclass(frozen=True)
class PhotoTable:
    """Decoded photos.

    Attributes:
        pixels: (N, S, S, 3) uint8 RGB, black where there is no photo.
        has_image: (N,) bool, True where there is a photo.
    """

    pixels: NDArray[np.uint8]
    has_image: NDArray[np.bool_]

    @classmethod
    def load(cls, photos: Sequence[Path | None], side: int, cache: Path) -> "PhotoTable":
        """Decode photos, or read them from the cache, which is valid until a photo or the list of photos changes.

        Args:
            photos: N paths; has_image is False for None and for a missing or broken file.
            side: side of the square photos in pixels.
            cache: folder of the caches; it may be deleted at any time.
        """
        cached = cache / f"photos-{side}px-{_fingerprint(photos)}"
        pixels_file, has_image_file = cached.with_suffix(".pixels.npy"), cached.with_suffix(".seen.npy")
        try:
            return cls(np.load(pixels_file, mmap_mode="r"), np.load(has_image_file))
        except (OSError, ValueError, EOFError):  # missing or truncated; has_image_file is written last
            pass
        table = cls._decode(photos, side)
        cache.mkdir(parents=True, exist_ok=True)
        for array, file in ((table.pixels, pixels_file), (table.has_image, has_image_file)):
            with replacing(file) as partial, partial.open("wb") as opened:
                np.save(opened, array)
        return table

    @classmethod
    def _decode(cls, photos: Sequence[Path | None], side: int) -> "PhotoTable":
        table = cls(np.zeros((len(photos), side, side, 3), np.uint8), np.zeros(len(photos), np.bool_))

        def decode(row: int) -> None:
            path = photos[row]
            photo = read_photo(path, side) if path is not None else None
            if photo is not None:
                table.pixels[row], table.has_image[row] = photo, True

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without the GIL
            list(pool.map(decode, range(len(photos))))
        return table


def read_training_items(
    catalog: CatalogFolder, min_weight: float = 0.0, *, keep_records: bool = False, typed_only: bool = False
) -> tuple[ItemTable, Queries]:
    """Read the train split of a catalogue as items and grouped queries.

    Args:
        catalog: catalogue with a train split.
        min_weight: minimum weight of a pair to train on.
        keep_records: True stores the items in ItemTable.records.
        typed_only: True leaves out pairs that replace the item's text, because their queries are titles and descriptions, which no
            buyer types; a catalogue that has no others keeps them.

    Raises:
        InvalidInput: the split has no usable pair.
    """
    items = ItemTable.read(catalog.item_files("train"), keep_records=keep_records)
    pairs = catalog.pairs("train")
    if typed_only:
        pairs = [pair for pair in pairs if pair.lot_text is None] or pairs
    return items, Queries.group(pairs, items, min_weight, catalog.qrels("train"))


def _graded(judged: Qrels | None, rows: Mapping[str, int]) -> defaultdict[str, set[int]]:
    """Return cleaned query -> rows of the items with a grade above 0."""
    relevant: defaultdict[str, set[int]] = defaultdict(set)
    for query_id, text in (judged.queries if judged else {}).items():
        graded = judged.grades.get(query_id, {}) if judged else {}
        relevant[query_text(text)].update(rows[item_id] for item_id, grade in graded.items() if grade > 0 and item_id in rows)
    return relevant


def _fingerprint(photos: Sequence[Path | None]) -> str:
    digest = hashlib.sha256()
    for path in photos:
        try:
            stat = path.stat() if path is not None else None
        except OSError:
            stat = None
        digest.update(f"{path}|{stat.st_size if stat else ''}|{stat.st_mtime_ns if stat else ''}\n".encode())
    return digest.hexdigest()[:16]
