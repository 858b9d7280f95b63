"""Text and image encoders, by hub name, from a local path, or fresh.

Sources: DistilBERT (Sanh et al. 2019) through transformers.AutoModel; ResNet (He et al. 2016) through torchvision.
"""

from pathlib import Path
from pickle import UnpicklingError

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock
from transformers import AutoConfig, AutoModel

from models.presets import SMALL_RESNET, ImageEncoderSpec, TextEncoderSpec
from retrieval.errors import TowerError

# what transformers writes into a configuration besides the architecture
NOT_ARCHITECTURE = ("_name_or_path", "transformers_version", "architectures", "dtype", "id2label", "label2id", "problem_type")


class TextEncoder(nn.Module):
    """A transformers encoder whose output is one vector a text.

    Attributes:
        width: length of that vector, 768 for DistilBERT.
    """

    def __init__(self, spec: TextEncoderSpec) -> None:
        """Load or build the encoder.

        Raises:
            TowerError: the named model is neither a local folder nor to be had from the hub.
        """
        super().__init__()
        self.pooling = spec.pooling
        self.transformer = _load_transformer(spec)
        self.width: int = self.transformer.config.hidden_size

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode token ids (B, L) with their mask (B, L) into (B, width)."""
        tokens = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # (B, L, width)
        if self.pooling == "cls":
            return tokens[:, 0]  # (B, width)
        mask = attention_mask.unsqueeze(-1).to(tokens.dtype)  # (B, L, 1)
        return (tokens * mask).sum(1) / mask.sum(1).clamp(min=1.0)  # (B, width)

    @property
    def max_positions(self) -> int:
        """The longest text that the encoder has positions for, in tokens."""
        return self.transformer.config.max_position_embeddings

    def resolved(self) -> TextEncoderSpec:
        """The specification from which this encoder is built again without its hub name."""
        values = self.transformer.config.to_dict()
        return TextEncoderSpec(config={k: v for k, v in values.items() if k not in NOT_ARCHITECTURE}, pooling=self.pooling)


class ImageEncoder(nn.Module):
    """A ResNet without its classifier.

    Attributes:
        width: length of the pooled vector, 2048 for ResNet50.
    """

    def __init__(self, spec: ImageEncoderSpec) -> None:
        """Load or build the encoder.

        Raises:
            TowerError: the network or its weights are unknown, damaged or out of reach.
        """
        super().__init__()
        if spec.name == SMALL_RESNET:
            self.resnet, self.width = _small_resnet(spec.width, spec.blocks)
        else:
            self.resnet, self.width = _torchvision_resnet(spec)
        if spec.weights and (spec.name == SMALL_RESNET or _is_path(spec.weights)):
            _load_weights(self.resnet, Path(spec.weights))
        self.resnet.to(memory_format=torch.channels_last)  # a third faster on CPUs, and what half precision on GPUs wants

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode normalised pixels (B, 3, S, S) into (B, width)."""
        return self.resnet(pixels.contiguous(memory_format=torch.channels_last))


def _load_transformer(spec: TextEncoderSpec) -> nn.Module:
    if not spec.model:
        values = dict(spec.config)
        return AutoModel.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    try:
        return AutoModel.from_pretrained(spec.model)
    except (OSError, ValueError) as error:
        raise TowerError(unreachable("text encoder", spec.model, error)) from error


def unreachable(what: str, name: str, error: BaseException) -> str:
    """The message about a pretrained model that cannot be had, with the way out."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"{what} {name!r} is neither a readable local path nor to be had from its hub ({reason}); download it where there is "
        "a network and give the path of the copy instead of the name, or take preset 'compact', which needs no download"
    )


def _is_path(weights: str) -> bool:
    return Path(weights).suffix in (".pth", ".pt", ".safetensors") or Path(weights).exists()


def _torchvision_resnet(spec: ImageEncoderSpec) -> tuple[nn.Module, int]:
    hub_weights = None if not spec.weights or _is_path(spec.weights) else spec.weights
    try:
        network = torchvision.models.get_model(spec.name, weights=hub_weights)
    except (OSError, ValueError, KeyError) as error:
        raise TowerError(unreachable("image encoder", f"{spec.name} {spec.weights}".strip(), error)) from error
    width = network.fc.in_features
    network.fc = nn.Identity()
    return network, width


def _small_resnet(width: int, blocks: tuple[int, ...]) -> tuple[nn.Module, int]:
    """A ResNet of BasicBlocks whose stem halves the side twice, for photos of 64 to 128 pixels."""
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
