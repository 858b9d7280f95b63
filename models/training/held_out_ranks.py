"""Recall of held-out interactions among all items, by their ranks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.data.pair_table import PairTable
from retrieval.progress import Progress, ignore_progress

BLOCK = 128  # users ranked at once; with 100,000 items their scores take 51 MB

Score = Callable[[Tensor], Tensor]  # indices of users (B,) -> scores (B, I), higher ranks earlier


def held_out_recall(
    score: Score,
    hidden: PairTable,
    held_out: PairTable,
    cutoffs: Sequence[int],
    *,
    users: Tensor | None = None,
    progress: Progress = ignore_progress,
) -> Tensor:
    """Return the share of each user's held-out items among the first items of the user's list.

    Only scores are compared, so no list is sorted. Of items with equal scores the one with the lower index ranks first.

    Args:
        score: scores of all items for a block of users.
        hidden: items to leave out of a user's list, because the user took them before.
        held_out: items that the user took afterwards; none of them is hidden.
        cutoffs: K lengths of the list.
        users: (B,) users to measure; None measures all.
        progress: called with (users done, users).

    Returns:
        (V, K) in [0, 1] for the V users with a held-out item, in their order.
    """
    users = torch.arange(held_out.shape[0]) if users is None else users
    users = users[held_out.counts[users] > 0]
    limits, recalls = torch.tensor(list(cutoffs)), []
    for start in range(0, len(users), BLOCK):
        block = users[start : start + BLOCK]
        scores = score(block).masked_fill(hidden.rows(block), -torch.inf)  # (B, I)
        hits = torch.zeros(len(block), len(limits))
        for number in range(int(held_out.counts[block].max())):
            has = (held_out.counts[block] > number).nonzero().flatten()  # users with so many held-out items
            own = torch.stack([held_out.items_of(int(user))[number] for user in block[has]])
            hits[has] += (_ranks(scores if len(has) == len(block) else scores[has], own)[:, None] < limits).float()
        recalls.append(hits / held_out.counts[block][:, None])
        progress(start + len(block), len(users))
    return torch.cat(recalls) if recalls else torch.zeros(0, len(limits))


def _ranks(scores: Tensor, items: Tensor) -> Tensor:
    """Return the rank from 0 of one item in each row: (B, I), (B,) -> (B,)."""
    own = scores.gather(1, items[:, None])  # (B, 1)
    better = (scores > own).sum(dim=1)
    ties = scores == own
    tied = (ties.sum(dim=1) > 1).nonzero().flatten()  # rare but for popularity
    if len(tied):
        is_before = torch.arange(scores.shape[1]) < items[tied, None]
        better[tied] += (ties[tied] & is_before).sum(dim=1)
    return better
