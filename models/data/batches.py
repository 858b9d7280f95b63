"""Batches of (query, item) pairs with their photos and further negatives.

A batch depends only on the seed and its number. So a resumed run needs no state of a random generator. Every process of a
distributed run samples the same batch and encodes its own slice of that batch.
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
from models.towers.config import TowerConfig
from models.towers.features import Features
from models.towers.item_features import item_row
from models.towers.two_towers import Photos, TwoTowers
from retrieval.errors import InvalidInput

PHOTO_MARGIN = 1.25  # stored photos are larger than the input of the tower by this factor, so that crops stay sharp
T = TypeVar("T", bound=np.generic)
ORDER, DRAW, PHOTOS = range(3)  # purposes of the random generators, each a part of the seed


@dataclass(frozen=True)
class Batch:
    """The pairs of one batch. Item i < Q answers query i; the items from Q on are negatives of all queries.

    Texts, photos and features belong to this process's slice; rows, relevance, weights and log_q belong to the whole batch.

    Attributes:
        queries: texts of the slice's queries.
        items: texts of the slice's items.
        photos: photos of the slice's items, augmented and normalised; None for a tower without an image encoder.
        features: structured features of the slice's items; None for a tower that reads none.
        item_rows: (B,) int64, rows of the items: the answers, then each query's hard negatives, then random ones.
        is_relevant: (Q, B) bool, True where an item is known to answer a query.
        weights: (Q,) float, weight of each pair's loss; None weighs all the same.
        log_q: (B,) float, log of the probability that a batch holds each item; None without correction.
        query_counts: number of queries in each process's slice.
        item_counts: number of items in each process's slice.
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
    """The share of one process in the batches of a distributed run.

    Attributes:
        process: number of the process, from 0.
        processes: number of processes in the run.
    """

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
    """An endless sequence of batches. A pass takes each query at most once, with one of its items.

    Attributes:
        batch_size: pairs per batch.
        per_epoch: batches of a pass over the items, or over the queries if there are more queries than items.
        frequency: estimate of how often each item is sampled; None without correction. It is the only state, so make batches in
            order.
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
            queries: training queries, with rows of `items` as their answers.
            tokenizer: tokenizer that cuts texts at the tower's max_length.
            config: settings of the run.
            cache: folder of decoded photos and of encodings.
            stage: stage that sets the negatives; None takes the first stage of the run.
            negatives: cleaned query -> item ids that were mined for it.
            part: slice of each batch that this process encodes.

        Raises:
            InvalidInput: the stage draws hard negatives, but none were mined for any query.
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
        self._photos: PhotoTable | PhotoEncodings | None = None
        if tower.use_image:
            self._photos = PhotoTable.load(items.photos, photo_side(tower), cache)
        self._features = Features.of(tower.features, [item_row(item) for item in items.records]) if tower.features else None
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))
        self.frequency = StreamingFrequency(max(1_024, 8 * len(items.ids))) if config.log_q else None
        self.batch_size = min(config.batch_size, len(queries.texts))
        self.per_epoch = math.ceil(max(len(queries.texts), len(items.ids)) / self.batch_size)

    @property
    def photo_count(self) -> int:
        """Number of items with a readable photo."""
        return int(self._photos.has_image.sum()) if self._photos else 0

    def encode_frozen(self, towers: TwoTowers, device: torch.device) -> None:
        """Replace the inputs of frozen encoders by their encodings. Photos replaced by encodings are not augmented."""
        self._item_texts, self._query_texts, self._photos = encode_frozen(
            towers, self._item_texts, self._query_texts, self._photos, self._config.tower, self._cache, device
        )

    def batch(self, number: int, device: torch.device) -> Batch:
        """Make a batch on a device.

        Args:
            number: number of the batch, from 0; the same number samples the same pairs.
            device: device of the tensors; texts stay in numpy until they are encoded.
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
        """Return the rows of a batch's queries. A pass drops its last, incomplete batch: filled up, it could repeat a query."""
        turn, place = divmod(number, len(self._queries.texts) // self.batch_size)
        if self._order[0] != turn:
            random = np.random.default_rng((self._config.seed, ORDER, turn))
            self._order = (turn, random.permutation(len(self._queries.texts)))
        return self._order[1][place * self.batch_size : (place + 1) * self.batch_size]

    def _negatives(self, queries: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
        """Return the rows of the negatives: hard negatives of each query, then random ones."""
        hard, alike = self._stage.hard_negatives, self._stage.random_negatives
        rows = random.integers(len(self._items.ids), size=len(queries) * (hard + alike))
        if self._mined is not None:
            mined = self._mined[queries]  # (Q, M), padded with -1
            chance = random.random(mined.shape) + (mined < 0)  # empty places come last
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


def photo_side(tower: TowerConfig) -> int:
    """Return the side of the stored photos; it is the tower's own if the image encoder is frozen and no photo is augmented."""
    return tower.image_size if tower.image.trainable == "none" else round(tower.image_size * PHOTO_MARGIN)


def mined_rows(queries: Queries, items: ItemTable, negatives: Mapping[str, Sequence[str]]) -> NDArray[np.int64]:
    """Return the rows (Q, M) int64 of the mined items, padded with -1; relevant and unknown items are left out."""
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
    """Combine several numbers into one seed for torch."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
