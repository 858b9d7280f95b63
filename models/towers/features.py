"""A tower over structured features: categories as embeddings, numbers standardised.

A recommender uses such a tower for users and another for items. The item tower uses only encode(), before its own projection.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrieval.encoders.feature_spec import UNKNOWN, FeatureSpec, Row
from retrieval.errors import InvalidInput


class Features(NamedTuple):
    """Input of a tower: a batch of encoded rows.

    Attributes:
        categories: (B, C) int64, ids in the vocabularies; 0 is unknown.
        numbers: (B, 2 N) float32: N standardised values, then N flags, 1 where the value was missing.
    """

    categories: Tensor
    numbers: Tensor

    def take(self, rows: Tensor) -> "Features":
        """Return the rows of these indices, in their order."""
        return Features(self.categories[rows], self.numbers[rows])

    def to(self, device: torch.device) -> "Features":
        """Return the features on another device."""
        return Features(self.categories.to(device), self.numbers.to(device))

    @classmethod
    def of(cls, spec: FeatureSpec, rows: Sequence[Row]) -> "Features":
        """Encode rows as FeatureSpec.encode() does, as tensors."""
        return cls(*map(torch.from_numpy, spec.encode(rows)))


class FeatureTower(nn.Module):
    """A tower over structured features: embeddings and numbers -> hidden -> ReLU -> dropout -> dimensions -> L2.

    Attributes:
        spec: features of the input.
        width: length of the vectors of encode(), for a tower that concatenates them.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        hidden: int,
        dimensions: int,
        *,
        widths: Mapping[str, int] | None = None,
        dropout: float = 0.0,
        unknown_rate: float = 0.0,
    ) -> None:
        """Build the tower.

        Args:
            spec: features of the tower; at least one.
            hidden: width of the hidden layer; 0 for a linear projection.
            dimensions: length of the vector.
            widths: category -> width of its embedding; the default is 1.6 n^0.56 for n values, at most 64.
            dropout: dropout probability on the hidden layer.
            unknown_rate: share of category ids that training replaces by unknown. This trains the embedding of unknown, which new
                brands and items without history get (after DropoutNet, Volkovs et al. 2017).

        Raises:
            InvalidInput: the spec is empty, or widths has a category that the spec lacks.
        """
        super().__init__()
        unnamed = set(widths or {}) - set(spec.categories)
        if unnamed or not (spec.categories or spec.numbers):
            raise InvalidInput(f"the spec has no {', '.join(sorted(unnamed)) or 'features'}; fit it on the columns that are wanted")
        sizes = {name: len(vocabulary) + 1 for name, vocabulary in spec.categories.items()}
        widths = {name: _embedding_width(size) for name, size in sizes.items()} | dict(widths or {})
        self.spec = spec
        embeddings = [nn.Embedding(size, widths[name]) for name, size in sizes.items()]
        self.embeddings = nn.ModuleList(embeddings)
        for embedding in embeddings:
            nn.init.normal_(embedding.weight, std=1 / math.sqrt(embedding.embedding_dim))  # rows of about unit length
        self.width = sum(widths.values()) + 2 * len(spec.numbers)
        self.unknown_rate = unknown_rate
        self.projection: nn.Module = (
            nn.Linear(self.width, dimensions) if hidden == 0 else _two_layers(self.width, hidden, dimensions, dropout)
        )

    def encode(self, categories: Tensor, numbers: Tensor) -> Tensor:
        """Embed the categories and append the numbers, without a projection: (B, C) int64 and (B, 2 N) float -> (B, width)."""
        if self.training and self.unknown_rate:
            hidden = torch.rand(categories.shape, device=categories.device) < self.unknown_rate
            categories = categories.masked_fill(hidden, UNKNOWN)  # (B, C)
        parts = [embedding(categories[:, column]) for column, embedding in enumerate(self.embeddings)]
        return torch.cat([*parts, numbers.to(parts[0] if parts else numbers)], dim=1)  # (B, width)

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        """Encode features of FeatureSpec.encode() as vectors (B, dimensions) of unit length."""
        return F.normalize(self.projection(self.encode(categories, numbers)).float(), dim=1)  # (B, width) -> (B, dimensions)


def _two_layers(width: int, hidden: int, dimensions: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, dimensions))


def _embedding_width(values: int) -> int:
    """Return the width of an embedding by the rule of thumb of fastai's tabular models, at most 64."""
    return min(64, round(1.6 * math.pow(values, 0.56)))
