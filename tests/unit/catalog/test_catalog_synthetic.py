import io
import re
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image

from catalog.folder import CatalogFolder
from catalog.lots import draw_lots
from catalog.photos import COLOURS, CONDITIONS, render
from catalog.questions import draw_questions
from catalog.silhouettes import SILHOUETTES
from catalog.synthetic import generate
from catalog.vocabulary import COLOUR_WORDS, CONDITION_WORDS, KINDS, wordings
from retrieval.contracts.events import EVENT_TYPES
from retrieval.contracts.item_files import read_items
from retrieval.contracts.items import Item, item_text
from retrieval.errors import InvalidInput

NOW = datetime(2026, 11, 21, 20, tzinfo=UTC)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> CatalogFolder:
    return generate(tmp_path_factory.mktemp("synthetic") / "catalog", lots=70, now=NOW)


@pytest.fixture(scope="module")
def lots():
    return draw_lots(700, np.random.default_rng(3), NOW)


@pytest.fixture(scope="module")
def questions(lots):
    return draw_questions(lots, {"train": 300, "val": 40, "test": 60}, np.random.default_rng(4))


def test_every_row_keeps_the_item_contract_and_has_its_photo(catalog):
    (file,) = catalog.item_files()
    items = list(read_items(file))
    assert len(items) == 70
    for item in items:
        assert isinstance(item, Item), item
        with Image.open(file.parent / item.image) as photo:
            photo.load()
            assert (photo.format, photo.size) == ("JPEG", (256, 256))


def test_all_splits_search_one_corpus(catalog):
    assert catalog.item_files("train") == catalog.item_files("val") == catalog.item_files("test") == catalog.item_files()


def test_the_same_seed_writes_the_same_catalogue_and_another_seed_another(tmp_path):
    def contents(name: str, seed: int) -> dict[str, bytes]:
        folder = generate(tmp_path / name, lots=20, seed=seed, now=NOW).path
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    first = contents("a", 7)
    assert first == contents("b", 7)
    assert first["items/lots.parquet"] != contents("c", 8)["items/lots.parquet"]


def test_the_text_never_tells_shape_or_condition_and_seldom_the_colour(lots):
    shapes = {shape for variants in SILHOUETTES.values() for shape in variants}
    conditions = {word for words in CONDITION_WORDS.values() for word in words}
    colours = {word for words in COLOUR_WORDS.values() for word in words}
    told = 0
    for lot in lots:
        text = f" {re.sub(r'[^a-z0-9-]+', ' ', item_text(lot.item.title, lot.item.description).lower())} "
        leaked = [word for word in shapes | conditions if f" {word} " in text]
        assert not leaked, f"{text} tells {leaked}"
        mentioned = {word for word in colours if f" {word} " in text}
        assert mentioned <= set(wordings("colour", lot.traits["colour"]))
        told += bool(mentioned)
    assert 0.10 < told / len(lots) < 0.20


def test_the_text_tells_maker_era_material_and_style_of_every_lot(lots):
    for lot in lots:
        text = item_text(lot.item.title, lot.item.description).lower()
        for trait in ("maker", "era", "material", "style"):
            assert any(word.lower() in text for word in wordings(trait, lot.traits[trait])), f"{trait} of {lot}"


def test_few_auctions_have_ended_and_no_query_wants_one(lots, questions):
    ended = {lot.item.item_id for lot in lots if lot.item.ends_at is not None and lot.item.ends_at <= NOW}
    assert 0.01 < len(ended) / len(lots) < 0.06
    assert any(lot.item.ends_at is None for lot in lots)
    graded = {item_id for asked in questions.values() for question in asked for item_id in question.grades}
    assert not graded & ended


def test_times_of_a_lot_are_in_order(lots):
    for lot in lots:
        assert lot.item.listed_at <= lot.item.updated_at
        assert lot.item.listed_at <= NOW
        assert lot.item.ends_at is None or lot.item.listed_at < lot.item.ends_at


def test_no_query_text_stands_in_two_splits(questions):
    texts = {split: {question.text for question in asked} for split, asked in questions.items()}
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["val"]
    assert not texts["val"] & texts["test"]


def test_every_query_has_a_full_match_and_most_have_several(questions):
    full = [sum(grade >= 2 for grade in question.grades.values()) for question in questions["test"]]
    assert len(full) == 60
    assert min(full) >= 1
    assert np.median(full) >= 3


def test_grade_three_goes_to_attractive_full_matches_alone(lots, questions):
    by_id = {lot.item.item_id: lot for lot in lots}
    medians = defaultdict(list)
    for lot in lots:
        medians[lot.traits["category"]].append(lot.item.current_price)
    grades = Counter()
    for question in questions["test"]:
        for item_id, grade in question.grades.items():
            lot = by_id[item_id]
            cheap = lot.item.current_price < np.median(medians[lot.traits["category"]])
            well_rated = (lot.item.seller_rating or 0) >= 4
            assert grade == 1 or (grade == 3) == (cheap and well_rated)
            grades[grade] += 1
    assert set(grades) == {1, 2, 3}


def test_pairs_come_from_train_queries_and_their_full_matches_alone(catalog):
    qrels = catalog.qrels("train")
    grades = {text: qrels.grades[query_id] for query_id, text in qrels.queries.items()}
    assert len(catalog.pairs("train")) > 100
    for pair in catalog.pairs("train"):
        assert grades[pair.query][pair.item_id] >= 2
        assert pair.weight > 0
    assert catalog.pairs("val") == catalog.pairs("test") == []


def test_clicks_come_as_ranked_lists_of_lots_on_sale(catalog):
    items = {item.item_id: item for item in read_items(catalog.item_files()[0])}
    lists = defaultdict(list)
    for click in catalog.clicks("train") + catalog.clicks("val"):
        lists[click.query, click.buyer_id, click.timestamp].append(click)
        assert click.event_type is None or click.event_type in EVENT_TYPES
        assert items[click.item_id].listed_at <= click.timestamp <= NOW
        assert items[click.item_id].ends_at is None or items[click.item_id].ends_at > click.timestamp
    assert len(lists) > 50
    for shown in lists.values():
        assert [click.position for click in shown] == list(range(1, len(shown) + 1))
        assert len({click.item_id for click in shown}) == len(shown)
    assert catalog.clicks("test") == []


def test_buyers_act_more_on_better_matches_and_on_higher_places(tmp_path):
    catalog = generate(tmp_path / "catalog", lots=300, now=NOW, photo_size=8)
    qrels = catalog.qrels("train")
    grades = {text: qrels.grades[query_id] for query_id, text in qrels.queries.items()}
    by_grade, by_place = defaultdict(list), defaultdict(list)
    for click in catalog.clicks("train"):
        grade = grades[click.query].get(click.item_id, 0)
        by_grade[grade].append(click.event_type is not None)
        if grade >= 2:
            by_place[click.position <= 3].append(click.event_type is not None)
    rates = [np.mean(by_grade[grade]) for grade in range(4)]
    assert rates == sorted(rates), rates
    assert rates[3] > 3 * rates[0]
    assert np.mean(by_place[True]) > 1.3 * np.mean(by_place[False])


def test_ctrl_c_while_photos_are_drawn_leaves_nothing_behind(tmp_path):
    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "catalog", lots=20, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_photo(tmp_path):
    seen = []
    generate(tmp_path / "catalog", lots=9, photo_size=8, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 9) for done in range(1, 10)]


@pytest.mark.parametrize("count", [1, 2, 14])
def test_the_smallest_catalogues_are_whole(tmp_path, count):
    catalog = generate(tmp_path / "catalog", lots=count, photo_size=8)
    assert len(list(read_items(catalog.item_files()[0]))) == count
    assert catalog.splits == ("train", "val", "test")


def test_a_catalogue_whose_lots_have_all_ended_asks_nothing():
    ended = [lot for lot in draw_lots(400, np.random.default_rng(0), NOW) if not lot.live]
    assert ended
    questions = draw_questions(ended, {"train": 5, "test": 2}, np.random.default_rng(0))
    assert questions == {"train": [], "test": []}


def test_no_lots_at_all_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="at least 1 lot"):
        generate(tmp_path / "catalog", lots=0)


def test_the_default_clock_makes_auctions_that_end_later_than_now(tmp_path):
    catalog = generate(tmp_path / "catalog", lots=40, photo_size=8)
    ends = [item.ends_at for item in read_items(catalog.item_files()[0]) if item.ends_at]
    assert sum(end > datetime.now(UTC) + timedelta(days=20) for end in ends) > 0.8 * len(ends)


def pixels(category: str, shape: str, colour: str, condition: str) -> np.ndarray:
    """Mean of eight photos, in which what they share outweighs ground, light and place; (256, 256, 3) in [0, 255]."""
    photos = [render(category, shape, colour, condition, np.random.default_rng(n)) for n in range(8)]
    return np.mean([np.asarray(Image.open(io.BytesIO(photo)), dtype=np.float32) for photo in photos], axis=0)


@pytest.mark.parametrize("category", KINDS)
def test_shape_colour_and_condition_change_the_photo(category):
    shape, other = list(SILHOUETTES[category])[:2]
    base = pixels(category, shape, "red", "pristine")
    assert np.abs(base - pixels(category, other, "red", "pristine")).mean() > 1
    assert np.abs(base - pixels(category, shape, "blue", "pristine")).mean() > 1
    assert np.abs(base - pixels(category, shape, "red", "cracked")).mean() > 0.1


@pytest.mark.parametrize("colour", COLOURS)
def test_a_round_vase_shows_its_colour_in_its_middle(colour):
    middle = pixels("vase", "round", colour, "pristine")[133:165, 107:149].reshape(-1, 3).mean(axis=0)
    nearest = min(COLOURS, key=lambda name: float(np.abs(np.array(COLOURS[name]) - middle).sum()))
    assert nearest == colour


@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_silhouette_can_be_drawn_at_any_size(condition):
    for category, shapes in SILHOUETTES.items():
        for shape in shapes:
            photo = render(category, shape, "green", condition, np.random.default_rng(1), size=24)
            assert Image.open(io.BytesIO(photo)).size == (24, 24)
