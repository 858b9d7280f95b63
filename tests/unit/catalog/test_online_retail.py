"""Invoices of the gift shop: what is a purchase, what is set aside and why, and how the months are cut."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest

from catalog.online_retail import (
    CANCELLATION,
    INVOICES_FILE,
    NO_CUSTOMER,
    NO_PRICE,
    NO_PRODUCT,
    NO_QUANTITY,
    REPEATED,
    Months,
    read_invoices,
)
from retrieval.errors import InvalidInput

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"
GOOD = "1,22745,POPPY'S PLAYHOUSE ,6,2011-01-05 08:34:00,2.1,13047.0,United Kingdom"


def written(folder: Path, *lines: str, header: str = HEADER) -> Path:
    with gzip.open(folder / INVOICES_FILE, "wt", encoding="utf-8") as file:
        file.write("\n".join([header, *lines]) + "\n")
    return folder


def test_every_line_is_a_purchase_or_set_aside_with_its_reason(tmp_path: Path) -> None:
    lines = {
        "C2,22745,POPPY'S PLAYHOUSE,-6,2011-01-06 08:34:00,2.1,13047.0,UK": CANCELLATION,
        "3,22745,POPPY'S PLAYHOUSE,6,2011-01-06 08:34:00,2.1,,UK": NO_CUSTOMER,
        "4,POST,POSTAGE,1,2011-01-06 08:34:00,18,13047.0,UK": NO_PRODUCT,
        "4,m,Manual,1,2011-01-06 08:34:00,18,13047.0,UK": NO_PRODUCT,
        "5,22745,POPPY'S PLAYHOUSE,-6,2011-01-06 08:34:00,2.1,13047.0,UK": NO_QUANTITY,
        "6,22745,POPPY'S PLAYHOUSE,6,2011-01-06 08:34:00,0,13047.0,UK": NO_PRICE,
        "1,22745,POPPY'S PLAYHOUSE,1,2011-01-05 08:34:00,2.1,13047.0,UK": REPEATED,
    }
    read = read_invoices(written(tmp_path, GOOD, *lines))
    assert read.lines == len(lines) + 1 == len(read.purchases) + sum(read.set_aside.values())
    assert {reason: list(lines.values()).count(reason) for reason in lines.values()} == read.set_aside
    (act,) = read.purchases
    assert (act.buyer_id, act.item_id, act.event_type) == ("13047", "22745", "purchase")
    assert act.timestamp == datetime(2011, 1, 5, 8, 34, tzinfo=UTC)


def test_a_product_has_its_most_frequent_description_its_series_and_its_median_price(tmp_path: Path) -> None:
    lines = [
        "1,85123a,HEART  HOLDER,1,2011-01-05 08:00:00,1,1,UK",
        "2,85123A,HEART HOLDER,1,2011-01-06 08:00:00,2,2,UK",
        "3,85123A,WRONG NAME,1,2011-01-07 08:00:00,9,3,UK",
    ]
    (product,) = read_invoices(written(tmp_path, *lines)).products
    assert (product.item_id, product.title, product.category, product.current_price) == ("85123A", "HEART HOLDER", "851", 2.0)


def test_the_last_thirty_days_test_and_the_thirty_before_are_val(tmp_path: Path) -> None:
    lines = [GOOD, "9,22745,POPPY'S PLAYHOUSE,6,2011-12-09 12:50:00,2.1,13047.0,UK"]
    months = Months.of(read_invoices(written(tmp_path, *lines)).purchases)
    assert (months.val, months.test, months.end) == tuple(
        datetime(2011, month, day, tzinfo=UTC) for month, day in ((10, 11), (11, 10), (12, 10))
    )


def test_a_missing_or_broken_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is missing"):
        read_invoices(tmp_path)
    with pytest.raises(InvalidInput, match="no column CustomerID"):
        read_invoices(written(tmp_path, "1,22745", header=HEADER.replace("CustomerID", "Customer")))
    with pytest.raises(InvalidInput, match="line 2 is no invoice line"):
        read_invoices(written(tmp_path, GOOD.replace(",6,", ",six,")))
    with pytest.raises(InvalidInput, match="holds no purchase"):
        read_invoices(written(tmp_path))
    (tmp_path / INVOICES_FILE).write_bytes(b"no gzip")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_invoices(tmp_path)
