"""Statistics of embeddings that show a collapse or an unused dimension while towers train."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def embedding_statistics(vectors: Tensor) -> dict[str, float]:
    """Return statistics of N >= 2 unit vectors (N, D), over all pairs of different rows.

    Returns:
        cosine_mean: mean cosine of two vectors, near 0 for a well-spread space, near 1 for a collapsed one.
        uniformity: log of the mean of exp(-2 d²) over the distances d of two vectors, <= 0; lower is more uniform
            (Wang and Isola, ICML 2020).
        std_mean: mean over the dimensions of their standard deviation; 1 / sqrt(D) for a uniform space.
        std_min: the smallest of these standard deviations; near 0 if a dimension is not used.
    """
    vectors = vectors.float()
    count = len(vectors)
    cosines = vectors @ vectors.T  # (N, N)
    pairs = cosines[~torch.eye(count, dtype=torch.bool, device=vectors.device)]  # (N (N - 1),)
    deviations = vectors.std(dim=0, correction=0)  # (D,)
    statistics = {
        "cosine_mean": pairs.mean(),
        "uniformity": torch.logsumexp(-2 * (2 - 2 * pairs), dim=0) - torch.tensor(float(len(pairs))).log(),
        "std_mean": deviations.mean(),
        "std_min": deviations.min(),
    }
    return {name: float(value) for name, value in statistics.items()}


@contextmanager
def record_norms(projections: Sequence[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """Record the lengths of the vectors that some projections return, before these are normalised.

    Yields:
        One list per projection, which gets a tensor (B,) for each call inside the context.
    """
    norms: list[list[Tensor]] = [[] for _ in projections]

    def hook(place: int) -> Any:
        def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
            norms[place].append(torch.linalg.vector_norm(output.detach().float(), dim=1))

        return record

    handles = [projection.register_forward_hook(hook(place)) for place, projection in enumerate(projections)]
    try:
        yield norms
    finally:
        for handle in handles:
            handle.remove()
