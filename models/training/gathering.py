"""One batch over several processes: each encodes a slice, all see all vectors, and gradients find their way back.

Every process computes the same loss from the same gathered vectors. A slice's vectors get the gradient of that loss times
the number of processes, so that the mean of the parameters' gradients over the processes is the gradient of one process
that encodes the whole batch; the temperature, whose gradient is whole on each, has the same mean.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, counts: Sequence[int]) -> Tensor:  # type: ignore[override]
        process = distributed.get_rank()
        ctx.processes = len(counts)
        ctx.first, ctx.end = sum(counts[:process]), sum(counts[: process + 1])
        padded = F.pad(own, (0, 0, 0, max(counts) - len(own))).contiguous()  # a gather wants equal shapes
        parts = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradients[0][ctx.first : ctx.end] * ctx.processes, None


def gather(own: Tensor, counts: Sequence[int]) -> Tensor:
    """The vectors of all processes, in their order, with gradients.

    Args:
        own: (counts[process], D), this process's slice.
        counts: rows of each process's slice; a single one gives `own` back.

    Returns:
        (sum(counts), D), the same on every process.
    """
    return own if len(counts) == 1 else _Gather.apply(own, counts)


def average_gradients(parameters: Iterable[nn.Parameter], processes: int) -> None:
    """Replace the gradients by their means over the processes; one that a process lacks counts as zero there.

    DistributedDataParallel would do it while the backward pass runs; but it wants one backward pass a step, through
    every parameter, which gradient caching and a slice without photos do not give.
    """
    if processes == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.flatten() for parameter in trained if parameter.grad is not None])
    distributed.all_reduce(flat)
    flat /= processes
    for parameter, mean in zip(trained, flat.split([parameter.numel() for parameter in trained]), strict=True):
        parameter.grad = mean.view_as(parameter)


def share_buffers(module: nn.Module, processes: int) -> None:
    """Give every process the first one's buffers, such as the running statistics of BatchNorm.

    Each process normalises a batch by its own slice (SyncBatchNorm needs GPUs): a tower with a ResNet learns a little
    differently from a number of processes than from one.
    """
    if processes > 1:
        for buffer in module.buffers():
            distributed.broadcast(buffer, src=0)
