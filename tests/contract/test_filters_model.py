"""Filters of both indices beside a model: lots in dictionaries, which plain Python filters. States move some of the lots."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from index_lots import NOW, axis, lot

from retrieval.contracts.documents import Deletion, IndexedItem
from retrieval.contracts.item_states import StateUpdate
from retrieval.contracts.items import epoch_ms
from retrieval.index.filters import AttributeFilter, BlockList, Filter, matches
from retrieval.index.port import VectorIndex

Lot = dict[str, Any]
CATEGORIES = ["Watches", "Watches > Wrist", "watches>Pocket", "Watches > Wrist > Gold", "Watchstraps", "Rings", None]
COLOURS = [["red"], ["Red", "blue"], ["blue"], []]
HOURS = [None, -1, 1, 2, 30]
COUNT = 40
CHANGES: list[Lot] = [
    {"price": 7.0},
    {"price": None},
    {"bids": 9},
    {"bids": 0, "price": 500.0},
    {"bids": None},
    {"ends": 3},
    {"ends": None},
    {"ends": -2},
    {"status": "sold"},
    {"price": 20.0, "bids": 5, "ends": 2},
    {"ends": 40},
]
STATES = {f"lot-{3 * n:02}": change for n, change in enumerate(CHANGES)}


def model_lots() -> list[Lot]:
    """Lots with every field present or missing, in many combinations."""
    return [
        {
            "item_id": f"lot-{n:02}",
            "category": CATEGORIES[n % 7],
            "brand": ["Omega", "Rado", None][n % 3],
            "seller": ["anna", "Anna", "bo", None][n % 4],
            "colour": COLOURS[n // 3 % 4],
            "size": [None, 40.0, 41.5, 44.0, -2.0][n % 5],
            "price": [None, 5.0, 19.99, 20.0, 300.0][n // 2 % 5],
            "rating": [None, 3.5, 4.99][n // 4 % 3],
            "bids": n % 6,
            "photo": n % 2 == 0,
            "listed": [None, -50, -20][n // 5 % 3],
            "ends": HOURS[n // 7 % 5],
            "status": "open",
        }
        for n in range(COUNT)
    ]


def hours(number: int | None) -> datetime | None:
    return None if number is None else NOW + timedelta(hours=number)


def row_of(one: Lot, number: int) -> IndexedItem:
    fields = {
        "category": one["category"],
        "brand": one["brand"],
        "seller": one["seller"],
        "current_price": one["price"],
        "seller_rating": one["rating"],
        "listed_at": hours(one["listed"]),
        "ends_at": hours(one["ends"]),
        "attributes": {name: one[name] for name in ("colour", "size") if one[name] not in (None, [])} or None,
    }
    present = {name: value for name, value in fields.items() if value is not None}
    made = lot(one["item_id"], axis(0, 0.01 * number), bid_count=one["bids"], **present)
    return IndexedItem(made.item_id, made.version, {**made.document, "has_image": one["photo"]}, made.vector)


def update_of(item_id: str, change: Lot) -> StateUpdate:
    names = {"price": "current_price", "bids": "bid_count", "ends": "ends_at", "status": "status"}
    values = {names[name]: value for name, value in change.items()}
    if end := hours(change.get("ends")):
        values["ends_at"] = epoch_ms(end)
    return StateUpdate(item_id, 10, values)


def is_between(value: float | None, low: float | None, high: float | None) -> bool:
    if value is None:
        return low is None and high is None
    return (low is None or value >= low) and (high is None or value <= high)


def path_of(category: str) -> list[str]:
    return [part.strip().lower() for part in category.split(">")]


def is_in(category: str | None, names: Iterable[str]) -> bool:
    return category is not None and any(path_of(category)[: len(path_of(name))] == path_of(name) for name in names)


def has(one: Lot, condition: AttributeFilter) -> bool:
    if condition.name == "colour":
        return bool({value.lower() for value in one["colour"]} & {value.lower() for value in condition.values})
    return one["size"] is not None and is_between(one["size"], condition.minimum, condition.maximum)


def allows(filters: Filter, one: Lot) -> bool:
    ends, listed, brand, blocked = hours(one["ends"]), hours(one["listed"]), (one["brand"] or "").lower(), filters.blocked
    return (
        one["status"] == "open"
        and (ends is None or ends > NOW)
        and (not filters.categories or is_in(one["category"], filters.categories))
        and not is_in(one["category"], blocked.categories)
        and (not filters.brands or brand in {name.lower() for name in filters.brands})
        and brand not in {name.lower() for name in blocked.brands}
        and (not filters.sellers or one["seller"] in filters.sellers)
        and one["seller"] not in blocked.sellers
        and one["item_id"] not in blocked.items
        and all(has(one, condition) for condition in filters.attributes)
        and not any(has(one, condition) for condition in filters.not_attributes)
        and is_between(one["price"], filters.min_price, filters.max_price)
        and is_between(one["bids"], filters.min_bids, filters.max_bids)
        and is_between(one["rating"], filters.min_seller_rating, None)
        and (filters.has_photo is None or one["photo"] == filters.has_photo)
        and (filters.listed_after is None or (listed is not None and listed >= filters.listed_after))
        and (filters.ends_after is None or ends is None or ends >= filters.ends_after)
        and (filters.ends_before is None or (ends is not None and ends <= filters.ends_before))
    )


def matching(lots: Iterable[Lot], filters: Filter) -> list[str]:
    """The ids of the lots that match, by plain comparisons."""
    return sorted(one["item_id"] for one in lots if allows(filters, one))


def some(*values: str) -> st.SearchStrategy[tuple[str, ...]]:
    return st.sampled_from([*[()] * 12, *((value,) for value in values), values[:2], values[1:3]])


def perhaps(values: Iterable[Any]) -> st.SearchStrategy[Any]:
    return st.sampled_from([*[None] * 8, *values])


COLOUR = st.lists(st.sampled_from(["RED", "blue", "green"]), min_size=1, max_size=2, unique=True).map(
    lambda values: AttributeFilter("colour", tuple(values))
)
SIZE = st.sampled_from([(40.0, 42.0), (None, 0.0), (41.5, None)]).map(lambda limits: AttributeFilter("size", (), *limits))
CONDITIONS = st.one_of(*[st.just(())] * 3, st.tuples(COLOUR), st.tuples(COLOUR, SIZE), st.tuples(SIZE))
CATEGORY = ("watches", "WATCHES > wrist", "Watches>Pocket", "Wrist", "rings", "nothing")
FILTERS = st.builds(
    Filter,
    categories=some(*CATEGORY),
    brands=some("OMEGA", "rado", "x"),
    sellers=some("anna", "Anna", "bo"),
    min_price=perhaps([5.0, 20.0]),
    max_price=perhaps([19.99, 20.0, 400.0]),
    min_seller_rating=perhaps([3.5, 4.99]),
    now=st.just(NOW),
    blocked=st.builds(
        BlockList,
        items=some("lot-02", "lot-09").map(frozenset),
        sellers=some("anna", "bo").map(frozenset),
        categories=some(*CATEGORY).map(frozenset),
        brands=some("omega", "x").map(frozenset),
    ),
    attributes=CONDITIONS,
    not_attributes=CONDITIONS,
    min_bids=perhaps([0, 1, 5]),
    max_bids=perhaps([0, 5, 8]),
    has_photo=perhaps([True, False]),
    listed_after=perhaps([NOW - timedelta(hours=20), NOW - timedelta(hours=49)]),
    ends_after=perhaps([NOW + timedelta(hours=2), NOW + timedelta(hours=10)]),
    ends_before=perhaps([NOW + timedelta(hours=2), NOW + timedelta(hours=35)]),
)


@pytest.fixture
def moved(filled: Callable[[Iterable[IndexedItem | Deletion]], VectorIndex]) -> tuple[VectorIndex, list[Lot]]:
    """An index with all lots, and the lots as rows and states say them."""
    lots = model_lots()
    index = filled([row_of(one, number) for number, one in enumerate(lots)])
    index.update_states([update_of(item_id, change) for item_id, change in STATES.items()])
    index.refresh()
    return index, [{**one, **STATES.get(one["item_id"], {})} for one in lots]


def test_filters_let_exactly_the_lots_of_the_model_through(moved: tuple[VectorIndex, list[Lot]]) -> None:
    index, lots = moved
    sizes: set[int] = set()
    documents = [item.document for item in index.fetch([one["item_id"] for one in lots])]

    @settings(
        max_examples=150,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(FILTERS)
    def check(filters: Filter) -> None:
        expected = matching(lots, filters)
        sizes.add(len(expected))
        assert index.count(filters) == len(expected)
        assert sorted(one.item_id for one in index.semantic(axis(0), COUNT, filters)) == expected
        assert sorted(one.item_id for one in index.keyword("lot", COUNT, filters)) == expected
        assert [document["item_id"] for document in documents if matches(filters, document)] == expected

    check()
    assert len(sizes) > 5, "the filters let few and many lots through"


@pytest.mark.parametrize(
    "conditions",
    [
        *({"categories": (name,)} for name in (*CATEGORY[:3], "Rings", "watches > wrist > gold")),
        {"categories": ("Watches > Wrist", "rings")},
        {"blocked": BlockList(categories=frozenset(["watches"]))},
        {"sellers": ("anna", "bo")},
        {"blocked": BlockList(sellers=frozenset(["anna"]))},
        {"min_bids": 5},
        {"max_bids": 0},
        {"has_photo": True},
        {"has_photo": False},
        {"listed_after": NOW - timedelta(hours=20)},
        {"ends_after": NOW + timedelta(hours=3)},
        {"ends_before": NOW + timedelta(hours=3)},
        {"not_attributes": (AttributeFilter("colour", ("red",)), AttributeFilter("size", (), 40, 42))},
    ],
)
def test_each_filter_alone_lets_some_lots_through_and_others_not(
    moved: tuple[VectorIndex, list[Lot]], conditions: dict[str, Any]
) -> None:
    index, lots = moved
    filters = Filter(now=NOW, **conditions)
    expected = matching(lots, filters)
    assert 0 < len(expected) < index.count(Filter(now=NOW))
    assert sorted(one.item_id for one in index.hybrid("lot", axis(0), COUNT, filters)) == expected
