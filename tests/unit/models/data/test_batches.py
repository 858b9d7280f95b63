"""Batches: what they hold is decided by the seed and their number, and answers are never taken for negatives."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from painted_lots import write_painted_catalog
from small_tower import small_config

from catalog.folder import Qrels, TrainingPair
from models.config.training import Stage, TrainingConfig
from models.data.batches import Batch, Slice, TrainingBatches, mined_rows
from models.data.tables import ItemTable, Queries, read_training_items
from models.towers.tokenizer import make_tokenizer
from retrieval.encoders.query_encoder import prepare_tokenizer
from retrieval.errors import InvalidInput

CPU = torch.device("cpu")
WORDS = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay"]


def letters(count: int) -> ItemTable:
    return ItemTable([f"lot-{n}" for n in range(count)], [f"text {WORDS[n % 10]}" for n in range(count)], [None] * count)


def make(lots: ItemTable, pairs: list[TrainingPair], *, part=None, negatives=None, min_weight=0.0, **changes) -> TrainingBatches:
    queries = Queries.group(pairs, lots, min_weight)
    config = replace(TrainingConfig(tower=small_config(use_image=False), batch_size=4), **changes)
    tokenizer = make_tokenizer(config.tower, [*lots.texts, *queries.texts, *queries.item_texts, *WORDS])
    prepare_tokenizer(tokenizer, config.tower.max_length)
    chosen = {} if part is None else {"part": part}
    return TrainingBatches(lots, queries, tokenizer, config, Path("unused"), negatives=negatives, **chosen)


def one_answer_each(count: int) -> list[TrainingPair]:
    return [TrainingPair(f"query {WORDS[n % 10]} {n}", f"lot-{n}") for n in range(count)]


def same(one: Batch, other: Batch) -> bool:
    return bool(np.array_equal(one.items.ids, other.items.ids) and np.array_equal(one.queries.ids, other.queries.ids))


def test_a_batch_follows_from_seed_and_number():
    lots, pairs = letters(12), one_answer_each(12)
    stage = Stage("random", random_negatives=2)
    first, second, other = (make(lots, pairs, stages=(stage,), seed=seed) for seed in (1, 1, 2))
    for number in (5, 0, 17):
        assert same(first.batch(number, CPU), second.batch(number, CPU)), "in any order"
    assert not same(first.batch(0, CPU), other.batch(0, CPU))
    assert not same(first.batch(0, CPU), first.batch(3, CPU)), "the next pass has another order"


def test_every_query_comes_once_in_a_pass():
    source = make(letters(12), one_answer_each(12))
    seen = Counter(tuple(row) for number in range(3) for row in source.batch(number, CPU).queries.ids[:, :6].tolist())
    assert len(seen) == 12
    assert set(seen.values()) == {1}


def test_slices_of_the_processes_make_up_the_batch():
    lots, pairs = letters(10), one_answer_each(10)
    stage = Stage("random", random_negatives=1)
    whole = make(lots, pairs, stages=(stage,), batch_size=5).batch(2, CPU)
    parts = [make(lots, pairs, stages=(stage,), batch_size=5, part=Slice(n, 3)).batch(2, CPU) for n in range(3)]
    assert parts[0].query_counts == [2, 2, 1]
    assert parts[0].item_counts == [4, 3, 3]
    for name in ("queries", "items"):
        assert np.array_equal(np.concatenate([getattr(part, name).ids for part in parts]), getattr(whole, name).ids)
    assert all(torch.equal(part.is_relevant, whole.is_relevant) for part in parts)


def test_hard_negatives_are_drawn_anew_and_random_lots_stand_in_for_missing_ones():
    lots, pairs = letters(400), one_answer_each(4)
    negatives = {pairs[0].query: [f"lot-{n}" for n in (50, 51, 52)]}
    stage = Stage("hard", hard_negatives=2, random_negatives=1)
    source = make(lots, pairs, negatives=negatives, stages=(stage,), log_q=True)
    mined, stand_ins = set(), set()
    for number in range(12):
        batch = source.batch(number, CPU)
        assert batch.is_relevant.shape == (4, 4 + 4 * 3)
        assert batch.log_q.shape == (16,)
        hard = batch.item_rows[4:12].reshape(4, 2)
        first = batch.item_rows[:4].tolist().index(0)
        mined.add(tuple(sorted(hard[first].tolist())))
        stand_ins.update(np.delete(hard, first, axis=0).ravel().tolist())
    assert mined == {(50, 51), (50, 52), (51, 52)}, "two different ones of the three"
    assert len(stand_ins) > 40


def test_a_known_answer_among_the_negatives_is_masked():
    lots = letters(3)
    pairs = [*(TrainingPair("query ant", f"lot-{n}") for n in range(3)), TrainingPair("query bee", "lot-0")]
    batch = make(lots, pairs, stages=(Stage("random", random_negatives=4),), batch_size=2).batch(0, CPU)
    everything, only_first = sorted(range(2), key=lambda row: -int(batch.is_relevant[row].sum()))
    assert batch.is_relevant[everything].all(), "each lot answers this query"
    assert not batch.is_relevant[only_first].all()


def test_a_stage_without_its_negatives_is_refused():
    with pytest.raises(InvalidInput, match="none were mined"):
        make(letters(4), one_answer_each(4), stages=(Stage("hard", hard_negatives=1),), negatives={"another query": ["lot-1"]})


def test_mined_rows_leave_out_answers_strangers_and_repetitions():
    lots = letters(5)
    queries = Queries.group([TrainingPair("ant", "lot-0"), TrainingPair("bee", "lot-1")], lots)
    rows = mined_rows(queries, lots, {"ant": ["lot-3", "lot-0", "gone", "lot-3", "lot-2"]})
    assert rows.tolist() == [[3, 2], [-1, -1]]


def test_a_pair_shows_its_lot_in_other_words():
    lots = letters(4)
    pairs = [TrainingPair("query ant", "lot-0", lot_text="hen hen hen"), TrainingPair("query bee", "lot-1")]
    queries = Queries.group(pairs, lots)
    assert queries.item_rows.tolist() == [0, 1]
    assert queries.shown.tolist() == [4, 1]
    assert queries.item_texts == ["hen hen hen"]
    source = make(lots, pairs, batch_size=2)
    batch = source.batch(0, CPU)
    hens = [row for row in batch.items.ids.tolist() if len(set(row[1:4])) == 1]
    assert len(hens) == 1, "one text of the same word three times"


def test_weak_pairs_come_in_when_their_stage_lets_them():
    lots = letters(4)
    pairs = [
        TrainingPair("ant", "lot-0"),
        TrainingPair("ant", "lot-1", 0.1),
        TrainingPair("bee", "lot-2"),
        TrainingPair("cat", "lot-3", 0.1),
    ]
    assert len(Queries.group(pairs, lots, 0.0).item_rows) == 4
    strong = Queries.group(pairs, lots, 0.9)
    assert (strong.texts, strong.item_rows.tolist()) == (["ant", "bee"], [0, 2])
    with pytest.raises(InvalidInput, match=r"a weight of 2 or more"):
        Queries.group(pairs, lots, 2.0)


def test_lots_that_answer_in_part_are_not_trained_on_and_are_no_negatives_either():
    pairs = [TrainingPair("ant", "lot-0"), TrainingPair("ant ", "lot-1", 0.1), TrainingPair("bee", "lot-2")]
    judged = Qrels({"1": "bee"}, {"1": {"lot-3": 1, "lot-0": 0, "elsewhere": 3}})
    queries = Queries.group(pairs, letters(4), 0.5, judged)
    assert queries.item_rows.tolist() == [0, 2]
    assert queries.is_relevant(np.array([0, 1]), np.arange(4)).tolist() == [[True, True, False, False], [False, False, True, True]]
    mined = mined_rows(queries, letters(4), {"ant": ["lot-1", "lot-3"], "bee": ["lot-3", "lot-0"]})
    assert mined.tolist() == [[3], [0]]


def test_weights_are_chances_or_weigh_the_loss_but_not_both():
    lots = letters(3)
    pairs = [TrainingPair("ant", "lot-0", 3.0), TrainingPair("ant", "lot-1", 1.0), TrainingPair("bee", "lot-2", 2.0)]
    queries = Queries.group(pairs, lots)
    random = np.random.default_rng(0)
    rows = np.zeros(4_000, dtype=np.int64)
    assert (queries.draw(rows, random, by_weight=True) == 0).mean() == pytest.approx(0.75, abs=0.03)
    assert (queries.draw(rows, random, by_weight=False) == 0).mean() == pytest.approx(0.5, abs=0.03)
    assert make(lots, pairs, batch_size=2, weigh="draw").batch(0, CPU).weights is None
    seen = {tuple(sorted(make(lots, pairs, batch_size=2, weigh="loss", seed=n).batch(0, CPU).weights.tolist())) for n in range(9)}
    assert seen == {(2.0, 3.0), (1.0, 2.0)}


@settings(max_examples=60, deadline=None)
@given(
    answers=st.lists(st.sets(st.integers(0, 7), min_size=1), min_size=2, max_size=6),
    lots=st.lists(st.integers(0, 7), min_size=1, max_size=12),
    data=st.data(),
)
def test_known_is_what_a_loop_would_find(answers, lots, data):
    pairs = [TrainingPair(f"q{n}", f"lot-{lot}") for n, found in enumerate(answers) for lot in sorted(found)]
    queries = Queries.group(pairs, letters(8))
    rows = np.array(data.draw(st.lists(st.integers(0, len(answers) - 1), min_size=1, max_size=5)))
    expected = [[lot in answers[row] for lot in lots] for row in rows]
    assert queries.is_relevant(rows, np.array(lots)).tolist() == expected


def test_features_of_the_lots_come_with_the_batch(tmp_path):
    from models.towers.item_features import ITEM_FEATURES, fit_features

    catalog = write_painted_catalog(tmp_path / "painted")
    lots, queries = read_training_items(catalog, keep_records=True)
    config = TrainingConfig(
        tower=fit_features(replace(small_config(use_image=False), features=ITEM_FEATURES), lots.records), batch_size=4
    )
    tokenizer = prepare_tokenizer(make_tokenizer(config.tower, lots.texts), config.tower.max_length)
    batch = TrainingBatches(lots, queries, tokenizer, config, tmp_path).batch(0, CPU)
    assert len(batch.features.categories) == len(batch.features.numbers) == 4
