"""A tower over structured features: categories as embeddings, numbers standardised.

A recommender uses such a tower for users and another for items. The item tower uses only encode(), before its own projection.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from retrieval.errors import InvalidInput

UNKNOWN = 0  # the id of a value that is missing or not in the vocabulary
FURTHEST = 5.0  # standard deviations at which numbers are clipped, because of outliers
SECONDS_PER_DAY = 86_400
SKEWED = 1.0  # skewness above which a non-negative number is taken as a logarithm

Row = Mapping[str, Any]  # feature name -> value; None, a missing key or a number that is not finite counts as missing


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


@dataclass(frozen=True)
class Scale:
    """Standardisation of a number: log(1 + x) first if `log`, then (x - mean) / std."""

    mean: float
    std: float
    log: bool = False


@dataclass(frozen=True)
class FeatureSpec:
    """The features of a tower and their encoding, stored with the tower so that serving encodes as training did.

    Attributes:
        categories: feature -> vocabulary; value i has the id i + 1, any other value is unknown (0).
        numbers: feature -> scale.
    """

    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    numbers: Mapping[str, Scale] = field(default_factory=dict)

    @classmethod
    def fit(
        cls, rows: Iterable[Row], categories: Sequence[str] = (), numbers: Sequence[str] = (), *, min_count: int = 1
    ) -> "FeatureSpec":
        """Learn vocabularies and scales from rows. Give only training data, because test data would bias test metrics.

        Args:
            rows: one mapping per item or user.
            categories: names of features to embed; values are compared as text.
            numbers: names of features to standardise; times count as days since 1970. A number that is never negative and skewed to
                the right (skewness > 1), as prices and counts are, is taken as log(1 + x).
            min_count: minimum count of a category's value; rarer values are unknown.

        Returns:
            The spec. Vocabularies are sorted by descending count, ties by value. A number that is constant or always missing has
            std 1.
        """
        rows = list(rows)
        return cls(
            {name: _vocabulary((row.get(name) for row in rows), min_count) for name in categories},
            {name: _scale(_column(rows, name)) for name in numbers},
        )

    def encode(self, rows: Sequence[Row]) -> Features:
        """Turn rows into tensors; a missing number becomes the mean, and its flag is set."""
        ids = np.zeros((len(rows), len(self.categories)), dtype=np.int64)
        for column, (name, vocabulary) in enumerate(self.categories.items()):
            ids_of: dict[str | None, int] = {value: place for place, value in enumerate(vocabulary, 1)}
            ids[:, column] = [ids_of.get(_text(row.get(name)), UNKNOWN) for row in rows]
        values = np.zeros((len(rows), 2 * len(self.numbers)), dtype=np.float32)
        for column, (name, scale) in enumerate(self.numbers.items()):
            raw = _column(rows, name)
            missing = np.isnan(raw)
            plain = np.log1p(np.maximum(raw, 0)) if scale.log else raw
            values[:, column] = np.where(missing, 0, np.clip((plain - scale.mean) / scale.std, -FURTHEST, FURTHEST))
            values[:, len(self.numbers) + column] = missing
        return Features(torch.from_numpy(ids), torch.from_numpy(values))

    def to_json(self) -> dict[str, Any]:
        """Return JSON values for from_json()."""
        return {
            "categories": {name: list(vocabulary) for name, vocabulary in self.categories.items()},
            "numbers": {name: asdict(scale) for name, scale in self.numbers.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "FeatureSpec":
        """Build a spec from the values of to_json().

        Raises:
            InvalidInput: the values are no feature spec.
        """
        try:
            return cls(
                {str(name): tuple(map(str, vocabulary)) for name, vocabulary in values["categories"].items()},
                {str(name): Scale(**scale) for name, scale in values["numbers"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"this is no feature spec ({error!r}); write it with FeatureSpec.to_json()") from error


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


def _vocabulary(values: Iterable[Any], min_count: int) -> tuple[str, ...]:
    counts = Counter(text for text in map(_text, values) if text is not None)
    return tuple(sorted((value for value, count in counts.items() if count >= min_count), key=lambda v: (-counts[v], v)))


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _column(rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    """Return the number `name` of every row, (B,); NaN where it is missing."""
    values = np.array([_number(row.get(name)) for row in rows], dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _number(value: Any) -> float:
    """Return a number as float; a date or time counts as days since 1970, and None is NaN."""
    if isinstance(value, datetime):
        return (value.timestamp() if value.tzinfo else value.replace(tzinfo=UTC).timestamp()) / SECONDS_PER_DAY
    if isinstance(value, date):
        return float(value.toordinal() - date(1970, 1, 1).toordinal())
    return math.nan if value is None else float(value)


def _scale(values: NDArray[np.float64]) -> Scale:
    present = values[~np.isnan(values)]
    log = bool(len(present) and present.min() >= 0 and _skewness(present) > SKEWED)
    present = np.log1p(present) if log else present
    mean, std = (float(present.mean()), float(present.std())) if len(present) else (0.0, 1.0)
    return Scale(mean, std if std > 1e-9 * max(1.0, abs(mean)) else 1.0, log)


def _skewness(values: NDArray[np.float64]) -> float:
    spread = values.std()
    return float((((values - values.mean()) / spread) ** 3).mean()) if spread > 0 else 0.0
