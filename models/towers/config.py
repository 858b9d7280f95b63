"""Configuration of a pair of towers: the presets, and the architecture in a tower card."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from retrieval.encoders.feature_spec import FeatureSpec
from retrieval.errors import InvalidInput, TowerError

Rgb = tuple[float, float, float]
PhotoUse = Literal["auto", "always", "never"]
QUERY_BITS = (8, 4)
MAX_COLOUR_BINS = 8  # 512 numbers
IMAGENET_MEAN: Rgb = (0.485, 0.456, 0.406)
IMAGENET_STD: Rgb = (0.229, 0.224, 0.225)
SMALL_RESNET = "small-resnet"
JOINT: Literal["joint"] = "joint"  # encoders that are parts of one model for words and pictures
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MULTILINGUAL_MINILM = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
TRAINABLE = re.compile(r"all|none|last-[1-9][0-9]*")


def _check_trainable(value: str, parts: str) -> None:
    if not TRAINABLE.fullmatch(value):
        raise InvalidInput(f"trainable is {value!r}; give 'all', 'none' or 'last-<n>' for the last n {parts}")


@dataclass(frozen=True)
class TextEncoderSpec:
    """Source of the text encoder.

    Attributes:
        model: hub name or local folder of a transformers encoder; empty builds one from `config` with fresh weights.
        config: the transformers configuration, `model_type` included; read when `model` is empty.
        pooling: "cls" takes the [CLS] vector, "mean" the mean over the text's tokens, "joint" the text's vector in the space of the
            pictures, of a model for words and pictures.
        trainable: layers to train: "all", "none" or the last n ("last-<n>"). Frozen layers run as in serving, without dropout.
    """

    model: str = ""
    config: Mapping[str, Any] = field(default_factory=lambda: {"model_type": "distilbert"})
    pooling: Literal["cls", "mean", "joint"] = "cls"
    trainable: str = "all"

    def __post_init__(self) -> None:
        _check_trainable(self.trainable, "layers")


@dataclass(frozen=True)
class ImageEncoderSpec:
    """Source of the image encoder.

    Attributes:
        name: name of a torchvision ResNet ("resnet50"); "small-resnet", a narrow ResNet to be trained from scratch; or "joint", the
            vision part of a model for words and pictures.
        weights: name of torchvision weights ("IMAGENET1K_V2") or path of a state dict (.pth, .safetensors); empty starts at random.
            Of "joint", the model's hub name or folder.
        width: channels of the first stage of a small-resnet; each further stage has twice as many.
        blocks: residual blocks of each stage of a small-resnet.
        trainable: stages to train: "all", "none" or the last n ("last-<n>"). Frozen batch norms keep their statistics.
        config: the transformers configuration of "joint", `model_type` included; read when `weights` is empty.
        colour_bins: bins of each of red, green and blue in a histogram of the photo's pixels, which is appended to the encoder's
            vector: 4 gives 64 more numbers. 0 appends none.
    """

    name: str = "resnet50"
    weights: str = ""
    width: int = 32
    blocks: tuple[int, ...] = (1, 1, 1, 1)
    trainable: str = "all"
    config: Mapping[str, Any] = field(default_factory=dict)
    colour_bins: int = 0

    def __post_init__(self) -> None:
        _check_trainable(self.trainable, "stages")
        if not 0 <= self.colour_bins <= MAX_COLOUR_BINS:
            raise InvalidInput(f"colour_bins is {self.colour_bins}; it must be 0 to {MAX_COLOUR_BINS}")


@dataclass(frozen=True)
class TowerConfig:
    """The architecture of an item tower and its query tower.

    Attributes:
        preset: name of the preset, written on the tower card.
        text: the text encoder of both towers.
        image: the image encoder of the item tower.
        hidden: width of the layer between the encoders and the vector, 512 in the big preset. With 0 there is no such layer. If
            dimensions then equals the text encoder's width, the vector is the text encoding. So an untrained tower equals the
            published encoder. Photo and features are added through one linear layer that starts at zero.
        dimensions: length of the vectors; 0 takes the text encoder's width.
        linear: True, with hidden 0, makes the vector a linear map of the text encoding. Each tower has its own map, which starts as
            the identity and adapts a frozen encoder.
        dropout: dropout probability before the last layer of each tower; not used with hidden 0.
        max_length: largest number of tokens read of a text, including [CLS] and [SEP].
        image_size: side of the square photo in pixels.
        image_mean: RGB means subtracted from pixels in [0, 1].
        image_std: RGB deviations that the difference is divided by.
        use_image: False builds the item tower without an image encoder.
        shared_text_encoder: True shares one text encoder between both towers; each tower has its own projection.
        vocabulary: largest number of word pieces of a tokenizer trained on the catalogue; pretrained tokenizers do not change.
        matryoshka: shorter lengths, each below dimensions; a vector's prefixes of these lengths are trained to serve as vectors,
            too.
        features: structured features that the item tower reads beside text and photo; None for a tower without.
        hidden_text: share of the items with a photo whose text is hidden in training, in [0, 1). This teaches the tower to encode
            photos without text.
        query_bits: bits of the weights in the served query tower: 8, or 4 for a smaller file.
    """

    preset: str
    text: TextEncoderSpec
    image: ImageEncoderSpec
    hidden: int = 512
    linear: bool = False
    dimensions: int = 128
    dropout: float = 0.2
    max_length: int = 128
    image_size: int = 224
    image_mean: Rgb = IMAGENET_MEAN
    image_std: Rgb = IMAGENET_STD
    use_image: bool = True
    shared_text_encoder: bool = False
    vocabulary: int = 30_522
    matryoshka: tuple[int, ...] = ()
    features: FeatureSpec | None = field(default=None, metadata={"fitted": "set features in [training]"})
    hidden_text: float = 0.0
    query_bits: int = 8

    def __post_init__(self) -> None:
        if self.query_bits not in QUERY_BITS:
            raise InvalidInput(f"query_bits is {self.query_bits}; it must be 8 or 4")
        if not 0 <= self.hidden_text < 1:
            raise InvalidInput(f"hidden_text is {self.hidden_text:g}; give a share of the lots from 0 to below 1")
        longest = self.dimensions or math.inf
        if any(not 0 < length < longest for length in self.matryoshka):
            raise InvalidInput(f"matryoshka lengths must lie between 1 and {longest - 1}, not {list(self.matryoshka)}")

    @classmethod
    def of_encoder(cls, model: str, **changes: Any) -> "TowerConfig":
        """Return towers of any sentence encoder, with the encoder's width. Untrained, they return the encoder's vectors.

        Args:
            model: hub name or local folder of a transformers encoder.
            changes: values of fields of TowerConfig other than `text`, and of `pooling` and `trainable` of TextEncoderSpec.
        """
        base = PRESETS["minilm"]
        text = {name: changes.pop(name) for name in ("pooling", "trainable") if name in changes}
        fields: dict[str, Any] = {"preset": Path(model).name, "dimensions": 0} | changes
        return replace(base, text=replace(base.text, model=model, **text), **fields)

    def fresh(self) -> "TowerConfig":
        """Return the same architecture with random weights; nothing is downloaded."""
        return replace(self, text=replace(self.text, model=""), image=replace(self.image, weights=""))

    def to_architecture(self) -> dict[str, Any]:
        """Return the configuration as JSON values, for the tower card."""
        features = self.features.to_json() if self.features else None
        lists = {name: list(getattr(self, name)) for name in ("image_mean", "image_std", "matryoshka")}
        values = {**asdict(self), **lists, "features": features}
        if self.query_bits == 8:
            del values["query_bits"]  # cards of older versions lack it, and equal towers must have equal ids
        if not self.image.config:
            del values["image"]["config"]  # likewise
        if not self.image.colour_bins:
            del values["image"]["colour_bins"]  # likewise
        return values

    @classmethod
    def from_architecture(cls, values: Mapping[str, Any]) -> "TowerConfig":
        """Build a configuration from the values of to_architecture().

        Raises:
            TowerError: a value is missing or unknown.
        """
        try:
            image = {**values["image"], "blocks": tuple(values["image"]["blocks"])}
            return cls(
                **{
                    **values,
                    "text": TextEncoderSpec(**values["text"]),
                    "image": ImageEncoderSpec(**image),
                    "image_mean": tuple(values["image_mean"]),
                    "image_std": tuple(values["image_std"]),
                    "matryoshka": tuple(values.get("matryoshka", ())),
                    "features": None if (features := values.get("features")) is None else FeatureSpec.from_json(features),
                }
            )
        except (KeyError, TypeError, InvalidInput) as error:
            raise TowerError(f"the card's architecture cannot be built by this version of Gavel: {error}; train again") from error


PRESETS: dict[str, TowerConfig] = {
    # text [CLS] 768 + photo 2048 -> 2816 -> 512 -> 128; query 768 -> 512 -> 128
    "distilbert-resnet50": TowerConfig(
        preset="distilbert-resnet50",
        text=TextEncoderSpec(model="distilbert-base-uncased"),
        image=ImageEncoderSpec(name="resnet50", weights="IMAGENET1K_V2"),
        max_length=256,
    ),
    # text 128 + photo 256 -> 384 -> 256 -> 128; query 128 -> 256 -> 128; trained from scratch on the catalogue
    "compact": TowerConfig(
        preset="compact",
        text=TextEncoderSpec(
            config={
                "model_type": "distilbert",
                "dim": 128,
                "n_layers": 2,
                "n_heads": 4,
                "hidden_dim": 256,
                "dropout": 0.0,  # dropout inside the encoder slows learning and steps; the projections have dropout
                "attention_dropout": 0.0,
                "max_position_embeddings": 128,
            },
            pooling="mean",  # from scratch [CLS] learns far slower than the mean
        ),
        image=ImageEncoderSpec(name=SMALL_RESNET),
        hidden=256,
        max_length=64,
        image_size=64,
        shared_text_encoder=True,
        vocabulary=8_192,
    ),
    # a published sentence encoder, 384 wide, in both towers; with use_image, photos are added to its vectors
    "minilm": TowerConfig(
        preset="minilm",
        text=TextEncoderSpec(
            model=MINILM,
            config={
                "model_type": "bert",
                "hidden_size": 384,
                "num_hidden_layers": 6,
                "num_attention_heads": 12,
                "intermediate_size": 1_536,
            },
            pooling="mean",
        ),
        image=ImageEncoderSpec(name=SMALL_RESNET),
        hidden=0,
        dimensions=384,
        image_size=64,
        use_image=False,
        shared_text_encoder=True,
    ),
}
# the same for fifty languages, with translations of a text close together; of_encoder() takes other encoders by name or folder.
# The text encoder is frozen, so that languages without training queries keep their vectors; linear maps adapt it.
PRESETS["multilingual"] = replace(
    PRESETS["minilm"],
    preset="multilingual",
    linear=True,
    text=replace(
        PRESETS["minilm"].text,
        model=MULTILINGUAL_MINILM,
        config={**PRESETS["minilm"].text.config, "num_hidden_layers": 12},
        trainable="none",
    ),
)


def preset(name: str) -> TowerConfig:
    """Find a preset by name.

    Raises:
        InvalidInput: no preset has this name; the message lists the names.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise InvalidInput(f"there is no preset {name!r}; known are {', '.join(PRESETS)}") from None
