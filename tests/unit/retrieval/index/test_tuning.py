"""What was tuned for a tower: its file, and how an index of the tower searches by it."""

import resource
from pathlib import Path

import pytest
from lots import TOWER_ID, WordEncoder, lot, publish
from shortages import limited

from retrieval.errors import InvalidInput, TowerError
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter
from retrieval.index.fusion import Fusion
from retrieval.index.hybrid_tuning import TUNING_FILE, FieldBoosts, Tuning

TUNED = Tuning(Fusion("min_max", (0.3, 0.7)), FieldBoosts(brand=3))


def test_a_tuning_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    assert TUNED.save(tmp_path) == tmp_path / TUNING_FILE
    assert Tuning.load(tmp_path) == TUNED


def test_a_tower_that_nothing_was_tuned_for_fuses_ranks_evenly_without_boosts(tmp_path: Path) -> None:
    assert Tuning.load(tmp_path) == Tuning(Fusion("rrf", (0.5, 0.5)), FieldBoosts())


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"fusion": {"kind": "sum", "weights": [1, 1]}, "boosts": {}}',
        '{"fusion": {"weights": [1]}, "boosts": {}}',
        '{"fusion": {"weights": ["a", "b"]}, "boosts": {}}',
        '{"fusion": {"weights": [1, 1], "rank_constant": 0}, "boosts": {}}',
        '{"fusion": {"weights": [1, 1]}, "boosts": {"title": -1}}',
        '{"fusion": {"weights": [1, 1]}, "boosts": {"title": "much"}}',
        '{"fusion": {"weights": [1, 1]}, "boosts": {"price": 1}}',
    ],
)
def test_a_damaged_file_is_refused_with_the_way_out(content: str, tmp_path: Path) -> None:
    (tmp_path / TUNING_FILE).write_text(content)
    with pytest.raises(TowerError, match="gavel tune hybrid"):
        Tuning.load(tmp_path)


@pytest.mark.parametrize("boost", [-0.1, float("nan"), float("inf")])
def test_a_boost_is_a_number_from_zero_up(boost: float) -> None:
    with pytest.raises(InvalidInput, match="boost of brand"):
        FieldBoosts(brand=boost)


LOTS = [lot("plain", "gold watch"), lot("branded", "gold watch with a strap", brand="Watch House"), lot("vase", "red vase")]
OPEN = Filter()


def found(store: EmbeddedStore, text: str) -> list[str]:
    return [candidate.item_id for candidate in store.live().keyword(text, 5, OPEN)]


def test_a_boosted_brand_lifts_its_lots_and_finds_those_whose_text_lacks_the_word(tmp_path: Path) -> None:
    publish(EmbeddedStore(tmp_path), LOTS)
    assert found(EmbeddedStore(tmp_path), "watch") == ["plain", "branded"]
    boosted = EmbeddedStore(tmp_path, tuning=lambda tower_id: TUNED if tower_id == TOWER_ID else Tuning())
    assert found(boosted, "watch") == ["branded", "plain"]
    assert found(boosted, "house") == ["branded"]
    assert found(EmbeddedStore(tmp_path), "house") == []


def test_boosted_searches_see_what_was_written_since(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, tuning=lambda tower_id: TUNED)
    index = publish(store, LOTS)
    assert found(store, "house") == ["branded"]
    index.upsert([lot("new", "silver ring", brand="House of Rings")])
    index.refresh()
    assert sorted(found(store, "house")) == ["branded", "new"]
    index.prepare()
    assert sorted(path.name for path in Path(tmp_path, index.name).glob("bm25-*")) == [
        "bm25-2",
        "bm25-2-attribute_text-0.6-0.75",
        "bm25-2-brand",
    ]


def test_a_hybrid_search_fuses_as_was_tuned_unless_the_request_says_otherwise(tmp_path: Path) -> None:
    publish(EmbeddedStore(tmp_path), LOTS)
    vector = WordEncoder().encode(["red vase"])[0]
    even = EmbeddedStore(tmp_path).live().hybrid("watch", vector, 5, OPEN)
    tuned = EmbeddedStore(tmp_path, tuning=lambda tower_id: Tuning(TUNED.fusion)).live()
    assert [c.score for c in tuned.hybrid("watch", vector, 5, OPEN)] != [c.score for c in even]
    assert [(c.item_id, c.score) for c in tuned.hybrid("watch", vector, 5, OPEN, Fusion())] == [(c.item_id, c.score) for c in even]


@pytest.mark.parametrize("change", [("0.3", "0.4"), ('"min_max"', '"l2"')])
def test_a_tuning_whose_numbers_were_changed_is_refused(change: tuple[str, str], tmp_path: Path) -> None:
    path = TUNED.save(tmp_path)
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(TowerError, match=r"its checksum does not hold.*delete it, or write it anew with `gavel tune hybrid`"):
        Tuning.load(tmp_path)


def test_a_tuning_of_another_tower_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "ours").mkdir()
    TUNED.save(tmp_path / "theirs").rename(tmp_path / "ours" / TUNING_FILE)
    with pytest.raises(TowerError, match="it was tuned for tower theirs"):
        Tuning.load(tmp_path / "ours")


def test_a_tuning_that_cannot_be_read_for_want_of_descriptors_is_not_to_be_deleted(tmp_path: Path) -> None:
    TUNED.save(tmp_path)
    with limited(resource.RLIMIT_NOFILE, 0), pytest.raises(TowerError, match=rf"{TUNING_FILE} cannot be used now") as told:
        Tuning.load(tmp_path)
    assert "delete" not in str(told.value)
    assert Tuning.load(tmp_path) == TUNED
