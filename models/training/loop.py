"""The loop of one stage: steps, epochs, measurements, checkpoints, and the epoch that is kept."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from models.config.training import Stage, TrainingConfig
from models.data.batches import TrainingBatches, seed_of
from models.towers.two_towers import TwoTowers
from models.training.checkpoints import Checkpoints, between_steps
from models.training.schedule import StepBudget, learning_rate_factor
from models.training.step import TrainingStep
from models.training.tensorboard import TensorBoardWriter
from models.training.validation import Figures, Validation
from retrieval.progress import Progress

log = logging.getLogger(__name__)

DROPOUT = 3  # what a generator is for, beside those of models/data/batches.py
BOARD_STEPS = 10  # between two points of TensorBoard's curves of steps


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: means over its steps, and its figures when it was measured.

    Attributes:
        epoch: from 1.
        loss: mean over the pairs.
        seconds: since the start of the run.
        figures: on the val split.
        in_batch_accuracy: share of the queries that found their own lot first among the lots of their batch.
        in_batch_recall_at_10: share that found it among the first 10.
    """

    epoch: int
    loss: float
    seconds: float
    figures: Figures | None
    in_batch_accuracy: float = 0.0
    in_batch_recall_at_10: float = 0.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EpochRecord":
        """Read asdict()'s values back."""
        return cls(**{**values, "figures": Figures(**values["figures"]) if values["figures"] else None})


class TrainingLoop:
    """Trains towers through one stage.

    Attributes:
        history: the epochs so far.
        best: the epoch whose weights are kept; None before the first.
        resumed_at: the step that a checkpoint let it go on from; 0 for a run from its start.
        clock: how many steps are run and were planned.
        cut_by_clock: whether max_seconds ended the run before its planned steps; a checkpoint is left, to go on from.
    """

    def __init__(
        self,
        towers: TwoTowers,
        batches: TrainingBatches,
        validation: Validation | None,
        config: TrainingConfig,
        stage: Stage,
        accelerator: Accelerator,
        checkpoints: Checkpoints,
        board: Path | None = None,
    ) -> None:
        """Put the towers on the device and read the checkpoint, if there is one.

        Args:
            towers: at their first weights; they end with those of the best epoch, on the CPU.
            batches: of this process.
            validation: None keeps the last epoch.
            config: of the run.
            stage: one of config.stages.
            accelerator: devices and processes.
            checkpoints: of this run.
            board: folder for TensorBoard; None writes nothing.
        """
        self._config, self._stage, self._accelerator = config, stage, accelerator
        self._batches, self._validation, self._checkpoints, self._board = batches, validation, checkpoints, board
        self._towers = towers.to(accelerator.device).train()
        self._optimizer = accelerator.prepare(torch.optim.AdamW(_parameter_groups(towers, config, stage)))
        self._peaks = [group["lr"] for group in self._optimizer.param_groups]
        self._step = TrainingStep(towers, self._optimizer, accelerator, config, stage)
        self._epoch_steps = -(-batches.per_epoch // config.accumulate)
        self.clock = StepBudget(config.stage_epochs(stage) * self._epoch_steps, config.max_seconds)
        self._sums = torch.zeros(3, device=accelerator.device)  # of the epoch's loss, accuracy, recall@10
        self._summed = 0
        self._kept: dict[str, Tensor] = {}
        self.history: list[EpochRecord] = []
        self.best: EpochRecord | None = None
        self.resumed_at = 0
        self.cut_by_clock = False
        self._resume()

    def run(self, progress: Progress | None = None) -> None:
        """Train to the end of the schedule, or until patience is gone.

        Raises:
            KeyboardInterrupt: Ctrl-C; a checkpoint of the last whole step is left behind.
        """
        with (
            between_steps(self._accelerator.num_processes == 1) as interruption,
            TensorBoardWriter.open(self._board, self.resumed_at) as board,
        ):
            while not self.clock.over and not self._patience_gone():
                self._one_step(board)
                ended = self.clock.over or self.clock.steps_run % self._epoch_steps == 0
                if ended:
                    self._end_epoch(board)
                if self._checkpoints.due(ended):
                    self._checkpoints.save(self._state())
                try:
                    if progress:
                        progress(self.clock.steps_run, self.clock.steps)
                    if interruption.asked:
                        raise KeyboardInterrupt
                except KeyboardInterrupt:
                    self._checkpoints.save(self._state())
                    raise
        self.cut_by_clock = self.clock.over and self.clock.steps_run < self.clock.planned
        if self.cut_by_clock:
            self._checkpoints.save(self._state())
        if self._kept:
            self._towers.load_state_dict(self._kept)
        self._towers.cpu().eval()

    def _one_step(self, board: TensorBoardWriter) -> None:
        number, count = self.clock.steps_run, self._config.accumulate
        factor = learning_rate_factor(self.clock.share, self._config.warmup)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        torch.manual_seed(seed_of(self._config.seed, DROPOUT, number, self._accelerator.process_index))
        device = self._accelerator.device
        figures = self._step.run([self._batches.batch(n, device) for n in range(number * count, (number + 1) * count)])
        self._sums += torch.stack(list(figures))
        self._summed += 1
        self.clock.tick()
        if self._accelerator.num_processes > 1:
            self.clock.steps = self._agree(self.clock.steps)
        if self.clock.steps_run % BOARD_STEPS == 0:
            board.show_step(self.clock.steps_run, figures._asdict(), factor, 1 / self._towers.scale.item())

    def _end_epoch(self, board: TensorBoardWriter) -> None:
        epoch = -(-self.clock.steps_run // self._epoch_steps)
        due = self.clock.over or epoch % self._config.validate_every == 0
        figures = None
        if self._validation and due:
            figures = self._agree(self._validation.measure(self._towers) if self._accelerator.is_main_process else None)
        loss, accuracy, recall = (self._sums / self._summed).tolist()
        record = EpochRecord(epoch, loss, self.clock.seconds, figures, accuracy, recall)
        self._sums.zero_()
        self._summed = 0
        self.history.append(record)
        log.info("%s", record)
        board.show_epoch(self.clock.steps_run, asdict(record))
        if _better(record, self.best, self._config.judge):
            self.best, self._kept = record, copy.deepcopy(self._towers.state_dict())

    def _patience_gone(self) -> bool:
        if self._config.patience is None or self.best is None or self.best.figures is None:
            return False
        since = [record for record in self.history if record.figures is not None and record.epoch > self.best.epoch]
        return len(since) >= self._config.patience

    def _state(self) -> dict[str, Any]:
        frequency, scaler = self._batches.frequency, self._accelerator.scaler
        return {
            "towers": self._towers.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "clock": self.clock.state_dict(),
            "sums": self._sums,
            "summed": self._summed,
            "history": [asdict(record) for record in self.history],
            "best": self.history.index(self.best) if self.best else None,  # a place, for a cut epoch is finished under its number
            "kept": self._kept,
            "frequency": frequency.state_dict() if frequency else None,
            "scaler": scaler.state_dict() if scaler else None,
        }

    def _resume(self) -> None:
        state = self._agree(self._checkpoints.load() if self._accelerator.is_main_process else None)
        if state is None:
            return
        self._towers.load_state_dict(state["towers"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.clock.load_state_dict(state["clock"])
        self._sums.copy_(state["sums"])
        self._summed = state["summed"]
        self.history = [EpochRecord.from_dict(values) for values in state["history"]]
        self.best = self.history[state["best"]] if state.get("best") is not None else None
        self._kept = state["kept"]
        if self._batches.frequency:
            self._batches.frequency.load_state_dict(state["frequency"])
        if self._accelerator.scaler:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        self.resumed_at = self.clock.steps_run
        log.warning("goes on from step %d of %d (%s)", self.resumed_at, self.clock.steps, self._checkpoints.folder)

    def _agree(self, value: Any) -> Any:
        """The first process's value, on all."""
        if self._accelerator.num_processes == 1:
            return value
        return broadcast_object_list([value])[0]


def _parameter_groups(towers: TwoTowers, config: TrainingConfig, stage: Stage) -> list[dict[str, Any]]:
    """Pretrained encoders at a lower rate; no decay on vectors and scalars; what is frozen is not among them."""
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


def _better(record: EpochRecord, best: EpochRecord | None, judge: str) -> bool:
    """By the judging figure; without measurement the latest is best."""
    if record.figures is None:
        return best is None or best.figures is None
    if best is None or best.figures is None:
        return True
    return bool(getattr(record.figures, judge) > getattr(best.figures, judge))
