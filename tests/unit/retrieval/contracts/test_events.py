"""The interaction contract: event types, aliases and weights."""

from dataclasses import fields
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.config.settings import EventWeights
from retrieval.contracts.events import EVENT_TYPES, Interaction, parse_interaction
from retrieval.contracts.items import parse_item
from retrieval.errors import InvalidInput

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def row(**given):
    return {"buyer_id": "b-1", "item_id": "lot-1", "event_type": "view", "timestamp": "2026-11-21T12:00:00Z"} | given


def test_a_row_is_read_under_the_contracts_names():
    assert parse_interaction(row(query="old watch")) == Interaction("b-1", "lot-1", "view", NOON, "old watch")


def test_a_row_is_read_under_the_names_of_product_analytics():
    seen = {"distinct_id": 7, "product_id": 9, "event_name": "AddToCart", "created_at": 1795262400}
    assert parse_interaction(seen) == Interaction("7", "9", "add_to_cart", NOON)


def test_a_purchase_weighs_ten_views_a_bid_seven_and_a_cart_five():
    weights = {e: parse_interaction(row(event_type=e)).weight for e in ("View", "AddToCart", "Bid", "Purchase")}
    assert weights == {"View": 1.0, "AddToCart": 5.0, "Bid": 7.0, "Purchase": 10.0}


def test_every_type_of_event_has_a_weight_and_every_weight_a_type():
    assert tuple(weight.name for weight in fields(EventWeights)) == EVENT_TYPES


@given(st.sampled_from(EVENT_TYPES), st.sampled_from(["_", "-", " ", ""]), st.booleans())
def test_event_types_are_known_however_they_are_written(event_type, dash, capitals):
    written = event_type.replace("_", dash)
    assert parse_interaction(row(event_type=written.upper() if capitals else written)).event_type == event_type


@pytest.mark.parametrize(
    ("written", "event_type"),
    [
        ("Product Viewed", "view"),
        ("view_item", "view"),
        ("detail-page-view", "view"),
        ("Add To Cart", "add_to_cart"),
        ("added to basket", "add_to_cart"),
        ("ProductAdded", "add_to_cart"),
        ("Bid Placed", "bid"),
        ("product.purchased", "purchase"),
        ("Order\u2013Completed", "purchase"),
        ("  BOUGHT ", "purchase"),
    ],
)
def test_the_names_that_shops_give_the_acts_are_known(written, event_type):
    assert parse_interaction(row(event_type=written)).event_type == event_type


@pytest.mark.parametrize(
    "written", ["cart", "click", "page_view", "remove_from_cart", "view_cart", "checkout", "viewaddtocart", "-"]
)
def test_a_name_that_may_mean_another_act_is_unknown(written):
    with pytest.raises(InvalidInput, match="is unknown"):
        parse_interaction(row(event_type=written))


@pytest.mark.parametrize("field", ["buyer_id", "item_id", "event_type", "timestamp"])
@pytest.mark.parametrize("value", [None, "", " ", float("nan")])
def test_a_missing_field_is_refused_by_name(field, value):
    with pytest.raises(InvalidInput, match=f"{field} is missing"):
        parse_interaction(row(**{field: value}))


def test_an_unknown_event_type_is_refused_with_the_known_ones():
    with pytest.raises(InvalidInput, match="event_type 'stare' is unknown; known are view, add_to_cart, bid, purchase"):
        parse_interaction(row(event_type="stare"))


def test_a_lot_that_was_only_shown_is_no_act_and_that_is_told():
    with pytest.raises(InvalidInput, match="event_type 'impression' says that a lot was shown, which is no act"):
        parse_interaction(row(event_type="impression"))


@pytest.mark.parametrize("value", ["yesterday", True, 1e300])
def test_a_timestamp_that_is_no_time_is_refused(value):
    with pytest.raises(InvalidInput, match="timestamp is not a time"):
        parse_interaction(row(timestamp=value))


@pytest.mark.parametrize("written", [" 17 ", 17, 17.0])
def test_an_event_finds_its_lot_however_the_id_is_written(written):
    assert parse_interaction(row(item_id=written)).item_id == parse_item({"id": written, "title": "Watch"}).item_id
