"""The buyer tower encodes a buyer's items as one vector, by a learnt attention that starts as the weighted average.

    items (N, D) ┬ share = weight x 0.5 ^ (age / half-life) ──────────── average -> L2 ┐
                └ softmax over interactions of                                        + -> L2
                    context · item + a · log weight - fade · age ── H heads -> L2 -> blend ┘

Each head learns one context, the query of the attention, as in the pooling of Lin et al. 2017 ("A structured
self-attentive sentence embedding"); keys and values are the items themselves, so new items count like any other.
`blend` starts at zero, after the residual branches of Zhang et al. 2019 ("Fixup").
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FADE_DAYS = 30.0  # days per unit of a head's fade
MASKED = -1e9


class InteractionBatch(NamedTuple):
    """The interactions of B buyers, the oldest first, padded to the longest history.

    Attributes:
        rows: (B, N) int64, rows of a table of items.
        weights: (B, N) float, weight of each interaction (Interaction.weight), > 0; 0 is padding.
        ages_days: (B, N) float >= 0, days before the buyer's latest interaction.
    """

    rows: Tensor
    weights: Tensor
    ages_days: Tensor


class BuyerAttention(nn.Module):
    """Attention over a buyer's interactions, added to their weighted average; without heads, only that average.

    Attributes:
        heads: number of learned contexts; 0 for only the weighted average.
        half_life_days: age in days at which an interaction counts half in the average; None for no decay.
    """

    def __init__(self, dimensions: int, heads: int = 1, half_life_days: float | None = None) -> None:
        super().__init__()
        self.heads, self.half_life_days = heads, half_life_days
        self.context = nn.Parameter(torch.randn(heads, dimensions) / math.sqrt(dimensions))
        self.weight_share = nn.Parameter(torch.ones(heads))
        self.fade = nn.Parameter(torch.linspace(-3.0, 1.0, heads) if heads > 1 else torch.full((heads,), -1.0))
        self.blend = nn.Parameter(torch.zeros(dimensions, heads * dimensions))
        self.bias = nn.Parameter(torch.zeros(dimensions))

    def forward(self, items: Tensor, interactions: InteractionBatch) -> Tensor:
        """Encode B buyers.

        Args:
            items: (U, D) of unit length: every item of the interactions, once.
            interactions: interactions of the B buyers; their rows index `items`.

        Returns:
            (B, D) of unit length.
        """
        average = _pool(self._average_weights(interactions).unsqueeze(0), items, interactions.rows)  # (1, B, D)
        if not self.heads:
            return average[0]
        pooled = _pool(self._attention(items, interactions), items, interactions.rows)  # (H, B, D)
        return F.normalize(
            average[0] + F.linear(pooled.transpose(0, 1).flatten(1), self.blend, self.bias), dim=1
        )  # (B, H D) -> (B, D)

    def _average_weights(self, interactions: InteractionBatch) -> Tensor:
        fading = 1.0 if self.half_life_days is None else 0.5 ** (interactions.ages_days / self.half_life_days)
        decayed = interactions.weights * fading  # (B, N)
        return decayed / decayed.sum(1, keepdim=True)

    def _attention(self, items: Tensor, interactions: InteractionBatch) -> Tensor:
        """Return the attention weights (H, B, N) of each head."""
        logits = F.embedding(interactions.rows, items @ self.context.T)  # (U, H) -> (B, N, H)
        logits = logits + self.weight_share * interactions.weights.clamp(min=1e-9).log().unsqueeze(2)
        logits = logits - F.softplus(self.fade) * (interactions.ages_days / FADE_DAYS).unsqueeze(2)
        logits = logits.masked_fill((interactions.weights == 0).unsqueeze(2), MASKED)
        return logits.softmax(dim=1).permute(2, 0, 1)


def _pool(weights: Tensor, items: Tensor, rows: Tensor) -> Tensor:
    """Return weighted sums of items, (H, B, N) -> (H, B, D) of unit length. Weights of repeated items are added first."""
    heads, buyers, _ = weights.shape
    by_item = weights.new_zeros(heads, buyers, len(items)).scatter_add(2, rows.expand(heads, -1, -1), weights)  # (H, B, U)
    return F.normalize(by_item @ items, dim=2)
