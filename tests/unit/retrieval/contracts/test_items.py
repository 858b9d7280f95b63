"""The item contract: what a row may say, and the one text that a lot is known by."""

import json
import math
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.contracts.items import Item, Reject, epoch_ms, item_text, parse_id, parse_item, parse_time, query_text
from retrieval.errors import InvalidInput
from retrieval.text.analysis import clean_text

EVENING = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)
anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.datetimes()
columns = st.sampled_from(
    ["item_id", "id", "title", "name", "description", "image", "metadata", "current_price", "price", "bid_count", "ends_at"]
)


def row(**given):
    return {"item_id": "lot-1", "title": "Steel watch"} | given


def test_a_full_row_is_read_field_by_field():
    item = parse_item(
        row(
            description="Runs well",
            image="photos/1.jpg",
            category="watches",
            brand="Omega",
            current_price="1250.50",
            bid_count="12",
            seller_rating=4.5,
            listed_at="2026-11-01",
            ends_at="2026-11-21T20:00:00Z",
            updated_at=EVENING,
            seller_id=41,
        )
    )
    assert item == Item(
        "lot-1",
        "Steel watch",
        "Runs well",
        "photos/1.jpg",
        "watches",
        "Omega",
        1250.5,
        12,
        4.5,
        datetime(2026, 11, 1, tzinfo=UTC),
        EVENING,
        EVENING,
        "41",
    )


def test_a_bare_row_needs_only_an_id_and_a_title():
    assert parse_item(row()) == Item("lot-1", "Steel watch")


@pytest.mark.parametrize(
    ("column", "value", "field"),
    [
        ("image_uri", "a.jpg", "image"),
        ("image_url", "a.jpg", "image"),
        ("catalog_id", "rings", "category"),
        ("metadata", {"catalog_id": "rings"}, "category"),
        ("metadata", '{"catalog_id": "rings"}', "category"),
        ("metadata.catalog_id", "rings", "category"),
        ("metadata", {"brand": "Seiko"}, "brand"),
        ("price", 3, "current_price"),
    ],
)
def test_every_alias_reaches_its_field(column, value, field):
    plain = json.loads(value) if isinstance(value, str) and value.startswith("{") else value
    expected = next(iter(plain.values())) if isinstance(plain, dict) else value
    assert getattr(parse_item(row(**{column: value})), field) == expected


@pytest.mark.parametrize("alias", ["id", "product_id"])
def test_ids_may_come_under_an_alias_and_titles_as_name(alias):
    item = parse_item({alias: 17, "name": "Ring"})
    assert (item.item_id, item.title) == ("17", "Ring")


def test_the_contracts_own_name_wins_over_an_alias():
    assert parse_item(row(id="other", price=1, current_price=2)).item_id == "lot-1"
    assert parse_item(row(price=1, current_price=2)).current_price == 2


def test_a_blank_value_gives_way_to_the_next_alias():
    assert parse_item({"item_id": " ", "id": "lot-2", "title": "Ring"}).item_id == "lot-2"
    assert parse_item(row(current_price=math.nan, price=2)).current_price == 2


def test_an_integer_id_that_a_table_made_a_float_stays_an_integer():
    assert parse_item(row(item_id=17.0)).item_id == "17"


def test_a_category_number_is_the_same_text_from_every_format():
    assert [parse_item(row(catalog_id=number)).category for number in ("17", 17, 17.0)] == ["17"] * 3


def test_text_that_a_parquet_file_calls_bytes_is_text():
    item = parse_item({"item_id": b"lot-1", "title": "Änglavas".encode(), "price": b"3.5", "ends_at": b"2026-11-21T20:00:00Z"})
    assert item == Item("lot-1", "Änglavas", current_price=3.5, ends_at=EVENING)


@pytest.mark.parametrize("value", [20261121, "20261121", "2026-11-21"])
def test_eight_digits_are_a_date_and_no_second_of_1970(value):
    assert parse_item(row(ends_at=value)).ends_at == datetime(2026, 11, 21, tzinfo=UTC)


def test_a_row_from_the_future_is_refused_because_every_later_row_would_be_stale():
    now = datetime(2026, 11, 21, 20, tzinfo=UTC)
    with pytest.raises(InvalidInput, match="updated_at lies in the future: '2099-01-01'"):
        parse_item(row(updated_at="2099-01-01"), now)
    with pytest.raises(InvalidInput, match=r"listed_at lies in the future.*updated_at"):
        parse_item(row(listed_at="2026-11-23"), now)
    listed_later = parse_item(row(listed_at="2026-11-23", updated_at="2026-11-21"), now)
    assert listed_later.version == epoch_ms(datetime(2026, 11, 21, tzinfo=UTC))
    assert parse_item(row(updated_at="2026-11-22T09:59"), now).updated_at  # a local time that is taken as UTC


@pytest.mark.parametrize("field", ["item_id", "title"])
@pytest.mark.parametrize("value", [None, "", "   ", math.nan])
def test_a_row_without_id_or_title_is_refused_with_the_names_it_may_have(field, value):
    with pytest.raises(InvalidInput, match=rf"{field} is missing.*(product_id|name)"):
        parse_item(row(**{field: value}))


def test_a_title_of_control_characters_alone_is_no_title():
    with pytest.raises(InvalidInput, match="title is missing"):
        parse_item(row(title="\x00\x07"))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("current_price", -1, "current_price must be >= 0"),
        ("current_price", "12 EUR", "current_price is not a number: '12 EUR'"),
        ("current_price", math.inf, "current_price must be >= 0 and <= 1000000000000"),
        ("current_price", 10**400, "current_price is not a number"),
        ("current_price", [1], "current_price is not a number"),
        ("bid_count", 1.5, "bid_count must be a whole number"),
        ("bid_count", -1, "bid_count must be >= 0"),
        ("bid_count", 2**31, "bid_count must be >= 0 and <= 2147483647"),
        ("seller_rating", 5.01, "seller_rating must be >= 0 and <= 5"),
        ("ends_at", "tomorrow", "ends_at is not a time: 'tomorrow'"),
        ("current_price", True, "current_price is not a number: True"),
        ("ends_at", True, "ends_at is not a time"),
        ("ends_at", 0, "ends_at is not a time: 0"),
        ("title", {"en": "Ring"}, "title is not a text"),
        ("item_id", [1], "item_id is not a text"),
        ("brand", b"\xff", "brand holds half a character"),
        ("ends_at", "0001-01-01T00:00:00+10:00", "ends_at is not a time"),
        ("listed_at", 1e300, "listed_at is not a time"),
        ("title", "x" * 1_001, "title has 1001 characters, at most 1000"),
        ("title", "half \ud83d", "title holds half a character"),
        ("item_id", "é" * 300, "item_id is longer than 512 bytes"),
        ("item_id", "x" * 513, "item_id"),
        ("item_id", "a\x00b", "item_id holds unprintable characters"),
        ("item_id", "\ud800", "item_id holds half a character"),
    ],
)
def test_a_value_out_of_its_range_is_refused_by_name(field, value, message):
    with pytest.raises(InvalidInput, match=message):
        parse_item(row(**{field: value}))


@pytest.mark.parametrize(("field", "value"), [("current_price", 0), ("bid_count", 0), ("seller_rating", 0), ("seller_rating", 5)])
def test_the_ends_of_a_range_belong_to_it(field, value):
    assert getattr(parse_item(row(**{field: value})), field) == value


def test_decimals_are_prices_and_a_missing_bid_count_is_none_yet():
    assert parse_item(row(price=Decimal("9.99"))).current_price == pytest.approx(9.99)
    assert parse_item(row(bid_count=None)).bid_count == 0


@given(st.dictionaries(columns, anything))
def test_a_row_of_anything_is_an_item_within_the_contract_or_a_refusal(values):
    try:
        item = parse_item(values)
    except InvalidInput:
        return
    assert 1 <= len(item.item_id.encode()) <= 512
    assert 1 <= len(item.title) <= 1_000
    assert item.current_price is None or item.current_price >= 0
    assert item.bid_count >= 0
    assert item.ends_at is None or item.ends_at.tzinfo == UTC
    assert json.dumps(asdict(item), default=str, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "value",
    [
        "2026-11-21T20:00:00Z",
        "2026-11-21T20:00:00",
        "2026-11-21 22:00:00+02:00",
        " 20261121T200000Z ",
        datetime(2026, 11, 21, 20),
        datetime(2026, 11, 21, 22, tzinfo=timezone(timedelta(hours=2))),
        1795291200,
        1795291200.0,
        1795291200000,
        "1795291200",
        "1795291200000",
        "1795291200.0",
    ],
)
def test_a_moment_is_the_same_however_it_is_written(value):
    assert parse_time("ends_at", value) == EVENING


@pytest.mark.parametrize("as_number", [str, int, float])
@pytest.mark.parametrize(
    "compact",
    ["2026112120", "1999123123", "202611212000", "202712312000", "20261121200000", "20251231200000", "20261121200000000"],
)
def test_a_compact_time_is_refused_instead_of_read_as_another_year(compact, as_number):
    for field in ("listed_at", "ends_at", "updated_at"):
        with pytest.raises(InvalidInput, match=f"{field} is not a time: .*write ISO 8601.* or epoch seconds or milliseconds"):
            parse_item(row(**{field: as_number(compact)}))


@pytest.mark.parametrize("number", [631151999, 631151999999, 7258118400, 7258118400000, -1795291200, "-1795291200"])
def test_a_number_that_says_no_time_from_1990_to_2200_is_refused(number):
    with pytest.raises(InvalidInput, match="from 1990 to 2200"):
        parse_time("ends_at", number)


@pytest.mark.parametrize("number", [631152000, 631152000000, 1699999999, 1926132300, 2026132120, 7258118399, 7258118399999])
def test_other_numbers_are_seconds_or_milliseconds(number):
    read = parse_time("ends_at", number)
    assert read == parse_time("ends_at", str(number))
    assert epoch_ms(read) == (number if number > 10**11 else number * 1000)


def test_a_date_is_its_first_moment_and_none_stays_none():
    assert parse_time("ends_at", date(2026, 11, 21)) == datetime(2026, 11, 21, tzinfo=UTC)
    assert parse_time("ends_at", "20261121") == datetime(2026, 11, 21, tzinfo=UTC)
    assert parse_time("ends_at", None) is None


@given(st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(9999, 1, 1), timezones=st.just(UTC)))
def test_epoch_milliseconds_are_exact_to_the_millisecond(moment):
    back = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=epoch_ms(moment))
    assert timedelta(0) <= moment - back < timedelta(milliseconds=1)


def test_the_version_is_updated_at_else_listed_at_else_zero():
    later = EVENING + timedelta(hours=1)
    assert Item("1", "t", listed_at=EVENING, updated_at=later).version == epoch_ms(later)
    assert Item("1", "t", listed_at=EVENING).version == epoch_ms(EVENING)
    assert Item("1", "t").version == 0
    assert Item("1", "t", updated_at=datetime(1960, 1, 1, tzinfo=UTC)).version == 0


def test_the_text_of_a_lot_is_title_then_description():
    assert item_text("Steel  watch", "Runs\nwell") == "Steel watch. Runs well"
    assert item_text("Steel watch", "  ") == "Steel watch"


@given(st.text())
def test_clean_text_is_one_line_without_control_characters(text):
    cleaned = clean_text(text)
    assert cleaned == cleaned.strip()
    assert "  " not in cleaned
    assert not any(ord(c) < 32 or c in "\x7f\u2028\u2029" for c in cleaned)


@given(st.text())
def test_cleaning_twice_changes_nothing(text):
    assert clean_text(clean_text(text)) == clean_text(text)


@given(st.text(min_size=1))
def test_a_query_is_cleaned_as_a_title_is(text):
    assert query_text(text) == item_text(text, "")


def test_full_width_letters_and_ligatures_become_plain():
    assert clean_text("Ｒｏｌｅｘ ﬁne\u00a0№5") == "Rolex fine No5"


def test_a_reject_is_one_line_of_json():
    line = Reject("lots.csv", 7, "price is\nodd", "lot-7").to_json()
    assert "\n" not in line
    assert json.loads(line) == {"source": "lots.csv", "line": 7, "item_id": "lot-7", "reason": "price is\nodd"}


@pytest.mark.parametrize("unseen", "\ufe0f\ufe0e\u3164\u115f\u034f\u180b\u17b4\u200b\u200d\U000e0041\U000e0100")
def test_an_id_with_what_nobody_can_see_is_no_id(unseen):
    for written in (f"lot-1{unseen}", f"lot{unseen}-1", f"❤{unseen}"):
        with pytest.raises(InvalidInput, match=r"item_id holds unprintable characters: .*\\[uU]"):
            parse_id("item_id", written)
    assert parse_id("item_id", "❤") == "❤"


def test_ids_have_one_form_in_every_file():
    assert parse_id("item_id", " lot-1 ") == parse_id("item_id", "lot-1") == "lot-1"
    assert parse_id("item_id", 5.0) == parse_id("item_id", 5) == parse_id("item_id", "5") == "5"
