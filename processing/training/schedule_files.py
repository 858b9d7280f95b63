"""Read the stages of a training from a file, so that a custom schedule needs no code."""

from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from models.config.training import Stage
from retrieval.errors import InvalidInput
from retrieval.files import reason_of

EXAMPLE = "{name: in-batch, epochs: 10, random_negatives: 1}"
FIELDS = {field.name for field in fields(Stage)}
NUMBERS = {"epochs": int, "hard_negatives": int, "random_negatives": int} | dict.fromkeys(
    ("rate", "min_weight", "margin", "batch_hard"), float
)
LOSSES = get_args(get_type_hints(Stage)["loss"])


def read_stages(path: Path) -> tuple[Stage, ...]:
    """Read a YAML or JSON list of stages, each a mapping with fields of Stage.

    A batch of B queries has B answers, B * random_negatives and B * hard_negatives items. Other queries' items are negatives, too.

    Raises:
        InvalidInput: the file cannot be read, or a stage has an unknown field or value.
    """
    try:
        stages = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInput(
            f"{path} is no readable file of stages ({reason_of(error)}); write a list such as [{EXAMPLE}]"
        ) from error
    if not isinstance(stages, list) or not stages:
        raise InvalidInput(f"{path} holds no list of stages; write one such as [{EXAMPLE}]")
    return tuple(_stage(path, number, values) for number, values in enumerate(stages, 1))


def _stage(path: Path, number: int, values: Any) -> Stage:
    if not isinstance(values, dict) or "name" not in values or not values.keys() <= FIELDS:
        raise InvalidInput(
            f"stage {number} of {path} must have a name and no field but {', '.join(sorted(FIELDS))}; it is {values!r}"
        )
    for name, kind in NUMBERS.items():
        value = values.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, kind))):
            raise InvalidInput(f"{name} of stage {number} of {path} must be {kind.__name__}, not {value!r}")
    if values.get("loss", LOSSES[0]) not in LOSSES:
        raise InvalidInput(f"loss of stage {number} of {path} must be one of {', '.join(LOSSES)}, not {values['loss']!r}")
    return Stage(**values)
