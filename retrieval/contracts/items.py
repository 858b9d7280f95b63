"""The item contract: columns, aliases, types and limits of items, and the text that encoders and keyword search read."""

import ast
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from retrieval.errors import InvalidInput, InvalidQuery
from retrieval.text.analysis import UNSEEN_IN_WORDS, check_text, clean_text, compose, fold_text, readable

MAX_ID_BYTES = 512  # OpenSearch rejects a longer _id
MAX_TITLE_CHARS = 1_000
MAX_PHOTOS = 12  # per item; further ones are left out
MAX_PHOTO_CHARS = 2_000  # of a path or an address
MAX_DESCRIPTION_CHARS = 100_000
MAX_SELLER_RATING = 5.0
MAX_PRICE = 1e12  # far below the largest 32-bit float of an index
MAX_BID_COUNT = 2**31 - 1  # largest 32-bit integer of an index
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONE_SLACK = timedelta(hours=14)  # a time without a zone is read as UTC, but may be a local time up to 14 hours ahead
NUMERIC_TIME = re.compile(r"-?\d{9,}(\.\d+)?")  # from nine digits on, because eight digits are an ISO 8601 date
MIN_NUMERIC_TIME = 1e8  # smallest number that is read as a time: the first one with nine digits
MAX_SECONDS = 10**11  # a larger number counts milliseconds
FIRST_NUMERIC, END_NUMERIC = datetime(1990, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)  # allowed times of numbers
YEAR_TO_HOUR = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])(\.0+)?")  # may also be seconds
TIMES = "write ISO 8601, such as 2026-11-21T20:00:00Z, or epoch seconds or milliseconds"
UNSEEN = re.compile(UNSEEN_IN_WORDS)
FLOAT_ID = re.compile(r"(-?(?:0|[1-9]\d*))\.0+", re.ASCII)  # a whole number as pandas and decimals write it
MAX_FLOAT_ID = 2**53 - 1  # above, one float stands for several whole numbers

# field -> names of its column in a file, best first; "a.b" is the key b of the object, or JSON text, in column a
ALIASES: Mapping[str, tuple[str, ...]] = {
    "item_id": ("item_id", "id", "product_id"),
    "title": ("title", "name"),
    "description": ("description",),
    "image": ("image", "image_uri", "image_url", "images", "image_urls"),
    "more_images": ("more_images", "additional_images", "additional_image_link"),
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
AttributeValue = str | int | float | list[str | int | float]
Attributes = Mapping[str, AttributeValue]


@dataclass(frozen=True, slots=True)
class Item:
    """One auction item as its seller listed it.

    Attributes:
        item_id: unique id, 1 to 512 bytes of UTF-8, in NFC.
        title: title, 1 to 1,000 characters.
        description: description, 0 to 100,000 characters.
        image: s3:// URI or http(s) address of the photo, or its path, relative to the catalogue file; None without a photo.
        category: name or catalogue id of the category; empty if there is none.
        brand: name of the maker; empty if unknown.
        current_price: highest bid, 0 to 10^12, in the shop's one currency; None if unknown.
        bid_count: number of bids, 0 to 2^31 - 1.
        seller_rating: rating of the seller, 0 to 5; None if unknown.
        listed_at: UTC time of the listing; None if unknown.
        ends_at: UTC end of the auction; None if it never ends.
        updated_at: UTC time of this version of the item; None if unknown.
        seller: id or name of the seller; empty if unknown.
        attributes: name -> value of its other facts, as attributes.read_attributes() reads them.
        more_images: further photos, likewise; with `image` at most MAX_PHOTOS.
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
    attributes: Attributes = field(default_factory=dict, hash=False)
    more_images: tuple[str, ...] = ()

    @property
    def photos(self) -> tuple[str, ...]:
        """Return all photos, the first one first."""
        return (self.image, *self.more_images) if self.image else ()

    @property
    def version(self) -> int:
        """Return the version of the item: updated_at, else listed_at, in ms since 1970; 0 if both are unknown."""
        moment = self.updated_at or self.listed_at
        return max(0, epoch_ms(moment)) if moment else 0


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that breaks the contract.

    Attributes:
        source: name of the file.
        line: line or row number, from 1.
        reason: fault of the row.
        item_id: id of the item; None if the row has none that can be read.
    """

    source: str
    line: int
    reason: str
    item_id: str | None = None

    def __post_init__(self) -> None:
        for name in ("source", "reason", "item_id"):  # so that the reject can be written, whatever row and file name hold
            if (text := getattr(self, name)) is not None:
                object.__setattr__(self, name, readable(text))

    def to_json(self) -> str:
        """Return the reject as one line of `rejects.ndjson`."""
        return json.dumps(
            {"source": self.source, "line": self.line, "item_id": self.item_id, "reason": self.reason}, ensure_ascii=False
        )


def item_text(title: str, description: str) -> str:
    """Return the text of an item for towers and keyword search: title and description, with Arabic letters in one spelling."""
    return fold_text(f"{title}. {description}" if description.strip() else title)


def query_text(query: str) -> str:
    """Clean the text of a query as item_text() cleans that of an item."""
    return fold_text(query)


def epoch_ms(moment: datetime) -> int:
    """Convert a time with a time zone to whole milliseconds since 1970-01-01 UTC."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


def moment_of(ms: int) -> datetime:
    """Convert milliseconds since 1970-01-01 UTC to a UTC time; the inverse of epoch_ms()."""
    return EPOCH + timedelta(milliseconds=ms)


def latest_version(now: datetime | None = None) -> int:
    """Return the highest version that an item may have now. With a higher one, all later rows of the item would be stale.

    Args:
        now: present time in UTC; None takes the clock of this machine.
    """
    return epoch_ms((now or datetime.now(UTC)) + ZONE_SLACK)


def parse_item(row: Mapping[str, Any], now: datetime | None = None, attributes: Attributes | None = None) -> Item:
    """Read one row of a catalogue file.

    Args:
        row: column name -> value, with the names in ALIASES; None, NaN and blank text count as missing.
        now: present time in UTC, which the item's version may exceed by ZONE_SLACK at most; None takes this machine's clock.
        attributes: attributes of the item, as attributes.read_attributes() returns them.

    Returns:
        The item. Its texts are in NFC, but otherwise as the seller wrote them.

    Raises:
        InvalidInput: a required field is missing, or a value is not in its range; the message names field and value.
    """
    values = {field: first_value(row, names) for field, names in ALIASES.items()}
    for name in REQUIRED:
        if values[name] is None or (name == "title" and not clean_text(str(values[name]))):
            raise InvalidInput(f"{name} is missing (accepted column names: {', '.join(ALIASES[name])})")
    photos = [
        photo
        for field in ("image", "more_images")
        for value in (values[field] if isinstance(values[field], (list, tuple)) else [values[field]])
        if (photo := _as_written(field, value, MAX_PHOTO_CHARS))
    ]
    photos = list(dict.fromkeys(photos))[:MAX_PHOTOS]
    item = Item(
        item_id=parse_id("item_id", values["item_id"]),
        title=parse_text("title", values["title"], MAX_TITLE_CHARS),
        description=parse_text("description", values["description"], MAX_DESCRIPTION_CHARS),
        image=photos[0] if photos else None,
        category=parse_text("category", values["category"], MAX_TITLE_CHARS),
        brand=parse_text("brand", values["brand"], MAX_TITLE_CHARS),
        current_price=parse_number("current_price", values["current_price"], MAX_PRICE),
        bid_count=parse_count("bid_count", values["bid_count"]),
        seller_rating=parse_number("seller_rating", values["seller_rating"], MAX_SELLER_RATING),
        listed_at=parse_time("listed_at", values["listed_at"]),
        ends_at=parse_time("ends_at", values["ends_at"]),
        updated_at=parse_time("updated_at", values["updated_at"]),
        seller=parse_text("seller", values["seller"], MAX_TITLE_CHARS),
        attributes=attributes or {},
        more_images=tuple(photos[1:]),
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

    A number is rejected if its time is not in 1990 to 2199. It is also rejected if it may be YYYYMMDDHH, because a compact date
    would be read as seconds of another year.

    Args:
        field: name of the field, for the message.
        value: value to read; None stays None. A time without a zone is read as UTC. Eight digits, such as 20261121, are a date;
            shorter numbers are no times.

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
    """Read an id, in one form for every file, event and request: text in NFC without surrounding white space.

    Args:
        field: name of the field, for the message.
        value: text or a whole number. 17.0, 17.00 and "17.0" are all read as "17", because a column of integers with a missing
            value becomes one of floats. "017" and "1.5" stay as they are.

    Raises:
        InvalidInput: the id is longer than 512 bytes, has invisible characters, or is a number that is not whole or too large to
            be exact.
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
    """Read an id in a request, as parse_id() does.

    Raises:
        InvalidQuery: the id is empty, longer than 512 bytes, or has invisible characters.
    """
    if not text.strip():
        raise InvalidQuery(f"{field} is empty; send the id that lots or events have")
    try:
        return parse_id(field, text)
    except InvalidInput as error:
        raise InvalidQuery(str(error)) from error


def first_value(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return the first value under one of the names that is not None, NaN or blank text, else None. Bytes are read as UTF-8."""
    for name in names:
        value = _lookup(row, name)
        if isinstance(value, bytes):  # from a parquet column that is not marked as text
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
    nested = object_of(outer, row.get(outer))
    return None if nested is None else nested.get(inner)


def object_of(field: str, value: Any) -> Mapping[str, Any] | None:
    """Return the object in a cell: an object, its JSON, or what pandas writes of a dict; None for another value.

    Raises:
        InvalidInput: the text begins with "{", but is no object.
    """
    read = _object(field, value) if isinstance(value, str) else value
    return read if isinstance(read, Mapping) else None


def _object(field: str, text: str) -> Any:
    """Parse the JSON of a cell, or the text that pandas writes for a dict; return None for other text.

    Raises:
        InvalidInput: the text begins with "{", but is neither.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if not text.lstrip().startswith("{"):
            return None
    try:
        read = ast.literal_eval(text.strip())
        repr(read)  # raises ValueError for a hexadecimal number with more digits than Python writes
        return read
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # a list as a key raises TypeError
        raise InvalidInput(f"{field} is no JSON object: {text.strip()[:40]!r}") from None


def parse_text(field: str, value: Any, limit: int) -> str:
    """Read a text, and return it as compose() writes it, without surrounding white space.

    Args:
        field: name of the field, for the message.
        value: text, or a number, which is written without a fraction if it is whole; None is read as empty text.
        limit: maximum number of characters.

    Raises:
        InvalidInput: the value is a list or an object, longer than `limit`, or holds half a character.
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


def parse_number(field: str, value: Any, maximum: float) -> float | None:
    """Read a number from 0 to `maximum`; None stays None.

    Raises:
        InvalidInput: the value is no such number; the message names the field.
    """
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


def parse_count(field: str, value: Any) -> int:
    """Read a whole number from 0 to MAX_BID_COUNT; None is 0.

    Raises:
        InvalidInput: the value is no such number; the message names the field.
    """
    number = parse_number(field, value, MAX_BID_COUNT) or 0.0
    if not number.is_integer():
        raise InvalidInput(f"{field} must be a whole number, not {value!r}")
    return int(number)
