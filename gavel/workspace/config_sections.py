"""The sections of `gavel.toml`: each the dataclass of what it configures, which is imported where it is asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from retrieval.config.settings import ScoringParameters, Settings


@dataclass(frozen=True)
class Section:
    """A table of the file.

    Attributes:
        name: dots for a table within a table.
        about: what it is for, in a line.
        default: makes the dataclass whose fields are its keys.
        environment: whether its keys are GAVEL_* variables, too.
    """

    name: str
    about: str
    default: Callable[[], Any]
    environment: bool = False


def _training() -> Any:
    from models.config.training import TrainingConfig

    return TrainingConfig()


def _buyers() -> Any:
    from models.config.buyers import BuyerTrainingConfig

    return BuyerTrainingConfig()


def _mining() -> Any:
    from processing.training.mining_rules import MiningRules

    return MiningRules()


def _reranker() -> Any:
    from retrieval.ranker.parameters import BoosterParameters

    return BoosterParameters()


def _distillation() -> Any:
    from models.config.distillation import DistillationConfig

    return DistillationConfig()


def _small_query() -> Any:
    from models.config.distillation import StaticQueryConfig

    return StaticQueryConfig()


SECTIONS = (
    Section("service", "where a process runs, and its limits", Settings, environment=True),
    Section("retrieval", "what an answer means: the same in training and serving", ScoringParameters, environment=True),
    Section("training", "of towers; a key that is not given keeps what was chosen for the catalogue", _training),
    Section("training.buyers", "of the buyer tower", _buyers),
    Section("mining", "which lots become hard negatives", _mining),
    Section("reranker", "how the re-ranker learns", _reranker),
    Section("distillation", "how `gavel adapt` learns", _distillation),
    Section("small_query", "how `gavel distill query` learns", _small_query),
)
