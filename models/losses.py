"""Contrastive losses over a batch of queries and lots."""

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(
    queries: Tensor,
    items: Tensor,
    scale: Tensor | float,
    *,
    known: Tensor | None = None,
    weights: Tensor | None = None,
    symmetric: bool = True,
) -> Tensor:
    """InfoNCE with in-batch negatives (van den Oord et al. 2018), symmetric as in CLIP (Radford et al. 2021).

    Args:
        queries: (Q, D) unit vectors.
        items: (B, D) unit vectors, B >= Q; row i < Q answers query i, the others are further negatives.
        scale: 1 / temperature, > 0.
        known: (Q, B) bool, True where the lot is known to answer the query. Off the diagonal such lots are false
            negatives and leave the sums; the diagonal may be either. None: there are none.
        weights: (Q,) >= 0, not all zero, weight of each pair; None weighs all the same.
        symmetric: average with the loss of the other direction, where each of the first Q lots looks for its query.

    Returns:
        Scalar in the floating type of the inputs (float32 for half precision), >= 0: the weighted mean over the pairs.
    """
    wide = torch.float64 if queries.dtype == torch.float64 else torch.float32
    logits = scale * (queries.to(wide) @ items.to(wide).T)  # (Q, B)
    if known is not None:
        false_negative = known & ~torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(false_negative, float("-inf"))
    answers = torch.arange(len(queries), device=logits.device)  # (Q,)
    losses = F.cross_entropy(logits, answers, reduction="none")  # (Q,)
    if symmetric:
        back = F.cross_entropy(logits[:, : len(queries)].T, answers, reduction="none")  # (Q,)
        losses = (losses + back) / 2
    if weights is None:
        return losses.mean()
    weights = weights.to(wide)
    return (losses * weights).sum() / weights.sum()
