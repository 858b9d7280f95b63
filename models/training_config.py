"""What decides the outcome of a training run, and the schedules that were chosen for the catalogues that Gavel makes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from models.augmentation import Augmentation
from models.presets import TowerConfig
from models.presets import preset as find_preset
from retrieval.errors import InvalidInput


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides what a training run makes of a catalogue.

    Attributes:
        tower: the architecture.
        epochs: passes over the lots (or over the queries, where there are more of them), >= 1.
        batch_size: pairs of a step, each of another query, >= 2.
        learning_rate: peak of AdamW's (Loshchilov and Hutter 2019).
        pretrained_factor: the learning rate of pretrained encoders, as a share of learning_rate.
        weight_decay: on matrices; biases, norms and the temperature have none.
        warmup: share of the steps over which the learning rate rises; then it falls as a cosine to zero.
        temperature: at the start; it is learnt, and never below 0.01.
        max_grad_norm: gradients are clipped to it.
        symmetric: train lots to find their queries, too.
        photo_dropout: probability that a lot is shown without its photo, so that lots without one are placed well.
        text_dropout: probability that a lot with a photo is shown without its text, so that the photo is not ignored.
        token_dropout: probability that a token of a lot's text is hidden.
        augmentation: how photos are changed.
        validate_every: epochs between two measurements on the val split, >= 1; the last epoch is always measured.
        mixed_precision: "auto" is bf16 on a GPU and float32 on a CPU.
        max_seconds: the schedule is shortened, if need be, to end after so long; None for no limit. Runs that are cut by
            the clock do not repeat exactly.
        seed: of weights, order, dropout and augmentation.
    """

    tower: TowerConfig = field(default_factory=lambda: find_preset("compact"))
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 1e-3
    pretrained_factor: float = 0.05
    weight_decay: float = 0.01
    warmup: float = 0.05
    temperature: float = 0.07
    max_grad_norm: float = 1.0
    symmetric: bool = True
    photo_dropout: float = 0.1
    text_dropout: float = 0.0
    token_dropout: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    validate_every: int = 2
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    max_seconds: float | None = None
    seed: int = 7

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or self.validate_every < 1:
            raise InvalidInput(
                f"a training run needs epochs >= 1, batch_size >= 2 and validate_every >= 1, "
                f"not {self.epochs}, {self.batch_size} and {self.validate_every}"
            )
        if self.max_seconds is not None and self.max_seconds <= 0:
            raise InvalidInput(f"max_seconds must be above 0, not {self.max_seconds}")

    @classmethod
    def for_catalog(cls, name: str, *, preset: str = "compact", use_image: bool = True, seed: int = 7) -> "TrainingConfig":
        """The schedule that was chosen, on its val split, for a catalogue; the defaults for one that is not known.

        Args:
            name: CatalogFolder.name, such as "synthetic" or "grocery".
            preset: a name in PRESETS; only compact has schedules of its own.
            use_image: False trains on text alone.
            seed: of the run.

        Raises:
            InvalidInput: there is no such preset.
        """
        tower = replace(find_preset(preset), use_image=use_image)
        if preset != "compact":
            return replace(cls(tower=tower, seed=seed), **PRETRAINED_SCHEDULE)
        schedule = SCHEDULES.get((name, use_image), {})
        tower = replace(tower, **TOWER_CHANGES.get((name, use_image), {}))
        return replace(cls(tower=tower, seed=seed), **schedule)


# What was chosen on the val splits: (catalogue, use_image) -> fields of TrainingConfig, and of TowerConfig.
# max_seconds keeps the demos within their time on a slow machine; where it does not cut, runs repeat exactly.
SCHEDULES: Mapping[tuple[str, bool], Mapping[str, Any]] = {
    ("synthetic", True): {"epochs": 20, "validate_every": 4, "learning_rate": 1.5e-3, "max_seconds": 110},
    ("synthetic", False): {"epochs": 14, "validate_every": 4, "max_seconds": 50},
    ("grocery", True): {
        "epochs": 40,
        "validate_every": 5,
        "learning_rate": 2e-3,
        "augmentation": Augmentation(crop=0.35, rotate=15, light=0.3, erase=0.25),
        "max_seconds": 540,
    },
    ("grocery", False): {"epochs": 8, "validate_every": 2, "max_seconds": 120},
}
TOWER_CHANGES: Mapping[tuple[str, bool], Mapping[str, Any]] = {
    ("grocery", True): {"image_size": 96},
}
PRETRAINED_SCHEDULE: Mapping[str, Any] = {"epochs": 5, "batch_size": 64, "validate_every": 1}
