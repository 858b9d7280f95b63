"""Structured features of an item, and their fit to a catalogue."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from models.towers.config import TowerConfig
from models.towers.feature_names import CATEGORIES, ITEM_FEATURE_NAMES, NUMBERS
from retrieval.contracts.items import Item
from retrieval.encoders.feature_spec import FeatureSpec, Scale

log = logging.getLogger(__name__)

MIN_COUNT = 2  # minimum count of a category or brand; a brand of a single item teaches nothing about other items


def unfitted_features(names: Sequence[str]) -> FeatureSpec:
    """Return a specification of these features, still to be fitted to a catalogue."""
    unfitted = Scale(0.0, 1.0)
    return FeatureSpec({name: () for name in names if name in CATEGORIES}, {name: unfitted for name in names if name in NUMBERS})


ITEM_FEATURES = unfitted_features(ITEM_FEATURE_NAMES)


def feature_names(spec: FeatureSpec | None) -> tuple[str, ...]:
    """Return the names of a specification's features; none for None."""
    return () if spec is None else (*spec.categories, *spec.numbers)


def item_row(item: Item) -> dict[str, Any]:
    """Return an item as a row of features; a field that is None counts as missing."""
    return {name: getattr(item, name) for name in ITEM_FEATURE_NAMES}


def present_features(names: Sequence[str], items: Sequence[Item]) -> tuple[str, ...]:
    """Return the features that at least one item has; a warning names the others, because training would learn nothing of them."""
    present = tuple(name for name in names if any(getattr(item, name) not in (None, "") for item in items))
    absent = [name for name in names if name not in present]
    if absent:
        log.warning("no training item has a value of %s; the item tower does not read it", ", ".join(absent))
    return present


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
