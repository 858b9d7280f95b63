"""Structured features of items and users as numbers: ids of categories, standardised numbers."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import InvalidInput

UNKNOWN = 0  # the id of a value that is missing or not in the vocabulary
FURTHEST = 5.0  # standard deviations at which numbers are clipped, because of outliers
SECONDS_PER_DAY = 86_400
SKEWED = 1.0  # skewness above which a non-negative number is taken as a logarithm

Row = Mapping[str, Any]  # feature name -> value; None, a missing key or a number that is not finite counts as missing


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

    def encode(self, rows: Sequence[Row]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Turn B rows into numbers; a missing number becomes the mean, and its flag is set.

        Returns:
            (B, C) int64, the ids of the C categories; and (B, 2 N) float32, N standardised numbers, then N flags, 1 where a number
            was missing.
        """
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
        return ids, values

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
