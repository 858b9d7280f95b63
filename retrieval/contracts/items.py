"""The item contract: columns, aliases, types and limits, and the one text that a lot is known by."""

import ast
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from retrieval.errors import InvalidInput, InvalidQuery
from retrieval.text.analysis import UNSEEN_IN_WORDS, check_text, clean_text, compose, fold_text, readable

MAX_ID_BYTES = 512  # OpenSearch refuses a longer _id
MAX_TITLE_CHARS = 1_000
MAX_DESCRIPTION_CHARS = 100_000
MAX_SELLER_RATING = 5.0
MAX_PRICE = 1e12  # far below what the index's 32-bit float can hold
MAX_BID_COUNT = 2**31 - 1  # the index's integer
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONE_SLACK = timedelta(hours=14)  # a time without a zone is taken as UTC, and may be a local one that far ahead of it
NUMERIC_TIME = re.compile(r"-?\d{9,}(\.\d+)?")  # eight digits are an ISO 8601 date
MIN_NUMERIC_TIME = 1e8  # the same of a number
MAX_SECONDS = 10**11  # above, a number counts milliseconds
FIRST_NUMERIC, END_NUMERIC = datetime(1990, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)  # what a number may say
YEAR_TO_HOUR = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])(\.0+)?")  # also a count of seconds
TIMES = "write ISO 8601, such as 2026-11-21T20:00:00Z, or epoch seconds or milliseconds"
UNSEEN = re.compile(UNSEEN_IN_WORDS)
FLOAT_ID = re.compile(r"(-?(?:0|[1-9]\d*))\.0+", re.ASCII)  # what pandas and decimals write of a whole number
MAX_FLOAT_ID = 2**53 - 1  # above, neighbouring whole numbers are one float

# field -> names it may have in a file, best first; a dot reaches into an object or a JSON string
ALIASES: Mapping[str, tuple[str, ...]] = {
    "item_id": ("item_id", "id", "product_id"),
    "title": ("title", "name"),
    "description": ("description",),
    "image": ("image", "image_uri", "image_url"),
    "category": ("category", "catalog_id", "metadata.catalog_id"),
    "brand": ("brand", "metadata.brand"),
    "current_price": ("current_price", "price"),
    "bid_count": ("bid_count",),
    "seller_rating": ("seller_rating",),
    "listed_at": ("listed_at",),
    "ends_at": ("ends_at",),
    "updated_at": ("updated_at",),
    "seller": ("seller", "seller_id", "metadata.seller"),
}
REQUIRED = ("item_id", "title")


@dataclass(frozen=True, slots=True)
class Item:
    """One auction lot as its seller listed it.

    Attributes:
        item_id: unique id, 1 to 512 bytes of UTF-8, in NFC.
        title: 1 to 1,000 characters.
        description: up to 100,000 characters, may be empty.
        image: path or s3:// URI of the photo, relative to the file that named it; None without a photo.
        category: catalogue id or name, may be empty.
        brand: maker, may be empty.
        current_price: highest bid, 0 to 10^12, in the shop's one currency; None when unknown.
        bid_count: number of bids, 0 to 2^31 - 1.
        seller_rating: 0 to 5; None when unknown.
        listed_at: UTC, or None.
        ends_at: UTC end of the auction; None never ends.
        updated_at: UTC time of this version of the lot, or None.
        seller: id or name of who sells it, may be empty.
    """

    item_id: str
    title: str
    description: str = ""
    image: str | None = None
    category: str = ""
    brand: str = ""
    current_price: float | None = None
    bid_count: int = 0
    seller_rating: float | None = None
    listed_at: datetime | None = None
    ends_at: datetime | None = None
    updated_at: datetime | None = None
    seller: str = ""

    @property
    def version(self) -> int:
        """Return the version of the item: updated_at, else listed_at, in ms since 1970; 0 if both are unknown."""
        moment = self.updated_at or self.listed_at
        return max(0, epoch_ms(moment)) if moment else 0


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that breaks the contract, with its place and the reason."""

    source: str
    line: int
    reason: str
    item_id: str | None = None

    def __post_init__(self) -> None:
        for name in ("source", "reason", "item_id"):  # whatever row and file name held, a reject can be written down
            if (text := getattr(self, name)) is not None:
                object.__setattr__(self, name, readable(text))

    def to_json(self) -> str:
        """Return the reject as one line of `rejects.ndjson`."""
        return json.dumps(
            {"source": self.source, "line": self.line, "item_id": self.item_id, "reason": self.reason}, ensure_ascii=False
        )


def item_text(title: str, description: str) -> str:
    """Return the text of an item for towers and keyword search: title, description, Arabic letters in one spelling."""
    return fold_text(f"{title}. {description}" if description.strip() else title)


def query_text(query: str) -> str:
    """Clean the text of a query as item_text() cleans that of an item."""
    return fold_text(query)


def epoch_ms(moment: datetime) -> int:
    """Convert a time with a time zone to whole milliseconds since 1970-01-01 UTC."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


def latest_version(now: datetime | None = None) -> int:
    """Return the highest version that an item can have at a moment; a higher one would make every later row stale.

    Args:
        now: UTC; None takes the clock of this machine.
    """
    return epoch_ms((now or datetime.now(UTC)) + ZONE_SLACK)


def parse_item(row: Mapping[str, Any], now: datetime | None = None) -> Item:
    """Read one row of a catalogue file.

    Args:
        row: column name -> value, under the contract's names or their aliases; NaN and blank text mean missing.
        now: UTC, the moment that the version of the item may not pass by more than ZONE_SLACK; None takes this machine's clock.

    Returns:
        The item, with its texts as the seller wrote them.

    Raises:
        InvalidInput: a required field is missing or a value is out of its range; the message names field and value.
    """
    values = {field: first_value(row, names) for field, names in ALIASES.items()}
    for field in REQUIRED:
        if values[field] is None or (field == "title" and not clean_text(str(values[field]))):
            raise InvalidInput(f"{field} is missing (accepted column names: {', '.join(ALIASES[field])})")
    item = Item(
        item_id=parse_id("item_id", values["item_id"]),
        title=parse_text("title", values["title"], MAX_TITLE_CHARS),
        description=parse_text("description", values["description"], MAX_DESCRIPTION_CHARS),
        image=_as_written("image", values["image"], MAX_TITLE_CHARS) or None,
        category=parse_text("category", values["category"], MAX_TITLE_CHARS),
        brand=parse_text("brand", values["brand"], MAX_TITLE_CHARS),
        current_price=_number("current_price", values["current_price"], MAX_PRICE),
        bid_count=_count("bid_count", values["bid_count"]),
        seller_rating=_number("seller_rating", values["seller_rating"], MAX_SELLER_RATING),
        listed_at=parse_time("listed_at", values["listed_at"]),
        ends_at=parse_time("ends_at", values["ends_at"]),
        updated_at=parse_time("updated_at", values["updated_at"]),
        seller=parse_text("seller", values["seller"], MAX_TITLE_CHARS),
    )
    if item.version > latest_version(now):
        field = "updated_at" if item.updated_at else "listed_at"  # a lot may be listed later, if its row says when it was written
        raise InvalidInput(
            f"{field} lies in the future: {values[field]!r}; every later row of this lot would pass for an older one. "
            "Write the time of the row in updated_at"
        )
    return item


def parse_time(field: str, value: Any) -> datetime | None:
    """Read a time: a datetime, an ISO 8601 text, or a number of seconds (or, above 10^11, milliseconds) since 1970.

    A number that says no time from 1990 to 2200, or may be YYYYMMDDHH, is refused: compact dates would be read as other years.

    Args:
        field: name for the error message.
        value: None stays None; a time without a zone is taken as UTC. A number below 10^8, before March 1973, is no time,
            but one of eight digits such as 20261121 is a date.

    Returns:
        The time in UTC.

    Raises:
        InvalidInput: the value is no time.
    """
    if value is None:
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        if isinstance(value, datetime):
            moment = value
        elif NUMERIC_TIME.fullmatch(text := str(value).strip()) or (
            isinstance(value, (int, float)) and abs(value) >= MIN_NUMERIC_TIME
        ):
            number = float(text)  # CSV has no numbers, only text
            moment = datetime.fromtimestamp(number / 1000 if abs(number) > MAX_SECONDS else number, UTC)
            if not FIRST_NUMERIC <= moment < END_NUMERIC or YEAR_TO_HOUR.fullmatch(text):
                raise InvalidInput(
                    f"{field} is not a time: {value!r} counts no seconds or milliseconds from 1990 to 2200, or may be YYYYMMDDHH; "
                    f"{TIMES}"
                )
        else:
            moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise InvalidInput(f"{field} is not a time: {value!r} ({TIMES})") from None


def parse_id(field: str, value: Any) -> str:
    """Read an id, in one form for every file, event and request: text in NFC without white space around it.

    Args:
        field: name for the error message.
        value: text or a whole number. 17.0, which a column of integers with a hole becomes, and a decimal 17.00 are "17", also
            where they were written as text; "017" and "1.5" are text and stay.

    Raises:
        InvalidInput: longer than 512 bytes, with characters that nobody can see, or a number that is not whole or too large
            to be exact.
    """
    if isinstance(value, Decimal):
        whole_number = value.is_finite() and value == value.to_integral_value()
    else:
        whole_number = not isinstance(value, bool) and (not isinstance(value, float) or value.is_integer())
    if not whole_number:
        raise InvalidInput(f"{field} is {value}, no whole number; write ids as whole numbers or as text")
    text = unicodedata.normalize("NFC", _as_written(field, f"{value:.1f}" if isinstance(value, float) else value, MAX_ID_BYTES))
    if whole := FLOAT_ID.fullmatch(text):
        text = str(int(whole[1]))
        if abs(int(text)) > MAX_FLOAT_ID:
            raise InvalidInput(f"{field} is {value}, too large for a number with a point to be exact; write ids as text")
    if len(text.encode()) > MAX_ID_BYTES:
        raise InvalidInput(f"{field} is longer than {MAX_ID_BYTES} bytes: {text[:40]!r}…")
    if not text.isprintable() or UNSEEN.search(text):
        raise InvalidInput(f"{field} holds unprintable characters: {text!a}")
    return text


def require_id(field: str, text: str) -> str:
    """Read an id that a request names, as parse_id().

    Raises:
        InvalidQuery: it is empty, too long, or holds what nobody can see.
    """
    if not text.strip():
        raise InvalidQuery(f"{field} is empty; send the id that lots or events have")
    try:
        return parse_id(field, text)
    except InvalidInput as error:
        raise InvalidQuery(str(error)) from error


def first_value(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return the first value present under any of the names; None, NaN and blank text are absent, bytes are UTF-8 text."""
    for name in names:
        value = _lookup(row, name)
        if isinstance(value, bytes):  # what a parquet column that does not say that it holds text comes as
            value = value.decode(errors="surrogateescape")
        absent = value is None or (isinstance(value, str) and not value.strip())
        absent = absent or (value.is_nan() if isinstance(value, Decimal) else isinstance(value, float) and math.isnan(value))
        if not absent:
            return value
    return None


def _lookup(row: Mapping[str, Any], name: str) -> Any:
    if name in row or "." not in name:
        return row.get(name)
    outer, inner = name.split(".", 1)
    nested = row.get(outer)
    if isinstance(nested, str):
        nested = _object(outer, nested)
    return nested.get(inner) if isinstance(nested, Mapping) else None


def _object(field: str, text: str) -> Any:
    """Parse the JSON of a cell, or the text that pandas writes for a dict; return None for other text.

    Raises:
        InvalidInput: the text begins as an object and is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if not text.lstrip().startswith("{"):
            return None
    try:
        read = ast.literal_eval(text.strip())
        repr(read)  # ValueError: a hexadecimal number of more digits than Python writes
        return read
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # TypeError: a list as a key
        raise InvalidInput(f"{field} is no JSON object: {text.strip()[:40]!r}") from None


def parse_text(field: str, value: Any, limit: int) -> str:
    """Read a text: valid Unicode in NFC, without control characters, without white space around it.

    Args:
        field: name for the error message.
        value: text or a number, a whole one without a fraction; None is the empty text.
        limit: characters that it may have.

    Raises:
        InvalidInput: it is no text, longer, or holds half a character.
    """
    return compose(_as_written(field, value, limit)).strip()


def _as_written(field: str, value: Any, limit: int) -> str:
    if isinstance(value, (Mapping, list)):
        raise InvalidInput(f"{field} is not a text: {str(value)[:40]!r}")
    if isinstance(value, (float, Decimal)) and math.isfinite(value) and value == int(value):
        value = int(value)
    text = "" if value is None else str(value)
    if len(text) > limit:
        raise InvalidInput(f"{field} has {len(text)} characters, at most {limit} are allowed")
    check_text(text, field)
    return text.strip()


def _number(field: str, value: Any, maximum: float) -> float | None:
    if value is None:
        return None
    try:
        if isinstance(value, bool):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidInput(f"{field} is not a number: {value!r}") from None
    if not math.isfinite(number) or not 0 <= number <= maximum:
        raise InvalidInput(f"{field} must be >= 0 and <= {maximum:.15g}, not {value!r}")
    return number


def _count(field: str, value: Any) -> int:
    number = _number(field, value, MAX_BID_COUNT) or 0.0
    if not number.is_integer():
        raise InvalidInput(f"{field} must be a whole number, not {value!r}")
    return int(number)
