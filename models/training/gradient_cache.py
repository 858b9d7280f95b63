"""Large batches in little memory: gradient caching (Gao et al., RepL4NLP 2021).

A contrastive loss needs the vectors of the whole batch, but not their graphs: the vectors are made without graphs, the loss
gives each its gradient, and every chunk is encoded once more, with its graph, to pass that gradient on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Chunk = Callable[[], Tensor]


def backward_in_chunks(
    groups: Sequence[Sequence[Chunk]],
    loss: Callable[..., Tensor],
    backward: Callable[[Tensor], None],
    module: nn.Module,
) -> Tensor:
    """Run the backward pass of `loss(*vectors)` with the graph of no more than one chunk in memory.

    Gradients equal those of one pass up to rounding, dropout included. BatchNorm normalises each chunk by itself, as it
    would any batch of that size.

    Args:
        groups: for each argument of the loss the chunks that make its rows; a chunk encodes the same way when it is
            called again, but for torch's random numbers.
        loss: from vectors (rows, D), one for each group, to a scalar.
        backward: runs the backward pass of a scalar, such as Accelerator.backward.
        module: what the chunks run; its running statistics move once.

    Returns:
        The loss, without graph.
    """
    states: list[Tensor | tuple[Tensor, Tensor]] = []
    vectors = []
    with torch.no_grad(), _running_statistics_stay(module):
        for chunks in groups:
            parts = []
            for chunk in chunks:
                states.append(_random_state())
                parts.append(chunk())
            vectors.append(torch.cat(parts).requires_grad_())
    value = loss(*vectors)
    backward(value)
    after = _random_state()
    remaining = iter(states)
    for chunks, whole in zip(groups, vectors, strict=True):
        first = 0
        for chunk in chunks:
            _set_random_state(next(remaining))
            again = chunk()
            if whole.grad is not None and again.requires_grad:
                torch.autograd.backward(again, whole.grad[first : first + len(again)].to(again.dtype))
            first += len(again)
    _set_random_state(after)
    return value.detach()


def _random_state() -> tuple[Tensor, Tensor] | Tensor:
    cpu = torch.get_rng_state()
    return (cpu, torch.cuda.get_rng_state()) if torch.cuda.is_available() else cpu


def _set_random_state(state: tuple[Tensor, Tensor] | Tensor) -> None:
    if isinstance(state, tuple):
        torch.set_rng_state(state[0])
        torch.cuda.set_rng_state(state[1])
    else:
        torch.set_rng_state(state)


@contextmanager
def _running_statistics_stay(module: nn.Module) -> Iterator[None]:
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked.clone() if norm.num_batches_tracked is not None else None for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)
