"""One training step of both towers, over one process or several: encode, gather, compare, compute gradients.

Every process of a distributed run encodes a slice of the batch. All compute the same loss from the same gathered vectors. The
gradient of a slice's vectors is multiplied by the number of processes. So the mean of the parameters' gradients over the
processes equals the gradient of a single process with the whole batch. The temperature's gradient is complete on every process,
and so is its mean.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from models.config.training import Stage, TrainingConfig
from models.data.batches import Batch, TrainingBatches, seed_of
from models.data.encoding_cache import text_inputs
from models.towers.two_towers import Photos, TwoTowers
from models.training.embedding_statistics import embedding_statistics, record_norms
from models.training.gradient_cache import Chunk, backward_in_chunks
from models.training.loop import StepMetrics, TrainingTask
from models.training.losses import batch_hard, contrastive, info_nce, prefixes, triplet
from models.training.validation import Validation, ValidationMetrics

DROPOUT = 3  # purpose of a random generator, beside those of models/data/batches.py
LIKE_LENGTH_CHUNK = 32  # texts per chunk; fewer would leave cores idle
WORTH_SORTING = 0.8  # share of the padded tokens below which texts are encoded in chunks of like length


class TwoTowersTask(TrainingTask[ValidationMetrics]):
    """Training of both towers on batches of pairs."""

    metrics_type = ValidationMetrics

    def __init__(
        self,
        towers: TwoTowers,
        batches: TrainingBatches,
        validation: Validation | None,
        config: TrainingConfig,
        stage: Stage,
        accelerator: Accelerator,
    ) -> None:
        """Create the optimiser.

        Args:
            towers: towers with their initial weights, on the device.
            batches: batches of this process.
            validation: validation data; None if nothing is measured.
            config: settings of the run.
            stage: stage to train, one of config.stages.
            accelerator: devices and processes.
        """
        self.model = self._towers = towers
        self._batches, self._validation, self._accelerator = batches, validation, accelerator
        self._config, self._stage = config, stage
        self._vectors: tuple[Tensor, Tensor] | None = None  # of the queries and of the different items of the last batch
        self._norms: list[list[Tensor]] = [[], []]  # lengths of the last step's query and item vectors before normalisation
        if config.gradient_checkpointing:
            for encoder in {towers.item_tower.text_encoder, towers.query_tower.text_encoder}:
                encoder.checkpoint_activations()
        self.optimizers = {"optimizer": accelerator.prepare(torch.optim.AdamW(_parameter_groups(towers, config, stage)))}

    def backward(self, step: int) -> StepMetrics:
        """Compute the gradients of a step from its batches. Dropout depends only on the seed, the step and the process."""
        torch.manual_seed(seed_of(self._config.seed, DROPOUT, step, self._accelerator.process_index))
        device, count = self._accelerator.device, self._config.accumulate
        return self.backward_batches([self._batches.batch(n, device) for n in range(step * count, (step + 1) * count)])

    def backward_batches(self, batches: Sequence[Batch]) -> StepMetrics:
        """Compute the mean gradient of some batches and return the means of their metrics."""
        share_buffers(self._towers, self._accelerator.num_processes)
        with record_norms([self._towers.query_tower.projection, self._towers.item_tower.projection]) as self._norms:
            metrics = [self._backward(batch, 1 / len(batches)) for batch in batches]
        average_gradients(self._towers.parameters(), self._accelerator.num_processes)
        return StepMetrics(*(torch.stack(values).mean() for values in zip(*metrics, strict=True)))

    def measure(self) -> ValidationMetrics:
        """Search the validation corpus and return the metrics."""
        assert self._validation is not None
        return self._validation.measure(self._towers)

    def is_better(self, metrics: ValidationMetrics, best: ValidationMetrics) -> bool:
        """Return True if the selection metric of the configuration rose."""
        name = self._config.selection_metric
        return bool(getattr(metrics, name) > getattr(best, name))

    def curves(self) -> Mapping[str, float]:
        """Return the temperature, and statistics of the query and item vectors of the last batch."""
        curves = {"temperature": 1 / self._towers.scale.item()}
        assert self._vectors is not None
        for name, vectors, norms in zip(("query", "item"), self._vectors, self._norms, strict=True):
            curves[f"{name}_norm"] = float(torch.cat(norms).mean())
            if len(vectors) > 1:
                curves |= {f"{name}_{key}": value for key, value in embedding_statistics(vectors).items()}
        return curves

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the sampling frequencies."""
        return {"frequency": self._batches.frequency.state_dict() if self._batches.frequency else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that state_dict() returned."""
        if self._batches.frequency:
            self._batches.frequency.load_state_dict(state["frequency"])

    def _backward(self, batch: Batch, share: float) -> StepMetrics:
        metrics: list[StepMetrics] = []
        queries, query_order = self._chunks(batch.queries.lengths, partial(self._encode_queries, batch))
        items, item_order = self._chunks(batch.items.lengths, partial(self._encode_items, batch))
        different = np.unique(batch.item_rows, return_index=True)[1]  # rows of the batch's different items

        def loss(query_vectors: Tensor, item_vectors: Tensor) -> Tensor:
            q = gather(query_vectors[query_order], batch.query_counts)  # (Q, D)
            i = gather(item_vectors[item_order], batch.item_counts)  # (B, D)
            self._vectors = q.detach(), i.detach()[different]
            value = batch_loss(q, i, self._towers.scale, batch, self._stage, self._config)
            metrics.append(StepMetrics(value.detach(), *in_batch_metrics(q.detach(), i.detach(), batch.is_relevant)))
            return value * share

        if self._config.micro_batch:
            backward_in_chunks([queries, items], loss, self._accelerator.backward, self._towers)
        else:
            value = loss(*(torch.cat([chunk() for chunk in chunks]) for chunks in (queries, items)))
            self._accelerator.backward(value)
        return metrics[0]

    def _chunks(
        self, lengths: NDArray[np.int64], encode: Callable[[NDArray[np.int64]], Tensor]
    ) -> tuple[list[Chunk], NDArray[np.int64]]:
        """Return functions that encode one chunk of rows each, and the permutation that restores the order of the texts.

        Texts of similar length are encoded together if that saves padding. Towers with an image encoder keep the order: similar
        texts have similar photos, and chunks of similar photos would bias the statistics of BatchNorm.
        """
        rows = np.arange(len(lengths), dtype=np.int64)
        text_only = self._towers.item_tower.image_encoder is None
        size = self._config.micro_batch or (LIKE_LENGTH_CHUNK if text_only and saves_padding(lengths) else len(rows))
        if text_only and size < len(rows):
            rows = np.argsort(lengths, kind="stable").astype(np.int64)
        chunks: list[Chunk] = [partial(encode, rows[start : start + size]) for start in range(0, len(rows), size)]
        return chunks, np.argsort(rows, kind="stable").astype(np.int64)

    def _encode_queries(self, batch: Batch, rows: NDArray[np.int64]) -> Tensor:
        with self._accelerator.autocast():
            return self._towers.query_tower.encode(text_inputs(batch.queries, rows, self._accelerator.device))

    def _encode_items(self, batch: Batch, rows: NDArray[np.int64]) -> Tensor:
        device = self._accelerator.device
        texts, places = text_inputs(batch.items, rows, device), torch.from_numpy(rows).to(device)
        photos = take_photos(batch.photos, places) if batch.photos else None
        features = batch.features.take(places) if batch.features else None
        with self._accelerator.autocast():
            vectors: Tensor = self._towers.item_tower(texts, photos, features)
        return vectors


def batch_loss(queries: Tensor, items: Tensor, scale: Tensor, batch: Batch, stage: Stage, config: TrainingConfig) -> Tensor:
    """Return the loss of a whole batch, with its batch-hard part; the mean over Matryoshka lengths (Kusupati et al. 2022).

    Args:
        queries: (Q, D) unit vectors.
        items: (B, D) unit vectors; row i < Q answers query i.
        scale: 1 / temperature.
        batch: batch whose relevant items, weights and log q are used.
        stage: stage with the loss and its margin. The contrastive loss gives a query's negatives together the weight of its item.
        config: configuration whose `symmetric`, `batch_hard` and Matryoshka lengths are used.
    """
    lengths = config.tower.matryoshka
    losses = [
        _loss_at(q, i, scale, batch, stage, config) + _batch_hard_at(q, i, batch, stage, config)
        for q, i in zip(prefixes(queries, lengths), prefixes(items, lengths), strict=True)
    ]
    return torch.stack(losses).mean()


def _batch_hard_at(queries: Tensor, items: Tensor, batch: Batch, stage: Stage, config: TrainingConfig) -> Tensor | float:
    weight = config.stage_batch_hard(stage)
    if not weight:
        return 0.0
    symmetric = config.symmetric
    return weight * batch_hard(
        queries, items, margin=stage.margin, is_relevant=batch.is_relevant, weights=batch.weights, symmetric=symmetric
    )


def _loss_at(queries: Tensor, items: Tensor, scale: Tensor, batch: Batch, stage: Stage, config: TrainingConfig) -> Tensor:
    if stage.loss == "info_nce":
        return info_nce(
            queries,
            items,
            scale,
            is_relevant=batch.is_relevant,
            weights=batch.weights,
            log_q=batch.log_q,
            symmetric=config.symmetric,
        )
    own = torch.eye(*batch.is_relevant.shape, dtype=torch.bool, device=batch.is_relevant.device)  # (Q, B)
    is_relevant = batch.is_relevant | own
    if stage.loss == "triplet":
        return triplet(queries, items[: len(queries)], items, margin=stage.margin, is_relevant=is_relevant, weights=batch.weights)
    away = (~is_relevant).to(queries.dtype)  # (Q, B)
    pairs = own + away / away.sum(dim=1, keepdim=True).clamp(min=1)  # (Q, B)
    weights = pairs if batch.weights is None else pairs * batch.weights.unsqueeze(1)
    return contrastive(queries, items, own, margin=stage.margin, weights=weights)


def in_batch_metrics(queries: Tensor, items: Tensor, is_relevant: Tensor) -> tuple[Tensor, Tensor]:
    """Return accuracy and recall@10 of the queries (Q, D) among the items (B, D) of their batch.

    Two kinds of items do not count as ranked before a query's own item: those marked in is_relevant (Q, B), and ties.
    """
    cosines = queries @ items.T  # (Q, B)
    own = cosines.diagonal().unsqueeze(1)  # (Q, 1)
    before = ((cosines > own) & ~is_relevant).sum(dim=1)  # (Q,)
    return (before == 0).float().mean(), (before < 10).float().mean()


def saves_padding(lengths: NDArray[np.int64]) -> bool:
    """Return True if chunks of like length have less than 80 % of the tokens of all texts padded to the longest."""
    ordered = np.sort(lengths)
    widths = [ordered[start : start + LIKE_LENGTH_CHUNK] for start in range(0, len(ordered), LIKE_LENGTH_CHUNK)]
    return bool(sum(w[-1] * len(w) for w in widths) < WORTH_SORTING * ordered[-1] * len(ordered))


def take_photos(photos: Photos, rows: Tensor) -> Photos:
    """Return the photos of the items in rows (R,) of a batch."""
    if len(rows) == len(photos.has_image):
        return photos
    place = photos.has_image.cumsum(0) - 1  # (B,) row of each item's photo in the pixels
    has_image = photos.has_image[rows]  # (R,)
    return Photos(photos.pixels[place[rows[has_image]]], has_image)


def _parameter_groups(towers: TwoTowers, config: TrainingConfig, stage: Stage) -> list[dict[str, Any]]:
    """Return the trained parameters in groups: pretrained encoders get a lower rate, vectors and scalars no weight decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in towers.named_parameters():
        if not parameter.requires_grad:
            continue
        pretrained = (".transformer." in name and bool(config.tower.text.model)) or (
            ".image_encoder." in name and bool(config.tower.image.weights)
        )
        groups.setdefault((pretrained, parameter.ndim >= 2), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.learning_rate * stage.rate * (config.pretrained_factor if pretrained else 1.0),
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (pretrained, decays), parameters in groups.items()
    ]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, counts: Sequence[int]) -> Tensor:
        process = distributed.get_rank()
        ctx.processes = len(counts)
        ctx.first, ctx.end = sum(counts[:process]), sum(counts[: process + 1])
        padded = F.pad(own, (0, 0, 0, max(counts) - len(own))).contiguous()  # a gather needs equal shapes
        parts = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.first : ctx.end] * ctx.processes, None


def gather(own: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the vectors of all processes, in the order of the processes, with gradients.

    Args:
        own: (counts[process], D), this process's slice.
        counts: number of rows in each process's slice; with a single process `own` is returned.

    Returns:
        (sum(counts), D), the same on every process.
    """
    return own if len(counts) == 1 else _Gather.apply(own, counts)


def average_gradients(parameters: Iterable[nn.Parameter], processes: int) -> None:
    """Replace each gradient by its mean over the processes; a gradient that a process lacks counts as zero there.

    DistributedDataParallel is not used, because it needs a single backward pass per step, through every parameter. Gradient
    caching runs several passes, and a slice without photos does not reach the image encoder.
    """
    if processes == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.flatten() for parameter in trained if parameter.grad is not None])
    distributed.all_reduce(flat)
    flat /= processes
    for parameter, mean in zip(trained, torch.split(flat, [parameter.numel() for parameter in trained]), strict=True):
        parameter.grad = mean.view_as(parameter)


def share_buffers(module: nn.Module, processes: int) -> None:
    """Copy the first process's buffers, such as the running statistics of BatchNorm, to every process.

    Each process normalises a batch by its own slice, because SyncBatchNorm needs GPUs. So a tower with a ResNet learns a
    little differently on several processes than on one.
    """
    if processes > 1:
        for buffer in module.buffers():
            distributed.broadcast(buffer, src=0)
