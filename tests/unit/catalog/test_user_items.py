"""Tables of users, items and interactions: columns detected or named, ids as text, splits without leaks."""

from pathlib import Path

import numpy as np
import pytest

from catalog.interactions import generate
from catalog.user_items import UserItems, read_user_items, split_interactions
from retrieval.errors import InvalidInput

USERS = "user_id,age,country,member,name\n007,31,ES,true,Ana\n008,,FR,false,Bo\n009,52,ES,true,Cy\n010,40,FR,true,Di\n"
ITEMS = "item_id,price,kind,listed\na,1.5,ring,2026-01-01\nb,2.5,ring,2026-02-01\nc,9,oil,2026-03-01\nd,4,oil,2026-03-02\n"
TAKEN = [("007", item, day) for day, item in enumerate("abcd", 1)] + [("008", "a", 1), ("008", "b", 9), ("009", "c", 3)]
INTERACTIONS = "user_id,item_id,timestamp\n" + "".join(f"{u},{i},2026-04-{d:02}T00:00:00Z\n" for u, i, d in TAKEN)


def write(folder: Path, **tables: str) -> Path:
    for name, text in {"users": USERS, "items": ITEMS, "interactions": INTERACTIONS, **tables}.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> UserItems:
    return read_user_items(write(tmp_path))


def test_columns_are_detected_and_ids_are_text(data: UserItems) -> None:
    assert data.users.ids[0] == "007"
    assert (set(data.users.categories), data.users.numbers) == ({"country", "member"}, ("age",))
    assert set(data.users.ignored) == {"name"}
    assert (data.items.categories, data.items.numbers) == (("kind",), ("price", "listed"))


def test_named_columns_are_the_only_ones(tmp_path: Path) -> None:
    data = read_user_items(write(tmp_path), user_features=["name"], item_features=[])
    assert (data.users.categories, data.users.numbers) == (("name",), ())
    assert (data.items.categories, data.items.numbers) == ((), ())


def test_interactions_with_strangers_and_repeated_ones_are_counted(tmp_path: Path) -> None:
    more = INTERACTIONS + "999,a,2026-04-01T00:00:00Z\n007,zz,2026-04-01T00:00:00Z\n007,a,2026-04-20T00:00:00Z\n"
    data = read_user_items(write(tmp_path, interactions=more))
    assert data.left_out == {"unknown user": 1, "unknown item": 1, "repeated": 1}
    assert len(data.pairs) == len(TAKEN)
    assert data.times is not None
    assert (np.diff(data.times) >= 0).all()


def test_the_last_interactions_of_a_user_are_held_out_and_short_histories_train(data: UserItems) -> None:
    parts = split_interactions(data)
    assert parts["test"].tolist() == [[0, 3]]
    assert parts["val"].tolist() == [[0, 2]]
    assert sorted(map(tuple, parts["train"].tolist())) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)]


def test_a_cut_in_time_holds_out_what_is_later_than_all_training(tmp_path: Path) -> None:
    tables = generate(tmp_path / "set", users=60, items=200, per_user=10, seed=2).tables
    assert tables.times is not None
    day = {tuple(pair): time for pair, time in zip(tables.pairs.tolist(), tables.times, strict=True)}
    parts = split_interactions(tables, "time", val=0.2, test=0.3)
    days = {split: [day[tuple(pair)] for pair in pairs.tolist()] for split, pairs in parts.items()}
    assert max(days["train"]) < min(days["val"]) <= max(days["val"]) < min(days["test"])
    assert len(parts["test"]) == pytest.approx(0.3 * 600, abs=2)


def test_a_split_by_user_shares_no_user(tmp_path: Path) -> None:
    tables = generate(tmp_path / "set", users=60, items=200, per_user=10, seed=2).tables
    users = [set(pairs[:, 0].tolist()) for pairs in split_interactions(tables, "user").values()]
    assert set.union(*users) == set(range(60))
    assert sum(map(len, users)) == 60


def test_csv_tables_say_what_parquet_tables_say(tmp_path: Path) -> None:
    parquet, csv = (generate(tmp_path / form, users=30, items=100, per_user=5, seed=1, form=form) for form in ("parquet", "csv"))
    assert np.array_equal(parquet.tables.pairs, csv.tables.pairs)
    assert parquet.tables.users.categories == csv.tables.users.categories
    assert parquet.tables.items.numbers == csv.tables.items.numbers
    assert [row["price"] for row in csv.items] == [row["price"] for row in parquet.items]
    assert np.bincount(csv.tables.pairs[:, 0]).tolist() == [5] * 30


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"users": "user_id,age\n1,2\n1,3\n"}, "'1' occurs more than once"),
        ({"users": "who,age\n1,2\n"}, "has no id"),
        ({"items": "item_id,price\n"}, "has no rows"),
        ({"interactions": "user_id,item_id\nx,y\n"}, "no interaction between"),
        ({"interactions": "user_id,timestamp\n007,2026-01-01\n"}, "no id of the item"),
        ({"interactions": "user_id,item_id,split\n007,a,later\n"}, "'later' is none of train, val, test"),
        ({"interactions": "user_id,item_id,time\n007,a,noon\n"}, "not a time"),
    ],
)
def test_a_table_that_cannot_be_used_is_named_with_its_fault(tmp_path: Path, tables: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_user_items(write(tmp_path, **tables))


def test_what_is_missing_is_named(tmp_path: Path, data: UserItems) -> None:
    with pytest.raises(InvalidInput, match="no column 'colour'; it has user_id"):
        read_user_items(tmp_path, user_features=["colour"])
    with pytest.raises(InvalidInput, match="no column split"):
        split_interactions(data, "column")
    (tmp_path / "items.csv").unlink()
    with pytest.raises(InvalidInput, match="gavel catalog generate users-items"):
        read_user_items(tmp_path)
