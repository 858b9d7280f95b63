"""Train a tower's buyer tower on events, over the stored vectors of its items; nothing is embedded again.

Attention is stored beside the tower only if it has a higher recall on held-out baskets than the weighted average.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalog.event_tables import read_event_table
from catalog.folder import CatalogFolder
from models.artefacts.run_record import steps_record
from models.config.buyers import BuyerTrainingConfig
from models.data.baskets import Basket, next_baskets, training_baskets
from models.training.buyers import BuyerMetrics, BuyerModel, StoredItems, measure, to_numpy, train_buyers
from models.training.checkpoints import CHECKPOINT_FOLDER
from processing.evaluation.corpus import release_items
from retrieval.buyers.attention import save_buyer_tower
from retrieval.buyers.vector import WeightedAverage
from retrieval.contracts.events import Interaction
from retrieval.contracts.release import load_release
from retrieval.contracts.tower_card import TowerCard
from retrieval.errors import InvalidInput
from retrieval.progress import Progress

log = logging.getLogger(__name__)

HALF_LIVES = (None, 7.0, 30.0, 90.0, 365.0)  # days, candidates for the weighted average
VAL_SHARE = 0.2  # share of the interactions, the latest ones, that are for validation
MAX_DISTRACTORS = 50_000  # items without events, among which next baskets are searched


@dataclass(frozen=True, slots=True)
class EventLog:
    """Events of a log.

    Attributes:
        interactions: interactions of all buyers.
        rejected: reason -> number of rejected rows.
    """

    interactions: Sequence[Interaction]
    rejected: Mapping[str, int]


@dataclass(frozen=True)
class BuyersReport:
    """The result of a training. All metrics are measured on the val baskets, which chose half-life, epoch and kind.

    Attributes:
        path: path of the buyer tower's file.
        tower_id: id of the items' tower.
        kind: "attention", or "average" if attention is no better.
        half_life_days: chosen half-life of the average, in days; None for no decay.
        plain: metrics of the average without decay.
        average: metrics of the average with the chosen half-life.
        attention: metrics of the best epoch of the attention.
        acts: number of events on items of the release.
        unknown_items: number of events on other items.
        set_aside: reason -> number of rejected rows.
        lots: number of items among which the baskets were searched.
        train_baskets: number of training baskets.
        val_baskets: number of validation baskets, one per buyer, from `val_from` on.
        val_from: time of the split.
        steps: length of the training, see steps_record().
    """

    path: Path
    tower_id: str
    kind: str
    half_life_days: float | None
    plain: BuyerMetrics
    average: BuyerMetrics
    attention: BuyerMetrics
    acts: int
    unknown_items: int
    set_aside: Mapping[str, int]
    lots: int
    train_baskets: int
    val_baskets: int
    val_from: datetime
    steps: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        metrics = {name: asdict(getattr(self, name)) for name in ("plain", "average", "attention")}
        return {**asdict(self), **metrics, "path": str(self.path), "val_from": self.val_from.isoformat()}


def train_on_release(
    events: EventLog,
    release: Path,
    tower: Path,
    config: BuyerTrainingConfig,
    progress: Progress | None = None,
) -> BuyersReport:
    """Train attention over a release's stored vectors, and store the better of attention and average beside the tower.

    Args:
        events: events of the buyers; about the latest fifth is for validation.
        release: folder of the release with the items' vectors.
        tower: folder of the release's tower, which gets `buyer_tower.npz`.
        config: settings of the attention; its half-life is replaced by the best of HALF_LIVES.
        progress: called with (epochs done, epochs).

        Raises:
            InvalidInput: the release is of another tower, or too few buyers returned on another day.
    """
    card = TowerCard.load(tower)
    active = {interaction.item_id for interaction in events.interactions}
    ids, vectors = read_items(release, card, active, config.seed)
    rows = {item_id: row for row, item_id in enumerate(ids)}
    interactions = [interaction for interaction in events.interactions if interaction.item_id in rows]
    cut = split_time(interactions)
    train = training_baskets(interactions, rows, cut)
    end = max(interaction.timestamp for interaction in interactions) + timedelta(seconds=1)
    val = next_baskets(interactions, rows, cut, end)
    if not train or not val:
        raise InvalidInput(
            f"{len(interactions)} events on lots of this release hold {len(train)} baskets before {cut:%Y-%m-%d} and {len(val)} "
            "buyers who came back afterwards; buyers must have acted on several days: collect more events"
        )
    averages = {half_life: _measure_average(vectors, val, half_life) for half_life in HALF_LIVES}
    half_life = max(averages, key=lambda days: averages[days].recall_at_50)
    config = replace(config, half_life_days=half_life)
    report = train_buyers(StoredItems(vectors), train, val, config, tower / CHECKPOINT_FOLDER / "buyers", progress)
    attention, average = report.history[report.best], averages[half_life]
    better = attention.recall_at_50 > average.recall_at_50
    metrics = {"val": {"average": asdict(average), "attention": asdict(attention)}, "val_from": cut.isoformat()}
    metrics["steps"] = steps = steps_record(report.steps, report.planned_steps, report.cut_by_clock)
    model = to_numpy(report.model.buyer_tower) if better else WeightedAverage(half_life)
    return BuyersReport(
        path=save_buyer_tower(model, tower, card, metrics),
        tower_id=card.tower_id,
        kind="attention" if better else "average",
        half_life_days=half_life,
        plain=averages[None],
        average=average,
        attention=attention,
        acts=len(interactions),
        unknown_items=len(events.interactions) - len(interactions),
        set_aside=events.rejected,
        lots=len(ids),
        train_baskets=len(train),
        val_baskets=len(val),
        val_from=cut,
        steps=steps,
    )


def read_items(release: Path, card: TowerCard, active: set[str], seed: int = 0) -> tuple[list[str], NDArray[np.float32]]:
    """Return ids and stored vectors (N, D) of the active items and of a uniform sample of other items, about 50,000 at most.

    Raises:
        InvalidInput: the release was embedded with another tower, or at a shorter length.
    """
    manifest = load_release(release)
    if manifest.tower_id != card.tower_id:
        raise InvalidInput(f"{release} was embedded with tower {manifest.tower_id}, not with {card.tower_id}; name its own tower")
    random = np.random.default_rng(seed)
    share = min(1.0, MAX_DISTRACTORS / max(1, manifest.lots))
    vectors: dict[str, NDArray[np.float32]] = {}
    for item in release_items(release):
        if item.item_id in active or random.random() < share:
            vectors[item.item_id] = item.vector
    if not vectors:
        raise InvalidInput(f"{release} holds no lot")
    return list(vectors), np.stack(list(vectors.values())).astype(np.float32)


def split_time(interactions: Sequence[Interaction]) -> datetime:
    """Return the start of the day (00:00) on which the first four fifths of the interactions end."""
    if not interactions:
        raise InvalidInput("there is no event on a lot of this release; name the events of its lots with --events")
    times = sorted(interaction.timestamp for interaction in interactions)
    return times[int((1 - VAL_SHARE) * (len(times) - 1))].replace(hour=0, minute=0, second=0, microsecond=0)


def logged_events(places: Sequence[Path], progress: Progress | None = None) -> EventLog:
    """Read event logs as `gavel events check` does; `progress` is called with (parts read, parts)."""
    table = read_event_table(places, progress=progress)
    return EventLog([interaction for _, sequence in table.sequences() for interaction in sequence], table.rejected)


def catalog_events(catalog: CatalogFolder) -> EventLog:
    """Return the interactions among a catalogue's clicks, except those of split test."""
    clicks = [click for split in catalog.splits if split != "test" for click in catalog.clicks(split)]
    return EventLog([Interaction(c.buyer_id, c.item_id, c.event_type, c.timestamp) for c in clicks if c.event_type], {})


def _measure_average(vectors: NDArray[np.float32], val: Sequence[Basket], half_life: float | None) -> BuyerMetrics:
    model = BuyerModel(StoredItems(vectors), BuyerTrainingConfig(heads=0, half_life_days=half_life))
    return measure(model.scores(val), val)
