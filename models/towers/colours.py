"""The colours of a photo as numbers: a histogram over cells of the RGB cube."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ColourHistogram(nn.Module):
    """A histogram of the colours of a photo, with `bins` equal parts of each of red, green and blue.

    Each number is the square root of the share of the pixels in a cell, so a histogram has unit length. It has no weights, and its
    counts are exact, so it is the same in torch, in ONNX and on a GPU.

    Attributes:
        width: length of a histogram, bins³.
    """

    def __init__(self, bins: int, mean: Sequence[float], std: Sequence[float]) -> None:
        """Build the histogram.

        Args:
            bins: parts of each channel, >= 1.
            mean: RGB means that were subtracted from the pixels.
            std: RGB deviations that the difference was divided by.
        """
        super().__init__()
        self.bins, self.width = bins, bins**3
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the histograms (B, bins³) float32 of normalised pixels (B, 3, S, S)."""
        unit = pixels.float() * self.get_buffer("std") + self.get_buffer("mean")  # (B, 3, S, S) in [0, 1]
        cells = (unit * self.bins).floor().clamp(0, self.bins - 1).long().flatten(2)  # (B, 3, S * S)
        places = (cells[:, 0] * self.bins + cells[:, 1]) * self.bins + cells[:, 2]  # (B, S * S)
        counts = torch.zeros(pixels.shape[0], self.width, device=pixels.device)  # len() would fix the number of photos in an export
        counts = counts.scatter_add(1, places, torch.ones_like(places, dtype=torch.float32))  # (B, bins³)
        return (counts / places.shape[1]).sqrt()
