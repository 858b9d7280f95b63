"""The training loop of all models: learning rate, optimiser steps, epochs, validation, checkpoints, and the best epoch."""

import copy
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.optim import Optimizer

from models.training.checkpoints import Checkpoints, defer_signals
from retrieval.progress import Progress

log = logging.getLogger(__name__)

M = TypeVar("M")  # type of a task's validation metrics
TENSORBOARD_STEPS = 10  # steps between two points of TensorBoard's curves


class StepMetrics(NamedTuple):
    """Training metrics of a step, each a scalar on the device.

    Attributes:
        loss: mean over the pairs.
        accuracy: share of the queries whose own item ranks first among the items of the batch.
        recall_at_10: share of the queries whose own item is among the first 10.
    """

    loss: Tensor
    accuracy: Tensor
    recall_at_10: Tensor

    @classmethod
    def of_loss(cls, loss: Tensor) -> "StepMetrics":
        """Return the metrics of a task that measures only its loss; the others are 0."""
        value = loss.detach().double()
        return cls(value, torch.zeros_like(value), torch.zeros_like(value))


class TrainingTask(ABC, Generic[M]):
    """A model, the gradients of its steps, and its validation; TrainingLoop does the rest.

    Attributes:
        model: model to train, on its device.
        optimizers: key in the checkpoint -> optimiser, whose learning rates are the peaks of the schedule.
        metrics_type: type of the validation metrics, which takes the values of asdict() as keyword arguments; None if the metrics
            are a plain number, or if the task measures nothing.
        settings: settings of the run, because a checkpoint of other settings is ignored; None if the checkpoint's folder
            identifies the run.
    """

    model: nn.Module
    optimizers: Mapping[str, Optimizer]
    metrics_type: Callable[..., M] | None = None
    settings: Mapping[str, Any] | None = None

    @abstractmethod
    def backward(self, step: int) -> StepMetrics:
        """Add the gradients of a step to the model's parameters; steps count from 0."""

    def measure(self) -> M:
        """Measure the model on validation data and leave it in training mode; runs without validation never call it."""
        raise NotImplementedError

    def is_better(self, metrics: M, best: M) -> bool:
        """Return True if the metrics of a later epoch are better than the best so far; runs without validation never call it."""
        raise NotImplementedError

    def curves(self) -> Mapping[str, float]:
        """Return more values of the last step for TensorBoard."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint holds besides the model and the optimisers."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that state_dict() returned."""


def per_epoch(progress: Progress | None, steps_per_epoch: int) -> Progress | None:
    """Turn a callback of (epochs done, epochs) into a callback of (steps done, steps); None stays None."""
    if progress is None:
        return None

    def step(done: int, total: int) -> None:
        if done % steps_per_epoch == 0:
            progress(done // steps_per_epoch, total // steps_per_epoch)

    return step


@dataclass(frozen=True)
class LoopSettings:
    """Length and rules of a run.

    Attributes:
        epochs: largest number of epochs.
        steps_per_epoch: steps of each epoch.
        warmup: share of the steps over which the learning rate rises.
        max_grad_norm: largest norm of the gradients; larger gradients are clipped. None clips nothing.
        max_seconds: seconds after which this call stops the run at the end of a step; None for no limit. The schedule stays that
            of the whole run, so a run that is stopped and resumed ends in the same weights.
        validate_every: epochs between two measurements; the last epoch is always measured. 0 never measures.
        measure_start: True also measures before the first step, as epoch 0.
        patience: number of measurements in a row without improvement after which the run ends; None trains to the end.
    """

    epochs: int
    steps_per_epoch: int
    warmup: float
    max_grad_norm: float | None = None
    max_seconds: float | None = None
    validate_every: int = 0
    measure_start: bool = False
    patience: int | None = None


@dataclass(frozen=True)
class EpochRecord(Generic[M]):
    """One epoch: means over its steps, and its validation metrics if the epoch was measured.

    Attributes:
        epoch: number of the epoch, from 1; 0 is the state before training.
        loss: mean over the pairs.
        seconds: seconds since the start of the run.
        metrics: validation metrics; None if the epoch was not measured.
        in_batch_accuracy: share of the queries whose own item ranked first among the items of their batch.
        in_batch_recall_at_10: share of the queries whose own item was among the first 10.
    """

    epoch: int
    loss: float
    seconds: float
    metrics: M | None
    in_batch_accuracy: float = 0.0
    in_batch_recall_at_10: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the record as checkpoints store it, the metrics as `figures`."""
        values = asdict(self)
        values["figures"] = values.pop("metrics")
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], metrics_type: Callable[..., M] | None) -> "EpochRecord[M]":
        """Build a record from the values of to_dict()."""
        fields = dict(values)
        metrics = fields.pop("figures")
        return cls(**fields, metrics=metrics_type(**metrics) if metrics_type and metrics else metrics)


class TrainingLoop(Generic[M]):
    """A training run of a task, which ends with the weights of its best epoch.

    Attributes:
        history: records of the epochs so far; that of a cut run ends with the part of an epoch that was run.
        best: the measured epoch whose weights are stored; None before the first measurement.
        resumed_at: number of steps done before this run resumed; 0 for a run from its start.
        steps: number of steps that the schedule asks for.
        steps_run: number of steps done.
        cut_by_clock: True if max_seconds ended the run before its planned steps; its checkpoint remains.
    """

    def __init__(
        self,
        task: TrainingTask[M],
        settings: LoopSettings,
        checkpoints: Checkpoints | None = None,
        *,
        accelerator: Accelerator | None = None,
        tensorboard: Path | None = None,
    ) -> None:
        """Prepare the run, and read its checkpoint if there is one.

        Args:
            task: task whose model has its initial weights. run() leaves the model with the weights of the best epoch, or of the
                last epoch if none was measured. The model is then on the CPU in eval mode.
            settings: length and rules of the run.
            checkpoints: checkpoints of this run; None writes none.
            accelerator: devices and processes; None for a task that needs no Accelerator.
            tensorboard: folder for TensorBoard; None writes nothing.
        """
        self._task, self._settings, self._checkpoints = task, settings, checkpoints
        self._accelerator, self._tensorboard = accelerator, tensorboard
        self._processes = accelerator.num_processes if accelerator else 1
        self._peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in task.optimizers.values()]
        self.steps, self.steps_run = settings.epochs * settings.steps_per_epoch, 0
        self._began, self._seconds_before = time.monotonic(), 0.0  # seconds of the run before it resumed
        self._sums: Tensor | None = None  # sums of the epoch's StepMetrics
        self._summed = 0
        self._best_weights: dict[str, Tensor] = {}
        self.history: list[EpochRecord[M]] = []
        self.best: EpochRecord[M] | None = None
        self.resumed_at = 0
        self.cut_by_clock = False
        task.model.train()
        self._resume()

    def run(self, progress: Progress | None = None) -> None:
        """Train to the end of the schedule, or until patience ends the run.

        Args:
            progress: called with (steps done, steps in all) after each step.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM; a checkpoint of the last whole step is left behind.
        """
        if self._settings.measure_start and not self.history:
            self._append(EpochRecord(0, 0.0, 0.0, self._measure()))
        with (
            defer_signals(self._checkpoints is not None and self._processes == 1) as interrupt,
            CurveWriter.open(self._tensorboard, self.resumed_at, self._accelerator) as writer,
        ):
            while self.steps_run < self.steps and not self._patience_ended() and not self.cut_by_clock:
                self._run_step(writer)
                ended = self.steps_run % self._settings.steps_per_epoch == 0
                if ended:
                    self._end_epoch(writer)
                if self._checkpoints and self._checkpoints.due(ended):
                    self._save()
                try:
                    if progress:
                        progress(self.steps_run, self.steps)
                    if interrupt.requested:
                        raise KeyboardInterrupt
                except KeyboardInterrupt:
                    self._save()
                    raise
                self.cut_by_clock = self._agree(self._is_late())
            if self.cut_by_clock:
                self._save()
                if self._summed:
                    self._end_epoch(writer)  # after the checkpoint, because an uncut run does not measure in mid-epoch
        if self._best_weights:
            self._task.model.load_state_dict(self._best_weights)
        self._task.model.cpu().eval()

    def _run_step(self, writer: "CurveWriter") -> None:
        optimizers, model = self._task.optimizers.values(), self._task.model
        factor = learning_rate_factor(self.steps_run / self.steps, self._settings.warmup)
        for optimizer, peaks in zip(optimizers, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            optimizer.zero_grad()
        metrics = self._task.backward(self.steps_run)
        norm: Tensor | None = None
        if self._settings.max_grad_norm is not None:
            clip = self._accelerator.clip_grad_norm_ if self._accelerator else nn.utils.clip_grad_norm_
            norm = clip(model.parameters(), self._settings.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
        values = torch.stack(list(metrics))
        self._sums = values if self._sums is None else self._sums.to(values.device) + values
        self._summed += 1
        self.steps_run += 1
        if writer.is_open and self.steps_run % TENSORBOARD_STEPS == 0:
            norms = gradient_norms(model, norm, self._settings.max_grad_norm)
            curves = {**metrics._asdict(), "learning_rate_factor": factor, **self._task.curves(), **norms}
            writer.show_step(self.steps_run, curves)

    def _end_epoch(self, writer: "CurveWriter") -> None:
        assert self._sums is not None
        epoch, every = -(-self.steps_run // self._settings.steps_per_epoch), self._settings.validate_every
        is_last = self.steps_run == self.steps or self.cut_by_clock
        metrics = self._measure() if every and (is_last or epoch % every == 0) else None
        loss, accuracy, recall = (self._sums / self._summed).tolist()
        self._sums, self._summed = None, 0
        record = EpochRecord(epoch, loss, self._seconds, metrics, accuracy, recall)
        self._append(record)
        log.info("%s", record)
        writer.show_epoch(self.steps_run, asdict(record))

    def _measure(self) -> M | None:
        if not self._settings.validate_every:
            return None
        metrics: M = self._agree(self._task.measure() if self._is_main else None)
        return metrics

    def _append(self, record: EpochRecord[M]) -> None:
        self.history.append(record)
        best = self.best.metrics if self.best else None
        if record.metrics is not None and (best is None or self._task.is_better(record.metrics, best)):
            self.best, self._best_weights = record, copy.deepcopy(self._task.model.state_dict())

    @property
    def _seconds(self) -> float:
        """Seconds of training, without the time between a checkpoint and its resumption."""
        return self._seconds_before + time.monotonic() - self._began

    def _is_late(self) -> bool:
        limit = self._settings.max_seconds
        unfinished = self.steps_run < self.steps and not self._patience_ended()
        return unfinished and limit is not None and time.monotonic() - self._began >= limit

    def _patience_ended(self) -> bool:
        if self._settings.patience is None or self.best is None:
            return False
        later = [record for record in self.history if record.metrics is not None and record.epoch > self.best.epoch]
        return len(later) >= self._settings.patience

    def _save(self) -> None:
        if not self._checkpoints:
            return
        scaler = self._accelerator.scaler if self._accelerator else None
        self._checkpoints.save(
            {
                "settings": self._task.settings,
                "towers": self._task.model.state_dict(),
                **{name: optimizer.state_dict() for name, optimizer in self._task.optimizers.items()},
                "clock": {"steps_run": self.steps_run, "seconds": self._seconds},
                "sums": self._sums,
                "summed": self._summed,
                "history": [record.to_dict() for record in self.history],
                "best": self.history.index(self.best)
                if self.best
                else None,  # an index, because a cut epoch has two records with its number
                "kept": self._best_weights,
                "torch_random": torch.get_rng_state(),
                **self._task.state_dict(),
                "scaler": scaler.state_dict() if scaler else None,
            }
        )

    def _resume(self) -> None:
        state = self._agree(self._checkpoints.load() if self._checkpoints and self._is_main else None)
        if self._checkpoints is None or state is None or state.get("settings") != self._task.settings:
            return
        self._task.model.load_state_dict(state["towers"])
        for name, optimizer in self._task.optimizers.items():
            optimizer.load_state_dict(state[name])
        self.steps_run, self._seconds_before = state["clock"]["steps_run"], state["clock"]["seconds"]
        self._sums, self._summed = state["sums"], state["summed"]
        self.history = [EpochRecord.from_dict(values, self._task.metrics_type) for values in state["history"]]
        best = self.history[state["best"]] if state.get("best") is not None else None
        if best and best.metrics is not None:  # earlier versions also stored epochs that were not measured
            self.best, self._best_weights = best, state["kept"]
        self._task.load_state_dict(state)
        if "torch_random" in state:  # earlier versions stored it for buyers alone
            torch.set_rng_state(state["torch_random"])
        if self._accelerator and self._accelerator.scaler:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        self.resumed_at = self.steps_run
        log.warning("goes on from step %d of %d (%s)", self.resumed_at, self.steps, self._checkpoints.folder)

    @property
    def _is_main(self) -> bool:
        return self._accelerator is None or self._accelerator.is_main_process

    def _agree(self, value: Any) -> Any:
        """Return the first process's value on all processes."""
        return value if self._processes == 1 else broadcast_object_list([value])[0]


def learning_rate_factor(share: float, warmup: float) -> float:
    """Return the share of the peak learning rate: a linear rise over `warmup` of the run, then half a cosine down to zero.

    Args:
        share: share of the run that is over, in [0, 1].
        warmup: share of the run over which the rate rises, in [0, 1).
    """
    if share < warmup:
        return max(share, 1e-3) / warmup
    return 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


def gradient_norms(model: nn.Module, total: Tensor | None, max_norm: float | None) -> dict[str, float]:
    """Return the norms of the gradients before clipping: of all parameters, and of each part of the model.

    Args:
        model: model whose parameters have the gradients of a step, clipped or not.
        total: norm of all gradients before they were clipped; None if they were not clipped.
        max_norm: norm to which they were clipped; None if they were not.

    Returns:
        "gradient_norm" -> norm, and "gradient_norm/<part>" -> norm; a part is a parameter's module two levels below the model.
    """
    squares: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            part, square = ".".join(name.split(".")[:2]), parameter.grad.detach().float().square().sum()
            squares[part] = squares[part] + square if part in squares else square
    if not squares:
        return {}
    norms = dict(zip(squares, torch.stack(list(squares.values())).sqrt().tolist(), strict=True))
    whole = math.hypot(*norms.values()) if total is None else float(total)
    clipped = 1.0 if max_norm is None else max(1.0, whole / max_norm)  # the gradients were divided by this
    return {"gradient_norm": whole, **{f"gradient_norm/{part}": norm * clipped for part, norm in norms.items()}}


class CurveWriter:
    """A writer of curves to TensorBoard, and to the trackers of an Accelerator; without both it writes nothing."""

    def __init__(self, writer: Any = None, accelerator: Accelerator | None = None) -> None:
        self._writer, self._accelerator = writer, accelerator

    @classmethod
    def open(cls, folder: Path | None, step: int, accelerator: Accelerator | None = None) -> "CurveWriter":
        """Open a writer.

        Args:
            folder: folder for TensorBoard, whose points from `step` on are replaced; None writes nothing to TensorBoard.
            step: step at which the run starts or resumes.
            accelerator: accelerator with the trackers that were initialised; None for a task that needs no Accelerator.
        """
        if folder is None:
            return cls(None, accelerator)
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        return cls(SummaryWriter(str(folder), purge_step=step), accelerator)

    def __enter__(self) -> "CurveWriter":
        return self

    def __exit__(self, *reason: object) -> None:
        if self._writer:
            self._writer.close()

    @property
    def is_open(self) -> bool:
        """True if points are written anywhere."""
        return self._writer is not None or bool(self._accelerator and self._accelerator.trackers)

    def show_step(self, step: int, values: Mapping[str, Any]) -> None:
        """Write the points of one step."""
        self._show("step", values, step)

    def show_epoch(self, step: int, record: Mapping[str, Any]) -> None:
        """Write the points of one epoch, an EpochRecord as a mapping, at the step where it ended."""
        names = ("loss", "in_batch_accuracy", "in_batch_recall_at_10")
        self._show("train", {name: record[name] for name in names}, step)
        metrics = record["metrics"]
        self._show("val", {"selection_metric": metrics} if isinstance(metrics, float) else metrics or {}, step)

    def _show(self, group: str, values: Mapping[str, Any], step: int) -> None:
        points = {f"{group}/{name}": float(value) for name, value in values.items()}
        if self._writer:
            for name, value in points.items():
                self._writer.add_scalar(name, value, step)
        if self._accelerator and self._accelerator.trackers and points:
            self._accelerator.log(points, step=step)
