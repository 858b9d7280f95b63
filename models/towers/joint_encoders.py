"""Published models with one space for words and pictures: CLIP (Radford et al. 2021), SigLIP (Zhai et al. 2023) and their kin.

transformers.AutoModel loads such a model, with get_text_features() and get_image_features(). The text encoder of the towers is the
model without its vision part, the image encoder the model without its text part. Both return unit vectors of the shared space.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel

from models.towers.config import JOINT, ImageEncoderSpec, TextEncoderSpec, TowerConfig
from models.towers.encoders import (
    NON_ARCHITECTURE_KEYS,
    ImageEncoder,
    PartlyFrozen,
    TextEncoder,
    no_progress_bar,
)
from models.towers.model_files import find_published, unreachable
from retrieval.errors import TowerError

PARTS = {"text": ("text",), "vision": ("vision", "visual")}  # prefixes of the names of each part's modules
TEMPERATURES = ("logit_scale", "logit_bias")  # parameters of neither part
# configuration of a part that is removed
EMPTY_PART: dict[str, dict[str, Any]] = {
    "text": {"num_hidden_layers": 0, "vocab_size": 2, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0},
    "vision": {"num_hidden_layers": 0},
}
PADDED = "siglip"  # models whose name begins so were trained on texts padded to all positions, without a mask


def make_text_encoder(spec: TextEncoderSpec) -> TextEncoder:
    """Load or build the text encoder of a specification.

    Raises:
        TowerError: the named model is neither a local folder nor available from the hub.
    """
    return JointTextEncoder(spec) if spec.pooling == JOINT else TextEncoder(spec)


def make_image_encoder(config: TowerConfig) -> ImageEncoder:
    """Load or build the image encoder of towers.

    Raises:
        TowerError: the network or its weights are unknown, damaged or not available.
    """
    encoder = JointImageEncoder if config.image.name == JOINT else ImageEncoder
    return encoder(config.image, config.image_mean, config.image_std)


class JointTextEncoder(TextEncoder):
    """The text part of a model for words and pictures."""

    def __init__(self, spec: TextEncoderSpec) -> None:
        PartlyFrozen.__init__(self)
        self.pooling = spec.pooling
        self.transformer = _load_part("text", spec.model, spec.config)
        self._settings = self.transformer.config.text_config
        if spec.model:
            with no_progress_bar():
                pad = AutoTokenizer.from_pretrained(spec.model).pad_token_id
            self._settings.pad_token_id = self._settings.pad_token_id if pad is None else pad
        self.width = _width(self.transformer, "text")
        self.train_only(spec.trainable)

    @property
    def _layers(self) -> int:
        return int(self._settings.num_hidden_layers)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode token ids (B, L) with their mask (B, L) into (B, width) of unit length."""
        mask: Tensor | None = attention_mask
        if self.transformer.config.model_type.startswith(PADDED):
            pad = self._settings.pad_token_id
            ids = torch.where(attention_mask == 1, input_ids, torch.full_like(input_ids, pad))
            rest = torch.full((ids.shape[0], self.max_positions), pad, dtype=ids.dtype, device=ids.device)
            input_ids, mask = torch.cat([ids, rest], dim=1)[:, : self.max_positions], None  # (B, positions)
        model: Any = self.transformer
        return _unit(model.get_text_features(input_ids=input_ids, attention_mask=mask))

    @property
    def max_positions(self) -> int:
        """Largest number of tokens that the encoder has positions for."""
        return int(self._settings.max_position_embeddings)

    def resolved(self) -> TextEncoderSpec:
        """Return a specification of this encoder's architecture that does not need its hub name."""
        return TextEncoderSpec(config=_architecture(self.transformer, "text"), pooling=self.pooling, trainable=self.trainable)


class JointImageEncoder(ImageEncoder):
    """The vision part of a model for words and pictures."""

    def __init__(self, spec: ImageEncoderSpec, mean: Sequence[float], std: Sequence[float]) -> None:
        PartlyFrozen.__init__(self)
        self._spec = spec
        self.transformer = _load_part("vision", spec.weights, spec.config)
        self.width = _width(self.transformer, "vision")
        self._add_colours(spec.colour_bins, mean, std)
        self.train_only(spec.trainable)

    def train_only(self, trainable: str) -> None:
        """Choose the layers to train: "all", "none" or the last n ("last-<n>"). Embeddings are trained only with "all".

        Raises:
            InvalidInput: the encoder has fewer than n layers.
        """
        self._freeze_layers(trainable, self.transformer, self.transformer.config.vision_config.num_hidden_layers)
        self.trainable = trainable

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode normalised pixels (B, 3, S, S) into (B, width), of unit length before a histogram is appended."""
        model: Any = self.transformer
        return self._with_colours(_unit(model.get_image_features(pixel_values=pixels)), pixels)

    def resolved(self) -> ImageEncoderSpec:
        """Return a specification of this encoder's architecture that does not need its hub name."""
        return replace(self._spec, weights="", config=_architecture(self.transformer, "vision"), trainable=self.trainable)


def _load_part(part: str, model: str, config: Any) -> PreTrainedModel:
    """Load a part of a published model, or build it from its configuration with fresh weights."""
    if model:
        try:
            with no_progress_bar():
                whole: PreTrainedModel = AutoModel.from_pretrained(find_published(model), dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise TowerError(unreachable("encoder of words and pictures", model, error)) from error
    else:
        values = dict(config)
        whole = AutoModel.from_config(AutoConfig.for_model(values.pop("model_type"), **values))  # type: ignore[no-untyped-call]
    if not (hasattr(whole, "get_text_features") and hasattr(whole, "get_image_features")):
        raise TowerError(f"{model!r} ({whole.config.model_type}) gives no vectors of texts and pictures; take a model such as CLIP")
    other = next(name for name in PARTS if name != part)
    for name, _ in list(whole.named_children()):
        if name.startswith(PARTS[other]):
            setattr(whole, name, None)
    for name in TEMPERATURES:
        if hasattr(whole, name):
            delattr(whole, name)
    return whole


def _architecture(model: PreTrainedModel, part: str) -> dict[str, Any]:
    """Return a configuration from which _load_part() builds the part again, with the other part as small as possible."""
    values = {name: value for name, value in model.config.to_dict().items() if name not in NON_ARCHITECTURE_KEYS}
    for name in PARTS:
        own = {key: value for key, value in values[f"{name}_config"].items() if key not in NON_ARCHITECTURE_KEYS}
        small = {key: own[key] for key in ("hidden_size", "num_attention_heads", "model_type") if key in own}
        values[f"{name}_config"] = own if name == part else small | EMPTY_PART[name]
    return values


@torch.no_grad()
def _width(model: PreTrainedModel, part: str) -> int:
    """Return the length of a part's vectors."""
    if hasattr(model.config, "projection_dim"):
        return int(model.config.projection_dim)
    settings: Any = getattr(model.config, f"{part}_config")
    return int(getattr(settings, "projection_size", None) or settings.hidden_size)


def _unit(features: Any) -> Tensor:
    """Return the vectors of get_text_features() or get_image_features(), scaled to unit length."""
    vectors: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return F.normalize(vectors, dim=1)
