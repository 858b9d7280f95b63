"""Batches of (query, item) pairs with their photos and further negatives.

A batch depends on the seed and its number alone. So a resumed run needs no state of a generator, and every process of a
distributed run samples the same batch and encodes its own slice of it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from models.config.training import Stage, TrainingConfig
from models.data.encoding_cache import PhotoEncodings, TextTable, encode_frozen
from models.data.images import augment, normalise, to_unit
from models.data.sampling_frequency import StreamingFrequency
from models.data.tables import ItemTable, PhotoTable, Queries, TokenTable
from models.towers.features import Features
from models.towers.item_features import item_row
from models.towers.two_towers import Photos, TwoTowers
from retrieval.errors import InvalidInput

PHOTO_MARGIN = 1.25  # stored photos are larger than the input of the tower by this factor, so that crops stay sharp
T = TypeVar("T", bound=np.generic)
ORDER, DRAW, PHOTOS = range(3)  # purpose of a generator


@dataclass(frozen=True)
class Batch:
    """One step's pairs: item i < Q answers query i, the items from Q on are negatives of all queries.

    Texts, photos and features are of this process's slice; rows, relevance and weights are of the whole batch.

    Attributes:
        queries: texts of the slice's queries.
        items: texts of the slice's items.
        photos: their photos, augmented and normalised; None for a tower without an image encoder.
        features: their structured features; None for a tower that reads none.
        item_rows: (B,) int64, rows of the items: the answers, then each query's hard negatives, then random ones.
        is_relevant: (Q, B) bool, True where an item is known to answer a query.
        weights: (Q,) float, weights of the losses; None weighs all the same.
        log_q: (B,) float, log of the probability that a batch holds each item; None without correction.
        query_counts: queries of each process's slice.
        item_counts: items of each process's slice.
    """

    queries: TextTable
    items: TextTable
    photos: Photos | None
    features: Features | None
    item_rows: NDArray[np.int64]
    is_relevant: Tensor
    weights: Tensor | None
    log_q: Tensor | None
    query_counts: Sequence[int]
    item_counts: Sequence[int]


@dataclass(frozen=True)
class Slice:
    """A process of a distributed run, and their number."""

    process: int = 0
    processes: int = 1

    def counts(self, rows: int) -> list[int]:
        """Return the number of rows that each process takes."""
        return [len(part) for part in np.array_split(np.empty(rows), self.processes)]

    def take(self, rows: NDArray[T]) -> NDArray[T]:
        """Return this process's part of some rows."""
        part: NDArray[T] = np.array_split(rows, self.processes)[self.process]
        return part


WHOLE = Slice()


class TrainingBatches:
    """Endless batches: a pass has each query at most once, with one of its items.

    Attributes:
        batch_size: pairs of a batch.
        per_epoch: batches of a pass over the items, or over the queries where there are more of them.
        frequency: of each item in the batches; None without correction. It is the only state: make batches in order.
    """

    def __init__(
        self,
        items: ItemTable,
        queries: Queries,
        tokenizer: Tokenizer,
        config: TrainingConfig,
        cache: Path,
        *,
        stage: Stage | None = None,
        negatives: Mapping[str, Sequence[str]] | None = None,
        part: Slice = WHOLE,
    ) -> None:
        """Tokenise the texts and decode the photos.

        Args:
            items: the corpus.
            queries: with their answers among the items.
            tokenizer: set to cut at the tower's max_length.
            config: of the run.
            cache: folder of decoded photos.
            stage: sets the negatives; None takes the first of the run.
            negatives: cleaned query -> item ids that were mined for it.
            part: the slice that is encoded here.

        Raises:
            InvalidInput: the stage draws hard negatives and none were mined for any query.
        """
        tower = config.tower
        self._config, self._items, self._queries, self._part = config, items, queries, part
        self._stage = stage or config.stages[0]
        self._query_texts: TextTable = TokenTable.build(tokenizer, queries.texts, tower.max_length)
        self._item_texts: TextTable = TokenTable.build(tokenizer, [*items.texts, *queries.item_texts], tower.max_length)
        self._mined = mined_rows(queries, items, negatives or {}) if self._stage.hard_negatives else None
        if self._mined is not None and not (self._mined >= 0).any():
            raise InvalidInput(
                f"stage {self._stage.name!r} draws hard negatives and none were mined for the queries of this catalogue; "
                "mine some from an index of the tower that it starts from"
            )
        self._cache = cache
        side = tower.image_size if tower.image.trainable == "none" else round(tower.image_size * PHOTO_MARGIN)
        self._photos: PhotoTable | PhotoEncodings | None = PhotoTable.load(items.photos, side, cache) if tower.use_image else None
        self._features = tower.features.encode([item_row(item) for item in items.records]) if tower.features else None
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))
        self.frequency = StreamingFrequency(max(1_024, 8 * len(items.ids))) if config.log_q else None
        self.batch_size = min(config.batch_size, len(queries.texts))
        self.per_epoch = math.ceil(max(len(queries.texts), len(items.ids)) / self.batch_size)

    @property
    def photo_count(self) -> int:
        """Number of items with a readable photo."""
        return int(self._photos.has_image.sum()) if self._photos else 0

    def encode_frozen(self, towers: TwoTowers, device: torch.device) -> None:
        """Replace the input of frozen encoders by its encodings. Such photos are not augmented."""
        self._item_texts, self._query_texts, self._photos = encode_frozen(
            towers, self._item_texts, self._query_texts, self._photos, self._config.tower, self._cache, device
        )

    def batch(self, number: int, device: torch.device) -> Batch:
        """Make a batch on a device.

        Args:
            number: from 0; the same number makes the same batch.
            device: of its tensors; texts stay in numpy until they are encoded.
        """
        random = np.random.default_rng((self._config.seed, DRAW, number))
        queries = self._queries_of(number)
        answers = self._queries.draw(queries, random, by_weight=self._config.weigh == "draw")
        further = self._negatives(queries, random)
        item_rows = np.concatenate([self._queries.item_rows[answers], further])  # (B,)
        shown = np.concatenate([self._queries.shown[answers], further])  # (B,)
        is_relevant = self._queries.is_relevant(queries, item_rows)
        is_relevant[:, : len(queries)] |= item_rows[: len(queries), None] == item_rows[None, : len(queries)]
        weights = self._queries.weights[answers] if self._config.weigh == "loss" else None
        log_q = self.frequency.update(item_rows) if self.frequency else None
        return Batch(
            queries=self._query_texts.rows(self._part.take(queries)),
            items=self._item_texts.rows(self._part.take(shown)),
            photos=self._show(item_rows, number, random, device) if self._photos else None,
            features=self._features.take(torch.from_numpy(self._part.take(item_rows))).to(device) if self._features else None,
            item_rows=item_rows,
            is_relevant=torch.from_numpy(is_relevant).to(device),
            weights=None if weights is None else torch.from_numpy(weights.astype(np.float32)).to(device),
            log_q=None if log_q is None else torch.from_numpy(log_q).to(device),
            query_counts=self._part.counts(len(queries)),
            item_counts=self._part.counts(len(item_rows)),
        )

    def _queries_of(self, number: int) -> NDArray[np.int64]:
        """Return rows of a batch's queries. The rest of a pass is dropped, because it could repeat a query in a batch."""
        turn, place = divmod(number, len(self._queries.texts) // self.batch_size)
        if self._order[0] != turn:
            random = np.random.default_rng((self._config.seed, ORDER, turn))
            self._order = (turn, random.permutation(len(self._queries.texts)))
        return self._order[1][place * self.batch_size : (place + 1) * self.batch_size]

    def _negatives(self, queries: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
        """Return rows of the negatives: hard ones of each query, then random ones."""
        hard, alike = self._stage.hard_negatives, self._stage.random_negatives
        rows = random.integers(len(self._items.ids), size=len(queries) * (hard + alike))
        if self._mined is not None:
            mined = self._mined[queries]  # (Q, M), padded with -1
            chance = random.random(mined.shape) + (mined < 0)  # missing ones come last
            chosen = np.take_along_axis(mined, np.argsort(chance, axis=1)[:, :hard], axis=1).ravel()
            rows[: len(chosen)] = np.where(chosen < 0, rows[: len(chosen)], chosen)
        return rows

    def _show(self, item_rows: NDArray[np.int64], number: int, random: np.random.Generator, device: torch.device) -> Photos:
        assert self._photos is not None
        tower = self._config.tower
        shown = self._photos.has_image[item_rows] & (random.random(len(item_rows)) >= self._config.photo_dropout)
        item_rows, shown = self._part.take(item_rows), self._part.take(shown)
        if isinstance(self._photos, PhotoEncodings):
            vectors = torch.from_numpy(self._photos.vectors[item_rows[shown]])
            return Photos(vectors.to(device), torch.from_numpy(shown).to(device))
        pixels = to_unit(torch.from_numpy(np.ascontiguousarray(self._photos.pixels[item_rows[shown]])).to(device))
        generator = torch.Generator().manual_seed(seed_of(self._config.seed, PHOTOS, number, self._part.process))
        changed = augment(pixels, tower.image_size, self._config.augmentation, generator)
        return Photos(normalise(changed, tower.image_mean, tower.image_std), torch.from_numpy(shown).to(device))


def mined_rows(queries: Queries, items: ItemTable, negatives: Mapping[str, Sequence[str]]) -> NDArray[np.int64]:
    """Return mined items as rows (Q, M) int64, padded with -1, without relevant and missing items."""
    rows = {item_id: row for row, item_id in enumerate(items.ids)}
    mined_rows_of: list[list[int]] = []
    for query, text in enumerate(queries.texts):
        answers = set(queries.relevant_items[queries.relevant_starts[query] : queries.relevant_starts[query + 1]].tolist())
        mined_rows_of.append([rows[i] for i in dict.fromkeys(negatives.get(text, ())) if i in rows and rows[i] not in answers])
    table = np.full((len(mined_rows_of), max(1, *map(len, mined_rows_of))), -1, dtype=np.int64)
    for query, mined in enumerate(mined_rows_of):
        table[query, : len(mined)] = mined
    return table


def seed_of(*parts: int) -> int:
    """Return a seed for torch from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
