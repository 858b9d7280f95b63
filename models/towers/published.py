"""Towers of published encoders, by hub name or folder: sentence encoders, and models for words and pictures."""

import json
from pathlib import Path
from typing import Any, Literal

from transformers import AutoConfig
from transformers.utils.hub import cached_file

from models.towers.config import JOINT, PRESETS, ImageEncoderSpec, Rgb, TextEncoderSpec, TowerConfig
from models.towers.encoders import no_progress_bar
from models.towers.model_files import find_published, unreachable
from retrieval.errors import InvalidInput, TowerError

MODULES_FILE = "modules.json"  # steps of a model of sentence-transformers, each with its type and folder
POOLING_FILE = "1_Pooling/config.json"
IMAGE_FILE = "preprocessor_config.json"
ENCODERS, POOLING, NORMALIZE = ("Transformer", "CLIPModel"), "Pooling", "Normalize"
POOLINGS: dict[str, Literal["cls", "mean"]] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "cls": "cls",
    "mean": "mean",
}
CLIP_MEAN: Rgb = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Rgb = (0.26862954, 0.26130258, 0.27577711)
WITHOUT_PIXELS = ("siglip2",)  # models that take patches of several sizes in place of square photos


def published_towers(model: str) -> TowerConfig:
    """Return the preset of this name; for any other name, towers of a published encoder, which are its own vectors until trained.

    A sentence encoder gives text towers. A model for words and pictures, such as CLIP, gives towers that read photos, too: an
    item is the sum of the unit vectors of its text and its photo.

    Args:
        model: name of a preset, hub name, or local folder.

    Raises:
        TowerError: there is no such model.
        InvalidInput: the model has a step that the towers lack.
    """
    if model in PRESETS:
        return PRESETS[model]
    local = find_published(model, "encoder")
    folder = _encoder_folder(local)
    try:
        with no_progress_bar():
            config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise TowerError(unreachable("encoder", model, error)) from error
    if not (hasattr(config, "text_config") and hasattr(config, "vision_config")):
        return TowerConfig.of_encoder(folder, preset=Path(model).name, pooling=stated_pooling(local) or "mean")
    if config.model_type in WITHOUT_PIXELS:
        raise InvalidInput(
            f"{model!r} reads photos of any shape, the towers read squares; take a version of the model for one size of photo, "
            "such as siglip2-base-patch16-224"
        )
    mean, std = _colours(folder, config.model_type)
    return TowerConfig(
        preset=Path(model).name,
        text=TextEncoderSpec(model=folder, pooling=JOINT, trainable="none"),
        image=ImageEncoderSpec(name=JOINT, weights=folder, trainable="none"),
        hidden=0,
        dimensions=0,
        image_size=int(config.vision_config.image_size),
        image_mean=mean,
        image_std=std,
        shared_text_encoder=True,
    )


def stated_pooling(model: str) -> Literal["cls", "mean"] | None:
    """Return the pooling that a sentence encoder states in the files of sentence-transformers; None if it states none.

    Args:
        model: hub name or local folder.

    Raises:
        InvalidInput: it is neither [CLS] nor the mean, or another step follows the pooling.
    """
    modules = _read(model, MODULES_FILE) or []
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    others = sorted({kind for kind in kinds if kind not in (*ENCODERS, POOLING, NORMALIZE)})
    if others:
        raise InvalidInput(
            f"{model!r} has steps that the towers lack ({', '.join(others)}); take an encoder of a transformer and a pooling alone"
        )
    config = _read(model, POOLING_FILE) or {}
    modes = [str(mode) for mode in _as_list(config.get("pooling_mode", []))]
    modes = modes or [name for name, value in config.items() if name.startswith("pooling_mode_") and value]
    if not modes:
        return None
    if len(modes) > 1 or modes[0] not in POOLINGS:
        raise InvalidInput(f"{model!r} pools by {', '.join(modes)}; the towers know [CLS] and the mean: take another encoder")
    return POOLINGS[modes[0]]


def _encoder_folder(model: str) -> str:
    """Return the folder of a local model's transformer, which older models of sentence-transformers have in a folder of its own."""
    modules = _read(model, MODULES_FILE) if Path(model).is_dir() else None
    return str(Path(model) / modules[0].get("path", "")) if modules else model


def _colours(model: str, model_type: str) -> tuple[Rgb, Rgb]:
    """Return the means and deviations by which a model's photos are normalised; those of its kind if its files do not say."""
    config = _read(model, IMAGE_FILE) or (_read(model, "processor_config.json") or {}).get("image_processor", {})
    half: Rgb = (0.5, 0.5, 0.5)
    default = (half, half) if model_type.startswith("siglip") else (CLIP_MEAN, CLIP_STD)
    mean, std = (tuple(config.get(name) or known) for name, known in zip(("image_mean", "image_std"), default, strict=True))
    return mean, std


def _read(model: str, name: str) -> Any:
    """Return the content of a JSON file of a published model; None if it has no such file, or none that can be read."""
    try:
        if Path(model).is_dir():
            return json.loads((Path(model) / name).read_text(encoding="utf-8"))
        quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        file = cached_file(model, name, **quiet)
        return json.loads(Path(file).read_text(encoding="utf-8")) if file else None
    except (OSError, ValueError):
        return None


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
