"""Lots, queries and photos as arrays that a training step can index."""

import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from catalog.folder import CatalogFolder, TrainingPair
from models.photos import read_photo
from retrieval.encoder import tokenize
from retrieval.errors import InvalidInput
from retrieval.item_files import read_items
from retrieval.items import Item, item_text, query_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lots:
    """The lots of some item files, in the order of the files.

    Attributes:
        ids: N item ids.
        texts: their item_text.
        photos: where each photo lies; None for a lot without one.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    photos: Sequence[Path | None]

    @classmethod
    def read(cls, files: Iterable[Path]) -> "Lots":
        """Read item files; rows that break the item contract are left out and logged."""
        found: dict[str, tuple[Item, Path]] = {}
        for file in files:
            for row in read_items(file):
                if isinstance(row, Item):
                    found[row.item_id] = (row, file)
                else:
                    log.warning("%s line %d is left out: %s", row.source, row.line, row.reason)
        return cls(
            ids=list(found),
            texts=[item_text(item.title, item.description) for item, _ in found.values()],
            photos=[file.parent / item.image if item.image else None for item, file in found.values()],
        )


@dataclass(frozen=True)
class Queries:
    """The distinct training queries with the lots that answer them.

    Attributes:
        texts: Q cleaned queries.
        answers: for each query, rows of Lots.
        weights: for each query, the weights of its answers, > 0.
    """

    texts: Sequence[str]
    answers: Sequence[NDArray[np.int64]]
    weights: Sequence[NDArray[np.float64]]

    @classmethod
    def group(cls, pairs: Sequence[TrainingPair], lots: Lots) -> "Queries":
        """Group pairs by query; a pair met twice adds its weights.

        Raises:
            InvalidInput: there is no pair whose lot is among the lots.
        """
        rows = {item_id: row for row, item_id in enumerate(lots.ids)}
        grouped: dict[str, dict[int, float]] = {}
        for pair in pairs:
            if pair.item_id in rows and pair.weight > 0:
                answers = grouped.setdefault(query_text(pair.query), {})
                answers[rows[pair.item_id]] = answers.get(rows[pair.item_id], 0.0) + pair.weight
        if len(grouped) < 2:
            raise InvalidInput("training needs pairs of two different queries or more, with lots of the catalogue; too few fit")
        return cls(
            texts=list(grouped),
            answers=[np.array(list(a), dtype=np.int64) for a in grouped.values()],
            weights=[np.array(list(a.values())) for a in grouped.values()],
        )


@dataclass(frozen=True)
class TokenTable:
    """Tokenised texts.

    Attributes:
        ids: (N, L) int32, padded.
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
        """Ids and mask (B, L) of some rows, cut to the longest of them."""
        lengths = self.lengths[rows]
        width = int(lengths.max())
        return self.ids[rows, :width].astype(np.int64), (np.arange(width) < lengths[:, None]).astype(np.int64)


@dataclass(frozen=True)
class PhotoTable:
    """Decoded photos.

    Attributes:
        pixels: (N, S, S, 3) uint8, black where there is none.
        has_image: (N,) bool.
    """

    pixels: NDArray[np.uint8]
    has_image: NDArray[np.bool_]

    @classmethod
    def load(cls, photos: Sequence[Path | None], side: int, cache: Path) -> "PhotoTable":
        """Decode photos, once: the result is kept in the cache until a photo, or the list of them, changes.

        Args:
            photos: N paths; None, missing and broken ones come out with has_image False.
            side: side of the squares in pixels.
            cache: folder of the caches; it may be deleted at any time.
        """
        kept = cache / f"photos-{side}px-{_fingerprint(photos)}"
        pixels_file, seen_file = kept.with_suffix(".pixels.npy"), kept.with_suffix(".seen.npy")
        if seen_file.is_file() and pixels_file.is_file():  # seen_file is written last
            return cls(np.load(pixels_file, mmap_mode="r"), np.load(seen_file))
        table = cls._decode(photos, side)
        cache.mkdir(parents=True, exist_ok=True)
        for array, file in ((table.pixels, pixels_file), (table.has_image, seen_file)):
            partial = file.with_name(f".{os.getpid()}.{file.name}")
            np.save(partial, array)
            partial.replace(file)
        return table

    @classmethod
    def _decode(cls, photos: Sequence[Path | None], side: int) -> "PhotoTable":
        table = cls(np.zeros((len(photos), side, side, 3), np.uint8), np.zeros(len(photos), np.bool_))

        def decode(row: int) -> None:
            path = photos[row]
            photo = read_photo(path, side) if path is not None else None
            if photo is not None:
                table.pixels[row], table.has_image[row] = photo, True

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter's lock
            list(pool.map(decode, range(len(photos))))
        return table


def read_training_lots(catalog: CatalogFolder) -> tuple[Lots, Queries]:
    """The train split of a catalogue as lots and grouped queries.

    Raises:
        InvalidInput: the split has no usable pair.
    """
    lots = Lots.read(catalog.item_files("train"))
    return lots, Queries.group(catalog.pairs("train"), lots)


def _fingerprint(photos: Sequence[Path | None]) -> str:
    digest = hashlib.sha256()
    for path in photos:
        try:
            stat = path.stat() if path is not None else None
        except OSError:
            stat = None
        digest.update(f"{path}|{stat.st_size if stat else ''}|{stat.st_mtime_ns if stat else ''}\n".encode())
    return digest.hexdigest()[:16]
