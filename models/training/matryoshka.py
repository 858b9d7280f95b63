"""Vectors whose first numbers serve alone (Matryoshka representation learning, Kusupati et al. 2022)."""

from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.nn import functional as F


def prefixes(vectors: Tensor, lengths: Sequence[int] = ()) -> Iterator[Tensor]:
    """The vectors at every length that they are trained for; a Matryoshka loss is the mean of the losses of them all.

    Args:
        vectors: (B, D) of unit length.
        lengths: shorter lengths, each in [1, D).

    Yields:
        The vectors themselves, then for each length, in the order given, their first numbers (B, length) of unit length.
    """
    yield vectors
    for length in lengths:
        yield F.normalize(vectors[:, :length], dim=1)  # (B, length)
