import os
from pathlib import Path

import pytest
from emoji_dataset import write_dataset
from hypothesis import given
from hypothesis import strategies as st

from catalog.emoji import KEYWORD_WEIGHT, NAME_WEIGHT, Emoji, prepare, split_texts
from catalog.pseudo_queries import fold
from retrieval.contracts.item_files import read_items
from retrieval.contracts.items import Item
from retrieval.errors import InvalidInput


@pytest.fixture
def data(tmp_path) -> Path:
    return write_dataset(tmp_path / "data")


def lots(catalog, split):
    return [item for file in catalog.item_files(split) for item in read_items(file)]


def asked(catalog, split):
    pairs = {fold(pair.query) for pair in catalog.pairs(split)}
    return {fold(text) for text in catalog.qrels(split).queries.values()} | pairs


def test_the_queries_of_an_emoji_stand_in_one_split_and_their_language_in_their_id(data, tmp_path):
    catalog = prepare(data, tmp_path / "catalog")
    for n in range(20):
        own = {f"en/face {n}", f"en/grin {n}", f"ar/وجه {n}", f"ar/ابتسامة {n}"}
        homes = [split for split in catalog.splits if own & set(catalog.qrels(split).queries)]
        assert len(homes) == 1
        assert own <= set(catalog.qrels(homes[0]).queries)


def test_a_word_that_many_emoji_share_is_asked_in_train_alone_and_trains_for_train_emoji_only(data, tmp_path):
    catalog = prepare(data, tmp_path / "catalog")
    assert "en/face" in catalog.qrels("train").queries
    assert "face" not in asked(catalog, "val") | asked(catalog, "test")
    train = {item_id for query_id, g in catalog.qrels("train").grades.items() if "/face " in query_id for item_id in g}
    assert {pair.item_id for pair in catalog.pairs("train") if pair.query == "face"} == train


def test_names_weigh_and_grade_more_than_keywords(data, tmp_path):
    catalog = prepare(data, tmp_path / "catalog")
    for pair in catalog.pairs("train"):
        name = pair.query.startswith(("face ", "وجه "))
        assert pair.weight == (NAME_WEIGHT if name else KEYWORD_WEIGHT)
    for query_id, grades in catalog.qrels("test").grades.items():
        assert set(grades.values()) == {3 if query_id.startswith(("en/face ", "ar/وجه ")) else 2}


def test_an_emoji_is_listed_in_english_with_its_picture(data, tmp_path):
    items = {item.item_id: item for item in lots(prepare(data, tmp_path / "catalog"), "test")}
    assert len(items) == 20
    assert (items["emoji_u3"].title, items["emoji_u3"].description) == ("Face 3", "face, grin 3")
    assert Path(items["emoji_u3"].image).is_file()


NAMES = st.lists(st.text("ab A", min_size=1, max_size=3).filter(str.strip), min_size=2, max_size=2)


@given(st.lists(st.tuples(NAMES, st.sampled_from(["train", "val", "test"])), max_size=30))
def test_every_text_has_one_split_that_one_of_its_emoji_has(drawn):
    emoji = [
        Emoji(str(n), Path("x"), dict(zip(("en", "ar"), names, strict=True)), {"en": [], "ar": []})
        for n, (names, _) in enumerate(drawn)
    ]
    homes = split_texts(emoji, {str(n): split for n, (_, split) in enumerate(drawn)})
    for text, home in homes.items():
        assert home in {split for names, split in drawn if text in map(fold, names)}
    assert set(homes) == {fold(name) for names, _ in drawn for name in names}


def test_missing_pictures_are_logged_and_their_emoji_left_out(data, tmp_path, caplog):
    (data / "png72/emoji_u0.png").unlink()
    assert len(lots(prepare(data, tmp_path / "catalog"), "test")) == 19
    assert "1 of 20 pictures are missing" in caplog.text


def test_a_wrong_folder_and_a_damaged_row_are_named(data, tmp_path):
    with pytest.raises(InvalidInput, match=r"expected emoji_en_ar\.csv and the folder png72/"):
        prepare(tmp_path, tmp_path / "catalog")
    with (data / "emoji_en_ar.csv").open("a") as file:
        file.write("a.png,x,name\n")
    with pytest.raises(InvalidInput, match=r"emoji_en_ar\.csv, row 22"):
        prepare(data, tmp_path / "catalog")


def test_the_real_emoji_are_asked_for_in_two_languages(tmp_path):
    default = Path(__file__).parents[4] / "shared" / "data"
    data = Path(os.environ.get("GAVEL_DATA", default)) / "emoji-noto-cldr"
    if not data.is_dir() and os.environ.get("CI") != "true":
        pytest.skip("the emoji are not here (GAVEL_DATA names the folder of data sets)")
    catalog = prepare(data, tmp_path / "catalog")
    items = lots(catalog, "test")
    assert len(items) == 1576
    assert all(isinstance(item, Item) and Path(item.image).is_file() for item in items)
    for split in catalog.splits:
        for language in ("en/", "ar/"):
            assert sum(query_id.startswith(language) for query_id in catalog.qrels(split).queries) > 300
    assert not asked(catalog, "train") & asked(catalog, "test")
    assert not (asked(catalog, "train") | asked(catalog, "test")) & asked(catalog, "val")


def titles(catalog, split):
    return {item.item_id: item.title for item in lots(catalog, split)}


def test_lots_are_listed_in_the_language_that_is_asked_for_or_each_in_one(data, tmp_path):
    english, arabic, either = (titles(prepare(data, tmp_path / name, listed_in=name), "test") for name in ("en", "ar", "either"))
    assert all(title.startswith("Face") for title in english.values())
    assert all(title.startswith("وجه") for title in arabic.values())
    assert all(either[item_id] in (english[item_id], arabic[item_id]) for item_id in either)
    assert sum(either[item_id] == english[item_id] for item_id in either) == 10
    with pytest.raises(InvalidInput, match="en, ar, either"):
        prepare(data, tmp_path / "other", listed_in="fr")


def test_where_lots_are_listed_in_either_language_training_shows_each_query_both(data, tmp_path):
    catalog = prepare(data, tmp_path / "catalog", listed_in="either")
    shown = {}
    for pair in catalog.pairs("train"):
        shown.setdefault((pair.query, pair.item_id), []).append(pair.lot_text)
    assert all(len(texts) == 2 and "Face" in texts[0] and "وجه" in texts[1] for texts in shown.values())


def test_train_knows_nothing_of_the_emoji_that_are_held_out(data, tmp_path):
    catalog = prepare(data, tmp_path / "catalog", listed_in="either")
    known = set(titles(catalog, "train"))
    assert len(known) == 14
    assert {pair.item_id for pair in catalog.pairs("train")} == known
    assert {item_id for grades in catalog.qrels("train").grades.values() for item_id in grades} <= known
