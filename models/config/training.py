"""Settings of a training run, and schedules for the catalogues that Gavel makes; without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from models.towers.config import PhotoUse, TowerConfig
from models.towers.config import preset as find_preset
from models.towers.feature_names import NONE, parse_features
from retrieval.errors import InvalidInput


@dataclass(frozen=True)
class Stage:
    """One phase of training, with its own negatives and pairs.

    Attributes:
        name: name of the stage in the record and the checkpoints.
        epochs: passes over the items; None takes TrainingConfig.epochs.
        rate: factor on the run's learning rates, > 0.
        min_weight: minimum weight of a pair; 0 trains on every pair.
        hard_negatives: mined items sampled for each query of each batch; a query with fewer mined items gets random ones instead.
        random_negatives: items of the corpus sampled uniformly for each query of each batch.
        loss: "info_nce" over all items of the batch; "contrastive" or "triplet" with a margin.
        margin: margin of the contrastive, the triplet and the batch-hard loss, in cosine.
        batch_hard: weight of the batch-hard loss in this stage, >= 0; None takes TrainingConfig.batch_hard.
    """

    name: str
    epochs: int | None = None
    rate: float = 1.0
    min_weight: float = 0.0
    hard_negatives: int = 0
    random_negatives: int = 0
    loss: Literal["info_nce", "contrastive", "triplet"] = "info_nce"
    margin: float = 0.2
    batch_hard: float | None = None

    def __post_init__(self) -> None:
        if (self.epochs is not None and self.epochs < 1) or self.rate <= 0:
            raise InvalidInput(f"stage {self.name!r} needs epochs >= 1 and rate > 0, not {self.epochs} and {self.rate}")
        if min(self.hard_negatives, self.random_negatives, self.min_weight, self.batch_hard or 0) < 0:
            raise InvalidInput(f"stage {self.name!r} has a negative count of negatives, or a negative min_weight or batch_hard")


def three_stages(epochs: tuple[int, int, int], *, strong: float = 0.9, hard_negatives: int = 1) -> tuple[Stage, ...]:
    """Return three stages: learn the space, train on hard negatives, then add weak pairs.

    As in ANCE (Xiong et al. 2021) and the staged training of DPR's successors (RocketQA, Qu et al. 2021).

    Args:
        epochs: number of epochs of each stage.
        strong: minimum weight of a pair in the first two stages; 0.9 keeps ESCI's grades E and S and drops C.
        hard_negatives: mined items for each query from the second stage on.
    """
    hard: dict[str, Any] = {"hard_negatives": hard_negatives, "random_negatives": 1}
    return (
        Stage("in-batch", epochs[0], min_weight=strong, random_negatives=1),
        Stage("hard-negatives", epochs[1], min_weight=strong, rate=0.5, **hard),
        Stage("weak-positives", epochs[2], min_weight=0.0, rate=0.1, **hard),
    )


@dataclass(frozen=True)
class Augmentation:
    """Strengths of the photo augmentation.

    Attributes:
        crop: smallest share of the photo's area that remains after a crop, in (0, 1]; 1 crops nothing.
        stretch: largest ratio by which a crop's sides differ, >= 1.
        flip: probability of a mirror image.
        rotate: largest turn either way, in degrees.
        light: largest relative change of brightness, and of contrast, in [0, 1).
        erase: probability that a grey square of up to a quarter of the area hides a part.
    """

    crop: float = 0.6
    stretch: float = 1.2
    flip: float = 0.5
    rotate: float = 0.0
    light: float = 0.15
    erase: float = 0.0


@dataclass(frozen=True)
class TrainingConfig:
    """All settings of a training run. Its outcome depends on all of them but log_with and max_seconds.

    Attributes:
        tower: the architecture.
        features: structured features that the item tower reads: "none", "all", or names joined by commas, of category, brand,
            current_price, seller_rating and bid_count. "auto" trains without and with all features, and stores the towers with
            features only if they are better on the val split.
        photos: use of the photos by towers with an image encoder: "always", "never", or "auto", which trains without and with
            photos, and stores the towers that read photos only if they are better on the val split. A stage with a start tower
            reads photos as that tower does.
        stages: the phases of training, in order. One run trains one phase.
        epochs: passes over the items, or over the queries if there are more queries than items, >= 1.
        batch_size: pairs per batch, each with a different query, >= 2.
        learning_rate: peak learning rate of AdamW (Loshchilov and Hutter 2019).
        pretrained_factor: learning rate of pretrained encoders, as a share of learning_rate.
        weight_decay: weight decay of matrices; biases, norms and the temperature have none.
        warmup: share of the steps over which the learning rate rises; afterwards it falls as a cosine to zero.
        temperature: initial temperature; it never falls below 0.01.
        learn_temperature: False fixes the temperature at its initial value.
        max_grad_norm: largest norm of the gradients; larger gradients are clipped.
        symmetric: True also trains items to retrieve their queries.
        weigh: use of a pair's weight. "draw" samples a query's pairs in proportion to their weights, so all queries count alike.
            "loss" samples them uniformly and weighs their losses, so queries of weak pairs count less.
        batch_hard: weight of the batch-hard loss that is added to each stage's loss, >= 0; 0 adds none. It pushes away the item
            of the batch that is nearest to a query, among the in-batch, mined and random negatives.
        log_q: True corrects for each item's sampling frequency (Yi et al. 2019), by a streaming estimate.
        accumulate: batches whose gradients are added for one step; a query meets only the negatives of its own batch.
        micro_batch: texts that are encoded at once, so that large batches fit into memory. The gradient is that of the whole
            batch, and each text is encoded twice (Gao et al. 2021). None encodes the whole batch at once.
        gradient_checkpointing: True stores only the inputs of the text encoder's layers for the backward pass and computes the
            rest again: less memory, more time, the same gradients.
        photo_dropout: probability that an item is shown without its photo, so that the tower also learns items without photos.
        augmentation: strengths of the photo augmentation.
        validate_every: epochs between two measurements on the val split, >= 1; the last epoch is always measured.
        judge: the selection metric: the epoch with the best value is stored. "quality" is the mean of recall@50 and nDCG@10,
            which still separates epochs when recall@50 is saturated.
        patience: training stops after so many measurements in a row without a better selection metric; None trains to the end.
        mixed_precision: number format of the computation; "auto" is bf16 on a GPU and float32 on a CPU.
        max_seconds: time limit of a call in seconds; None for no limit. It stops a run before its end, and the run's record says
            so. The next run with the same settings resumes there, and ends in the weights of a run without a limit.
        log_with: experiment tracker of Accelerate that gets the curves beside TensorBoard, such as "wandb"; None for none.
        seed: seed of weights, order, dropout and augmentation.
    """

    tower: TowerConfig = field(default_factory=lambda: find_preset("compact"))
    features: str = NONE
    photos: PhotoUse = "auto"
    stages: tuple[Stage, ...] = (Stage("in-batch"),)
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 1e-3
    pretrained_factor: float = 0.05
    weight_decay: float = 0.01
    warmup: float = 0.1
    temperature: float = 0.07
    learn_temperature: bool = True
    max_grad_norm: float = 1.0
    symmetric: bool = True
    weigh: Literal["draw", "loss"] = "draw"
    batch_hard: float = 0.0
    log_q: bool = False
    accumulate: int = 1
    micro_batch: int | None = None
    gradient_checkpointing: bool = False
    photo_dropout: float = 0.1
    augmentation: Augmentation = field(default_factory=Augmentation)
    validate_every: int = 2
    judge: Literal["quality", "recall_at_50"] = "quality"
    patience: int | None = None
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    max_seconds: float | None = None
    log_with: str | None = None
    seed: int = 7

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or self.validate_every < 1:
            raise InvalidInput(
                f"a training run needs epochs >= 1, batch_size >= 2 and validate_every >= 1, "
                f"not {self.epochs}, {self.batch_size} and {self.validate_every}"
            )
        for name in ("accumulate", "micro_batch", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidInput(f"{name} must be 1 or more, not {value}")
        if not self.stages:
            raise InvalidInput("a training run needs a stage or more; leave stages out for one of in-batch negatives")
        for name in ("learning_rate", "temperature", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("warmup", "photo_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInput(f"{name} is a share from 0 to 1, not {getattr(self, name)}")
        if self.batch_hard < 0:
            raise InvalidInput(f"batch_hard is a weight of 0 or more, not {self.batch_hard:g}")
        parse_features(self.features)
        if self.max_seconds is not None and self.max_seconds <= 0:
            raise InvalidInput(f"max_seconds must be above 0, not {self.max_seconds}")

    def stage_epochs(self, stage: Stage) -> int:
        """Return the number of epochs of a stage."""
        return self.epochs if stage.epochs is None else stage.epochs

    @property
    def selection_metric(self) -> str:
        """Name of the ValidationMetrics attribute that chooses the epoch, and whether towers read photos and features."""
        return self.judge

    def stage_batch_hard(self, stage: Stage) -> float:
        """Return the weight of the batch-hard loss in a stage."""
        return self.batch_hard if stage.batch_hard is None else stage.batch_hard

    @classmethod
    def for_catalog(cls, name: str, *, preset: str = "compact", use_image: bool = True, seed: int = 7) -> "TrainingConfig":
        """Return the schedule that was chosen on a catalogue's val split; the defaults for an unknown catalogue.

        Args:
            name: CatalogFolder.name, such as "synthetic" or "grocery".
            preset: a name in PRESETS; all but compact take PRETRAINED_SCHEDULE, whatever the catalogue.
            use_image: False trains an item tower without an image encoder.
            seed: seed of the run.

        Raises:
            InvalidInput: there is no such preset.
        """
        tower = replace(find_preset(preset), use_image=use_image)
        if preset != "compact":
            return replace(cls(tower=tower, seed=seed), **PRETRAINED_SCHEDULE)
        schedule = SCHEDULES.get((name, use_image), {})
        tower = replace(tower, **TOWER_CHANGES.get((name, use_image), {}))
        return replace(cls(tower=tower, seed=seed), **schedule)


# Chosen on the val splits: (catalogue, use_image) -> fields of TrainingConfig (SCHEDULES) and of TowerConfig (TOWER_CHANGES).
SCHEDULES: Mapping[tuple[str, bool], Mapping[str, Any]] = {
    ("synthetic", True): {"warmup": 0.05, "epochs": 20, "validate_every": 4, "learning_rate": 1.5e-3},
    ("synthetic", False): {"warmup": 0.05, "epochs": 14, "validate_every": 4},
    ("grocery", True): {
        "warmup": 0.05,
        "epochs": 40,
        "validate_every": 5,
        "learning_rate": 2e-3,
        "augmentation": Augmentation(crop=0.35, rotate=15, light=0.3, erase=0.25),
    },
    ("grocery", False): {"warmup": 0.05, "epochs": 8, "validate_every": 2},
}
TOWER_CHANGES: Mapping[tuple[str, bool], Mapping[str, Any]] = {
    ("grocery", True): {"image_size": 96},
}
PRETRAINED_SCHEDULE: Mapping[str, Any] = {"epochs": 5, "batch_size": 64, "validate_every": 1}
