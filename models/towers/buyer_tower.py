"""The buyer tower: the lots that a buyer acted on become one vector, by a learnt attention that starts as the weighted average.

    lots (N, D) ┬ share = weight x 0.5 ^ (age / half-life) ──────────── average -> L2 ┐
                └ softmax over the acts of                                            + -> L2
                    context · lot + a · log weight - fade · age ── H heads -> L2 -> blend ┘

One context a head is learned and is the query of the attention, as in the pooling of Lin et al. 2017 ("A structured
self-attentive sentence embedding"); keys and values are the lots themselves, so that a lot of tonight counts like any other.
`blend` starts at zero, after the residual branches of Zhang et al. 2019 ("Fixup").
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FADE_DAYS = 30.0  # unit of a head's fading
MASKED = -1e9


class Acts(NamedTuple):
    """The acts of B buyers, the oldest first, padded to the longest history.

    Attributes:
        places: (B, N) int64, rows of a table of lots.
        weights: (B, N) float, how much each act says (Interaction.weight); > 0, and 0 where there is no act.
        ages_days: (B, N) float >= 0, days before the buyer's latest act.
    """

    places: Tensor
    weights: Tensor
    ages_days: Tensor


class BuyerAttention(nn.Module):
    """Attention over a buyer's acts, added to their weighted average; without heads it is that average.

    Attributes:
        heads: contexts that are learned; 0 for the weighted average alone.
        half_life_days: age at which an act counts half in the average; None for never.
    """

    def __init__(self, dimensions: int, heads: int = 1, half_life_days: float | None = None) -> None:
        super().__init__()
        self.heads, self.half_life_days = heads, half_life_days
        self.context = nn.Parameter(torch.randn(heads, dimensions) / math.sqrt(dimensions))
        self.weight_share = nn.Parameter(torch.ones(heads))
        self.fade = nn.Parameter(torch.linspace(-3.0, 1.0, heads) if heads > 1 else torch.full((heads,), -1.0))
        self.blend = nn.Parameter(torch.zeros(dimensions, heads * dimensions))
        self.bias = nn.Parameter(torch.zeros(dimensions))

    def forward(self, lots: Tensor, acts: Acts) -> Tensor:
        """Encode B buyers.

        Args:
            lots: (U, D) of unit length: every lot that is named, once.
            acts: theirs.

        Returns:
            (B, D) of unit length.
        """
        average = _pool(self._shares(acts).unsqueeze(0), lots, acts.places)  # (1, B, D)
        if not self.heads:
            return average[0]
        seen = _pool(self._attention(lots, acts), lots, acts.places)  # (H, B, D)
        return F.normalize(
            average[0] + F.linear(seen.transpose(0, 1).flatten(1), self.blend, self.bias), dim=1
        )  # (B, H D) -> (B, D)

    def _shares(self, acts: Acts) -> Tensor:
        fading = 1.0 if self.half_life_days is None else 0.5 ** (acts.ages_days / self.half_life_days)
        shares = acts.weights * fading  # (B, N)
        return shares / shares.sum(1, keepdim=True)

    def _attention(self, lots: Tensor, acts: Acts) -> Tensor:
        """(H, B, N), each head's shares of the acts."""
        logits = F.embedding(acts.places, lots @ self.context.T)  # (U, H) -> (B, N, H)
        logits = logits + self.weight_share * acts.weights.clamp(min=1e-9).log().unsqueeze(2)
        logits = logits - F.softplus(self.fade) * (acts.ages_days / FADE_DAYS).unsqueeze(2)
        logits = logits.masked_fill((acts.weights == 0).unsqueeze(2), MASKED)
        return logits.softmax(dim=1).permute(2, 0, 1)


def _pool(shares: Tensor, lots: Tensor, places: Tensor) -> Tensor:
    """Sums of lots by their shares: (H, B, N) -> (H, B, D) of unit length; a lot that comes often is read once."""
    heads, buyers, _ = shares.shape
    by_lot = shares.new_zeros(heads, buyers, len(lots)).scatter_add(2, places.expand(heads, -1, -1), shares)  # (H, B, U)
    return F.normalize(by_lot @ lots, dim=2)
