"""Whitening: a linear projection to start from, under which the texts of a catalogue differ alike in every direction.

Sentence encoders crowd their vectors into a narrow cone, where the average of many lots says little of each; centring and
whitening undoes that without training (Su et al. 2021, "Whitening sentence representations").
"""

import numpy as np
import torch
from numpy.typing import NDArray

from models.towers.two_towers import Addition
from retrieval.errors import InvalidInput

LEAST_VARIANCE = 1e-4  # added to that of every direction, so that those that hold noise alone are not blown up


@torch.no_grad()
def start_white(projection: torch.nn.Module, encodings: NDArray[np.float32]) -> None:
    """Set a linear projection to the whitening of a catalogue's encodings.

    Args:
        projection: of an item tower with hidden 0, linear, and features, whose linear layer's bias takes the centre.
        encodings: (N, width) of the lots' texts.

    Raises:
        InvalidInput: it is no such projection.
    """
    if not (isinstance(projection, Addition) and isinstance(projection.text, torch.nn.Linear) and projection.others):
        raise InvalidInput("only a linear projection of text and features can start as a whitening: hidden 0, linear, features")
    units = encodings / np.linalg.norm(encodings, axis=1, keepdims=True)  # (N, width)
    centre = units.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov((units - centre).T, bias=True))  # ascending
    kept = slice(-projection.text.out_features, None)
    white = (directions[:, kept] / np.sqrt(np.maximum(variances[kept], 0) + LEAST_VARIANCE)).T  # (dimensions, width)
    scale = 1 / np.linalg.norm((units - centre) @ white.T, axis=1).mean()  # vectors of about unit length
    projection.text.weight.copy_(torch.from_numpy(white * scale))
    projection.others.bias.copy_(torch.from_numpy(-(white @ centre) * scale))
