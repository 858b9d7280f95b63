"""Trains the buyer tower of a tower on events, over the vectors of its lots as they are stored: nothing is embedded again.

Attention is put beside the tower only where held-out baskets say that it finds more than the weighted average does.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalog.event_tables import read_event_table
from catalog.folder import CatalogFolder
from models.data.baskets import Basket, next_baskets, training_baskets
from models.training.buyers import BuyerMetrics, BuyerModel, BuyerTrainingConfig, StoredItems, measure, to_numpy, train_buyers
from processing.evaluation.corpus import release_entries
from retrieval.buyers.attention import save_buyer_tower
from retrieval.buyers.vector import WeightedAverage
from retrieval.contracts.events import Interaction
from retrieval.contracts.release import load_release
from retrieval.contracts.tower_card import TowerCard
from retrieval.errors import InvalidInput

log = logging.getLogger(__name__)

HALF_LIVES = (None, 7.0, 30.0, 90.0, 365.0)  # days that the weighted average is tried with
VAL_SHARE = 0.2  # of the acts, the latest
MOST_RIVALS = 50_000  # lots that nobody acted on, among which next baskets are looked for
CHECKPOINT_FOLDER = ".checkpoints"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class EventLog:
    """Events that were read.

    Attributes:
        acts: what buyers did.
        set_aside: reason -> rows that broke the contract.
    """

    acts: Sequence[Interaction]
    set_aside: Mapping[str, int]


@dataclass(frozen=True)
class BuyersReport:
    """What training came to; all figures are of val, which chose half-life, epoch and kind.

    Attributes:
        path: the buyer tower.
        tower_id: the tower whose lots it reads.
        kind: attention, or average where attention found no more.
        half_life_days: of the average, alone or inside the attention.
        plain: the weighted average without any fading.
        average: with that half-life.
        attention: the best epoch.
        acts: events on known lots.
        unknown_items: events on lots that the release has not.
        set_aside: reason -> rows that broke the contract.
        lots: among which the baskets were looked for.
        train_baskets: learnt from.
        val_baskets: one a buyer, from `val_from` on.
        val_from: where time was cut.
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

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can write it."""
        figures = {name: asdict(getattr(self, name)) for name in ("plain", "average", "attention")}
        return {**asdict(self), **figures, "path": str(self.path), "val_from": self.val_from.isoformat()}


def train_on_release(
    events: EventLog,
    release: Path,
    tower: Path,
    config: BuyerTrainingConfig,
    progress: Progress | None = None,
) -> BuyersReport:
    """Train attention over a release's stored vectors and put the better of it and the weighted average beside the tower.

    Args:
        events: what buyers did; time is cut where their latest fifth begins.
        release: folder of the lots' vectors.
        tower: folder of the tower that made them; it gets `buyer_tower.npz`.
        config: of the attention; its half-life is chosen here.
        progress: called with (epochs done, epochs).

    Raises:
        InvalidInput: the release is of another tower, or too few buyers came back.
    """
    card = TowerCard.load(tower)
    named = {act.item_id for act in events.acts}
    ids, vectors = read_items(release, card, named, config.seed)
    rows = {item_id: row for row, item_id in enumerate(ids)}
    acts = [act for act in events.acts if act.item_id in rows]
    cut = time_cut(acts)
    train = training_baskets(acts, rows, cut)
    val = next_baskets(acts, rows, cut, max(act.timestamp for act in acts) + timedelta(seconds=1))
    if not train or not val:
        raise InvalidInput(
            f"{len(acts)} events on lots of this release hold {len(train)} baskets before {cut:%Y-%m-%d} and {len(val)} buyers who "
            "came back afterwards; buyers must have acted on several days: collect more events"
        )
    tried = {half_life: _average(vectors, val, half_life) for half_life in HALF_LIVES}
    half_life = max(tried, key=lambda days: tried[days].recall_at_50)
    chosen = replace(config, half_life_days=half_life)
    report = train_buyers(StoredItems(vectors), train, val, chosen, tower / CHECKPOINT_FOLDER / "buyers", progress)
    attention, average = report.history[report.best], tried[half_life]
    better = attention.recall_at_50 > average.recall_at_50
    figures = {"val": {"average": asdict(average), "attention": asdict(attention)}, "val_from": cut.isoformat()}
    kept = to_numpy(report.model.buyer_tower) if better else WeightedAverage(half_life)
    return BuyersReport(
        path=save_buyer_tower(kept, tower, card, figures),
        tower_id=card.tower_id,
        kind="attention" if better else "average",
        half_life_days=half_life,
        plain=tried[None],
        average=average,
        attention=attention,
        acts=len(acts),
        unknown_items=len(events.acts) - len(acts),
        set_aside=events.set_aside,
        lots=len(ids),
        train_baskets=len(train),
        val_baskets=len(val),
        val_from=cut,
    )


def read_items(release: Path, card: TowerCard, named: set[str], seed: int = 0) -> tuple[list[str], NDArray[np.float32]]:
    """Ids and stored vectors of all lots that are named, and of others, drawn evenly, at most 50,000.

    Raises:
        InvalidInput: the release was embedded with another tower, or at a shorter length.
    """
    manifest = load_release(release)
    if manifest.tower_id != card.tower_id:
        raise InvalidInput(f"{release} was embedded with tower {manifest.tower_id}, not with {card.tower_id}; name its own tower")
    random = np.random.default_rng(seed)
    share = min(1.0, MOST_RIVALS / max(1, manifest.lots))
    found: dict[str, Any] = {}
    for entry in release_entries(release):
        if entry.item_id in named or random.random() < share:
            found[entry.item_id] = entry.vector
    if not found:
        raise InvalidInput(f"{release} holds no lot")
    return list(found), np.stack(list(found.values())).astype(np.float32)


def time_cut(acts: Sequence[Interaction]) -> datetime:
    """The midnight before which four fifths of the acts lie, or the first one after some do."""
    if not acts:
        raise InvalidInput("there is no event on a lot of this release; name the events of its lots with --events")
    times = sorted(act.timestamp for act in acts)
    return times[int((1 - VAL_SHARE) * (len(times) - 1))].replace(hour=0, minute=0, second=0, microsecond=0)


def logged_events(places: Sequence[Path], progress: Progress | None = None) -> EventLog:
    """Logs of events as `gavel events check` reads them; progress is called with (parts read, parts)."""
    table = read_event_table(places, progress=progress)
    return EventLog([act for _, acts in table.sequences() for act in acts], table.rejected)


def catalog_events(catalog: CatalogFolder) -> EventLog:
    """The acts among a catalogue's clicks; those of split test are not looked at."""
    clicks = [click for split in catalog.splits if split != "test" for click in catalog.clicks(split)]
    return EventLog([Interaction(c.buyer_id, c.item_id, c.event_type, c.timestamp) for c in clicks if c.event_type], {})


def _average(vectors: NDArray[np.float32], val: Sequence[Basket], half_life: float | None) -> BuyerMetrics:
    model = BuyerModel(StoredItems(vectors), BuyerTrainingConfig(heads=0, half_life_days=half_life))
    return measure(model.scores(val), val)
