"""The synthetic users and items: the same by seed, held out by time, popular and personal at once."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from catalog.interactions import SPLITS, InteractionFolder, generate
from retrieval.contracts.events import parse_interaction
from retrieval.errors import InvalidInput


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> InteractionFolder:
    return generate(tmp_path_factory.mktemp("interactions") / "set", users=300, items=400, seed=3)


def test_the_same_seed_makes_the_same_tables_and_another_seed_others(folder: InteractionFolder, tmp_path: Path) -> None:
    again = generate(tmp_path / "again", users=300, items=400, seed=3)
    other = generate(tmp_path / "other", users=300, items=400, seed=4)
    assert (again.users, again.items, again.seed) == (folder.users, folder.items, 3)
    for split in SPLITS:
        assert np.array_equal(again.interactions(split), folder.interactions(split))
    assert other.items != folder.items


def test_every_user_has_interactions_in_every_split_and_none_comes_twice(folder: InteractionFolder) -> None:
    parts = [folder.interactions(split) for split in SPLITS]
    assert all(len(np.unique(part[:, 0])) == 300 for part in parts)
    whole = np.concatenate(parts)
    assert len(np.unique(whole, axis=0)) == len(whole)
    assert np.bincount(whole[:, 0]).min() >= 10
    assert len(parts[2]) / len(whole) == pytest.approx(0.2, abs=0.02)


def test_what_is_held_out_comes_after_what_is_trained_on_and_items_sell_once_they_are_listed(folder: InteractionFolder) -> None:
    listed = {row["item_id"]: row["listed_at"] for row in folder.items}
    last: dict[str, int] = {}
    rows = pq.read_table(folder.path / "interactions.parquet").to_pylist()
    assert [row["timestamp"] for row in rows] == sorted(row["timestamp"] for row in rows)
    for row in rows:
        place = SPLITS.index(row["split"])
        assert place >= last.get(row["buyer_id"], 0)
        last[row["buyer_id"]] = place
        assert row["timestamp"] >= listed[row["item_id"]]


def test_interactions_keep_the_events_contract(folder: InteractionFolder) -> None:
    rows = pq.read_table(folder.path / "interactions.parquet").to_pylist()[:20]
    users = {row["buyer_id"] for row in folder.users}
    assert all(parse_interaction(row).buyer_id in users for row in rows)


def test_a_few_items_take_much_and_favourite_categories_take_more_than_their_share(folder: InteractionFolder) -> None:
    pairs = np.concatenate([folder.interactions(split) for split in SPLITS])
    counts = sorted(Counter(pairs[:, 1].tolist()).values(), reverse=True)
    assert sum(counts[:40]) > 0.2 * len(pairs), "the most popular tenth takes twice its share"
    category = np.array([row["category"] for row in folder.items])
    favourite = np.array([row["favourite_category"] for row in folder.users])
    met = (category[pairs[:, 1]] == favourite[pairs[:, 0]]).mean()
    by_chance = np.mean([(category[pairs[:, 1]] == name).mean() for name in favourite])
    assert by_chance * 2 < met < 0.7, "the tables tell much, not all"


def test_some_features_are_missing_as_in_life(folder: InteractionFolder) -> None:
    assert 0 < sum(row["seller_rating"] is None for row in folder.items) < 100
    assert 0 < sum(row["second_category"] is None for row in folder.users) < 150


def test_sizes_out_of_range_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="too few"):
        generate(tmp_path / "few", users=10, items=5)
    with pytest.raises(InvalidInput, match="cannot be read"):
        InteractionFolder(tmp_path)
    (tmp_path / "catalog.json").write_text('{"name": "synthetic"}')
    with pytest.raises(InvalidInput, match="another kind"):
        InteractionFolder(tmp_path)


def test_an_unknown_split_is_refused(folder: InteractionFolder) -> None:
    with pytest.raises(InvalidInput, match="no split"):
        folder.interactions("dev")
