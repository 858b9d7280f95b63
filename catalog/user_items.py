"""Tables of users, items and interactions, from parquet or CSV, and the split of the interactions.

<folder>/users.parquet         an id, and one column per feature: text, numbers, booleans or times
<folder>/items.parquet         likewise
<folder>/interactions.parquet  the two ids, timestamp (optional), split (optional: train, val or test)
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from retrieval.errors import InvalidInput
from retrieval.files import reason_of

SPLITS = ("train", "val", "test")
TABLES = ("users", "items", "interactions")
SUFFIXES = (".parquet", ".csv")
USER_IDS = ("buyer_id", "user_id", "customer_id", "id")
ITEM_IDS = ("item_id", "product_id", "article_id", "id")
TIMES = ("timestamp", "time", "event_time", "t_dat", "date")
MAX_DISTINCT = 0.5  # share of distinct values above which a text column is no category but a title or a second id
SECONDS_PER_DAY = 86_400

SplitRule = Literal["column", "last", "time", "user"]
SPLIT_RULES: tuple[SplitRule, ...] = get_args(SplitRule)
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class EntityTable:
    """The rows of users or of items.

    Attributes:
        id_column: name of the column with the unique id.
        rows: one mapping of column -> value per row; ids are text.
        categories: columns to embed, without the id.
        numbers: columns to standardise; times count as days.
        ignored: column -> reason why it is no feature.
    """

    id_column: str
    rows: Rows
    categories: tuple[str, ...]
    numbers: tuple[str, ...]
    ignored: Mapping[str, str] = field(default_factory=dict)

    @property
    def ids(self) -> list[str]:
        """Return the id of every row."""
        return [row[self.id_column] for row in self.rows]


@dataclass(frozen=True)
class UserItems:
    """Users, items, and the interactions between them.

    Attributes:
        users: the users.
        items: the items.
        pairs: (N, 2) int64, indices of a user and of an item that the user took, in order of time; no pair occurs twice.
        times: (N,) days since 1970; None if the interactions have no times.
        splits: (N,) of SPLITS; None if the interactions have no such column.
        left_out: reason -> number of interactions that were left out.
    """

    users: EntityTable
    items: EntityTable
    pairs: NDArray[np.int64]
    times: NDArray[np.float64] | None
    splits: NDArray[np.str_] | None
    left_out: Mapping[str, int] = field(default_factory=dict)


def read_user_items(
    folder: Path, *, user_features: Sequence[str] | None = None, item_features: Sequence[str] | None = None
) -> UserItems:
    """Read the tables of a folder.

    Args:
        folder: folder with users, items and interactions, each as .parquet or .csv.
        user_features: columns of the users to use; None uses all that are categories or numbers.
        item_features: columns of the items, likewise.

    Returns:
        The tables. A text or boolean column is a category unless most of its values are distinct; numbers and times are numbers.

    Raises:
        InvalidInput: a table is missing, damaged or empty, or lacks a column that is named or needed; an id occurs twice.
    """
    users = _entities(folder, "users", USER_IDS, user_features)
    items = _entities(folder, "items", ITEM_IDS, item_features)
    path, table = _read(folder, "interactions")
    columns = [
        _find(path, table, (entities.id_column, *names), "id of the " + what)
        for entities, names, what in ((users, USER_IDS[:-1], "user"), (items, ITEM_IDS[:-1], "item"))
    ]
    places = [
        pc.index_in(table[column].cast(pa.string()), pa.array(entities.ids, pa.string())).fill_null(-1).to_numpy()
        for column, entities in zip(columns, (users, items), strict=True)
    ]
    pairs = np.stack(places, axis=1).astype(np.int64)
    time_column = next((name for name in TIMES if name in table.column_names), None)
    times = _days(path, table, time_column) if time_column else None
    splits = table["split"].cast(pa.string()).fill_null("").to_numpy().astype(str) if "split" in table.column_names else None
    order = np.arange(len(pairs)) if times is None else np.argsort(times, kind="stable")
    _, first = np.unique(pairs[order], axis=0, return_index=True)
    is_first = np.zeros(len(pairs), dtype=bool)
    is_first[first] = True
    is_known = (pairs[order] >= 0).all(axis=1)
    left_out = {
        "unknown user": int((pairs[:, 0] < 0).sum()),
        "unknown item": int(((pairs[:, 1] < 0) & (pairs[:, 0] >= 0)).sum()),
        "repeated": int((is_known & ~is_first).sum()),
    }
    chosen = order[is_known & is_first]
    if not len(chosen):
        raise InvalidInput(f"{path} has no interaction between users and items of the other tables; check its {', '.join(columns)}")
    if splits is not None and (wrong := sorted(set(splits.tolist()) - set(SPLITS))):
        raise InvalidInput(f"{path}: split {wrong[0]!r} is none of {', '.join(SPLITS)}; correct or remove the column")
    return UserItems(
        users,
        items,
        pairs[chosen],
        None if times is None else times[chosen],
        None if splits is None else splits[chosen],
        {reason: count for reason, count in left_out.items() if count},
    )


def split_interactions(
    data: UserItems, rule: SplitRule | None = None, *, val: float = 0.1, test: float = 0.2, seed: int = 7
) -> dict[str, NDArray[np.int64]]:
    """Divide the interactions into train, val and test.

    Args:
        data: the tables.
        rule: `column` takes the column split; `last` the last interactions of every user with at least 3, at least one in each
            split; `time` cuts at two moments for all users; `user` takes all interactions of some users, who are then unknown to
            the training. None is `column` if there is one, else `last`.
        val: share of val.
        test: share of test; later than val by `last` and `time`.
        seed: seed of the drawn users, for `user`.

    Returns:
        Split -> (N, 2) pairs; together all interactions.

    Raises:
        InvalidInput: the interactions lack the column or the times that the rule needs, or a split would be empty.
    """
    chosen = rule or ("column" if data.splits is not None else "last")
    if chosen not in SPLIT_RULES:
        raise InvalidInput(f"interactions cannot be split by {chosen!r}; choose {', '.join(SPLIT_RULES)}")
    if not (val > 0 and test > 0 and val + test < 1):
        raise InvalidInput(f"val {val} and test {test} are no shares that leave something to train on; choose such as .1 and .2")
    if chosen == "column":
        if data.splits is None:
            raise InvalidInput("the interactions have no column split; split them by last, time or user")
        labels = data.splits
    elif chosen == "user":
        draws = np.random.default_rng(seed).random(len(data.users.rows))[data.pairs[:, 0]]  # (N,)
        labels = np.select([draws < val, draws < val + test], ["val", "test"], "train")
    elif data.times is None:
        raise InvalidInput(f"the interactions have no times, one of {', '.join(TIMES)}; split them by user")
    elif chosen == "time":
        cuts = np.quantile(data.times, [1 - val - test, 1 - test])
        labels = np.select([data.times <= cuts[0], data.times <= cuts[1]], ["train", "val"], "test")
    else:
        labels = _label_last(data.pairs[:, 0], val, test)
    parts = {split: data.pairs[labels == split] for split in SPLITS}
    if empty := [split for split, pairs in parts.items() if not len(pairs)]:
        raise InvalidInput(f"splitting {len(data.pairs)} interactions by {chosen} leaves {empty[0]} empty; give more interactions")
    return parts


def _label_last(users: NDArray[np.int64], val: float, test: float) -> NDArray[np.str_]:
    """Return the split of each interaction, (N,), given its user; the interactions are in order of time."""
    counts = np.bincount(users)
    order = np.argsort(users, kind="stable")
    number = np.empty(len(users), dtype=np.int64)  # of the interaction among those of its user, from 0
    number[order] = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    tests, vals = (np.where(counts >= len(SPLITS), np.maximum(1, np.round(share * counts)), 0) for share in (test, val))
    from_end = counts[users] - number  # 1 for the last
    return np.select([from_end <= tests[users], from_end <= (tests + vals)[users]], ["test", "val"], "train")


def _entities(folder: Path, name: str, id_names: Sequence[str], features: Sequence[str] | None) -> EntityTable:
    path, table = _read(folder, name)
    id_column = _find(path, table, id_names, "id")
    table = table.set_column(table.column_names.index(id_column), id_column, table[id_column].cast(pa.string()))
    if table[id_column].null_count:
        raise InvalidInput(f"{path}: {table[id_column].null_count} rows have no {id_column}; remove them or give them one")
    if missing := [feature for feature in features or () if feature not in table.column_names]:
        raise InvalidInput(f"{path} has no column {missing[0]!r}; it has {', '.join(table.column_names)}")
    kinds: dict[str, list[str]] = {"category": [], "number": []}
    ignored = {}
    for column in table.column_names:
        if column == id_column or (features is not None and column not in features):
            continue
        kind = _kind(table[column], is_named=features is not None)
        if kind in kinds:
            kinds[kind].append(column)
        elif features is not None:
            raise InvalidInput(f"{path}: {column} cannot be a feature, because it is {kind}; leave it out")
        else:
            ignored[column] = kind
    rows = table.to_pylist()
    double = next((value for value, count in Counter(row[id_column] for row in rows).items() if count > 1), None)
    if double is not None:
        raise InvalidInput(f"{path}: {id_column} {double!r} occurs more than once; give every row an id of its own")
    return EntityTable(id_column, rows, tuple(kinds["category"]), tuple(kinds["number"]), ignored)


def _kind(column: pa.ChunkedArray, *, is_named: bool) -> str:
    """Return category, number, or the reason why the column is neither. A named text column is always a category."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_boolean(kind):
        return "category"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_temporal(kind):
        return "number"
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return f"of type {kind}"
    is_distinct = len(column) > 1 and pc.count_distinct(column).as_py() > MAX_DISTINCT * len(column)
    return "category" if is_named or not is_distinct else "text with mostly distinct values"


def _find(path: Path, table: pa.Table, names: Sequence[str], what: str) -> str:
    column = next((name for name in names if name in table.column_names), None)
    if column is None:
        raise InvalidInput(f"{path} has no {what}: no column {' or '.join(dict.fromkeys(names))}; rename a column")
    return column


def _read(folder: Path, name: str) -> tuple[Path, pa.Table]:
    path = next((path for suffix in SUFFIXES if (path := Path(folder) / f"{name}{suffix}").is_file()), None)
    if path is None:
        files = ", ".join(f"{table}{suffix}" for table in TABLES for suffix in SUFFIXES[:1])
        raise InvalidInput(
            f"{folder} holds no {name}{' or '.join(SUFFIXES)}; it needs {files} or CSV files of these names; "
            "`gavel catalog generate users-items` makes an example"
        )
    try:
        if path.suffix == ".csv":
            text = dict.fromkeys((*USER_IDS, *ITEM_IDS), pa.string())  # else an id such as 007 would become 7
            options = pa_csv.ConvertOptions(column_types=text, strings_can_be_null=True)
            table = pa_csv.read_csv(path, convert_options=options)
        else:
            table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InvalidInput(f"{path} cannot be read ({reason_of(error)}); write it again") from error
    if not len(table):
        raise InvalidInput(f"{path} has no rows; write it again")
    return path, table


def _days(path: Path, table: pa.Table, column: str) -> NDArray[np.float64]:
    """Return a column of times or of epoch seconds as days since 1970, (N,)."""
    values = table[column]
    if values.null_count:
        raise InvalidInput(f"{path}: {values.null_count} rows have no {column}; remove them, or remove the column")
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        return np.asarray(values.cast(pa.timestamp("us", getattr(values.type, "tz", None))).cast(pa.int64()).to_numpy() / 8.64e10)
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return np.asarray(values.to_numpy() / SECONDS_PER_DAY, dtype=np.float64)
    raise InvalidInput(f"{path}: {column} is {values.type}, not a time; write ISO 8601, or seconds since 1970")
