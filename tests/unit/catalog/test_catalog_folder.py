from datetime import UTC, datetime
from pathlib import Path

import pytest

from catalog.folder import CatalogFolder, Click, Qrels, SplitData, TrainingPair, replace_folder, write_catalog, write_items
from retrieval.contracts.item_files import read_items
from retrieval.contracts.items import Item
from retrieval.errors import InvalidInput

NOW = datetime(2026, 11, 21, 20, tzinfo=UTC)
PAIR = TrainingPair("red vase", "lot-1", 2.0)
CLICK = Click("red vase", "lot-1", 1, "purchase", "buyer-1", NOW)
SEEN = Click("red vase", "lot-2", 2, None, "buyer-1", NOW)
QRELS = Qrels({"q1": "red vase"}, {"q1": {"lot-1": 3, "lot-2": 0}})
LOTS = [Item("lot-1", "Vase", current_price=10.5, ends_at=NOW, image="photos/1.jpg"), Item("lot-2", "Ring")]


def write(building: Path, name: str = "tiny", qrels: Qrels = QRELS) -> None:
    write_items(building / "items" / "lots.parquet", LOTS)
    write_items(building / "items" / "extra.parquet", LOTS[:1])
    splits = {
        "train": SplitData(["lots.parquet"], [PAIR], Qrels(), [CLICK, SEEN]),
        "test": SplitData(["lots.parquet", "extra.parquet"], qrels=qrels),
    }
    write_catalog(building, name=name, seed=3, splits=splits, example_queries=["red vase"])


def build(folder: Path, **options) -> CatalogFolder:
    with replace_folder(folder) as building:
        write(building, **options)
    return CatalogFolder.load(folder)


def interrupt_build(folder: Path) -> None:
    with replace_folder(folder) as building:
        write(building, name="new")
        raise KeyboardInterrupt


def test_a_catalogue_reads_back_as_it_was_written(tmp_path):
    catalog = build(tmp_path / "catalog")
    assert (catalog.name, catalog.seed, catalog.splits, catalog.example_queries) == ("tiny", 3, ("train", "test"), ["red vase"])
    assert catalog.pairs("train") == [PAIR]
    assert catalog.pairs("test") == []
    assert catalog.qrels("test") == QRELS
    assert catalog.clicks("train") == [CLICK, SEEN]
    assert [f.name for f in catalog.item_files("train")] == ["lots.parquet"]
    assert [f.name for f in catalog.item_files()] == ["extra.parquet", "lots.parquet"]
    assert list(read_items(catalog.item_files("train")[0])) == LOTS


def test_a_folder_without_a_catalogue_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(InvalidInput, match="gavel catalog generate"):
        CatalogFolder.load(tmp_path)


def test_a_damaged_card_is_named(tmp_path):
    (tmp_path / "catalog.json").write_text('{"name": "half')
    with pytest.raises(InvalidInput, match=r"catalog\.json is not a catalogue card"):
        CatalogFolder(tmp_path)


def test_a_damaged_table_is_named(tmp_path):
    catalog = build(tmp_path / "catalog")
    table = catalog.path / "training" / "pairs.parquet"
    table.write_bytes(table.read_bytes()[:40])
    with pytest.raises(InvalidInput, match=r"pairs\.parquet cannot be read"):
        catalog.pairs("train")


def test_an_unknown_split_is_refused_with_the_known_ones(tmp_path):
    catalog = build(tmp_path / "catalog")
    for read in (catalog.pairs, catalog.qrels, catalog.clicks, catalog.item_files):
        with pytest.raises(InvalidInput, match="'dev'; it has train, test"):
            read("dev")


def test_an_interrupted_build_leaves_the_old_catalogue_and_nothing_else(tmp_path):
    build(tmp_path / "catalog", name="old")
    with pytest.raises(KeyboardInterrupt):
        interrupt_build(tmp_path / "catalog")
    assert CatalogFolder.load(tmp_path / "catalog").name == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["catalog"]


def test_a_rerun_sweeps_up_what_a_killed_build_left(tmp_path):
    leftover = tmp_path / ".catalog.building" / "items"
    leftover.mkdir(parents=True)
    (leftover / "half.parquet").write_bytes(b"PAR1")
    assert build(tmp_path / "catalog").name == "tiny"
    assert [p.name for p in tmp_path.iterdir()] == ["catalog"]


def test_a_new_catalogue_replaces_an_older_one_whole(tmp_path):
    old = build(tmp_path / "catalog", name="old")
    (old.path / "items" / "stale.parquet").write_bytes(b"")
    new = build(tmp_path / "catalog", name="new")
    assert new.name == "new"
    assert not (new.path / "items" / "stale.parquet").exists()


def test_a_folder_of_other_things_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="holds other things"):
        build(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("grade", [-1, 4])
def test_a_grade_out_of_range_is_refused(tmp_path, grade):
    with pytest.raises(InvalidInput, match=f"grade {grade}"):
        build(tmp_path / "catalog", qrels=Qrels({"q": "vase"}, {"q": {"lot-1": grade}}))


def test_a_query_without_a_judgment_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="'q' of split 'test' has no judgment"):
        build(tmp_path / "catalog", qrels=Qrels({"q": "vase"}, {}))


def test_a_split_that_names_an_unwritten_item_file_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"gone\.parquet"):
        write_catalog(tmp_path, name="x", seed=1, splits={"test": SplitData(["gone.parquet"])}, example_queries=[])


def test_items_keep_attributes_and_photos_through_their_file(tmp_path):
    item = Item(
        "1",
        "Vase",
        image="https://shop.example/w_1,h_2/a.jpg",
        more_images=("b.jpg", "c, d.jpg"),
        attributes={"colour": ["red", "blue"], "size": 42, "specs.width": 1.5},
    )
    write_items(tmp_path / "lots.parquet", [item, Item("2", "Lamp")])
    assert list(read_items(tmp_path / "lots.parquet")) == [item, Item("2", "Lamp")]
