"""Synthetic users, items and purchases: the two-tower task of recommenders, with latent interests.

Every user and every item has a vector of interests. Part of a vector follows from the tables: age group, region and favourite
categories of a user, category and brand of an item. The rest is individual and can be learned from interactions only. Prices match
budgets to some degree, and a few items are popular with everybody. A user's interactions are drawn without replacement from the
softmax of affinity, price and popularity. The time of an interaction is uniform between the item's listing and the end of the
year. So items that are listed late have few interactions in train. The tables may also be CSV.

<folder>/users.parquet         buyer_id, age_group, region, favourite_category, second_category
<folder>/items.parquet         item_id, category, brand, price, seller_rating, listed_at
<folder>/interactions.parquet  buyer_id, item_id, event_type, timestamp (the events contract of retrieval.contracts.events), split
<folder>/catalog.json          written last: its presence means that the tables are complete
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.random import Generator
from numpy.typing import NDArray

from catalog.folder import CATALOG_FILE, replace_folder
from catalog.user_items import SPLITS, Rows, read_user_items
from retrieval.errors import InvalidInput
from retrieval.files import reason_of
from retrieval.progress import Progress, ignore_progress

NAME = "interactions"
REMEDY = "make them with `gavel catalog generate users-items`"
FORMATS = ("parquet", "csv")
HELD_OUT = {"val": 0.1, "test": 0.2}  # share of every user's last interactions; at least one each

INTERESTS = 16  # dimensions of the vectors of interests
CATEGORIES, BRANDS, REGIONS = 24, 80, 8
AGE_GROUPS = ("18-24", "25-34", "35-44", "45-54", "55-64", "65+")
OWN = 0.7  # length of the individual part of a vector; the parts of an item's category and brand have 0.6 and 0.4
AFFINITY = 9.0  # log-odds of a perfect match against an indifferent one
BUDGET = 0.35  # log-odds lost per squared deviation of price from budget
ZIPF = 0.6  # popularity falls with rank ** -ZIPF
INTERACTIONS, MIN_INTERACTIONS, MAX_INTERACTIONS = 28, 10, 120  # per user: median and limits
MIN_PER_USER = 3  # one for each split
LATE = 0.25  # share of items that are listed during the year
START, DAYS = datetime(2025, 11, 1, tzinfo=UTC), 365

Numbers = NDArray[np.float64]


class InteractionFolder:
    """Users, items and interactions in their folder.

    Attributes:
        path: the folder.
        seed: seed of the generation.
        tables: users, items and interactions, as read_user_items() returns them.
        users: one row of features per user, with the names of the columns of users.parquet.
        items: one row of features per item, with the names of the columns of items.parquet.
    """

    def __init__(self, path: Path) -> None:
        """Read the tables of users and items.

        Raises:
            InvalidInput: the folder holds no complete set of interactions.
        """
        self.path = Path(path)
        card = self.path / CATALOG_FILE
        try:
            values = json.loads(card.read_text())
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{card} cannot be read ({reason_of(error)}); {REMEDY}") from error
        if not isinstance(values, dict) or values.get("name") != NAME:
            raise InvalidInput(f"{self.path} is a catalogue of another kind; {REMEDY}")
        self.seed: int = values["seed"]
        self.tables = read_user_items(self.path)
        self.users: Rows = self.tables.users.rows
        self.items: Rows = self.tables.items.rows

    def interactions(self, split: str) -> NDArray[np.int64]:
        """Return the interactions of a split in order of time: (N, 2), indices into users and items.

        Every user has interactions in every split: the last fifth is test, the tenth before is val. No pair occurs twice.

        Raises:
            InvalidInput: there is no such split.
        """
        if split not in SPLITS:
            raise InvalidInput(f"interactions have no split {split!r}; they have {', '.join(SPLITS)}")
        assert self.tables.splits is not None
        pairs: NDArray[np.int64] = self.tables.pairs[self.tables.splits == split]
        return pairs


def generate(
    folder: Path,
    *,
    users: int = 3000,
    items: int = 2000,
    seed: int = 7,
    per_user: int | None = None,
    form: str = "parquet",
    progress: Progress = ignore_progress,
) -> InteractionFolder:
    """Write users, items and interactions. The complete tables replace an older set in the folder.

    Args:
        folder: folder of the tables: new, empty, or with an older set, which is replaced.
        users: number of users, >= 1.
        items: number of items, >= 100, so that no user runs out of items.
        seed: the same seed and sizes give the same tables.
        per_user: interactions of every user, 3 to a fifth of the items; None draws about 30, 10 to 120.
        form: parquet or csv.
        progress: called with (users done, users).

    Returns:
        The folder.

    Raises:
        InvalidInput: a number is out of its range, there is no such form, or the folder holds other things.
    """
    if users < 1 or items < 100:
        raise InvalidInput(f"{users} users and {items} items are too few; ask for at least 1 and 100")
    if per_user is not None and not MIN_PER_USER <= per_user <= items // 5:
        raise InvalidInput(
            f"{per_user} interactions per user are out of range for {items} items; ask for {MIN_PER_USER} to {items // 5}"
        )
    if form not in FORMATS:
        raise InvalidInput(f"tables are written as {' or '.join(FORMATS)}, not as {form!r}")
    random = np.random.default_rng(seed)
    corpus = _draw_items(items, random)
    buyers = _draw_users(users, corpus, random)
    with replace_folder(folder) as building:
        _write(building / f"users.{form}", buyers.rows)
        _write(building / f"items.{form}", corpus.rows)
        _write(building / f"interactions.{form}", _draw_interactions(buyers, corpus, random, per_user, progress))
        card = {"name": NAME, "seed": seed, "users": users, "items": items, "per_user": per_user}
        (building / CATALOG_FILE).write_text(json.dumps(card, indent=2) + "\n")
    return InteractionFolder(folder)


@dataclass(frozen=True)
class _Items:
    rows: Rows
    interests: Numbers  # (I, INTERESTS), unit length
    tables: Numbers  # (I, INTERESTS), mean of the interests, given category and brand
    listed: Numbers  # (I,) day of the listing
    price: Numbers  # (I,) log price in standard deviations of its category
    popularity: Numbers  # (I,) log-odds
    centres: Numbers  # (CATEGORIES, INTERESTS), unit length


@dataclass(frozen=True)
class _Users:
    rows: Rows
    interests: Numbers  # (U, INTERESTS), unit length
    tables: Numbers  # (U, INTERESTS), mean of the interests, given age group, region and favourite categories
    budget: Numbers  # (U,) preferred log price, in standard deviations of a category


def _draw_items(count: int, random: Generator) -> _Items:
    centres, makers = _unit(random, CATEGORIES), _unit(random, BRANDS)
    category = random.choice(CATEGORIES, count, p=_zipf(CATEGORIES, 0.5))
    brand = random.choice(BRANDS, count, p=_zipf(BRANDS, 0.5))
    own = _unit(random, count)
    shared = 0.6 * centres[category] + 0.4 * makers[brand]
    interests = _normalise(shared + OWN * own)
    price = random.normal(size=count)
    popularity = -ZIPF * np.log1p(random.permutation(count))
    rating = 3.8 + 0.35 * _standardise(popularity) + random.normal(0, 0.4, count)
    listed = np.where(random.random(count) < LATE, random.uniform(0, 0.9, count), 0) * DAYS
    usual = random.uniform(2.5, 6, CATEGORIES)  # log price of a category
    rows = [
        {
            "item_id": f"item-{i:05}",
            "category": f"category-{category[i]:02}",
            "brand": f"brand-{brand[i]:02}",
            "price": round(float(np.exp(usual[category[i]] + 0.6 * price[i])), 2),
            "seller_rating": None if random.random() < 0.1 else round(float(np.clip(rating[i], 1, 5)), 1),
            "listed_at": _moment(listed[i]),
        }
        for i in range(count)
    ]
    days = np.round(listed * 86400) / 86400  # in whole seconds, as the table says
    return _Items(rows, interests, _mean_interests(shared), days, price, popularity, centres)


def _draw_users(count: int, corpus: _Items, random: Generator) -> _Users:
    ages, regions = _unit(random, len(AGE_GROUPS)), _unit(random, REGIONS)
    age, region = random.integers(len(AGE_GROUPS), size=count), random.choice(REGIONS, count, p=_zipf(REGIONS, 0.7))
    taste = np.argsort(-corpus.centres @ ages[age].T + random.gumbel(0, 0.4, (CATEGORIES, count)), axis=0)[:2]  # (2, U)
    liked = 0.6 * corpus.centres[taste[0]] + 0.3 * corpus.centres[taste[1]]
    shared = liked + 0.2 * ages[age] + 0.3 * regions[region]
    interests = _normalise(shared + OWN * _unit(random, count))
    budget = 0.6 * (age - 2.5) / 1.7 + random.normal(0, 0.8, count)
    rows = [
        {
            "buyer_id": f"buyer-{u:05}",
            "age_group": AGE_GROUPS[age[u]],
            "region": f"region-{region[u]}",
            "favourite_category": f"category-{taste[0, u]:02}",
            "second_category": None if random.random() < 0.2 else f"category-{taste[1, u]:02}",
        }
        for u in range(count)
    ]
    return _Users(rows, interests, _mean_interests(shared), budget)


def _draw_interactions(buyers: _Users, corpus: _Items, random: Generator, per_user: int | None, progress: Progress) -> Rows:
    """Return the interactions of all users by time, with their splits."""
    limit = min(MAX_INTERACTIONS, len(corpus.rows) // 5)
    rows = []
    for user, row in enumerate(buyers.rows):
        log_odds = AFFINITY * corpus.interests @ buyers.interests[user] + corpus.popularity
        log_odds -= BUDGET * (corpus.price - buyers.budget[user]) ** 2
        count = per_user or int(np.clip(random.lognormal(np.log(INTERACTIONS), 0.5), MIN_INTERACTIONS, limit))
        # the largest log-odds plus Gumbel noise are a sample from their softmax without replacement (Vieira 2014)
        sample = np.argpartition(-(log_odds + random.gumbel(size=len(log_odds))), count - 1)[:count]
        days = random.uniform(corpus.listed[sample], DAYS)
        tests, vals = (max(1, round(share * count)) for share in (HELD_OUT["test"], HELD_OUT["val"]))
        splits = ["train"] * (count - vals - tests) + ["val"] * vals + ["test"] * tests
        for item, day, split in zip(sample[np.argsort(days)], np.sort(days), splits, strict=True):
            event = {"event_type": "purchase", "timestamp": _moment(day), "split": split}
            rows.append({"buyer_id": row["buyer_id"], "item_id": corpus.rows[item]["item_id"], **event})
        progress(user + 1, len(buyers.rows))
    return sorted(rows, key=lambda row: row["timestamp"])


class TrueTastes:
    """The log-odds from which a set was drawn: the scores of the best model that can exist."""

    def __init__(self, folder: InteractionFolder) -> None:
        """Draw users and items of a set again, by its seed and sizes."""
        random = np.random.default_rng(folder.seed)
        self._items = _draw_items(len(folder.items), random)
        self._users = _draw_users(len(folder.users), self._items, random)
        if self._users.rows != folder.users or self._items.rows != folder.items:
            raise InvalidInput(f"{folder.path} is not what its seed gives with this version; {REMEDY}")
        times = folder.tables.times
        assert times is not None
        is_earlier = folder.tables.splits != "test"
        self._last = np.zeros(len(folder.users))  # (U,) day of each user's last interaction before the test interactions
        np.maximum.at(self._last, folder.tables.pairs[is_earlier, 0], times[is_earlier] - START.timestamp() / 86400)

    def score(self, users: NDArray[np.int64], *, only_tables: bool = False) -> NDArray[np.float32]:
        """Return the log-odds that items are among the users' test interactions, (B, I), up to a constant for each user.

        The ranking by these log-odds has the greatest expected recall of all rankings that know a user's interactions before. An
        item listed late is the likelier in the test interactions, because it cannot have been sold before.

        Args:
            users: (B,) indices of users.
            only_tables: True replaces interests by their mean given the tables, popularity by its mean, and budgets by their mean
                given age: the tastes that a model can know without interactions.
        """
        items, buyers = self._items, self._users
        if only_tables:
            log_odds = AFFINITY * buyers.tables[users] @ items.tables.T
            ages = np.array([AGE_GROUPS.index(buyers.rows[user]["age_group"]) for user in users])
            budget = 0.6 * (ages - 2.5) / 1.7
        else:
            log_odds = AFFINITY * buyers.interests[users] @ items.interests.T + items.popularity
            budget = buyers.budget[users]
        log_odds -= BUDGET * (items.price - budget[:, None]) ** 2
        left = DAYS - np.maximum(items.listed, self._last[users, None])  # (B, I) days of sale after the user's last interaction
        return np.asarray(log_odds + np.log(left / (DAYS - items.listed)), dtype=np.float32)


def _mean_interests(shared: Numbers) -> Numbers:
    """Return the mean interests, (N, INTERESTS), of those with this shared part, about: individual parts have random directions."""
    return np.asarray(shared / np.sqrt((shared**2).sum(axis=1, keepdims=True) + OWN**2))


def _unit(random: Generator, count: int) -> Numbers:
    return _normalise(random.normal(size=(count, INTERESTS)))


def _normalise(vectors: Numbers) -> Numbers:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _standardise(values: Numbers) -> Numbers:
    return np.asarray((values - values.mean()) / values.std())


def _zipf(count: int, exponent: float) -> Numbers:
    """Return probabilities proportional to rank ** -exponent."""
    weights = np.arange(1, count + 1) ** -exponent
    return np.asarray(weights / weights.sum())


def _moment(day: float) -> datetime:
    """Return the UTC time `day` days into the year of the interactions, in whole seconds."""
    return START + timedelta(seconds=round(float(day) * 86400))


def _write(path: Path, rows: Rows) -> None:
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".csv":
        pa_csv.write_csv(table, path)
    else:
        pq.write_table(table, path, compression="zstd")
