"""What every store of buyers' recent acts does: SQLite here, DynamoDB (moto) on AWS."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from buyer_tables import make_buyer_table
from moto import mock_aws

from retrieval.buyers.dynamodb_history import BuyerTable
from retrieval.buyers.history_store import MAX_PER_BUYER, BuyerStore
from retrieval.buyers.sqlite_history import BuyerEvents
from retrieval.contracts.events import Interaction

NOW = datetime(2026, 11, 21, 20, tzinfo=UTC)
DAYS = 90
Opened = Callable[[datetime], BuyerStore]


@pytest.fixture(params=["sqlite", "dynamodb"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Opens the same store of each adapter in turn, at a moment."""
    if request.param == "sqlite":
        yield lambda now: BuyerEvents(tmp_path / "home" / "buyers.sqlite", DAYS, lambda: now)
        return
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "eu-west-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        make_buyer_table("buyers")
        yield lambda now: BuyerTable("buyers", DAYS, lambda: now)


@pytest.fixture
def store(opened: Opened) -> BuyerStore:
    return opened(NOW)


def act(item_id: str, minutes_ago: float = 0, event_type: str = "view", buyer_id: str = "b1") -> Interaction:
    return Interaction(buyer_id, item_id, event_type, NOW - timedelta(minutes=minutes_ago))


def ids(acts: list[Interaction]) -> list[str]:
    return [one.item_id for one in acts]


def test_acts_come_back_in_the_order_of_time_whatever_order_they_came_in(store: BuyerStore) -> None:
    acts = [act("third", 1), act("first", 30, "purchase"), act("second", 2, "add_to_cart")]
    assert store.append(acts) == 3
    assert store.recent("b1") == [acts[1], acts[2], acts[0]]


def test_a_buyer_that_nobody_has_heard_of_has_no_acts(store: BuyerStore) -> None:
    assert store.recent("b1") == []
    store.append([act("v1", buyer_id="another")])
    assert store.recent("b1") == []


def test_an_act_that_is_told_again_is_one(store: BuyerStore) -> None:
    store.append([act("v1"), act("v1"), act("v1", event_type="purchase")])
    store.append([act("v1")])
    assert [(one.item_id, one.event_type) for one in store.recent("b1")] == [("v1", "purchase"), ("v1", "view")]


def test_acts_of_one_moment_always_have_the_same_order(store: BuyerStore) -> None:
    store.append([act("z"), act("a")])
    store.append([act("m")])
    assert ids(store.recent("b1")) == ["a", "m", "z"]
    assert ids(store.recent("b1", 2)) == ["m", "z"]


def test_of_ten_thousand_acts_the_latest_come_back(store: BuyerStore) -> None:
    acts = [act(f"v{n:05}", minutes_ago=10_000 - n) for n in range(10_000)]
    assert store.append(acts) == MAX_PER_BUYER
    assert ids(store.recent("b1")) == [f"v{n:05}" for n in range(9_800, 10_000)]
    assert ids(store.recent("b1", 3)) == ["v09997", "v09998", "v09999"]


def test_acts_that_come_one_by_one_are_as_many_at_most(store: BuyerStore) -> None:
    for start in range(0, 300, 50):
        store.append([act(f"v{n:03}", minutes_ago=300 - n) for n in range(start, start + 50)])
    assert ids(store.recent("b1")) == [f"v{n:03}" for n in range(100, 300)]
    store.append([act("late", minutes_ago=1_000)])
    assert ids(store.recent("b1"))[0] == "v100"


def test_an_act_of_long_ago_is_not_kept_and_one_that_grows_old_does_not_come_back(opened: Opened) -> None:
    a_day = 24 * 60
    assert opened(NOW).append([act("older", DAYS * a_day + 1), act("old", DAYS * a_day - 1), act("new")]) == 2
    assert ids(opened(NOW).recent("b1")) == ["old", "new"]
    assert ids(opened(NOW + timedelta(minutes=2)).recent("b1")) == ["new"]
    assert opened(NOW + timedelta(days=DAYS + 1)).recent("b1") == []


def test_a_clock_may_be_a_day_ahead_and_no_further(store: BuyerStore) -> None:
    a_day = 24 * 60
    assert store.append([act("fast", -a_day + 1), act("wrong", -a_day - 1), act("right")]) == 2
    assert ids(store.recent("b1")) == ["right", "fast"]


def test_an_erased_buyer_is_unknown_and_no_other_buyer_is_touched(store: BuyerStore) -> None:
    store.append([act("v1"), act("v2"), act("v3", buyer_id="b2")])
    assert store.erase("b1") == 2
    assert store.recent("b1") == []
    assert ids(store.recent("b2")) == ["v3"]


def test_erasing_twice_is_no_mistake(store: BuyerStore) -> None:
    assert store.erase("b1") == 0
    store.append([act("v1")])
    assert (store.erase("b1"), store.erase("b1")) == (1, 0)
    store.append([act("v2")])
    assert ids(store.recent("b1")) == ["v2"]


def test_ids_are_told_apart_to_the_letter(store: BuyerStore) -> None:
    hostile = ["b1", "B1", "b1#", "b%1", "ü" * 256, "' OR 1=1 --"]
    for number, buyer_id in enumerate(hostile):
        store.append([act(f"v#{number}/ü", buyer_id=buyer_id)])
    for number, buyer_id in enumerate(hostile):
        assert ids(store.recent(buyer_id)) == [f"v#{number}/ü"]
    assert store.erase("' OR 1=1 --") == 1
    assert ids(store.recent("b1")) == ["v#0/ü"]


def test_the_words_of_a_search_are_not_kept(store: BuyerStore) -> None:
    store.append([Interaction("b1", "v1", "view", NOW, query="a gift for Ada Lovelace")])
    assert [one.query for one in store.recent("b1")] == [""]


def test_nothing_to_append_is_no_mistake(store: BuyerStore) -> None:
    assert store.append([]) == 0
