"""Both indices beside a model in a dictionary: rows, deletions, states and swaps come in any order, and the clock moves."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from index_lots import NOW, axis, lot
from opensearch_stores import opensearch_store

from retrieval.contracts.documents import Deletion, IndexedItem
from retrieval.contracts.item_states import StateUpdate
from retrieval.contracts.items import epoch_ms
from retrieval.index.filters import Filter
from retrieval.index.opensearch.store import OpenSearchStore
from retrieval.index.port import IndexStore, VectorIndex

IDS = [f"lot-{number}" for number in range(8)]
STEPS = 60
ENDS = [None, *(epoch_ms(NOW + timedelta(minutes=minutes)) for minutes in (-30, 10, 40, 90))]
PRICES = [None, 5.0, 20.0, 80.0]
STATUSES = ["open", "withdrawn", "sold", "unsold", None]


class Model:
    """What the indices should know: the newest row or deletion of each lot, and the newest value of each field of its state."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[int, dict[str, Any] | None]] = {}
        self.states: dict[str, dict[str, tuple[int, Any]]] = {}

    def put(self, item_id: str, version: int, fields: dict[str, Any] | None) -> None:
        if version >= self.rows.get(item_id, (0, None))[0]:
            self.rows[item_id] = version, fields

    def update(self, item_id: str, version: int, fields: dict[str, Any]) -> None:
        state = self.states.setdefault(item_id, {})
        for name, value in fields.items():
            if version >= state.get(name, (0, None))[0]:
                state[name] = version, value

    def now(self, item_id: str) -> dict[str, Any] | None:
        version, fields = self.rows.get(item_id, (0, None))
        if fields is None:
            return None
        known = dict(fields)
        for name, (newer, value) in self.states.get(item_id, {}).items():
            if newer >= version or name not in fields:
                known[name] = value
        return {name: value for name, value in known.items() if value is not None}

    def matching(self, filters: Filter) -> list[str]:
        lots = {item_id: self.now(item_id) for item_id in IDS}
        return sorted(item_id for item_id, known in lots.items() if known is not None and self._matches(known, filters))

    def _matches(self, known: dict[str, Any], filters: Filter) -> bool:
        if known.get("status", "open") != "open" or known.get("ends_at", float("inf")) <= epoch_ms(filters.moment()):
            return False
        price = known.get("current_price")
        return filters.max_price is None or (price is not None and price <= filters.max_price)


def row(chance: random.Random) -> dict[str, Any]:
    """The fields of a row that a state may have, too."""
    fields = {"current_price": chance.choice(PRICES), "ends_at": chance.choice(ENDS), "bid_count": chance.randrange(5)}
    return {name: value for name, value in fields.items() if value is not None}


def item_of(item_id: str, version: int, fields: dict[str, Any]) -> IndexedItem:
    made = lot(item_id, axis(IDS.index(item_id), 0.2), version=version)
    return IndexedItem(item_id, version, {**made.document, **fields}, made.vector)


def state(chance: random.Random) -> dict[str, Any]:
    choices = {"current_price": PRICES, "ends_at": ENDS, "status": STATUSES, "bid_count": [None, 1, 9]}
    names = chance.sample(sorted(choices), chance.randint(1, 3))
    return {name: chance.choice(choices[name]) for name in names}


def check(index: VectorIndex, model: Model, minutes: int, steps: list[str]) -> None:
    index.refresh()
    story = "\n".join(steps)
    for filters in (Filter(now=NOW + timedelta(minutes=minutes)), Filter(max_price=30, now=NOW + timedelta(minutes=minutes))):
        expected = model.matching(filters)
        for candidates in (index.semantic(axis(0), 20, filters), index.keyword("lot", 20, filters)):
            assert sorted(one.item_id for one in candidates) == expected, story
        assert index.count(filters) == len(expected), story
    fetched = {one.item_id: one.document for one in index.fetch(IDS)}
    for item_id in IDS:
        known, document = model.now(item_id), fetched.get(item_id)
        assert (known is None) == (document is None), story
        if known is not None and document is not None:
            names = ("current_price", "ends_at", "bid_count", "status")
            assert {n: document.get(n) for n in names} == {n: known.get(n) for n in names}, story


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_rows_states_and_swaps_ends_in_what_the_newest_say(
    store: IndexStore, restart: Callable[[VectorIndex], None], seed: int
) -> None:
    chance, model, minutes, steps = random.Random(seed), Model(), 0, list[str]()
    index = store.create("0123456789ab", 16)
    store.publish(index.name)
    for number in range(STEPS):
        item_id, version = chance.choice(IDS), 100 + number + chance.choice((-40, -5, 0, 0, 0, 3))
        kind = chance.choices(("row", "state", "delete", "clock", "swap", "restart"), (6, 8, 1, 2, 0.6, 0.4))[0]
        match kind:
            case "row":
                fields = row(chance)
                index.upsert([item_of(item_id, version, fields)])
                model.put(item_id, version, fields)
            case "delete":
                index.upsert([Deletion(item_id, version)])
                model.put(item_id, version, None)
            case "state":
                fields = state(chance)
                index.update_states([StateUpdate(item_id, version, fields)])
                model.update(item_id, version, fields)
            case "clock":
                minutes = chance.choice((-10, 0, 20, 60))
            case "swap":
                new = store.create(f"{number:012d}", 16)
                rows = {one: kept for one, kept in model.rows.items() if kept[1] is not None}
                new.upsert(item_of(one, version_of, fields) for one, (version_of, fields) in rows.items() if fields is not None)
                new.upsert(index.deletions())
                store.publish(new.name)
                index = store.live()
            case "restart":
                restart(index)
                index = store.live()
        steps.append(f"{kind} {item_id} {version} {minutes}")
        if number % 5 == 4:
            check(index, model, minutes, steps)


def test_the_states_are_no_index_that_an_operator_sees_or_drops(opensearch_url: str) -> None:
    for store in opensearch_store(opensearch_url):
        assert isinstance(store, OpenSearchStore)
        index = store.create("0123456789ab", 16)
        index.update_states([StateUpdate("lot-0", 1, {"bid_count": 1})])
        assert [summary.name for summary in store.list_indices()] == [index.name]


def test_a_newer_row_counts_in_an_index_of_several_shards(opensearch_url: str) -> None:
    for store in opensearch_store(opensearch_url):
        assert isinstance(store, OpenSearchStore)
        several = OpenSearchStore(opensearch_url, alias=store._alias, shards=2)
        index = several.create("0123456789ab", 16)
        index.update_states([StateUpdate("lot-0", 5, {"current_price": 5.0, "bid_count": 5})])
        index.upsert([item_of("lot-0", 9, {"current_price": 9.0})])
        index.refresh()
        filters = Filter(now=NOW)
        for candidates in (index.semantic(axis(0), 5, filters), index.hybrid("lot", axis(0), 5, filters)):
            assert [one.document["current_price"] for one in candidates] == [9.0]
