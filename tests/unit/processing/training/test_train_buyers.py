"""`gavel train buyers`: attention over stored vectors goes beside the tower where it finds more, and serves from there."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from judged_lots import TOWER_ID, write_release
from small_tower import save_small_item_tower

from models.training.buyers import BuyerTrainingConfig
from processing.training import buyers as job
from processing.training.buyers import EventLog, logged_events, split_time, train_on_release
from retrieval.buyers.attention import Attention, load_buyer_tower
from retrieval.buyers.vector import WeightedAverage, buyer_vector
from retrieval.contracts.events import Interaction
from retrieval.contracts.items import Item
from retrieval.contracts.tower_card import TowerCard
from retrieval.errors import InvalidInput
from retrieval.index.port import Candidate

START = datetime(2026, 1, 1, 9, tzinfo=UTC)
KINDS, LOTS = 8, 160
QUICK = BuyerTrainingConfig(epochs=4, batch_size=32, random=60, rate=1e-2)


def stored_lots(dimensions: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(KINDS, dimensions))[np.arange(LOTS) % KINDS] + 0.4 * random.normal(size=(LOTS, dimensions))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return {f"lot-{row}": vector for row, vector in enumerate(vectors.astype(np.float32))}


def moody_events(buyers: int = 60) -> list[Interaction]:
    """Each buyer moves to another kind of lot now and then, and stays there for a while."""
    random = np.random.default_rng(1)
    acts = []
    for buyer in range(buyers):
        kind = int(random.integers(KINDS))
        for day in range(0, 60, 4):
            kind = int(random.integers(KINDS)) if random.random() < 0.3 else kind
            for _ in range(3):
                lot = kind + KINDS * int(random.integers(LOTS // KINDS))
                acts.append(Interaction(f"buyer-{buyer}", f"lot-{lot}", "purchase", START + timedelta(days=day)))
    return acts


@pytest.fixture
def tower(tmp_path: Path) -> Path:
    return save_small_item_tower(tmp_path / "towers", use_image=False)


@pytest.fixture
def lots(tower: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    lots = stored_lots(TowerCard.load(tower).dimensions)
    monkeypatch.setattr(job, "read_items", lambda release, card, named, seed: (list(lots), np.stack(list(lots.values()))))
    return lots


def test_what_was_trained_serves_from_the_towers_folder(tower: Path, lots: dict[str, np.ndarray], tmp_path: Path) -> None:
    acts = [*moody_events(), Interaction("buyer-0", "sold-long-ago", "view", START)]
    report = train_on_release(EventLog(acts, {"no time": 2}), tmp_path, tower, QUICK)
    served = load_buyer_tower(tower)
    assert report.kind == ("attention" if isinstance(served, Attention) else "average")
    assert report.average.recall_at_50 >= report.plain.recall_at_50
    assert (report.unknown_items, report.acts, report.set_aside) == (1, len(acts) - 1, {"no time": 2})
    assert report.to_dict()["attention"]["recall_at_50"] == report.attention.recall_at_50
    known = [Candidate(item_id, 0.0, {}, vector) for item_id, vector in lots.items()]
    found = buyer_vector(acts[:40], lambda ids: [lot for lot in known if lot.item_id in ids], served)
    assert np.linalg.norm(found.vector) == pytest.approx(1, abs=1e-5)


def test_attention_that_finds_no_more_leaves_the_average_with_its_half_life(
    tower: Path, lots: dict[str, np.ndarray], tmp_path: Path
) -> None:
    useless = replace(QUICK, epochs=1, rate=0.0)  # a rate of nothing leaves attention where it starts: at the average
    report = train_on_release(EventLog(moody_events(), {}), tmp_path, tower, useless)
    assert report.kind == "average"
    assert load_buyer_tower(tower) == WeightedAverage(report.half_life_days)


def test_too_few_buyers_who_came_back_are_refused_with_numbers(tower: Path, lots: dict[str, np.ndarray], tmp_path: Path) -> None:
    once = [act for act in moody_events(3) if act.timestamp < START + timedelta(days=1)]
    with pytest.raises(InvalidInput, match="0 baskets before"):
        train_on_release(EventLog(once, {}), tmp_path, tower, QUICK)
    with pytest.raises(InvalidInput, match="no event on a lot"):
        train_on_release(EventLog([], {}), tmp_path, tower, QUICK)


def test_time_is_cut_at_the_midnight_before_the_latest_fifth() -> None:
    acts = [Interaction("a", "lot-1", "view", START + timedelta(days=day)) for day in range(11)]
    assert split_time(acts) == datetime(2026, 1, 9, tzinfo=UTC)


def test_rows_of_an_events_file_that_break_the_contract_are_counted_with_their_reasons(tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text(
        "distinct_id,product_id,event_name,created_at\n"
        "b1,lot-1,Add To Cart,2026-01-02T10:00:00Z\n"
        "b1,lot-2,Stare,2026-01-02T10:00:00Z\n"
        "b1,lot-2,View,never\n"
    )
    log = logged_events([file])
    assert [(act.item_id, act.event_type) for act in log.interactions] == [("lot-1", "add_to_cart")]
    assert log.rejected == {"unknown_event": 1, "bad_time": 1}


def test_lots_are_read_from_a_release_of_the_same_tower_alone(tower: Path, tmp_path: Path) -> None:
    items = [Item(f"lot-{number}", f"a vase, number {number}") for number in range(5)]
    release = write_release(tmp_path / "night", items)
    card = TowerCard.load(tower)
    ids, vectors = job.read_items(release, replace(card, tower_id=TOWER_ID), {"lot-0"})
    assert ids == [item.item_id for item in items]
    assert vectors.shape[0] == len(items)
    with pytest.raises(InvalidInput, match="name its own tower"):
        job.read_items(release, card, set())
