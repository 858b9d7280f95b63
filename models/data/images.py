"""Batches of photos as tensors: from bytes to the image encoder's input, and their augmentation.

Crop, mirroring and light are changed, because two photos of one item differ in these. Hue stays, because buyers search for
colours.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.config.training import Augmentation


def to_unit(pixels: Tensor) -> Tensor:
    """Turn bytes (B, S, S, 3) into floats (B, 3, S, S) in [0, 1]."""
    return pixels.permute(0, 3, 1, 2).float() / 255.0


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Shift and scale each colour of pixels (B, 3, S, S) in [0, 1]: (pixel - mean) / std."""
    shape = (1, 3, 1, 1)
    return (pixels - torch.tensor(mean, device=pixels.device).view(shape)) / torch.tensor(std, device=pixels.device).view(shape)


def augment(pixels: Tensor, side: int, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Augment each photo by its own random crop, flip, turn, light and erased square, and scale it to the tower's side.

    Args:
        pixels: (B, 3, S, S) float in [0, 1].
        side: side of the result in pixels.
        how: strengths of the augmentation.
        generator: source of all randomness, on the CPU.

    Returns:
        (B, 3, side, side) float in [0, 1].
    """
    photos = len(pixels)
    if not photos:
        return pixels.new_zeros(0, 3, side, side)
    grid = F.affine_grid(_crops(photos, how, generator).to(pixels), [photos, 3, side, side], align_corners=False)
    crops = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)  # (B, 3, side, side)
    brightness = 1 + how.light * _uniform(generator, photos, -1, 1).to(pixels).view(-1, 1, 1, 1)
    contrast = 1 + how.light * _uniform(generator, photos, -1, 1).to(pixels).view(-1, 1, 1, 1)
    middle = crops.mean(dim=(1, 2, 3), keepdim=True)  # (B, 1, 1, 1)
    lit = ((crops - middle) * contrast + middle) * brightness
    return _erase(lit.clamp(0, 1), how, generator)


def _crops(photos: int, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Return affine maps (B, 2, 3) from the result's coordinates, -1 to 1, to the photo's."""
    side = _uniform(generator, photos, how.crop, 1).sqrt()
    stretch = torch.exp(_uniform(generator, photos, -1, 1) * math.log(how.stretch) / 2)
    width, height = (side * stretch).clamp(max=1), (side / stretch).clamp(max=1)
    mirror = torch.where(_uniform(generator, photos, 0, 1) < how.flip, -1.0, 1.0)
    angle = _uniform(generator, photos, -1, 1) * math.radians(how.rotate)
    shift_x = _uniform(generator, photos, -1, 1) * (1 - width)
    shift_y = _uniform(generator, photos, -1, 1) * (1 - height)
    across = torch.stack([mirror * width * angle.cos(), -height * angle.sin(), shift_x], dim=1)  # (B, 3)
    down = torch.stack([mirror * width * angle.sin(), height * angle.cos(), shift_y], dim=1)  # (B, 3)
    return torch.stack([across, down], dim=1)


def _erase(pixels: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Hide a grey square in a share `erase` of the photos (after Zhong et al. 2020, who use noise)."""
    if not how.erase:
        return pixels
    photos, side = len(pixels), pixels.shape[-1]
    half = _uniform(generator, photos, 0.1, 0.25) * side
    half = torch.where(_uniform(generator, photos, 0, 1) < how.erase, half, torch.zeros(photos))
    inside = []
    for _ in range(2):  # down, across
        centre = _uniform(generator, photos, 0, side)
        inside.append((torch.arange(side).view(1, -1) + 0.5 - centre.view(-1, 1)).abs() < half.view(-1, 1))  # (B, side)
    hidden = inside[0].view(photos, 1, side, 1) & inside[1].view(photos, 1, 1, side)
    return pixels.masked_fill(hidden.to(pixels.device), 0.5)


def _uniform(generator: torch.Generator, count: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)
