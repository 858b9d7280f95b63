import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from catalog.grocery import prepare
from catalog.phrases import MIN_WORDS, distinctive_words, phrases_of
from retrieval.contracts.item_files import read_items
from retrieval.contracts.items import item_text
from retrieval.errors import InvalidInput

CLASSES = [  # name, coarse, department, description
    ("Granny-Smith", "Apple", "Fruit", "Granny Smith is a green apple with white, firm pulp and a clear acidity in the flavor."),
    ("Royal-Gala", "Apple", "Fruit", "Royal Gala is a crispy apple. The peel is thin and speckled. Not from concentrate."),
    ("Banana", "Banana", "Fruit", "An ecologically grown banana. Nice."),
    ("Oatly-Natural-Oatghurt", "Oatghurt", "Packages", "Whole vegetable ghurt, used as yoghurt. Not from concentrate."),
]


def folder_of(name: str, coarse: str, department: str) -> str:
    return f"{department}/{coarse}/{name}" if name != coarse else f"{department}/{coarse}"


def write_dataset(root: Path, photos: int = 4) -> Path:
    """A dataset of four classes in the layout of the real one."""
    dataset = root / "dataset"
    lists = {"train": [], "val": [], "test": []}
    rows = [
        "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),Iconic Image Path (str),"
        "Product Description Path (str)"
    ]
    for label, (name, coarse, department, description) in enumerate(CLASSES):
        where = folder_of(name, coarse, department)
        text = dataset / "iconic-images-and-descriptions" / where / f"{name}_Description.txt"
        text.parent.mkdir(parents=True)
        text.write_text(description)
        rows.append(f"{name},{label},{coarse},{label},/x.jpg,/{text.relative_to(dataset)}")
        for split, listed in lists.items():
            if split == "val" and name == "Banana":
                continue
            for number in range(photos):
                photo = f"{split}/{where}/{name}_{number:03}.jpg"
                (dataset / photo).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (4, 4)).save(dataset / photo)
                listed.append(f"{photo}, {label}, {label}")
    (dataset / "classes.csv").write_text("\n".join(rows))
    for split, listed in lists.items():
        (dataset / f"{split}.txt").write_text("\n".join(listed) + "\n")
    return root


@pytest.fixture
def data(tmp_path) -> Path:
    return write_dataset(tmp_path / "data")


def read(catalog, split):
    return list(read_items(catalog.item_files(split)[0]))


def test_every_split_searches_its_own_photos(data, tmp_path):
    catalog = prepare(data, tmp_path / "catalog")
    for split, count in (("train", 16), ("val", 12), ("test", 16)):
        items = read(catalog, split)
        assert len(items) == count
        assert all(Path(item.image).is_file() and f"/{split}/" in item.image for item in items)
    assert len({item.item_id for split in catalog.splits for item in read(catalog, split)}) == 44


def test_a_listing_says_its_coarse_class_or_its_department_and_nothing_else(tmp_path):
    catalog = prepare(write_dataset(tmp_path / "data", photos=60), tmp_path / "catalog")
    coarse_titles = 0
    for item in read(catalog, "test"):
        department, coarse = Path(item.image.split("/dataset/test/")[1]).parts[:2]
        assert item.title in (department, coarse)
        assert item_text(item.title, item.description) == item.title
        assert (item.category, item.brand) == (department, "")
        coarse_titles += item.title == coarse
    assert 0.4 < coarse_titles / 240 < 0.6


def test_photos_that_are_added_change_no_other_listing(data, tmp_path):
    before = {item.item_id: item for item in read(prepare(data, tmp_path / "before"), "test")}
    extra = "test/Fruit/Apple/Granny-Smith/Granny-Smith_900.jpg"
    Image.new("RGB", (4, 4)).save(data / "dataset" / extra)
    listed = data / "dataset" / "test.txt"
    listed.write_text(f"{extra}, 0, 0\n" + listed.read_text())
    after = {item.item_id: item for item in read(prepare(data, tmp_path / "after"), "test")}
    assert len(after) == len(before) + 1
    assert before.items() <= after.items()


def test_queries_are_names_without_coarse_words_and_phrases_of_descriptions(data, tmp_path):
    queries = prepare(data, tmp_path / "catalog").qrels("test").queries
    assert {text for query_id, text in queries.items() if query_id.startswith("name/")} == {
        "Granny Smith",
        "Royal Gala",
        "Oatly Natural",
    }
    assert {text for query_id, text in queries.items() if query_id.startswith("phrase/")} == {
        "green apple with white, firm pulp and a clear acidity in the flavor",
        "peel is thin and speckled",
        "ecologically grown banana",
        "Whole vegetable ghurt, used as yoghurt",
        "Not from concentrate",
    }


def test_photos_of_the_asked_class_are_relevant_and_no_others(data, tmp_path):
    catalog = prepare(data, tmp_path / "catalog")
    qrels = catalog.qrels("test")
    images = {item.item_id: item.image for item in read(catalog, "test")}
    (query_id,) = (query_id for query_id, text in qrels.queries.items() if text == "Granny Smith")
    assert qrels.grades[query_id] == {item_id: 2 for item_id, image in images.items() if "Granny-Smith" in image}


def test_a_phrase_of_two_classes_is_answered_by_both(data, tmp_path):
    qrels = prepare(data, tmp_path / "catalog").qrels("test")
    (query_id,) = (query_id for query_id, text in qrels.queries.items() if text == "Not from concentrate")
    assert len(qrels.grades[query_id]) == 8


def test_a_class_without_photos_in_a_split_is_not_asked_for_there(data, tmp_path):
    catalog = prepare(data, tmp_path / "catalog")
    assert "ecologically grown banana" in catalog.qrels("test").queries.values()
    assert "ecologically grown banana" not in catalog.qrels("val").queries.values()


def test_pairs_join_train_photos_with_all_queries_of_their_class(data, tmp_path):
    catalog = prepare(data, tmp_path / "catalog")
    qrels = catalog.qrels("train")
    judged = {(qrels.queries[query_id], item_id) for query_id, grades in qrels.grades.items() for item_id in grades}
    assert {(pair.query, pair.item_id) for pair in catalog.pairs("train")} == judged
    assert catalog.pairs("val") == catalog.pairs("test") == []


def test_listed_photos_that_lack_are_reported_and_left_out(data, tmp_path, caplog):
    for photo in (data / "dataset/test/Fruit/Apple/Royal-Gala").iterdir():
        photo.unlink()
    catalog = prepare(data, tmp_path / "catalog")
    assert len(read(catalog, "test")) == 12
    assert "Royal Gala" not in catalog.qrels("test").queries.values()
    assert "4 of the 16 photos" in caplog.text
    assert "Royal-Gala_000.jpg" in caplog.text


def test_the_dataset_folder_itself_will_do(data, tmp_path):
    assert len(read(prepare(data / "dataset", tmp_path / "catalog"), "test")) == 16


def test_a_wrong_folder_is_refused_with_what_was_expected(tmp_path):
    with pytest.raises(InvalidInput, match=r"not the Grocery Store Dataset: expected dataset/classes\.csv"):
        prepare(tmp_path, tmp_path / "catalog")
    assert list(tmp_path.iterdir()) == []


def test_a_split_without_any_photo_is_refused(data, tmp_path):
    (data / "dataset/val.txt").write_text("val/none.jpg, 0, 0\n")
    with pytest.raises(InvalidInput, match=r"none of the 1 photos that .*val\.txt lists"):
        prepare(data, tmp_path / "catalog")


@pytest.mark.parametrize("line", ["test/a.jpg, 99, 0", "test/a.jpg, zero, 0", "test/a.jpg"])
def test_a_damaged_line_of_a_split_list_is_named(data, tmp_path, line):
    listed = data / "dataset/test.txt"
    listed.write_text(listed.read_text() + line + "\n")
    with pytest.raises(InvalidInput, match=r"test\.txt, line 17"):
        prepare(data, tmp_path / "catalog")


def test_a_damaged_class_list_is_named(data, tmp_path):
    (data / "dataset/classes.csv").write_text("name,label\nApple,0\n")
    with pytest.raises(InvalidInput, match=r"classes\.csv is damaged"):
        prepare(data, tmp_path / "catalog")


@pytest.mark.parametrize(
    ("name", "coarse", "words"),
    [
        ("Granny-Smith", "Apple", ["Granny", "Smith"]),
        ("Galia-Melon", "Melon", ["Galia"]),
        ("Watermelon", "Melon", ["Watermelon"]),
        ("Passion-Fruit", "Passion-Fruit", []),
        ("vine tomatoes", "Tomato", ["vine"]),
        ("Oatly-Oat-Milk", "Oat-Milk", ["Oatly"]),
    ],
)
def test_a_name_keeps_the_words_that_its_coarse_class_lacks(name, coarse, words):
    assert distinctive_words(name, coarse) == words


NAMES = st.lists(st.text("abcdesyE", min_size=1, max_size=6), min_size=1, max_size=4).map("-".join)


@given(NAMES, NAMES)
def test_no_word_of_the_coarse_class_is_left_in_any_name(name, coarse):
    left = [word.lower() for word in distinctive_words(name, coarse)]
    assert not set(left) & set(coarse.lower().split("-"))


@given(st.text(alphabet="abc ,.;-!?\nis the", max_size=120))
def test_phrases_are_words_of_the_description_and_never_shorter_than_the_minimum(description):
    for phrase in phrases_of(description, "Some-Name", "Name"):
        assert len(phrase.split()) >= MIN_WORDS
        assert phrase in " ".join(description.split())


def test_the_real_dataset_is_prepared_whole(tmp_path):
    default = Path(__file__).parents[4] / "shared" / "data"
    data = Path(os.environ.get("GAVEL_DATA", default)) / "grocery-store"
    if not data.is_dir() and os.environ.get("CI") != "true":
        pytest.skip("the Grocery Store Dataset is not here (GAVEL_DATA names the folder of data sets)")
    catalog = prepare(data, tmp_path / "catalog")
    queries = set(catalog.qrels("test").queries.values())
    assert {"Granny Smith", "Royal Gala", "Oatly Natural"} <= queries
    listed = (data / "dataset/train.txt").read_text().split("\n")
    assert len(read(catalog, "train")) == len([line for line in listed if line])
    assert len({pair.item_id for pair in catalog.pairs("train")}) > 0.95 * len(read(catalog, "train"))
