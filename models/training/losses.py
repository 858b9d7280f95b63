"""Losses that pull a query towards its items and push it from the others: InfoNCE, contrastive, triplet and batch-hard.

All take vectors of unit length, so a dot product is a cosine. All return a scalar, the weighted mean of their terms. Half
precision is summed in float32.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(
    queries: Tensor,
    items: Tensor,
    scale: Tensor | float,
    *,
    is_relevant: Tensor | None = None,
    weights: Tensor | None = None,
    log_q: Tensor | None = None,
    symmetric: bool = True,
) -> Tensor:
    """Return InfoNCE with in-batch negatives (van den Oord et al. 2018), symmetric as in CLIP (Radford et al. 2021).

    Args:
        queries: (Q, D) unit vectors.
        items: (B, D) unit vectors, B >= Q; row i < Q answers query i. The rows from Q on are further negatives of every query,
            random or mined. To use a mined item as a negative of a single query, mark it in is_relevant for the others.
        scale: 1 / temperature, > 0.
        is_relevant: (Q, B) bool, True where the item is known to answer the query. Off the diagonal such items are false
            negatives, and left out of the sums. The diagonal is ignored. None if no such item is known.
        weights: (Q,) >= 0, not all zero, weight of each pair; None weighs all the same.
        log_q: (B,) finite, log of each row's sampling probability, up to a constant for all. It is subtracted from the
            logits, so that frequent items are not pushed away because they are frequent (Yi et al., RecSys 2019,
            equation 4). No gradient flows through it. The other direction needs no correction: it compares queries for one
            item, so the item's constant cancels.
            symmetric: True averages with the loss of the other direction, where each of the first Q items retrieves its query.

    Returns:
        Scalar in the floating type of the inputs (float32 for half precision), >= 0: the weighted mean over the pairs.
        A query whose negatives are all masked has loss zero and gradient zero.
    """
    logits = scale * _cosines(queries, items)  # (Q, B)
    if is_relevant is not None:
        false_negative = is_relevant & ~torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(false_negative, float("-inf"))
    answers = torch.arange(len(queries), device=logits.device)  # (Q,)
    corrected = logits if log_q is None else logits - log_q.detach().to(logits)  # (Q, B)
    losses = F.cross_entropy(corrected, answers, reduction="none")  # (Q,)
    if symmetric:
        back = F.cross_entropy(logits[:, : len(queries)].T, answers, reduction="none")  # (Q,)
        losses = (losses + back) / 2
    return _weighted_mean(losses, weights)


def contrastive(queries: Tensor, items: Tensor, labels: Tensor, *, margin: float = 0.5, weights: Tensor | None = None) -> Tensor:
    """Return the contrastive loss of Hadsell, Chopra and LeCun (CVPR 2006) over the distance 1 - cosine.

    Args:
        queries: (Q, D) unit vectors.
        items: (B, D) unit vectors.
        labels: degree of match, 0 (none) to 1; a value between weighs both terms. (Q,) labels query i against item i, and
            needs B = Q; (Q, B) labels every query against every item.
        margin: distance beyond which an item without a match adds no loss, in (0, 2].
        weights: weights of the pairs, shaped like labels, >= 0, not all zero; 0 leaves a pair out, such as a false negative.
            None weighs all the same.

    Returns:
        Scalar >= 0: the weighted mean of half of `label * distance² + (1 - label) * max(0, margin - distance)²`.
    """
    cosines = _cosines(queries, items) if labels.ndim == 2 else _row_cosines(queries, items)  # like labels
    distances, labels = 1 - cosines, labels.to(cosines)
    losses = (labels * distances.square() + (1 - labels) * (margin - distances).clamp(min=0).square()) / 2
    return _weighted_mean(losses, weights)


def triplet(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    margin: float = 0.2,
    is_relevant: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the triplet loss of Schroff, Kalenichenko and Philbin (FaceNet, CVPR 2015), in cosines.

    For unit vectors a squared distance is 2 - 2 cosine. So a margin in cosines is half the same margin in squared distances.

    Args:
        queries: (Q, D) unit vectors.
        positives: (Q, D) unit vectors; row i answers query i.
        negatives: (Q, N, D) unit vectors, N per query; or (N, D), shared by all queries.
        margin: minimum difference of the positive's cosine and the negative's, >= 0.
        is_relevant: (Q, N) bool, True where the negative is known to answer the query; such a triplet is left out of the mean.
        weights: (Q,) weight of each query, >= 0, not all zero; None weighs all the same.

    Returns:
        Scalar >= 0: the weighted mean over the queries of each query's mean over its triplets (0 without triplets).
    """
    wide = _wide(queries)
    shared = negatives.ndim == 2
    away = _cosines(queries, negatives) if shared else torch.einsum("qd,qnd->qn", queries.to(wide), negatives.to(wide))  # (Q, N)
    losses = (margin + away - _row_cosines(queries, positives).unsqueeze(1)).clamp(min=0)  # (Q, N)
    counted = torch.ones_like(losses) if is_relevant is None else (~is_relevant).to(wide)  # (Q, N)
    per_query = (losses * counted).sum(1) / counted.sum(1).clamp(min=1)  # (Q,)
    return _weighted_mean(per_query, weights)


def batch_hard(
    queries: Tensor,
    items: Tensor,
    *,
    margin: float = 0.2,
    is_relevant: Tensor | None = None,
    weights: Tensor | None = None,
    symmetric: bool = True,
) -> Tensor:
    """Return the batch-hard triplet loss: each query against its hardest negative of the batch alone.

    After Hermans, Beyer and Leibe (2017) for the hardest of the batch, and VSE++ (Faghri et al., BMVC 2018) for two directions.

    Args:
        queries: (Q, D) unit vectors.
        items: (B, D) unit vectors, B >= Q; row i < Q answers query i. The rows from Q on are further negatives, random or mined.
        margin: minimum difference of the cosines of a query's own item and of its hardest negative, >= 0.
        is_relevant: (Q, B) bool, True where the item is known to answer the query; such an item is no negative.
        weights: (Q,) weight of each query, >= 0, not all zero; None weighs all the same.
        symmetric: True averages with the loss of the other direction: each of the first Q items against its hardest query.

    Returns:
        Scalar >= 0: the weighted mean over the pairs; 0 for a pair without a negative.
    """
    cosines = _cosines(queries, items)  # (Q, B)
    excluded = torch.eye(*cosines.shape, dtype=torch.bool, device=cosines.device)
    if is_relevant is not None:
        excluded = excluded | is_relevant
    own = cosines.diagonal()  # (Q,)
    away = cosines.masked_fill(excluded, float("-inf"))  # (Q, B)
    losses = (margin + away.amax(dim=1) - own).clamp(min=0)  # (Q,)
    if symmetric:
        back = (margin + away[:, : len(queries)].amax(dim=0) - own).clamp(min=0)  # (Q,)
        losses = (losses + back) / 2
    return _weighted_mean(losses, weights)


def prefixes(vectors: Tensor, lengths: Sequence[int] = ()) -> Iterator[Tensor]:
    """Yield vectors at every trained length (Matryoshka representation learning, Kusupati et al. 2022).

    A Matryoshka loss is the mean of the losses at all lengths.

    Args:
        vectors: (B, D) of unit length.
        lengths: shorter lengths, each in [1, D).

    Yields:
        The vectors themselves, then for each length, in the order given, their first numbers (B, length) of unit length.
    """
    yield vectors
    for length in lengths:
        yield F.normalize(vectors[:, :length], dim=1)  # (B, length)


def _wide(vectors: Tensor) -> torch.dtype:
    return torch.float64 if vectors.dtype == torch.float64 else torch.float32


def _cosines(queries: Tensor, items: Tensor) -> Tensor:
    """Return the cosine of every query with every item: (Q, D), (B, D) -> (Q, B)."""
    return queries.to(_wide(queries)) @ items.to(_wide(queries)).T


def _row_cosines(queries: Tensor, items: Tensor) -> Tensor:
    """Return the cosines row by row: (Q, D), (Q, D) -> (Q,)."""
    return (queries.to(_wide(queries)) * items.to(_wide(queries))).sum(1)


def _weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return losses.mean()
    weights = weights.to(losses)
    return (losses * weights).sum() / weights.sum()
