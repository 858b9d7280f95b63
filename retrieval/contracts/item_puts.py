"""Whole lots that are written one by one: the row, its version, and the photo that comes with it."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from retrieval.contracts.item_files import read_item
from retrieval.contracts.item_states import Outcome
from retrieval.contracts.items import ALIASES, Item, epoch_ms, first_value, latest_version, moment_of, parse_id
from retrieval.errors import InvalidInput

PHOTO, VERSION = "photo", "version"  # fields of a row beside those of an item file


@dataclass(frozen=True, slots=True)
class ItemPut:
    """A whole lot to write.

    Attributes:
        item: the lot; its updated_at is its version.
        photo: bytes of its first photo; None if the lot names its photos by path or address, or has none.
    """

    item: Item
    photo: bytes | None = None


@dataclass(frozen=True, slots=True)
class PutResult:
    """The outcome of an ItemPut.

    Attributes:
        item_id: id of the lot.
        outcome: "applied"; "stale" if the index has a newer row or deletion of the lot; or "refused".
        tower_id: tower that encoded the lot.
        version: version of the row in ms since 1970.
        reason: why the index refused it; else empty.
        has_photo: True if a photo of the lot was read and encoded.
        photo_faults: fault of each photo that the lot names and that cannot be read.
        timings_ms: step -> milliseconds: "photo", "encode" and "index" of the batch, and "total" from the call to the answer.
    """

    item_id: str
    outcome: Outcome
    tower_id: str = ""
    version: int = 0
    reason: str = ""
    has_photo: bool = False
    photo_faults: tuple[str, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)


def read_put(row: Mapping[str, Any], item_id: str | None = None, now: datetime | None = None) -> ItemPut:
    """Read a lot from the fields that a row of an item file may have.

    Args:
        row: column -> value. `photo` is the first photo in Base64. `version` is the time of the row in ms since 1970; without it
            updated_at counts, and without that the present time.
        item_id: id of the lot; None takes the row's.
        now: present time in UTC; None takes the clock of this machine.

    Raises:
        InvalidInput: the row breaks the item contract, has another id than `item_id`, or its photo is not Base64.
    """
    now = now or datetime.now(UTC)
    columns = {name: value for name, value in row.items() if name not in (PHOTO, VERSION)}
    own = first_value(columns, ALIASES["item_id"])
    if item_id is not None:
        if own is not None and parse_id("item_id", own) != item_id:
            raise InvalidInput(f"the row's item_id is {own!r}, the lot's {item_id!r}; leave it out, or write it as there")
        columns["item_id"] = item_id
    item = read_item(columns)
    version = row.get(VERSION)
    if version is None and item.updated_at is None:
        version = epoch_ms(now)
    if version is not None:
        item = replace(item, updated_at=moment_of(_checked_version(version, now)))
    return ItemPut(item, _photo(row.get(PHOTO)))


def _checked_version(version: Any, now: datetime) -> int:
    if type(version) is not int or version < 0:
        raise InvalidInput(f"{VERSION} is {version!r}; write the time of the row in ms since 1970, or leave it out")
    if version > latest_version(now):
        raise InvalidInput(f"{VERSION} {version} lies in the future; every later row of this lot would pass for an older one")
    return version


def _photo(text: Any) -> bytes | None:
    if text is None or text == "":
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise InvalidInput(f"{PHOTO} is not Base64; name a photo by path or address in image") from None
