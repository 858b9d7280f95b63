"""Attributes of items: facts such as colour or size that have no field of their own. They are shown, searched and filtered by.

An attribute has a name and a value: text, a number, or a list of them. `label_term` and `number_term` are the words by which both
indices filter, so that they give the same answers.
"""

import json
import math
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from functools import lru_cache
from typing import Any

from retrieval.contracts.items import Attributes, AttributeValue, object_of
from retrieval.contracts.written_values import html_text, is_empty_marker
from retrieval.errors import InvalidInput
from retrieval.text.analysis import check_text, clean_text, compose, fold_label, fold_name, fold_text

ATTRIBUTES_FIELD = "attributes"  # field of a document with name -> value
ATTRIBUTE_TEXT_FIELD = "attribute_text"  # field of a document with the words of its attributes
ATTRIBUTE_TERMS_FIELD = "attribute_terms"  # field of a document with the terms of its attributes, for filters
MAX_ATTRIBUTES = 100  # per item
MAX_NAME_CHARS = 100
MAX_VALUE_CHARS = 1_000
MAX_VALUES = 50  # of one list
MAX_ATTRIBUTE_CHARS = 20_000  # of all names and values of an item
MAX_DEPTH = 3  # levels of nested objects
MAX_WHOLE = 2**53  # larger whole numbers are stored as text, because a filter compares floats

_NUMBER = re.compile(r"[+-]?(?:0|[1-9]\d*)(?:\.\d+|,(?:\d{1,2}|\d{4,}))?", re.ASCII)
_AFFIRMED, _DENIED = frozenset({"true", "yes"}), frozenset({"false", "no"})
_ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.-]+://|www\.)\S+|\S+\.(?:jpe?g|png|webp|gif)", re.IGNORECASE)
_NAMED_BY, _VALUED_BY = ("name", "key", "label"), ("value", "values")


def read_attributes(named: Iterable[tuple[str, Any]], left_out: Counter[str]) -> dict[str, AttributeValue]:
    """Read attributes from the cells of a row. What cannot be an attribute is left out; it never rejects the row.

    Args:
        named: names and values as written. An object gives one attribute for each key; an empty name leaves the keys as they are.
        left_out: counts the values that are left out, by reason.

    Returns:
        Name -> value, in the order of the row; of two attributes with one name the first.
    """
    attributes: dict[str, AttributeValue] = {}
    chars = 0
    for name, raw in named:
        for written, cell in _flatten(name, raw, left_out):
            value = _value(cell, left_out)
            if value is None:
                continue
            label = clean_text(written)
            size = len(label) + sum(len(str(part)) for part in (value if isinstance(value, list) else [value]))
            if not fold_name(label):
                left_out["an attribute without a name"] += 1
            elif len(label) > MAX_NAME_CHARS:
                left_out[f"a name of more than {MAX_NAME_CHARS} characters"] += 1
            elif len(attributes) == MAX_ATTRIBUTES:
                left_out[f"more than {MAX_ATTRIBUTES} attributes of one lot"] += 1
            elif chars + size > MAX_ATTRIBUTE_CHARS:
                left_out[f"more than {MAX_ATTRIBUTE_CHARS:,} characters in the attributes of one lot"] += 1
            elif label not in attributes:
                attributes[label] = value
                chars += size
    return attributes


def attribute_text(attributes: Attributes) -> str:
    """Return the text of attributes for keyword search: names and values, each once.

    Addresses are left out, "yes" and "true" stand for the name alone, and "no" and "false" leave it out.
    """
    texts: dict[str, None] = {}
    for name, value in attributes.items():
        for part in value if isinstance(value, list) else [value]:
            text = str(part)
            if text.lower() in _DENIED or _ADDRESS.fullmatch(text):
                continue
            texts[name.replace("_", " ").replace(".", " ")] = None
            if text.lower() not in _AFFIRMED:
                texts[text] = None
    return fold_text(". ".join(texts))


def attribute_terms(attributes: Attributes) -> list[str]:
    """Return the terms of attributes for filters, each once, in ascending order."""
    terms: set[str] = set()
    for name, value in attributes.items():
        for part in value if isinstance(value, list) else [value]:
            terms.add(label_term(name, str(part)))
            if (number := as_number(part)) is not None:
                terms.add(number_term(name, number))
    return sorted(terms)


def label_term(name: str, value: str) -> str:
    """Return the term of a value as text. Case and white space of the value, and case, spaces and marks of the name are folded."""
    return f"{fold_name(name)}={_fold_value(value)}"


def number_term(name: str, number: float) -> str:
    """Return the term of a number. For one name, terms are in the order of their numbers."""
    (bits,) = struct.unpack(">Q", struct.pack(">d", number + 0.0))  # -0.0 becomes 0.0
    return f"{fold_name(name)}#{bits ^ ((1 << 64) - 1 if bits >> 63 else 1 << 63):016x}"


def parse_number_term(term: str) -> tuple[str, float] | None:
    """Return folded name and number of a term that number_term() wrote; None for another term."""
    name, mark, digits = term.partition("#")
    if not mark or "=" in name or len(digits) != 16:
        return None
    bits = int(digits, 16)
    (number,) = struct.unpack(">d", struct.pack(">Q", bits ^ (1 << 63 if bits >> 63 else (1 << 64) - 1)))
    return name, number


def as_number(value: str | int | float) -> float | None:
    """Return the number of a value, or of a text that is one, such as "42" or "1,5"; None for other texts, such as "007"."""
    if isinstance(value, str):
        return float(value.replace(",", ".")) if len(value) <= 20 and _NUMBER.fullmatch(value) else None
    return float(value)


@lru_cache(maxsize=65_536)
def _fold_value(value: str) -> str:
    return " ".join(fold_label(value).split())


def _flatten(name: str, raw: Any, left_out: Counter[str], depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield name and value of the attributes in a cell: of an object those of its keys, of a list of pairs those of the pairs."""
    if isinstance(raw, str) and raw[:1] in "{[" and raw[-1:] in "}]":
        raw = _parsed(raw)
    if isinstance(raw, Mapping):
        keys = {str(key).lower(): key for key in raw}
        title, value = (next((raw[keys[key]] for key in names if key in keys), None) for names in (_NAMED_BY, _VALUED_BY))
        if isinstance(title, str) and value is not None:
            yield from _flatten(title, value, left_out, depth + 1)
        elif depth == MAX_DEPTH:
            left_out[f"objects below {MAX_DEPTH} levels"] += 1
        else:
            for key, inner in raw.items():
                yield from _flatten(f"{name}.{key}" if name else str(key), inner, left_out, depth + 1)
    elif isinstance(raw, (list, tuple)) and any(isinstance(part, Mapping) for part in raw):
        for part in raw:
            yield from _flatten(name, part, left_out, depth)
    else:
        yield name, raw


def _parsed(text: str) -> Any:
    """Return the list or object that a cell writes as JSON or as pandas does; the text itself if it is neither."""
    try:
        return object_of(ATTRIBUTES_FIELD, text) or json.loads(text)
    except (ValueError, RecursionError, InvalidInput):
        return text


def _value(raw: Any, left_out: Counter[str]) -> AttributeValue | None:
    if isinstance(raw, str) and "|" in raw:
        raw = raw.split("|")
    if not isinstance(raw, (list, tuple)):
        return _single(raw, left_out)
    singles = (_single(part, left_out) for part in raw)
    values = list(dict.fromkeys(value for value in singles if value is not None))
    if len(values) > MAX_VALUES:
        left_out[f"more than {MAX_VALUES} values of one attribute"] += len(values) - MAX_VALUES
    return values[0] if len(values) == 1 else values[:MAX_VALUES] or None


def _single(raw: Any, left_out: Counter[str]) -> str | int | float | None:
    if raw is None:
        return None
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, (int, float, Decimal)):
        if not math.isfinite(raw):
            return None
        if raw != int(raw):
            return float(raw)
        return str(int(raw)) if abs(int(raw)) > MAX_WHOLE else int(raw)
    if isinstance(raw, bytes):
        raw = raw.decode(errors="surrogateescape")
    text = raw.isoformat() if isinstance(raw, (date, time)) else str(raw) if not isinstance(raw, (list, tuple, Mapping)) else ""
    if is_empty_marker(ATTRIBUTES_FIELD, text):
        return None
    try:
        check_text(text, "an attribute")
    except InvalidInput:
        left_out["a value with half a character"] += 1
        return None
    text = compose(html_text(text)).strip()
    if len(text) > MAX_VALUE_CHARS:
        left_out[f"a value of more than {MAX_VALUE_CHARS:,} characters"] += 1
        return None
    return text or None
