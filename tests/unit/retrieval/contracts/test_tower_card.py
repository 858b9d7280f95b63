"""The tower card: its id changes with anything that changes a vector."""

import json

import pytest

from retrieval.contracts.tower_card import CARD_FILE, HASHED_FILES, TowerCard, split_tower_id
from retrieval.encoders.tower_store import tower_card
from retrieval.errors import TowerError
from retrieval.files import sha256_of


@pytest.fixture
def folder(tmp_path):
    for name in HASHED_FILES:
        (tmp_path / name).write_text(f"bytes of {name}")
    return tmp_path


def create(folder, **given):
    values = {"preset": "compact", "dimensions": 128, "max_length": 64, "image_size": 96, "architecture": {"hidden": 512}}
    return TowerCard.create(folder, **{"image_mean": (0.4, 0.5, 0.6), "image_std": (0.2, 0.2, 0.2)} | values | given)


def test_a_saved_card_is_loaded_as_it_was_and_nothing_half_written_stays(folder):
    card = create(folder)
    card.save(folder)
    assert TowerCard.load(folder, verify=True) == card
    assert sorted(p.name for p in folder.iterdir()) == sorted([*HASHED_FILES, CARD_FILE])


def test_the_id_is_twelve_hexadecimal_digits_and_the_same_for_the_same_tower(folder):
    tower_id = create(folder).tower_id
    assert len(tower_id) == 12
    assert set(tower_id) <= set("0123456789abcdef")
    assert create(folder).tower_id == tower_id


@pytest.mark.parametrize("name", HASHED_FILES)
def test_other_weights_are_another_tower(folder, name):
    before = create(folder).tower_id
    (folder / name).write_text("other bytes")
    assert create(folder).tower_id != before


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 65},
        {"image_size": 97},
        {"dimensions": 64},
        {"image_mean": (0.0, 0.5, 0.6)},
        {"image_std": (1.0, 0.2, 0.2)},
        {"architecture": {"hidden": 256}},
        {"matryoshka": (64,)},
    ],
)
def test_other_preprocessing_is_another_tower(folder, change):
    assert create(folder, **change).tower_id != create(folder).tower_id


@pytest.mark.parametrize("name", HASHED_FILES)
def test_a_tower_without_one_of_its_files_has_no_card(folder, name):
    (folder / name).unlink()
    with pytest.raises(TowerError, match=f"{name} is missing"):
        create(folder)


def test_a_folder_without_a_card_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(TowerError, match=r"holds no tower\.json; train a tower with `gavel train`"):
        TowerCard.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"image_mean": 3, "image_std": 3}', '{"image_mean": [], "image_std": []}'])
def test_what_is_no_card_is_refused(tmp_path, text):
    (tmp_path / CARD_FILE).write_text(text)
    with pytest.raises(TowerError, match="is not a tower card"):
        TowerCard.load(tmp_path)


def test_a_changed_file_is_found_when_files_are_verified(folder):
    create(folder).save(folder)
    (folder / HASHED_FILES[0]).write_text("tampered")
    assert TowerCard.load(folder).dimensions == 128
    with pytest.raises(TowerError, match=r"is not the file that tower .* was saved with"):
        TowerCard.load(folder, verify=True)


def test_a_card_with_a_field_that_nobody_knows_is_refused(folder):
    create(folder).save(folder)
    values = json.loads((folder / CARD_FILE).read_text()) | {"colour": "red"}
    (folder / CARD_FILE).write_text(json.dumps(values))
    with pytest.raises(TowerError, match="colour"):
        TowerCard.load(folder)


def test_a_hash_is_that_of_the_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_shorter_length_is_a_space_of_its_own_under_an_id_of_its_own(folder):
    card = create(folder, matryoshka=(64, 32))
    short = card.at(64)
    assert card.served == (128, 64, 32)
    assert (short.dimensions, short.served, short.tower_id) == (64, (64,), f"{card.tower_id}.64")
    assert card.at(None) == card.at(128) == card
    assert split_tower_id(short.tower_id) == (card.tower_id, 64)
    assert split_tower_id(card.tower_id) == (card.tower_id, None)


def test_a_length_that_was_not_trained_is_not_served(folder):
    with pytest.raises(TowerError, match=r"serves vectors of 128, 64, not of 32.*matryoshka"):
        create(folder, matryoshka=(64,)).at(32)


def test_a_card_from_before_matryoshka_still_loads(folder):
    card = create(folder)
    card.save(folder)
    values = json.loads((folder / CARD_FILE).read_text())
    del values["matryoshka"]
    (folder / CARD_FILE).write_text(json.dumps(values))
    assert TowerCard.load(folder, verify=True) == card


def test_the_card_of_a_tower_is_found_by_its_id_with_the_length_that_the_id_names(folder, tmp_path):
    card = create(folder, matryoshka=(64,))
    (tmp_path / card.tower_id).mkdir()
    card.save(tmp_path / card.tower_id)
    assert tower_card(str(tmp_path), card.tower_id, tmp_path / "cache") == card
    assert tower_card(str(tmp_path), f"{card.tower_id}.64", tmp_path / "cache").dimensions == 64


def test_a_tower_under_the_id_of_another_is_refused(folder, tmp_path):
    (tmp_path / "0123456789ab").mkdir()
    create(folder).save(tmp_path / "0123456789ab")
    with pytest.raises(TowerError, match=r"0123456789ab holds tower [0-9a-f]{12}; copy each tower to the folder of its own id"):
        tower_card(str(tmp_path), "0123456789ab", tmp_path / "cache")


@pytest.mark.parametrize("field", ["max_length", "image_size", "dimensions"])
def test_a_card_whose_fields_were_changed_is_refused(folder, field):
    create(folder).save(folder)
    values = json.loads((folder / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(json.dumps(values | {field: values[field] + 1}))
    with pytest.raises(TowerError, match=rf"{CARD_FILE} is not a tower card: .* copy it again"):
        TowerCard.load(folder)
