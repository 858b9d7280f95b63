"""Two feature towers on users and items: what is learned, mined, measured and held against a rival."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.quality.users_items import (
    BARS,
    IN_BATCH,
    POPULARITY,
    SHOWN,
    compare,
    draw,
    load_data,
    measure,
    paired_interval,
    passed,
    rankings,
    table,
    val_recall,
)
from catalog.interactions import InteractionFolder, generate
from models.config.features import FeatureTrainingConfig
from models.training.checkpoints import Checkpoints
from models.training.features import FeatureTowers, InteractionData, mine, train_feature_towers

QUICK = FeatureTrainingConfig(dimensions=24, hidden=0, id_width=16, batch_size=64, epochs=4, rate=1e-2, mined_depth=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> InteractionFolder:
    return generate(tmp_path_factory.mktemp("interactions") / "set", users=150, items=300, seed=5)


@pytest.fixture(scope="module")
def data(folder: InteractionFolder) -> InteractionData:
    return load_data(folder)


def test_training_beats_popularity_on_the_test_interactions(folder: InteractionFolder, data: InteractionData) -> None:
    towers = train_feature_towers(data, QUICK, val_recall(folder, data)).towers
    ways = {POPULARITY: data.taken.item_counts().float().expand(data.taken.shape), IN_BATCH: towers.scores(data)}
    means = {way: values["recall@50"].mean() for way, values in measure(folder, ways).items()}
    assert means[IN_BATCH] > means[POPULARITY] + 0.1


def test_every_way_is_ranked_and_every_stage_counted(folder: InteractionFolder) -> None:
    stages: list[int] = []
    scores = dict(rankings(folder, replace(QUICK, epochs=1), lambda: stages.append(1)))
    assert set(scores) == {way for pair in SHOWN for way in pair}
    assert {tuple(ranking.shape) for ranking in scores.values()} == {(150, 300)}
    assert len(stages) == 6


def test_the_epoch_that_val_likes_best_is_kept(folder: InteractionFolder, data: InteractionData) -> None:
    judge = val_recall(folder, data)
    report = train_feature_towers(data, QUICK, judge)
    assert judge(report.towers) == pytest.approx(max(report.history), abs=1e-9)
    assert report.losses[-1] < report.losses[0]


def test_a_stage_goes_on_from_towers_and_leaves_them_as_they_were(folder: InteractionFolder, data: InteractionData) -> None:
    start = FeatureTowers(data.user_spec, data.item_spec, QUICK)
    before = start.scores(data)
    config = replace(QUICK, epochs=1)
    report = train_feature_towers(data, config, val_recall(folder, data), start_from=start, mined=mine(start, data, QUICK))
    assert torch.equal(start.scores(data), before)
    assert not torch.equal(report.towers.scores(data), before)


def test_the_same_seed_trains_the_same_towers(folder: InteractionFolder, data: InteractionData) -> None:
    config = replace(QUICK, epochs=1, correct_popularity=True)
    first, second = (train_feature_towers(data, config, val_recall(folder, data)).towers.scores(data) for _ in range(2))
    assert torch.equal(first, second)


def test_a_run_that_a_time_limit_cut_goes_on_and_ends_as_an_uncut_one_does(
    folder: InteractionFolder, data: InteractionData, tmp_path: Path
) -> None:
    config = replace(QUICK, epochs=2, correct_popularity=True, dropout=0.1)
    judge = val_recall(folder, data)
    uncut = train_feature_towers(data, config, judge)
    for steps in (1, 2):
        cut = train_feature_towers(data, replace(config, max_seconds=1e-9), judge, checkpoints=Checkpoints(tmp_path, 60.0))
        assert (cut.steps, cut.planned_steps, cut.cut_by_clock) == (steps, uncut.planned_steps, True)
    resumed = train_feature_towers(data, config, judge, checkpoints=Checkpoints(tmp_path, 60.0))
    assert not resumed.cut_by_clock
    assert torch.equal(resumed.towers.scores(data), uncut.towers.scores(data))
    assert (resumed.history, resumed.losses) == (uncut.history, uncut.losses)


def test_mined_negatives_are_the_best_ranked_items_that_the_user_did_not_take(data: InteractionData) -> None:
    config = replace(QUICK, mined_skip=5, mined_depth=12)
    towers = FeatureTowers(data.user_spec, data.item_spec, config)
    mined, scores = mine(towers, data, config), towers.scores(data)
    assert mined.shape == (150, 7)
    taken = data.taken.table()
    assert not taken.gather(1, mined).any()
    for user in (0, 77):
        free = [item for item in np.argsort(-scores[user].numpy(), kind="stable") if not taken[user, item]]
        assert mined[user].tolist() == free[5:12]


def test_measures_are_of_the_test_interactions_with_seen_items_left_out(folder: InteractionFolder) -> None:
    hidden, wanted = table(folder, "train", "val").table(), table(folder, "test").table()
    perfect = measure(folder, {"perfect": wanted.float() + 2 * hidden.float()})["perfect"]
    assert perfect["recall@50"].tolist() == [1.0] * 150
    assert perfect["ndcg@10"].tolist() == pytest.approx([1.0] * 150)
    assert not (hidden & wanted).any()


def test_an_interval_covers_the_mean_and_narrows_with_more_users() -> None:
    differences = np.random.default_rng(0).normal(0.1, 1, (4, 2000))
    mean, low, high = paired_interval(differences)
    few = paired_interval(differences[:, :100])
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(8000), rel=0.1)
    assert few[2] - few[1] > 3 * (high - low)


def test_the_bar_is_met_only_where_every_interval_is_above_zero() -> None:
    random = np.random.default_rng(1)
    ways = {way for pair in SHOWN for way in pair}
    run = {way: {name: random.random(500) for name in ("recall@50", "ndcg@10")} for way in ways}
    assert not passed(compare([run, run]))
    better, worse = BARS[0]
    gained = run | {better: {name: run[worse][name] + 0.1 for name in run[worse]}}
    gained |= {POPULARITY: {name: run[IN_BATCH][name] - 0.1 for name in run[IN_BATCH]}}
    assert passed(compare([gained, gained]))


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    draw([{POPULARITY: {"recall@50": 0.1, "ndcg@10": 0.1}, IN_BATCH: {"recall@50": 0.2, "ndcg@10": 0.1}}] * 2, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
