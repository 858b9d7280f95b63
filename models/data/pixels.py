"""Photos as tensors: from bytes to what the image encoder reads."""

from collections.abc import Sequence

import torch
from torch import Tensor


def to_unit(pixels: Tensor) -> Tensor:
    """Turn bytes (B, S, S, 3) into floats (B, 3, S, S) in [0, 1]."""
    return pixels.permute(0, 3, 1, 2).float() / 255.0


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Shift and scale each colour of pixels (B, 3, S, S) in [0, 1]: (pixel - mean) / std."""
    shape = (1, 3, 1, 1)
    return (pixels - torch.tensor(mean, device=pixels.device).view(shape)) / torch.tensor(std, device=pixels.device).view(shape)
