"""Training of the buyer tower: baskets are cut in time, attention learns what an average cannot, and a cut run goes on."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from models.data.baskets import MAX_HISTORY, Basket, next_baskets, pad, training_baskets
from models.towers.config import TowerConfig
from models.towers.features import Features
from models.towers.two_towers import ItemTower, TwoTowers
from models.training.buyers import BuyerModel, BuyerTrainingConfig, ProjectedItems, StoredItems, measure, start_white, train_buyers
from retrieval.contracts.events import Interaction
from retrieval.encoders.feature_spec import FeatureSpec
from retrieval.errors import InvalidInput
from retrieval.search.service import MAX_INTERACTIONS

DAY = datetime(2026, 1, 1, 12, tzinfo=UTC)
LOTS = 120
ROWS = {f"lot-{row}": row for row in range(LOTS)}
QUICK = BuyerTrainingConfig(epochs=4, batch_size=32, random=60, rate=1e-2)


def act(buyer: str, row: int, day: float, event_type: str = "purchase") -> Interaction:
    return Interaction(buyer, f"lot-{row}", event_type, DAY + timedelta(days=day))


def lots_of_kinds(kinds: int = 12, seed: int = 0) -> np.ndarray:
    """Lots in clusters: row r is of kind r % kinds."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(kinds, 16))[np.arange(LOTS) % kinds] + 0.4 * random.normal(size=(LOTS, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def fickle_baskets(count: int, seed: int, kinds: int = 12) -> list[Basket]:
    """Buyers who change their mind: many old acts on one kind, few late ones on another, and the late kind comes next."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        old, late = random.choice(kinds, 2, replace=False)
        items = np.array(
            [old + kinds * random.integers(10) for _ in range(9)] + [late + kinds * random.integers(10) for _ in range(3)]
        )
        ages = np.array([200.0] * 9 + [0.0] * 3)
        targets = np.unique(late + kinds * random.integers(10, size=3))
        made.append(Basket(f"b{number}", items, np.full(12, 10.0), ages, frozenset(items.tolist()), targets))
    return made


def test_a_history_is_as_long_as_what_serving_takes() -> None:
    assert MAX_HISTORY == MAX_INTERACTIONS


def test_every_basket_but_the_first_is_learnt_from_and_a_day_is_a_basket() -> None:
    acts = [act("a", 1, 0), act("a", 2, 0.1), act("a", 3, 4), act("a", 3, 4.1), act("a", 5, 9), act("b", 1, 2), act("a", 7, 30)]
    baskets = training_baskets(acts, ROWS, DAY + timedelta(days=20))
    assert [basket.targets.tolist() for basket in baskets] == [[3], [5]]
    assert baskets[1].items.tolist() == [1, 2, 3, 3]
    np.testing.assert_allclose(baskets[1].ages_days, [4.1, 4.0, 0.1, 0.0])


def test_the_next_basket_is_the_first_of_the_month_after_a_history_before_it() -> None:
    acts = [
        act("a", 1, 0),
        act("a", 4, 11),
        act("a", 6, 12),
        act("new", 2, 11),
        act("gone", 2, 3),
        act("later", 1, 0),
        act("later", 2, 25),
    ]
    found = next_baskets(acts, ROWS, DAY + timedelta(days=10), DAY + timedelta(days=20))
    assert [(basket.buyer_id, basket.items.tolist(), basket.targets.tolist()) for basket in found] == [("a", [1], [4])]


def test_lots_that_are_not_in_the_table_are_passed_over() -> None:
    acts = [act("a", 1, 0), act("a", 999, 0), act("a", 2, 3), act("a", 999, 5)]
    assert [basket.targets.tolist() for basket in training_baskets(acts, ROWS, DAY + timedelta(days=9))] == [[2]]


def test_the_latest_acts_of_a_long_history_are_kept_and_all_that_was_owned() -> None:
    acts = [act("a", row % LOTS, -300 + row) for row in range(250)] + [act("a", 3, 5)]
    basket = training_baskets(acts, ROWS, DAY + timedelta(days=9))[-1]
    assert len(basket.items) == MAX_HISTORY
    assert basket.items[-1] == 249 % LOTS
    assert len(basket.owned) == LOTS


def test_attention_learns_that_late_acts_count_which_the_average_cannot() -> None:
    lots, train, val = lots_of_kinds(), fickle_baskets(300, seed=1), fickle_baskets(80, seed=2)
    report = train_buyers(StoredItems(lots), train, val, QUICK)
    average = measure(BuyerModel(StoredItems(lots), BuyerTrainingConfig(heads=0)).scores(val), val, k=10)
    trained = measure(report.model.scores(val), val, k=10)
    assert trained.recall_at_50 > average.recall_at_50 + 0.2
    assert report.history[report.best].recall_at_50 == max(figures.recall_at_50 for figures in report.history)


def test_a_run_that_was_cut_short_ends_where_a_whole_one_does(tmp_path: Path) -> None:
    lots, train, val = lots_of_kinds(), fickle_baskets(100, seed=1), fickle_baskets(20, seed=2)
    whole = train_buyers(StoredItems(lots), train, val, QUICK)

    def stop(epoch: int, epochs: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_buyers(StoredItems(lots), train, val, QUICK, tmp_path / "runs" / "one", stop)
    resumed = train_buyers(StoredItems(lots), train, val, QUICK, tmp_path / "runs" / "one")
    assert (whole.resumed_at, resumed.resumed_at) == (0, 2)
    np.testing.assert_allclose(resumed.losses, whole.losses, rtol=1e-5)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value)
    assert not (tmp_path / "runs" / "one").exists()


def test_a_time_limit_cuts_a_run_and_the_next_one_goes_on_unless_the_baskets_changed(tmp_path: Path) -> None:
    lots, train, val = lots_of_kinds(), fickle_baskets(100, seed=1), fickle_baskets(20, seed=2)
    whole = train_buyers(StoredItems(lots), train, val, QUICK)
    for _ in range(2):
        cut = train_buyers(StoredItems(lots), train, val, replace(QUICK, max_seconds=1e-9), tmp_path / "one")
    assert (cut.steps, cut.planned_steps, cut.cut_by_clock) == (2, whole.planned_steps, True)
    others = train_buyers(StoredItems(lots), train[1:], val, replace(QUICK, max_seconds=1e-9), tmp_path / "one")
    assert others.steps == 1
    train_buyers(StoredItems(lots), train, val, replace(QUICK, max_seconds=1e-9), tmp_path / "two")
    resumed = train_buyers(StoredItems(lots), train, val, QUICK, tmp_path / "two")
    assert (resumed.losses, resumed.history, resumed.cut_by_clock) == (whole.losses, whole.history, False)
    assert all(torch.equal(resumed.model.state_dict()[name], value) for name, value in whole.model.state_dict().items())


def test_without_baskets_there_is_nothing_to_train_on() -> None:
    with pytest.raises(InvalidInput, match="no basket"):
        train_buyers(StoredItems(lots_of_kinds()), [], fickle_baskets(3, seed=0), QUICK)


def small_item_tower(encodings: np.ndarray) -> tuple[ItemTower, ProjectedItems]:
    rows = [{"category": str(row % 12)} for row in range(LOTS)]
    spec = FeatureSpec.fit(rows, ["category"])
    config = TowerConfig.of_encoder("", linear=True, hidden=0, features=spec, dimensions=16)
    text = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 10}
    torch.manual_seed(0)
    tower = TwoTowers(replace(config, text=replace(config.text, config={**text, "intermediate_size": 16}))).item_tower
    return tower, ProjectedItems(tower, encodings, Features.of(spec, rows), 16)


def test_projection_and_category_embeddings_learn_while_the_text_encoder_stays() -> None:
    encodings = lots_of_kinds()
    tower, lots = small_item_tower(encodings)
    frozen = {name: value.clone() for name, value in tower.text_encoder.state_dict().items()}
    before = {name: value.clone() for name, value in lots.state_dict().items()}
    report = train_buyers(lots, fickle_baskets(100, seed=1), [], QUICK)
    assert report.losses[-1] < report.losses[0]
    assert all(torch.equal(value, frozen[name]) for name, value in tower.text_encoder.state_dict().items())
    changed = {name for name, value in lots.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"projection", "features_module"}


def test_a_white_start_spreads_the_lots_evenly() -> None:
    encodings = lots_of_kinds() + 1.0  # a narrow cone
    encodings /= np.linalg.norm(encodings, axis=1, keepdims=True)
    tower, lots = small_item_tower(encodings)
    start_white(tower.projection, encodings)
    with torch.no_grad():
        vectors = lots.eval()(torch.arange(LOTS)).numpy()
        plain = tower.projection(
            torch.cat([torch.from_numpy(encodings), torch.zeros(LOTS, lots.features_module[0].width)], 1)
        ).numpy()
    np.testing.assert_allclose(plain.mean(axis=0), 0, atol=1e-5)
    assert abs(np.mean(vectors @ vectors.T)) < 0.1 < np.mean(encodings @ encodings.T)


def test_padding_marks_what_is_no_act() -> None:
    short, long = fickle_baskets(1, seed=0)[0], fickle_baskets(1, seed=1)[0]
    short = Basket("s", short.items[:2], short.weights[:2], short.ages_days[:2], short.owned, short.targets)
    acts = pad([short, long])
    assert acts.weights[0].tolist() == [10.0, 10.0] + [0.0] * 10
