"""Text and image encoders, by hub name, from a local path, or fresh.

Sources: DistilBERT (Sanh et al. 2019) through transformers.AutoModel; ResNet (He et al. 2016) through torchvision.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from pickle import UnpicklingError
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import logging as transformers_logging

from models.towers.colours import ColourHistogram
from models.towers.config import IMAGENET_MEAN, IMAGENET_STD, SMALL_RESNET, ImageEncoderSpec, TextEncoderSpec
from models.towers.model_files import find_published, unreachable
from retrieval.errors import InvalidInput, TowerError

# keys of a transformers configuration that do not describe the architecture
NON_ARCHITECTURE_KEYS = ("_name_or_path", "transformers_version", "architectures", "dtype", "id2label", "label2id", "problem_type")


class PartlyFrozen(nn.Module):
    """An encoder with parts that may be frozen. Frozen parts get no gradient, and run as in serving during training."""

    def __init__(self) -> None:
        super().__init__()
        self._frozen: list[nn.Module] = []

    def train(self, mode: bool = True) -> Self:
        """Switch between training and eval mode. Frozen parts stay in eval mode: no dropout, constant batch-norm statistics."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def _freeze_layers(self, trainable: str, transformer: nn.Module, count: int) -> None:
        """Freeze all but the last layers of a transformer with `count` layers; see _freeze()."""
        stacks = [m for m in transformer.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
        self._freeze(trainable, transformer, [[layer] for layer in (stacks[0] if stacks else ())], "layers")

    def _freeze(self, trainable: str, whole: nn.Module, parts: Sequence[Sequence[nn.Module]], kind: str) -> None:
        """Freeze all but the last parts of a network.

        Args:
            trainable: "all", "none" or "last-<n>", as in the specifications.
            whole: the network.
            parts: layers or stages of the network, from input to output.
            kind: name of the parts in the error message, "layers" or "stages".

        Raises:
            InvalidInput: the network has fewer than n parts.
        """
        whole.requires_grad_(trainable == "all")
        self._frozen = [] if trainable == "all" else [whole]
        if trainable.startswith("last-"):
            count = int(trainable.removeprefix("last-"))
            if count > len(parts):
                raise InvalidInput(f"trainable is {trainable!r}, but the encoder has {len(parts)} {kind}; give at most that many")
            last = {module for part in parts[-count:] for module in part}
            for module in last:
                module.requires_grad_(True)
            inside = {m for module in last for m in module.modules()}
            self._frozen = [m for m in whole.modules() if not inside & set(m.modules())]
        self.train(self.training)


class TextEncoder(PartlyFrozen):
    """A transformers encoder whose output is one vector per text.

    Attributes:
        width: length of that vector, 768 for DistilBERT.
    """

    def __init__(self, spec: TextEncoderSpec) -> None:
        """Load or build the encoder.

        Raises:
            TowerError: the named model is neither a local folder nor available from the hub.
        """
        super().__init__()
        self.pooling = spec.pooling
        self.transformer: PreTrainedModel = _load_transformer(spec)
        if not hasattr(self.transformer.config, "hidden_size"):
            kind = self.transformer.config.model_type
            raise TowerError(
                f"{spec.model!r} ({kind}) is no text encoder; models for words and pictures are for `gavel adapt --model` and "
                "`gavel embed --encoder`"
            )
        self.width: int = self.transformer.config.hidden_size
        self.train_only(spec.trainable)

    def train_only(self, trainable: str) -> None:
        """Choose the layers to train: "all", "none" or the last n ("last-<n>"). Embeddings are trained only with "all".

        Raises:
            InvalidInput: the encoder has fewer than n layers.
        """
        self._freeze_layers(trainable, self.transformer, self._layers)
        self.trainable = trainable

    @property
    def _layers(self) -> int:
        return int(self.transformer.config.num_hidden_layers)

    def checkpoint_activations(self) -> None:
        """Store only the inputs of the layers for the backward pass, which computes the rest again (Chen et al. 2016).

        Raises:
            InvalidInput: this kind of encoder does not support it.
        """
        try:
            self.transformer.activation_checkpointing_enable({"use_reentrant": False})
        except ValueError as error:
            kind = self.transformer.config.model_type
            raise InvalidInput(
                f"an encoder of type {kind!r} has no gradient checkpointing; leave it out, and set micro_batch to save memory"
            ) from error

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode token ids (B, L) with their mask (B, L) into (B, width)."""
        tokens: Tensor = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # (B, L, width)
        if self.pooling == "cls":
            return tokens[:, 0]  # (B, width)
        mask = attention_mask.unsqueeze(-1).to(tokens.dtype)  # (B, L, 1)
        return (tokens * mask).sum(1) / mask.sum(1).clamp(min=1.0)  # (B, width)

    @property
    def max_positions(self) -> int:
        """Largest number of tokens that the encoder has positions for."""
        config, embeddings = self.transformer.config, getattr(self.transformer, "embeddings", None)
        reserved = config.pad_token_id + 1 if hasattr(embeddings, "padding_idx") else 0  # RoBERTa counts after pad_token_id
        return int(config.max_position_embeddings - reserved)

    def resolved(self) -> TextEncoderSpec:
        """Return a specification of this encoder's architecture that does not need its hub name."""
        values = self.transformer.config.to_dict()
        config = {name: value for name, value in values.items() if name not in NON_ARCHITECTURE_KEYS}
        return TextEncoderSpec(config=config, pooling=self.pooling, trainable=self.trainable)


class ImageEncoder(PartlyFrozen):
    """A ResNet without its classifier, and beside it a histogram of the photo's colours if the specification has one.

    Attributes:
        width: length of a photo's vector, 2048 for ResNet50, and the histogram's length more.
        colours: the histogram; None without.
    """

    def __init__(self, spec: ImageEncoderSpec, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        """Load or build the encoder.

        Args:
            spec: source of the encoder.
            mean: RGB means that are subtracted from the pixels, which the histogram adds again.
            std: RGB deviations of the pixels, likewise.

        Raises:
            TowerError: the network or its weights are unknown, damaged or not available.
        """
        super().__init__()
        if spec.name == SMALL_RESNET:
            self.resnet, self.width = _small_resnet(spec.width, spec.blocks)
        else:
            self.resnet, self.width = _torchvision_resnet(spec)
        if spec.weights and (spec.name == SMALL_RESNET or _is_path(spec.weights)):
            _load_weights(self.resnet, Path(spec.weights))
        self.resnet.to(memory_format=torch.channels_last)  # a third faster on CPUs, and the layout for half precision on GPUs
        self._blocks, self._spec = spec.blocks if spec.name == SMALL_RESNET else (), spec
        self._add_colours(spec.colour_bins, mean, std)
        self.train_only(spec.trainable)

    def _add_colours(self, bins: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.colours = ColourHistogram(bins, mean, std) if bins else None
        self.width += self.colours.width if self.colours else 0

    def _with_colours(self, vectors: Tensor, pixels: Tensor) -> Tensor:
        """Append the histograms of the pixels (B, 3, S, S) to their vectors (B, W)."""
        return vectors if self.colours is None else torch.cat([vectors, self.colours(pixels).to(vectors.dtype)], dim=1)

    def train_only(self, trainable: str) -> None:
        """Choose the stages to train: "all", "none" or the last n ("last-<n>"). The stem is trained only with "all".

        Raises:
            InvalidInput: the encoder has fewer than n stages.
        """
        self._freeze(trainable, self.resnet, _stages(self.resnet, self._blocks), "stages")

    def resolved(self) -> ImageEncoderSpec:
        """Return a specification of this encoder's architecture that needs neither a hub nor a file of weights."""
        return replace(self._spec, weights="")

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode normalised pixels (B, 3, S, S) into (B, width)."""
        return self._with_colours(self.resnet(pixels.contiguous(memory_format=torch.channels_last)), pixels)


class BasicBlock(nn.Module):
    """The residual block of ResNet-18 (He et al. 2016), with torchvision's names of weights but without loading torchvision."""

    def __init__(self, channels: int, out: int, stride: int, downsample: nn.Module | None) -> None:
        """Build the block.

        Args:
            channels: channels of the input.
            out: channels of the output.
            stride: stride of the first convolution.
            downsample: module that brings the input to the output's shape; None if the shapes are equal.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block: (B, channels, H, W) -> (B, out, H / stride, W / stride)."""
        around = x if self.downsample is None else self.downsample(x)
        inside = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))  # (B, out, H / stride, W / stride)
        out: Tensor = self.relu(inside + around)
        return out


def _load_transformer(spec: TextEncoderSpec) -> PreTrainedModel:
    if not spec.model:
        values = dict(spec.config)
        transformer: PreTrainedModel = AutoModel.from_config(  # type: ignore[no-untyped-call]
            AutoConfig.for_model(values.pop("model_type"), **values)
        )
    else:
        try:
            with no_progress_bar():
                transformer = AutoModel.from_pretrained(find_published(spec.model), dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise TowerError(unreachable("text encoder", spec.model, error)) from error
    if hasattr(transformer, "pooler"):
        transformer.pooler = None  # type: ignore[assignment]  # BERT's classifier head, which neither pooling reads
    return transformer


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Disable transformers' progress bar, which would write into a command's own progress bar."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _stages(resnet: nn.Module, blocks: tuple[int, ...]) -> list[list[nn.Module]]:
    if not blocks:
        return [[getattr(resnet, f"layer{stage}")] for stage in (1, 2, 3, 4)]
    residual: list[nn.Module] = [module for module in resnet.children() if isinstance(module, BasicBlock)]
    ends = list(accumulate(blocks))
    return [residual[end - count : end] for count, end in zip(blocks, ends, strict=True)]


def _is_path(weights: str) -> bool:
    return Path(weights).suffix in (".pth", ".pt", ".safetensors") or Path(weights).exists()


def _torchvision_resnet(spec: ImageEncoderSpec) -> tuple[nn.Module, int]:
    from torchvision.models import get_model  # imported here, because it takes seconds that other towers do not need

    hub_weights = None if not spec.weights or _is_path(spec.weights) else spec.weights
    try:
        network = get_model(spec.name, weights=hub_weights)
    except (OSError, ValueError, KeyError) as error:
        raise TowerError(unreachable("image encoder", f"{spec.name} {spec.weights}".strip(), error)) from error
    width = network.fc.in_features
    network.fc = nn.Identity()
    return network, width


def _small_resnet(width: int, blocks: tuple[int, ...]) -> tuple[nn.Module, int]:
    """Build a ResNet of BasicBlocks for photos of 64 to 128 pixels, whose stem halves the side twice; return it and its width."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, kernel_size=5, stride=2, padding=2, bias=False),  # (B, width, S/2, S/2)
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=3, stride=2, padding=1),  # (B, width, S/4, S/4)
    ]
    channels = width
    for stage, count in enumerate(blocks):
        out = width * 2**stage
        for block in range(count):
            stride = 2 if block == 0 and stage > 0 else 1
            layers.append(BasicBlock(channels, out, stride, _shortcut(channels, out, stride)))
            channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels  # (B, channels)


def _shortcut(channels: int, out: int, stride: int) -> nn.Module | None:
    if stride == 1 and channels == out:
        return None
    return nn.Sequential(nn.Conv2d(channels, out, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(out))


def _load_weights(network: nn.Module, path: Path) -> None:
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})
    except FileNotFoundError as error:
        raise TowerError(f"image weights {path} are missing; give the path of a state dict (.pth or .safetensors)") from error
    except (OSError, RuntimeError, ValueError, AttributeError, EOFError, UnpicklingError, SafetensorError) as error:
        raise TowerError(f"image weights {path} do not fit the network, or are damaged: {str(error).splitlines()[0]}") from error
