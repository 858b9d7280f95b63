"""Read the invoices of a UK gift shop over a year (UCI "Online Retail", Daqing Chen 2015): purchases and products only.

Buyers order for their own shops, so baskets are large and recur, which suits the measurement of next-basket retrieval.
"""

import csv
import gzip
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import IO

from retrieval.contracts.events import Interaction
from retrieval.contracts.items import Item
from retrieval.errors import InvalidInput
from retrieval.files import reason_of

logger = logging.getLogger(__name__)

INVOICES_FILE = "online_retail.csv.gz"
COLUMNS = ("InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID")
CANCELLED = "C"  # prefix of the invoice numbers of cancellations
SERVICES = frozenset(  # stock codes that are no products: carriage, discounts, fees, manual corrections, samples
    ("POST", "DOT", "C2", "D", "M", "S", "B", "BANK CHARGES", "AMAZONFEE", "CRUK")
)
SERIES_DIGITS = 3  # number of first digits of a stock code that products introduced together share
MONTH = timedelta(days=30)

CANCELLATION, NO_CUSTOMER, NO_PRODUCT = "cancellation", "no customer", "no product (carriage, fee, correction)"
NO_QUANTITY, NO_PRICE, REPEATED = "quantity is not positive", "price is not positive", "product stands in the invoice already"


@dataclass(frozen=True, slots=True)
class Invoices:
    """The shop's purchases and products.

    Attributes:
        purchases: purchases, one per product of an invoice, in order of time.
        products: every purchased product, sorted by id. Its category is the first three characters of the stock code, because the
            shop has no categories.
        set_aside: reason -> number of lines that are no purchase.
        lines: number of all lines, purchases or not.
    """

    purchases: Sequence[Interaction]
    products: Sequence[Item]
    set_aside: Mapping[str, int]
    lines: int


@dataclass(frozen=True, slots=True)
class Months:
    """A split by time: the last 30 days are test, the 30 days before are val, all earlier days are train.

    Attributes:
        val: start of val.
        test: start of test.
        end: end of test, the midnight after the last purchase.
    """

    val: datetime
    test: datetime
    end: datetime

    @classmethod
    def of(cls, purchases: Sequence[Interaction]) -> "Months":
        """Return the split of these purchases; it is at midnight, so that every day is in one part."""
        last = max(purchase.timestamp for purchase in purchases)
        end = last.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        return cls(end - 2 * MONTH, end - MONTH, end)


@dataclass(frozen=True, slots=True)
class _Line:
    invoice: str
    code: str
    title: str
    quantity: int
    time: datetime
    price: float
    customer: str


def read_invoices(data: Path) -> Invoices:
    """Read the shop's invoices.

    Args:
        data: the folder of online_retail.csv.gz, or the file itself.

    Raises:
        InvalidInput: the file is missing or damaged, lacks a column, or holds no purchase.
    """
    path = data / INVOICES_FILE if data.is_dir() else data
    set_aside: Counter[str] = Counter()
    purchase_lines: dict[tuple[str, str], _Line] = {}
    titles: dict[str, Counter[str]] = defaultdict(Counter)
    prices: dict[str, list[float]] = defaultdict(list)
    lines = 0
    for lines, line in enumerate(_lines(path), 1):  # noqa: B007
        reason = _fault(line) or (REPEATED if (line.invoice, line.code) in purchase_lines else None)
        if reason:
            set_aside[reason] += 1
            continue
        purchase_lines[line.invoice, line.code] = line
        titles[line.code][line.title] += 1
        prices[line.code].append(line.price)
    if not purchase_lines:
        raise InvalidInput(f"{path} holds no purchase in {lines} lines: expected invoices with {', '.join(COLUMNS)}")
    logger.info("%d of %d invoice lines are purchases; set aside: %s", len(purchase_lines), lines, dict(set_aside))
    products = [_product(code, titles[code], prices[code]) for code in sorted(titles)]
    return Invoices(_purchases(purchase_lines.values()), products, dict(set_aside), lines)


def _fault(line: _Line) -> str | None:
    """Return the first reason why a line is no purchase of a known customer; None for a purchase."""
    faults = (
        (CANCELLATION, line.invoice.startswith(CANCELLED)),
        (NO_CUSTOMER, not line.customer),
        (NO_PRODUCT, line.code in SERVICES),
        (NO_QUANTITY, line.quantity <= 0),
        (NO_PRICE, line.price <= 0),
    )
    return next((reason for reason, applies in faults if applies), None)


def _purchases(lines: Iterable[_Line]) -> list[Interaction]:
    purchases = [Interaction(line.customer, line.code, "purchase", line.time) for line in lines]
    return sorted(purchases, key=lambda purchase: (purchase.timestamp, purchase.buyer_id, purchase.item_id))


def _product(code: str, titles: Counter[str], prices: Sequence[float]) -> Item:
    """Return a product with the most frequent description of its lines."""
    title = min(titles, key=lambda text: (-titles[text], text))
    return Item(item_id=code, title=title or code, category=code[:SERIES_DIGITS], current_price=median(prices))


def _lines(path: Path) -> Iterator[_Line]:
    try:
        with _open(path) as file:
            rows = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise InvalidInput(f"{path} has no column {', '.join(missing)}: expected {', '.join(COLUMNS)}")
            for row in rows:
                yield _line(path, rows.line_num, row)
    except FileNotFoundError:
        raise InvalidInput(f"{path} is missing: expected {INVOICES_FILE}, the UCI data set Online Retail") from None
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{path} cannot be read ({reason_of(error)}); copy it again") from error


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _line(path: Path, number: int, row: Mapping[str, str]) -> _Line:
    try:
        return _Line(
            invoice=row["InvoiceNo"].strip(),
            code=row["StockCode"].strip().upper(),  # the shop uses both 85123a and 85123A
            title=" ".join(row["Description"].split()),
            quantity=int(row["Quantity"]),
            time=datetime.fromisoformat(row["InvoiceDate"]).replace(tzinfo=UTC),
            price=float(row["UnitPrice"]),
            customer=row["CustomerID"].removesuffix(".0"),
        )
    except (ValueError, AttributeError) as error:
        raise InvalidInput(f"{path} line {number} is no invoice line ({error}); copy the file again") from error
