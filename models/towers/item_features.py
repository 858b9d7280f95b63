"""Structured features of an item, and their fit to a catalogue."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from models.towers.config import TowerConfig
from models.towers.features import FeatureSpec, Scale
from retrieval.contracts.items import Item

CATEGORIES = ("category", "brand")
NUMBERS = ("current_price", "seller_rating", "bid_count")
MIN_COUNT = 2  # minimum count of a category or brand; a brand of a single item teaches nothing about other items

# all features of an item, still to be fitted to a catalogue
ITEM_FEATURES = FeatureSpec(dict.fromkeys(CATEGORIES, ()), dict.fromkeys(NUMBERS, Scale(0.0, 1.0)))


def item_row(item: Item) -> dict[str, Any]:
    """Return an item as a row of features; a field that is None counts as missing."""
    return {name: getattr(item, name) for name in (*CATEGORIES, *NUMBERS)}


def fit_features(config: TowerConfig, items: Iterable[Item]) -> TowerConfig:
    """Learn the vocabularies and scales of the features that a configuration names.

    Args:
        config: configuration whose `features`, such as ITEM_FEATURES, give the names; without features it is returned unchanged.
        items: the items of the training split.
    """
    if config.features is None:
        return config
    features = config.features
    rows = [item_row(item) for item in items]
    return replace(config, features=FeatureSpec.fit(rows, list(features.categories), list(features.numbers), min_count=MIN_COUNT))
