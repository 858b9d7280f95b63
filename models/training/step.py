"""One step of training: encode, compare, go down the gradient."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from models.config.training import Stage, TrainingConfig
from models.data.batches import Batch
from models.data.encoding_cache import text_inputs
from models.towers.two_towers import Photos, TwoTowers
from models.training.gathering import average_gradients, gather, share_buffers
from models.training.gradient_cache import Chunk, backward_in_chunks
from models.training.losses import contrastive, info_nce, triplet
from models.training.matryoshka import prefixes

LIKE_LENGTH_CHUNK = 32  # texts; fewer would leave cores idle
WORTH_SORTING = 0.8  # share of the tokens that must remain for texts to be encoded in chunks of like length


class StepMetrics(NamedTuple):
    """What a step shows, each a scalar on the device.

    Attributes:
        loss: mean over the pairs.
        accuracy: share of the queries whose own lot comes first among the lots of the batch.
        recall_at_10: share whose own lot is among the first 10.
    """

    loss: Tensor
    accuracy: Tensor
    recall_at_10: Tensor


class TrainingStep:
    """Steps of one stage."""

    def __init__(self, towers: TwoTowers, optimizer: Any, accelerator: Accelerator, config: TrainingConfig, stage: Stage) -> None:
        self._towers, self._optimizer, self._accelerator = towers, optimizer, accelerator
        self._config, self._stage = config, stage

    def run(self, batches: Sequence[Batch]) -> StepMetrics:
        """Make one step down the mean gradient of some batches."""
        share_buffers(self._towers, self._accelerator.num_processes)
        self._optimizer.zero_grad()
        figures = [self._backward(batch, 1 / len(batches)) for batch in batches]
        average_gradients(self._towers.parameters(), self._accelerator.num_processes)
        self._accelerator.clip_grad_norm_(self._towers.parameters(), self._config.max_grad_norm)
        self._optimizer.step()
        return StepMetrics(*(torch.stack(values).mean() for values in zip(*figures, strict=True)))

    def _backward(self, batch: Batch, share: float) -> StepMetrics:
        figures: list[StepMetrics] = []
        queries, query_order = self._chunks(batch.queries.lengths, partial(self._encode_queries, batch))
        items, item_order = self._chunks(batch.items.lengths, partial(self._encode_items, batch))

        def loss(query_vectors: Tensor, item_vectors: Tensor) -> Tensor:
            q = gather(query_vectors[query_order], batch.query_counts)  # (Q, D)
            i = gather(item_vectors[item_order], batch.item_counts)  # (B, D)
            value = batch_loss(q, i, self._towers.scale, batch, self._stage, self._config)
            figures.append(StepMetrics(value.detach(), *in_batch_metrics(q.detach(), i.detach(), batch.known)))
            return value * share

        if self._config.micro_batch:
            backward_in_chunks([queries, items], loss, self._accelerator.backward, self._towers)
        else:
            value = loss(*(torch.cat([chunk() for chunk in chunks]) for chunks in (queries, items)))
            self._accelerator.backward(value)
        return figures[0]

    def _chunks(
        self, lengths: NDArray[np.int64], encode: Callable[[NDArray[np.int64]], Tensor]
    ) -> tuple[list[Chunk], NDArray[np.int64]]:
        """Encoders of a text's rows, and the order in which their vectors are the texts' again.

        Where it saves padding, texts of like length are encoded together. Towers with eyes take the rows as they come: a
        chunk whose texts are alike would show BatchNorm photos that are alike, too.
        """
        rows = np.arange(len(lengths))
        blind = self._towers.item_tower.image_encoder is None
        size = self._config.micro_batch or (LIKE_LENGTH_CHUNK if blind and saves_padding(lengths) else len(rows))
        if blind and size < len(rows):
            rows = np.argsort(lengths, kind="stable")
        chunks = [partial(encode, rows[start : start + size]) for start in range(0, len(rows), size)]
        return chunks, np.argsort(rows, kind="stable")

    def _encode_queries(self, batch: Batch, rows: NDArray[np.int64]) -> Tensor:
        with self._accelerator.autocast():
            return self._towers.query_tower.encode(text_inputs(batch.queries, rows, self._accelerator.device))

    def _encode_items(self, batch: Batch, rows: NDArray[np.int64]) -> Tensor:
        device = self._accelerator.device
        texts, places = text_inputs(batch.items, rows, device), torch.from_numpy(rows).to(device)
        photos = take_photos(batch.photos, places) if batch.photos else None
        features = batch.features.take(places) if batch.features else None
        with self._accelerator.autocast():
            return self._towers.item_tower(texts, photos, features)


def batch_loss(queries: Tensor, items: Tensor, scale: Tensor, batch: Batch, stage: Stage, config: TrainingConfig) -> Tensor:
    """The stage's loss of a whole batch; with Matryoshka lengths (Kusupati et al. 2022) the mean over all of them.

    Args:
        queries: (Q, D) unit vectors.
        items: (B, D) unit vectors; row i < Q answers query i.
        scale: 1 / temperature.
        batch: what is known of it.
        stage: names the loss; the contrastive one weighs a query's lots that do not match, together, like the one that does.
        config: whether InfoNCE is symmetric.
    """
    lengths = config.tower.matryoshka
    losses = [
        _loss_at(q, i, scale, batch, stage, config)
        for q, i in zip(prefixes(queries, lengths), prefixes(items, lengths), strict=True)
    ]
    return torch.stack(losses).mean()


def _loss_at(queries: Tensor, items: Tensor, scale: Tensor, batch: Batch, stage: Stage, config: TrainingConfig) -> Tensor:
    if stage.loss == "info_nce":
        return info_nce(
            queries, items, scale, known=batch.known, weights=batch.weights, log_q=batch.log_q, symmetric=config.symmetric
        )
    own = torch.eye(*batch.known.shape, dtype=torch.bool, device=batch.known.device)  # (Q, B)
    if stage.loss == "triplet":
        return triplet(queries, items[: len(queries)], items, margin=stage.margin, known=batch.known | own, weights=batch.weights)
    away = (~(batch.known | own)).to(queries.dtype)  # (Q, B)
    pairs = own + away / away.sum(dim=1, keepdim=True).clamp(min=1)  # (Q, B)
    weights = pairs if batch.weights is None else pairs * batch.weights.unsqueeze(1)
    return contrastive(queries, items, own, margin=stage.margin, weights=weights)


def in_batch_metrics(queries: Tensor, items: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Accuracy and recall@10 of the queries (Q, D) among the lots (B, D) of their batch.

    Lots known (Q, B) to answer a query do not stand before its own; a tie stands after it.
    """
    cosines = queries @ items.T  # (Q, B)
    own = cosines.diagonal().unsqueeze(1)  # (Q, 1)
    before = ((cosines > own) & ~known).sum(dim=1)  # (Q,)
    return (before == 0).float().mean(), (before < 10).float().mean()


def saves_padding(lengths: NDArray[np.int64]) -> bool:
    """Whether chunks of texts of like length hold far fewer tokens than all texts as long as the longest."""
    ordered = np.sort(lengths)
    widths = [ordered[start : start + LIKE_LENGTH_CHUNK] for start in range(0, len(ordered), LIKE_LENGTH_CHUNK)]
    return bool(sum(w[-1] * len(w) for w in widths) < WORTH_SORTING * ordered[-1] * len(ordered))


def take_photos(photos: Photos, rows: Tensor) -> Photos:
    """The photos of some lots (R,) of a batch."""
    if len(rows) == len(photos.has_image):
        return photos
    place = photos.has_image.cumsum(0) - 1  # (B,) of each lot's photo among the pixels
    seen = photos.has_image[rows]  # (R,)
    return Photos(photos.pixels[place[rows[seen]]], seen)
