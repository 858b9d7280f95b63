"""Parse a column of event times: by Arrow if all have the same format, otherwise one by one under the contract."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from catalog.event_batches import Column
from retrieval.contracts.events import missing
from retrieval.contracts.items import (
    END_NUMERIC,
    EPOCH,
    FIRST_NUMERIC,
    MAX_SECONDS,
    MIN_NUMERIC_TIME,
    epoch_ms,
    first_value,
    parse_time,
)
from retrieval.errors import InvalidInput

MICROSECOND = timedelta(microseconds=1)
EARLIEST_US = int(MIN_NUMERIC_TIME) * 1_000_000  # earliest accepted time, because software writes an unknown time as 1970 or year 1
MAY_BE_DATES = (1_900_000_000, 2_100_000_000)  # numbers from the first to below the second may be YYYYMMDDHH
BAD_TIME, FUTURE_TIME, EARLY_TIME = "bad_time", "future_time", "early_time"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a value.

    Attributes:
        kind: kind under which rejected rows are counted.
        reason: reason in words.
        item_id: item_id of the row, if the faulty value is the item_id; otherwise None.
    """

    kind: str
    reason: str
    item_id: str | None = None


def read_times(column: Column, latest_us: int) -> tuple[NDArray[np.int64], dict[int, Fault]]:
    """Read a column of times.

    Args:
        column: column of N raw values.
        latest_us: latest accepted time, in microseconds since 1970 UTC.

    Returns:
        (N,) microseconds since 1970 UTC, and row -> fault for each invalid time.
    """
    times = None if isinstance(column, list) else _cast_times(column)
    faults: dict[int, Fault] = {}
    if times is None:
        values = column if isinstance(column, list) else column.to_pylist()
        times = np.zeros(len(values), dtype=np.int64)
        for row, value in enumerate(values):
            try:
                moment = parse_time("timestamp", first_value({"timestamp": value}, ("timestamp",)))
                if moment is None:
                    faults[row] = Fault("missing_timestamp", missing("timestamp"))
                else:
                    times[row] = microseconds(moment)
            except InvalidInput as error:
                faults[row] = Fault(BAD_TIME, str(error))
    for row in np.flatnonzero(times > latest_us).tolist():
        faults[row] = Fault(FUTURE_TIME, f"timestamp lies in the future: {written_time(times[row])}")
    for row in np.flatnonzero(times < EARLIEST_US).tolist():
        faults.setdefault(
            row, Fault(EARLY_TIME, f"timestamp is before {written_time(EARLIEST_US)[:10]}: {written_time(times[row])}")
        )
    return times, faults


def _cast_times(column: pa.Array) -> NDArray[np.int64] | None:
    """Parse a column whose values all have the same format; None for any other column or a missing value."""
    if column.null_count:
        return None
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.int64()):
        try:
            cast = pc.cast(column, kind)
        except pa.ArrowInvalid:
            continue
        numbers = np.asarray(cast.cast(pa.int64()).to_numpy())
        if pa.types.is_timestamp(kind):
            return numbers
        if not len(numbers) or numbers.min() < MIN_NUMERIC_TIME or numbers.max() >= epoch_ms(END_NUMERIC):
            return None
        times = np.where(numbers > MAX_SECONDS, numbers * 1_000, numbers * 1_000_000)
        invalid = (times < microseconds(FIRST_NUMERIC)) | (times >= microseconds(END_NUMERIC))
        dates = (numbers >= MAY_BE_DATES[0]) & (numbers < MAY_BE_DATES[1])
        return None if (invalid | dates).any() else times  # parse_time() gives the reasons
    return None


def microseconds(moment: datetime) -> int:
    """Return microseconds since 1970 UTC."""
    return (moment - EPOCH) // MICROSECOND


def written_time(time_us: int) -> str:
    """Format a time as ISO 8601, or as a number if Python cannot represent it."""
    try:
        return (EPOCH + int(time_us) * MICROSECOND).isoformat()
    except OverflowError:
        return f"{int(time_us)} µs since 1970"
