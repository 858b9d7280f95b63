"""Large batches in little memory: gradient caching (Gao et al., RepL4NLP 2021).

A contrastive loss needs the vectors of the whole batch, but not their graphs. So all vectors are computed without graphs, and
the loss yields the gradient of each vector. Then every chunk is encoded again, with its graph, and passes the gradients on.
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

    Up to rounding, the gradients equal those of a single pass, also with dropout. BatchNorm normalises each chunk separately,
    like a batch of that size.

    Args:
        groups: chunks of each argument of the loss, in the order of the rows. A chunk returns vectors; a second call must return
            the same vectors if torch's random state is the same.
        loss: function from one tensor of vectors (rows, D) per group to a scalar.
        backward: function that runs the backward pass of a scalar, such as Accelerator.backward.
        module: module that the chunks run; its running statistics are updated only in the second pass.

    Returns:
        The loss, without a graph.
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
