"""Mining asks every index in the same way and gets the same negatives."""

from datetime import UTC, datetime

import pytest
from lots import WordEncoder, lot, publish

from catalog.folder import CatalogFolder, SplitData, TrainingPair, write_catalog, write_items
from processing.training.mining import mine_negatives
from processing.training.mining_rules import MiningRules
from retrieval.contracts.items import Item
from retrieval.index.port import IndexStore

TITLES = {
    "red-vase": "red vase",
    "blue-vase": "blue vase",
    "red-lamp": "red lamp",
    "old-red-vase": "old red vase",
    "ring": "gold ring",
}
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("exact", [False, True])
def test_ended_lots_are_mined_from_every_index(store: IndexStore, tmp_path, exact: bool) -> None:
    write_items(tmp_path / "items" / "lots.parquet", (Item(i, title) for i, title in TITLES.items()))
    splits = {"train": SplitData(["lots.parquet"], [TrainingPair("red vase", "red-vase")])}
    write_catalog(tmp_path, name="tiny", seed=0, splits=splits, example_queries=[])
    index = publish(store, [lot(item_id, title, ends_at=LONG_AGO) for item_id, title in TITLES.items()])
    mined = mine_negatives(CatalogFolder(tmp_path), index, WordEncoder(), MiningRules(per_query=3, exact=exact))
    assert mined.by_query == {"red vase": ["old-red-vase", "blue-vase", "red-lamp"]}
