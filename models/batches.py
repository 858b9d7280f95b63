"""Batches of (query, lot) pairs with their photos."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from models.augmentation import augment
from models.pixels import normalise, to_unit
from models.towers import Photos, Tokens
from models.training_config import TrainingConfig
from models.training_data import Lots, PhotoTable, Queries, TokenTable
from models.validation import to_tokens

PHOTO_MARGIN = 1.25  # photos are kept this much larger than the tower sees them, so that crops stay sharp


@dataclass(frozen=True)
class Batch:
    """One step's pairs: row i of the lots answers query i.

    Attributes:
        queries: tokens of B queries.
        items: tokens of B lots.
        photos: their photos, augmented and normalised; None for a tower without eyes.
        known: (B, B) bool, which lots are known to answer which queries.
    """

    queries: Tokens
    items: Tokens
    photos: Photos | None
    known: Tensor


class TrainingBatches:
    """Endless batches of pairs: every query comes once before any comes again, each time with one of its lots."""

    def __init__(self, lots: Lots, queries: Queries, tokenizer: Tokenizer, config: TrainingConfig, cache: Path) -> None:
        tower = config.tower
        self._config = config
        self._queries = queries
        self._answer_sets = [frozenset(answers.tolist()) for answers in queries.answers]
        self._chances = [weights / weights.sum() for weights in queries.weights]
        self._query_tokens = TokenTable.build(tokenizer, queries.texts, tower.max_length)
        self._item_tokens = TokenTable.build(tokenizer, lots.texts, tower.max_length)
        self._hidden_token = tokenizer.token_to_id("[MASK]") or 0
        side = round(tower.image_size * PHOTO_MARGIN)
        self._photos = PhotoTable.load(lots.photos, side, cache) if tower.use_image else None
        self._random = np.random.default_rng(config.seed)
        self._generator = torch.Generator().manual_seed(config.seed)
        self.batch_size = min(config.batch_size, len(queries.texts))
        self.per_epoch = math.ceil(max(len(queries.texts), len(lots.ids)) / self.batch_size)

    @property
    def photo_count(self) -> int:
        """Lots whose photo could be read."""
        return int(self._photos.has_image.sum()) if self._photos else 0

    def stream(self, device: torch.device) -> Iterator[Batch]:
        """Make batches on a device, without end."""
        waiting = np.empty(0, dtype=np.int64)
        while True:
            if len(waiting) < self.batch_size:  # the rest of a pass goes to the next: it would repeat a query in a batch
                waiting = self._random.permutation(len(self._queries.texts))
            rows, waiting = waiting[: self.batch_size], waiting[self.batch_size :]
            yield self._batch(rows, device)

    def _batch(self, rows: NDArray[np.int64], device: torch.device) -> Batch:
        lots = np.array([self._random.choice(self._queries.answers[q], p=self._chances[q]) for q in rows])
        known = np.array([[lot in self._answer_sets[q] for lot in lots.tolist()] for q in rows.tolist()])
        return Batch(
            queries=to_tokens(self._query_tokens.take(rows), device),
            items=to_tokens(self._hide(self._item_tokens.take(lots), lots), device),
            photos=self._show(lots, device) if self._photos else None,
            known=torch.from_numpy(known | (lots[:, None] == lots[None, :])).to(device),
        )

    def _hide(
        self, tokens: tuple[NDArray[np.int64], NDArray[np.int64]], lots: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Drop tokens, and whole texts of lots that have a photo; [CLS] stays."""
        ids, mask = tokens
        hidden = self._random.random(ids.shape) < self._config.token_dropout
        hidden[:, 0] = False
        ids = np.where(hidden, self._hidden_token, ids)
        if self._photos:
            mute = (self._random.random(len(lots)) < self._config.text_dropout) & self._photos.has_image[lots]
            mask[mute, 1:] = 0
        return ids, mask

    def _show(self, lots: NDArray[np.int64], device: torch.device) -> Photos:
        assert self._photos is not None
        tower = self._config.tower
        seen = self._photos.has_image[lots] & (self._random.random(len(lots)) >= self._config.photo_dropout)
        pixels = to_unit(torch.from_numpy(np.ascontiguousarray(self._photos.pixels[lots[seen]])).to(device))
        changed = augment(pixels, tower.image_size, self._config.augmentation, self._generator)
        return Photos(normalise(changed, tower.image_mean, tower.image_std), torch.from_numpy(seen).to(device))
