"""The state contract: what changes in the last minutes of an auction, with versions apart from those of the item's row.

A state holds price, bids, end and status. It never touches text, photo or vector. Each field has the version of the update that set
it, so that updates may arrive in any order, twice or late.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Literal, get_args

from retrieval.contracts.items import ALIASES, MAX_PRICE, epoch_ms, parse_count, parse_id, parse_number, parse_time
from retrieval.errors import InvalidInput

Status = Literal["open", "withdrawn", "sold", "unsold"]
STATUSES: tuple[Status, ...] = get_args(Status)
OPEN: Status = "open"
Outcome = Literal["applied", "stale", "unknown", "refused"]
StateValue = float | int | bool | str | None

MAX_AHEAD = timedelta(days=1)  # how far a version may lie in the future: clocks differ by hours, but a wrong unit by years
MAX_VERSION = 2**63 - 1


@dataclass(frozen=True, slots=True)
class StateUpdate:
    """New values of some fields of an item's state.

    Attributes:
        item_id: id of the item.
        version: >= 0; the time of the change in ms since 1970, or any number that grows with each change of the item.
        values: field -> new value, with times in ms since 1970; None clears a field. Other fields are left alone.
    """

    item_id: str
    version: int
    values: Mapping[str, StateValue]


@dataclass(frozen=True, slots=True)
class ItemState:
    """The state of an item, as far as updates said it.

    Attributes:
        item_id: id of the item.
        values: field -> value; None for a field that was cleared.
        versions: field -> version of the update that set it.
    """

    item_id: str
    values: Mapping[str, StateValue] = field(default_factory=lambda: MappingProxyType({}))
    versions: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def after(self, update: StateUpdate) -> "ItemState | None":
        """Return the state after an update; None if all of its fields have a newer version. Of equal versions the later wins."""
        newer = {name: value for name, value in update.values.items() if update.version >= self.versions.get(name, 0)}
        if not newer:
            return None
        return ItemState(self.item_id, {**self.values, **newer}, {**self.versions, **dict.fromkeys(newer, update.version)})

    def over(self, document: Mapping[str, Any], version: int) -> dict[str, Any]:
        """Return a document with this state.

        Args:
            document: fields of the item's row.
            version: version of the row. A field that the row sets keeps its value if the state's version of it is older.
        """
        merged = dict(document)
        for name, value in self.values.items():
            if self.versions[name] < version and name in document:
                continue
            if value is None:
                merged.pop(name, None)
            else:
                merged[name] = value
        return merged


@dataclass(frozen=True, slots=True)
class StateOutcome:
    """The outcome of an update.

    Attributes:
        item_id: id of the item.
        outcome: "applied"; "stale" if every field has a newer version; "unknown" if the index has no such item yet: the state is
            kept for it; "refused" if the update breaks the contract.
        reason: fault of a refused update; empty otherwise.
    """

    item_id: str
    outcome: Outcome
    reason: str = ""


def parse_state(item_id: Any, fields: Mapping[str, Any], now: datetime | None = None) -> StateUpdate:
    """Read an update as a bidding system sends it.

    Args:
        item_id: id of the item.
        fields: field -> value, with the names in ALIASES; `version` is optional.
        now: time of arrival, the version of an update without one; None takes this machine's clock.

    Raises:
        InvalidInput: no field is named, a field is unknown, or a value is not in its range; the message names it.
    """
    now = now or datetime.now(UTC)
    values: dict[str, StateValue] = {}
    for key, value in fields.items():
        if key == "version":
            continue
        name = _NAMES.get(key)
        if name is None:
            near = get_close_matches(key, _NAMES, 1)
            hint = f"did you mean {near[0]}?" if near else f"a state has {', '.join(STATE_FIELDS)}"
            raise InvalidInput(f"{key[:60]!r} is no field of a state; {hint}")
        if name in values:
            raise InvalidInput(f"{name} is given twice, as {', '.join(other for other in fields if _NAMES.get(other) == name)}")
        values[name] = _read(name, value)
    if not values:
        raise InvalidInput(f"the state names no field; send one or more of {', '.join(STATE_FIELDS)}")
    return StateUpdate(parse_id("item_id", item_id), _version(fields.get("version"), now), values)


def _version(value: Any, now: datetime) -> int:
    if value is None:
        return epoch_ms(now)
    if type(value) is not int or not 0 <= value <= MAX_VERSION:
        raise InvalidInput(f"version must be a whole number from 0, such as ms since 1970, not {value!r}")
    if value > epoch_ms(now + MAX_AHEAD):
        raise InvalidInput(f"version {value} lies more than a day in the future; later updates would pass for older ones. Send ms")
    return value


def _read(name: str, value: Any) -> StateValue:
    if value is None:
        return None
    if isinstance(value, str) and not value.strip():
        raise InvalidInput(f"{name} is an empty text; send null to clear it")
    return _READERS[name](name, value)


def _read_time(name: str, value: Any) -> int:
    moment = parse_time(name, value)
    assert moment is not None
    return epoch_ms(moment)


def _read_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{name} must be true or false, not {value!r}")
    return value


def _read_status(name: str, value: Any) -> str:
    if value not in STATUSES:
        raise InvalidInput(f"{name} must be one of {', '.join(STATUSES)}, not {value!r}")
    return str(value)


def _read_price(name: str, value: Any) -> float | None:
    return parse_number(name, value, MAX_PRICE)


_READERS: Mapping[str, Callable[[str, Any], StateValue]] = {
    "current_price": _read_price,
    "bid_count": parse_count,
    "ends_at": _read_time,
    "reserve_met": _read_flag,
    "status": _read_status,
    "sold_price": _read_price,
}
STATE_FIELDS = tuple(_READERS)
_NAMES = {alias: name for name in STATE_FIELDS for alias in ALIASES.get(name, (name,))}  # names of fields as rows have them
