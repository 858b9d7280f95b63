"""Values as people write them: prices with either decimal sign, dates with either order, empty markers, HTML."""

import html
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from html.parser import HTMLParser
from typing import Any

from retrieval.contracts.items import MAX_BID_COUNT, MAX_PRICE, MAX_SELLER_RATING
from retrieval.errors import InvalidInput

NUMBER_FIELDS = ("current_price", "bid_count", "seller_rating")
TIME_FIELDS = ("listed_at", "ends_at", "updated_at")
DECIMAL_SIGNS = ("comma", "point")
DATE_ORDERS = ("day-first", "month-first")
CACHED_TEXTS = 1 << 14
MAX_MARKER_CHARS = 40

# Texts that databases, pandas and spreadsheets write for a missing value; compared without case
_EMPTY = frozenset({"nan", "null", "none", "nat", "n/a", "#n/a", "\\n", "<na>", "-", "--"})
_EMPTY_NUMBERS = frozenset({"inf", "-inf", "+inf", "infinity", "-infinity", "+infinity"})
_EMPTY_DATE = re.compile(r"0000[-/]00[-/]00([T ]00:00(:00(\.0+)?)?Z?)?")

_CURRENCY = r"(?:[A-Z]{0,3}[$€£¥₹₽₩₺₴₪฿₫₱₦]|[A-Z]{3}|Fr\.|kr\.?|zł)"
_MONEY = re.compile(rf"(?P<before>{_CURRENCY})?\s*(?P<number>[+-]?[\d٫٬].*?)\s*(?P<after>{_CURRENCY})?")
_SPACES = re.compile(r"(?<=\d)[\s'’](?=\d{3}(?!\d))")  # between groups of three digits in any country
_PLAIN = re.compile(r"[+-]?\d+([eE][+-]?\d+)?")
_UNDERSCORES = re.compile(r"\d+(_\d+)+")
_NUMBER = r"[+-]?(?P<whole>\d{1,3}(?:G\d{3})+|\d{1,2}(?:G\d{2})+G\d{3}|\d*)(?:M(?P<rest>\d+(?:[eE][+-]?\d+)?|-+|))?"
_NUMBERS = {  # decimal sign -> a number with that sign, and the other one between its groups of digits (those of India, too)
    "comma": re.compile(_NUMBER.replace("G", r"\.").replace("M", ",")),
    "point": re.compile(_NUMBER.replace("G", ",").replace("M", r"\.")),
}

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?P<name>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)
_CLOCK = (
    r"(?:,?[ T]+(?:at +)?(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:\.\d+)?)?"
    r"(?: ?(?P<half>[ap])\.?m\.?)?(?: ?(?P<zone>[A-Z]{1,5}|[+-]\d\d:?\d\d))?)?"
)
_DATES = tuple(
    re.compile(rf"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,? +)?{form}{_CLOCK}", re.IGNORECASE)
    for form in (
        r"(?P<first>\d{1,2})(?P<mark>[/.-])(?P<last>\d{1,2})(?P=mark)(?P<year>\d{4})",
        r"(?P<year>\d{4})(?P<mark>[/.])(?P<month>\d{1,2})(?P=mark)(?P<day>\d{1,2})",
        rf"(?P<day>\d{{1,2}})(?:st|nd|rd|th)?[ -]{_MONTH}[ ,-]+(?P<year>\d{{4}}|\d\d)",
        rf"{_MONTH}[ -]+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?[ ,-]+(?P<year>\d{{4}}|\d\d)",
    )
)
_ZONES = {  # names of zones -> hours east of UTC, for the zones that marketplaces and mail headers write
    **dict.fromkeys(("Z", "UT", "UTC", "GMT"), 0),
    **{"EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7},
    **{"BST": 1, "CET": 1, "MEZ": 1, "CEST": 2, "MESZ": 2},
}

Readings = tuple[Any, Any]  # the value under each of two conventions; None where the text is invalid under it


def is_empty_marker(field: str, value: Any) -> bool:
    """Return True if a value of an optional field stands for no value, such as NULL, NaN, inf or 0000-00-00."""
    if isinstance(value, float):
        return value in (float("inf"), float("-inf"))
    if not isinstance(value, str) or len(value) > MAX_MARKER_CHARS:
        return False
    text = value.strip().lower()
    if text in _EMPTY:
        return True
    typed = field in NUMBER_FIELDS or field in TIME_FIELDS
    return typed and (text in _EMPTY_NUMBERS or (text.startswith("0000") and bool(_EMPTY_DATE.fullmatch(text.upper()))))


@lru_cache(maxsize=CACHED_TEXTS)
def read_number(field: str, text: str) -> Readings:
    """Read a number as written with a decimal comma and with a decimal point.

    Args:
        field: one of NUMBER_FIELDS; a reading outside its range is None.
        text: text of the cell, which may have a currency and groups of thousands.

    Returns:
        The number with a decimal comma and with a decimal point; both None if the text is no number.
    """
    number = unicodedata.normalize("NFKC", text).strip()
    if money := _MONEY.fullmatch(number):
        number = money["number"]
    number = _SPACES.sub("", number).replace("٬", "")
    if "٫" in number:
        value = _as_float(number.replace("٫", "."), "point")
        return (value, value) if _in_range(field, value) else (None, None)
    comma, point = (_as_float(number, sign) for sign in DECIMAL_SIGNS)
    return comma if _in_range(field, comma) else None, point if _in_range(field, point) else None


def currency_of(text: str) -> str:
    """Return the currency that a price is written with, such as "€" or "EUR"; empty if there is none."""
    money = _MONEY.fullmatch(unicodedata.normalize("NFKC", text).strip())
    return (money["before"] or money["after"] or "") if money else ""


def _as_float(text: str, sign: str) -> float | None:
    if _PLAIN.fullmatch(text) or _UNDERSCORES.fullmatch(text):
        return float(text)
    match = _NUMBERS[sign].fullmatch(text)
    if match is None or not (match["whole"] or (match["rest"] or "").strip("-")):
        return None
    whole = re.sub(r"[.,]", "", match["whole"])
    if match["whole"] != whole and match["whole"].startswith("0"):
        return None  # no group of thousands begins with 0, but a decimal fraction does
    return float(f"{'-' if text.startswith('-') else ''}{whole or 0}.{(match['rest'] or '').strip('-') or 0}")


def _in_range(field: str, value: float | None) -> bool:
    if value is None or not 0 <= value <= {"current_price": MAX_PRICE, "bid_count": MAX_BID_COUNT}.get(field, MAX_SELLER_RATING):
        return False
    return field != "bid_count" or value.is_integer()


@lru_cache(maxsize=CACHED_TEXTS)
def read_date(field: str, text: str) -> Readings:
    """Read a date that is not ISO 8601, such as 31/12/2026 18:00, 31.12.2026, 31 Dec 2026 or Dec-31-26 18:00:00 PST.

    Args:
        field: name of the field.
        text: text of the cell. A date with points has the day first. A time without a zone is in UTC.

    Returns:
        The time in UTC with the day first and with the month first; both None if the text has another form.
    """
    if text[4:5] == "-" and text[:4].isdigit():
        return None, None  # ISO 8601
    for pattern in _DATES:
        if match := pattern.fullmatch(text.strip()):
            parts = match.groupdict()
            if not parts.get("first"):
                month = parts.get("month") or _MONTHS.index(parts["name"][:3].lower()) + 1
                moment = _moment(parts, int(parts["day"]), int(month))
                return moment, moment
            first, last = int(parts["first"]), int(parts["last"])
            day_first = _moment(parts, first, last)
            return (day_first, day_first) if parts["mark"] == "." else (day_first, _moment(parts, last, first))
    return None, None


def _moment(parts: Mapping[str, str | None], day: int, month: int) -> datetime | None:
    year, hour = int(parts["year"] or 0), int(parts["hour"] or 0)
    half, zone = (parts["half"] or "").lower(), (parts["zone"] or "Z").upper()
    if half:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * (half == "p")
    try:
        if zone[0] in "+-":
            digits = zone[1:].replace(":", "")
            offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:])) * (-1 if zone[0] == "-" else 1)
        else:
            offset = timedelta(hours=_ZONES[zone])
        year += 2000 if year < 100 else 0
        local = datetime(year, month, day, hour, int(parts["minute"] or 0), int(parts["second"] or 0), tzinfo=timezone(offset))
        return local.astimezone(UTC)
    except (KeyError, ValueError, OverflowError):
        return None


@dataclass
class Convention:
    """Which of two conventions a column of text follows, decided by all its values.

    Attributes:
        name: name of the field.
        names: names of the two conventions, as the option takes them.
        option: option that names the convention.
        read: reads a text under both conventions.
        chosen: convention that the caller named; None decides by the values.
        certain: number of values that only one convention can read, for each of the two.
        ambiguous: first text that both conventions read, but as different values; empty if there is none.
    """

    name: str
    names: tuple[str, str]
    option: str
    read: Callable[[str, str], Readings]
    chosen: str | None = None
    certain: list[int] = field(default_factory=lambda: [0, 0])
    ambiguous: str = ""

    def observe(self, text: str) -> None:
        """Take a value of the column into account."""
        first, second = self.read(self.name, text)
        if first == second:
            return
        if first is not None and second is not None:
            self.ambiguous = self.ambiguous or text
        else:
            self.certain[second is not None] += 1

    @property
    def decided(self) -> str | None:
        """Return the convention of the column; None if its values name none, or both."""
        first, second = self.certain
        return self.chosen or (None if bool(first) == bool(second) else self.names[second > 0])

    @property
    def undecided(self) -> bool:
        """Return True if a value is ambiguous, and nothing in the column tells how to read it."""
        return bool(self.ambiguous) and not self.chosen and not any(self.certain)

    def value(self, text: str) -> Any:
        """Return the value of a text, or the text itself if neither convention reads it.

        Raises:
            InvalidInput: the text is ambiguous in a column of both conventions, or not written by the chosen convention.
        """
        readings = self.read(self.name, text)
        if readings == (None, None):
            return text
        if self.chosen:
            value = readings[self.names.index(self.chosen)]
            if value is None:
                raise InvalidInput(f"{self.name} is not written as {self.option} {self.chosen} says: {text!r}")
            return value
        first, second = readings
        if first is None or second is None or first == second:
            return second if first is None else first
        if self.decided is None:
            raise InvalidInput(
                f"{self.name} is ambiguous: {text!r} in a column that is written in both forms; "
                f"{self.option} {'|'.join(self.names)} names one"
            )
        return readings[self.names.index(self.decided)]


_BLOCK_TAGS = (
    "address|article|aside|blockquote|br|caption|center|dd|div|dl|dt|figcaption|figure|footer|h[1-6]|header|hr|li|main|nav|ol|option"
    "|p|pre|section|table|tr|ul"
)
_TAGS = (
    f"{_BLOCK_TAGS}|a|abbr|b|big|body|button|cite|code|col|colgroup|del|details|em|font|form|head|html|i|iframe|img|input|ins|label"
    "|link|mark|meta|noscript|path|picture|q|s|samp|script|select|small|source|span|strike|strong|style|sub|summary|sup|svg|tbody"
    "|td|template|tfoot|th|thead|title|tt|u|video|wbr"
)
_BLOCK = re.compile(_BLOCK_TAGS)
_UNREAD = frozenset({"script", "style", "template", "noscript", "svg", "head"})
_ATTRIBUTE = r"""\s+[\w:@.-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+)"""
_TAG = re.compile(rf"<(?:/(?:{_TAGS})\s*|(?:{_TAGS})(?:{_ATTRIBUTE})*\s*/?)>|<!--|<!doctype", re.IGNORECASE)
_REFERENCE = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_BLANKS, _LINES = re.compile(r"[^\S\n]+"), re.compile(r"\s*\n\s*")


def html_text(text: str) -> str:
    """Return the text that a browser would show for HTML: without tags, scripts and styles, with the characters of its references.

    Text without tags and references is returned as it is, with its "<", ">" and "&". HTML that is itself escaped, as feeds write
    it, is read as well.
    """
    if "<" not in text and "&" not in text:
        return text
    if not _TAG.search(text):
        text = _REFERENCE.sub(lambda reference: html.unescape(reference[0]), text)
        if not _TAG.search(text):
            return text
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return _LINES.sub("\n", _BLANKS.sub(" ", "".join(reader.pieces))).strip()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._unread = 0  # open elements whose content is no text

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._unread += tag in _UNREAD
        self._separate(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._separate(tag)

    def handle_endtag(self, tag: str) -> None:
        self._unread = max(0, self._unread - (tag in _UNREAD))
        self._separate(tag)

    def handle_data(self, data: str) -> None:
        if not self._unread:
            self.pieces.append(data)

    def _separate(self, tag: str) -> None:
        if _BLOCK.fullmatch(tag):
            self.pieces.append("\n")
        elif tag in ("td", "th", "img"):
            self.pieces.append(" ")
