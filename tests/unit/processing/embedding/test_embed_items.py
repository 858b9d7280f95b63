"""The embedding job on a real, small tower: what it writes, what it rejects, and how it goes on after a stop."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_photos import bomb, plain
from PIL import Image
from small_tower import save_small_item_tower

from catalog.folder import SplitData, write_catalog, write_items
from models.artefacts.item_encoder import ItemEncoder
from processing.embedding import job as embed_items
from processing.embedding import pipeline as embedding_steps
from processing.embedding.job import EmbeddingRun, embed, find_release, main, read_instances
from processing.embedding.thumbnails import Thumbnails
from retrieval.contracts.items import Item, item_text
from retrieval.contracts.parts import read_part
from retrieval.contracts.release import check_part, load_release
from retrieval.contracts.tower_card import ITEM_TOWER_FILE, TowerCard
from retrieval.encoders.photos import read_photo
from retrieval.errors import AlreadyRunning, InvalidInput, ReleaseError, TowerError


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    return save_small_item_tower(tmp_path_factory.mktemp("towers"))


@pytest.fixture
def folder(tmp_path):
    items = tmp_path / "items"
    items.mkdir()
    return items


def photo(path: Path, colour="red") -> str:
    Image.new("RGB", (40, 40), colour).save(path)
    return path.name


def write(folder: Path, lots, name="lots.ndjson") -> Path:
    (folder / name).write_text("".join(json.dumps(lot) + "\n" for lot in lots))
    return folder / name


def lots(count, start=0, **fields):
    return [{"item_id": f"lot-{i}", "title": f"Old watch {i}", **fields} for i in range(start, start + count)]


def entries(release: Path):
    found = {}
    for part in load_release(release).parts:
        check_part(part, release / part.name)
        found |= {entry.item_id: entry for entry in read_part(release / part.name)}
    return found


def rejects(release: Path, name="rejects.ndjson"):
    return [json.loads(line) for line in (release / name).read_text().splitlines()]


def run(folder, tower, out, **flags):
    manifest = embed([folder], tower, out, **{"release_id": "r", "batch_size": 4} | flags)
    return manifest, out / manifest.release_id


def test_every_lot_comes_out_with_the_vector_that_the_tower_gives_it(folder, tower, tmp_path):
    photo(folder / "red.png")
    write(folder, [*lots(5, image="red.png", description="Runs"), *lots(2, start=5)])
    manifest, release = run(folder, tower, tmp_path / "out")
    found = entries(release)
    encoder = ItemEncoder.load(tower)
    texts = [item_text(f"Old watch {i}", "Runs" if i < 5 else "") for i in range(7)]
    pictures = [read_photo(folder / "red.png", 32)] * 5 + [None] * 2
    expected = encoder.encode(texts, pictures)
    np.testing.assert_allclose(np.stack([found[f"lot-{i}"].vector for i in range(7)]), expected, atol=1e-5)
    assert (manifest.items_in, manifest.items_embedded, manifest.items_rejected, manifest.items_without_image) == (7, 7, 0, 2)
    assert (manifest.tower_id, manifest.dimensions) == (encoder.card.tower_id, 16)
    assert (manifest.device, manifest.items_per_second > 0) == (encoder.device_name, True)
    again, _ = run(folder, tower, tmp_path / "out")
    assert (again, again.items_per_second) == (manifest, 0)  # every part was there already
    assert found["lot-0"].document["has_image"] is True
    assert found["lot-6"].document["has_image"] is False
    assert found["lot-0"].document["release_id"] == "r"


def test_all_formats_of_a_folder_are_embedded(folder, tower, tmp_path):
    write(folder, lots(1))
    (folder / "more.csv").write_text("id,name\nlot-1,Ring\n")
    pq.write_table(pa.table({"product_id": [2], "title": ["Vase"]}), folder / "most.parquet")
    _, release = run(folder, tower, tmp_path / "out")
    assert sorted(entries(release)) == ["2", "lot-0", "lot-1"]


def test_a_container_that_is_given_a_whole_bucket_embeds_the_files_of_every_day(folder, tower, tmp_path, monkeypatch):
    monkeypatch.setattr(embed_items, "SAGEMAKER", tmp_path)
    items = tmp_path / "input" / "items"
    for place, start in (("", 0), ("2026-11-20", 1), ("2026-11-21/hour-1", 2)):
        (items / place).mkdir(parents=True, exist_ok=True)
        write(items / place, lots(1, start=start), "part-00000.ndjson")
    (items / "2026-11-20" / "photos").mkdir()
    photo(items / "2026-11-20" / "photos" / "red.png")
    assert main(["--tower", str(tower), "--output", str(tmp_path / "out"), "--release-id", "r", "--workers", "0"]) == 0
    assert sorted(entries(tmp_path / "out" / "r")) == ["lot-0", "lot-1", "lot-2"]


def test_items_in_are_items_embedded_plus_rejects(folder, tower, tmp_path):
    write(folder, [*lots(3), {"item_id": "bad", "title": "Ring", "price": -1}, {"title": "Vase"}])
    manifest, release = run(folder, tower, tmp_path / "out")
    assert (manifest.items_in, manifest.items_embedded, manifest.items_rejected) == (5, 3, 2)
    assert [(r["source"], r["line"], r["item_id"]) for r in rejects(release)] == [
        ("lots.ndjson", 4, "bad"),
        ("lots.ndjson", 5, None),
    ]
    assert "current_price must be >= 0" in rejects(release)[0]["reason"]


def test_the_rejects_file_is_there_when_nothing_was_rejected(folder, tower, tmp_path):
    write(folder, lots(1))
    _, release = run(folder, tower, tmp_path / "out")
    assert rejects(release) == []


@pytest.mark.parametrize("image", ["missing.jpg", "truncated.jpg", "text.jpg", "http://127.0.0.1/a.jpg", "ftp://x/y", "a\0b", "."])
def test_a_lot_whose_photo_cannot_be_read_is_embedded_from_its_text(folder, tower, tmp_path, image):
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(buffer, "JPEG")
    (folder / "truncated.jpg").write_bytes(buffer.getvalue()[:300])
    (folder / "text.jpg").write_text("no picture")
    write(folder, lots(1, image=image))
    manifest, release = run(folder, tower, tmp_path / "out")
    entry = entries(release)["lot-0"]
    assert entry.document["has_image"] is False
    assert manifest.items_without_image == 1
    np.testing.assert_allclose(entry.vector, ItemEncoder.load(tower).encode(["Old watch 0"], [None])[0], atol=1e-5)


def test_why_a_lot_has_no_photo_is_counted_and_told(folder, tower, tmp_path, caplog):
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "anim.gif").write_bytes(plain("GIF"))
    os.mkfifo(folder / "pipe.png")
    photo(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    images = [
        "no.jpg",
        "http://h/x",
        "ftp://h/x",
        "bomb.png",
        "anim.gif",
        "pipe.png",
        "../secret.png",
        "link.png",
        str(tmp_path / "secret.png"),
    ]
    write(folder, [{"id": "0", "title": "a"}, *({"id": image, "title": "b", "image": image} for image in images)])
    manifest, release = run(folder, tower, tmp_path / "out")
    record = json.loads((release / "part-00000.receipt").read_text())
    counts = {"not_listed": 1, "unreadable": 2, "not_fetched": 1, "other_scheme": 1, "too_large": 1, "format": 1, "outside": 3}
    assert record["photos"] == counts
    assert (manifest.items_embedded, manifest.items_without_image) == (10, 10)
    misses = {miss["photo"]: miss for miss in map(json.loads, (release / "missing-photos.ndjson").read_text().splitlines())}
    assert list(misses) == images
    assert (misses["no.jpg"]["source"], misses["no.jpg"]["line"], misses["no.jpg"]["item_id"]) == ("lots.ndjson", 2, "no.jpg")
    assert misses["pipe.png"]["reason"].endswith("is no plain file; put the photo itself there")
    assert "9 lots are embedded from their text alone" in caplog.text
    assert "3 outside the folder of their file (--photos opens another)" in caplog.text


def test_a_folder_that_is_opened_has_photos_for_lots_that_lay_outside_it(folder, tower, tmp_path):
    photo(tmp_path / "elsewhere.png")
    write(folder, [{"id": "1", "title": "a", "image": str(tmp_path / "elsewhere.png")}])
    assert run(folder, tower, tmp_path / "out")[0].items_without_image == 1
    assert run(folder, tower, tmp_path / "out", photos=[tmp_path])[0].items_without_image == 0


def test_a_catalogue_may_name_the_photos_that_it_was_prepared_from(tower, tmp_path):
    photo(tmp_path / "red.png")
    catalog = tmp_path / "catalog"
    write_items(catalog / "items" / "lots.parquet", [Item("1", "Old watch", image=str(tmp_path / "red.png"))])
    card = {"name": "mine", "seed": 7, "splits": {"test": SplitData(["lots.parquet"])}, "example_queries": []}
    write_catalog(catalog, **card, photo_folders=[tmp_path])
    assert run(catalog / "items", tower, tmp_path / "out")[0].items_without_image == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_thumbnails_are_drawn_once_for_each_photo(folder, tower, tmp_path, workers):
    Image.new("RGB", (900, 700), "red").save(folder / "large.jpg")
    photo(folder / "small.png")
    write(folder, [*lots(3, image="large.jpg"), *lots(2, start=3, image="small.png"), *lots(1, start=5, image="lost.png")])
    run(folder, tower, tmp_path / "out", thumbnails=tmp_path / "thumbnails", workers=workers)
    drawn = Thumbnails(tmp_path / "thumbnails")
    for name, sides in {"large.jpg": (256, 640), "small.png": (40, 40)}.items():
        sizes = [Image.open(io.BytesIO(drawn.read(folder.resolve() / name, side))).size for side in (256, 640)]
        assert sizes == [(side, side) for side in sides]
    assert len([path for path in (tmp_path / "thumbnails").rglob("*") if path.is_file()]) == 4


def test_a_part_ends_with_the_lot_that_fills_it_however_few_there_are(folder, tower, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_steps, "PART_CHARS", 50_000)
    write(folder, [*lots(3, description="long " * 10_000), *lots(4, start=3)])
    manifest, _ = run(folder, tower, tmp_path / "out")
    assert [part.items for part in manifest.parts] == [1, 1, 1, 4]


def test_a_text_tower_looks_at_no_photo(folder, tmp_path):
    text_tower = save_small_item_tower(tmp_path / "towers", use_image=False)
    photo(folder / "red.png")
    write(folder, lots(2, image="red.png"))
    manifest, _ = run(folder, text_tower, tmp_path / "out")
    assert manifest.items_without_image == 2


def test_parts_are_bounded_and_hold_every_lot_once(folder, tower, tmp_path):
    write(folder, lots(10))
    manifest, release = run(folder, tower, tmp_path / "out", part_items=4)
    assert [(p.name, p.items) for p in manifest.parts] == [
        ("part-00000.ndjson.gz", 4),
        ("part-00001.ndjson.gz", 4),
        ("part-00002.ndjson.gz", 2),
    ]
    assert len(entries(release)) == 10


def test_the_same_run_gives_the_same_bytes_and_the_same_name(folder, tower, tmp_path):
    write(folder, lots(3))
    one = embed([folder], tower, tmp_path / "one")
    two = embed([folder / "lots.ndjson"], tower, tmp_path / "two")
    assert one == two
    assert one.release_id.startswith(one.tower_id)
    assert (tmp_path / "one" / one.release_id / "part-00000.ndjson.gz").read_bytes() == (
        tmp_path / "two" / two.release_id / "part-00000.ndjson.gz"
    ).read_bytes()


def test_another_input_or_another_tower_is_another_release(folder, tower, tmp_path):
    write(folder, lots(3))
    names = {embed([folder], tower, tmp_path).release_id}
    names.add(embed([folder], save_small_item_tower(tmp_path / "towers", seed=1), tmp_path).release_id)
    write(folder, lots(4))
    names.add(embed([folder], tower, tmp_path).release_id)
    assert len(names) == 3


class Stopped(Exception):
    """What a test throws where a machine would have died."""


def stop_after(rows):
    def progress(done, total):
        if done > rows:
            raise Stopped

    return progress


def test_a_run_that_was_stopped_goes_on_with_the_part_where_it_stopped(folder, tower, tmp_path, monkeypatch):
    write(folder, lots(10))
    with pytest.raises(Stopped):
        run(folder, tower, tmp_path / "out", part_items=4, progress=stop_after(8))
    release = tmp_path / "out" / "r"
    assert sorted(p.name for p in release.glob("*.gz*")) == ["part-00000.ndjson.gz", "part-00001.ndjson.gz"]
    with pytest.raises(ReleaseError, match="did not finish"):
        load_release(release)
    encoded = count_encoded(monkeypatch)
    manifest, _ = run(folder, tower, tmp_path / "out", part_items=4)
    assert sum(encoded) == 2
    assert manifest == run(folder, tower, tmp_path / "whole", part_items=4)[0]


def test_a_second_run_into_the_same_release_is_told_of_the_first_and_changes_nothing(folder, tower, tmp_path):
    write(folder, lots(3))
    _, release = run(folder, tower, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in release.iterdir()}
    with EmbeddingRun([folder], tmp_path / "out").exclusive("r"):
        with pytest.raises(AlreadyRunning, match=r"process \d+ \(.*\) writes release r into .*out since .*; run the same command"):
            run(folder, tower, tmp_path / "out", force=True)
        assert {path.name: path.read_bytes() for path in release.iterdir()} == before
        run(folder, tower, tmp_path / "out", release_id="other")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"r", "other"}


def count_encoded(monkeypatch):
    counts = []
    compute = ItemEncoder.compute

    def counting(self, batch):
        vectors = compute(self, batch)
        counts.append(len(vectors))
        return vectors

    monkeypatch.setattr(ItemEncoder, "compute", counting)
    return counts


@pytest.mark.parametrize("change", ["input", "tower", "photo", "damage", "receipt"])
def test_a_part_is_made_again_when_anything_it_comes_from_has_changed(folder, tower, tmp_path, monkeypatch, change):
    photo(folder / "red.png")
    write(folder, lots(3, image="red.png"))
    _, release = run(folder, tower, tmp_path / "out")
    part, record = release / "part-00000.ndjson.gz", release / "part-00000.receipt"
    match change:
        case "input":
            write(folder, lots(3, price=5, image="red.png"))
        case "tower":
            tower = save_small_item_tower(tmp_path / "towers", seed=1)
        case "photo":
            photo(folder / "red.png", "blue")
        case "damage":
            part.write_bytes(part.read_bytes()[:-9])
        case "receipt":
            record.write_text("{")
    encoded = count_encoded(monkeypatch)
    manifest, _ = run(folder, tower, tmp_path / "out")
    assert sum(encoded) == 3
    assert len(entries(release)) == 3
    assert manifest.tower_id == tower.name


def test_a_release_that_nothing_has_changed_of_is_found_again(folder, tower, tmp_path):
    photo(folder / "red.png")
    write(folder, [*lots(5, image="red.png"), {"title": "no id"}])
    job, card = EmbeddingRun([folder], tmp_path / "out", part_items=2), TowerCard.load(tower)
    assert find_release(job, card) is None
    manifest = embed([folder], tower, tmp_path / "out", part_items=2)
    assert find_release(job, card) == manifest


@pytest.mark.parametrize("change", ["input", "photo", "part", "manifest", "size"])
def test_a_release_is_not_found_again_when_anything_it_comes_from_has_changed(folder, tower, tmp_path, change):
    photo(folder / "red.png")
    write(folder, lots(3, image="red.png"))
    job = EmbeddingRun([folder], tmp_path / "out", release_id="r")
    embed([folder], tower, tmp_path / "out", release_id="r")
    match change:
        case "input":
            write(folder, lots(3, price=5, image="red.png"))
        case "photo":
            photo(folder / "red.png", "blue")
        case "part":
            (tmp_path / "out" / "r" / "part-00000.ndjson.gz").unlink()
        case "manifest":
            (tmp_path / "out" / "r" / "manifest.json").unlink()
        case "size":
            job = EmbeddingRun([folder], tmp_path / "out", release_id="r", part_items=2)
    assert find_release(job, TowerCard.load(tower)) is None


def test_force_makes_finished_parts_again(folder, tower, tmp_path, monkeypatch):
    write(folder, lots(3))
    first, _ = run(folder, tower, tmp_path / "out")
    encoded = count_encoded(monkeypatch)
    assert run(folder, tower, tmp_path / "out", force=True)[0] == first
    assert sum(encoded) == 3


def test_a_run_whose_rows_are_all_rejected_ends_with_status_1_and_names_the_rejects(folder, tower, tmp_path, capsys):
    write(folder, [{"item_id": "a"}, {"title": "no id"}])
    flags = ["--input", str(folder), "--tower", str(tower), "--output", str(tmp_path / "out"), "--release-id", "none"]
    assert main(flags) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "all 2 rows were rejected" in said
    assert str(tmp_path / "out" / "none" / "rejects.ndjson") in said


def test_parts_and_manifests_of_an_earlier_larger_run_do_not_stay(folder, tower, tmp_path):
    write(folder, lots(10))
    _, release = run(folder, tower, tmp_path / "out", part_items=4)
    (release / "manifest-00001-of-00002.json").write_text("{}")
    write(folder, lots(3))
    manifest, _ = run(folder, tower, tmp_path / "out", part_items=4)
    assert sorted(p.name for p in release.iterdir()) == [
        "manifest.json",
        "missing-photos.ndjson",
        "part-00000.ndjson.gz",
        "part-00000.receipt",
        "rejects.ndjson",
    ]
    assert load_release(release) == manifest


def test_a_row_that_is_not_newer_than_the_one_before_it_is_rejected_with_the_place_of_that_one(folder, tower, tmp_path):
    write(folder, [{"id": "1", "title": "first"}, {"id": "2", "title": "x"}, {"id": "1", "title": "second"}])
    manifest, release = run(folder, tower, tmp_path / "out")
    assert entries(release)["1"].document["title"] == "first"
    assert rejects(release)[0]["reason"].startswith("duplicate item_id: lots.ndjson:1 has this lot")
    assert (manifest.items_in, manifest.items_embedded, manifest.items_rejected, manifest.lots) == (3, 2, 1, 2)


def test_a_newer_row_of_the_same_lot_is_embedded_too_and_carries_the_higher_version(folder, tower, tmp_path):
    write(folder, [{"id": "1", "title": "old", "updated_at": "2026-01-01"}], "a.ndjson")
    write(folder, [{"id": "1", "title": "new", "updated_at": "2026-01-02"}], "b.ndjson")
    manifest, release = run(folder, tower, tmp_path / "out")
    newest = entries(release)["1"]
    assert newest.document["title"] == "new"
    assert newest.version == 1767312000000
    assert (manifest.items_embedded, manifest.items_superseded, manifest.lots) == (2, 1, 1)


def test_several_instances_embed_every_row_once_between_them(folder, tower, tmp_path):
    for number in range(4):
        write(folder, lots(3, start=3 * number), f"{number}.ndjson")
    write(folder, [*lots(1, updated_at="2026-01-01"), *lots(1, start=1), {"title": "no id"}], "9.ndjson")
    shards = [run(folder, tower, tmp_path / "out", instance=i, instances=3, part_items=2)[0] for i in (2, 0, 1)]
    release = tmp_path / "out" / "r"
    whole = load_release(release)
    assert sum(shard.items_in for shard in shards) == whole.items_in == 15
    assert (whole.items_embedded, whole.items_rejected, whole.items_superseded, whole.lots) == (13, 2, 1, 12)
    assert len(entries(release)) == 12
    assert [r["source"] for i in range(3) for r in rejects(release, f"rejects-{i:05}-of-00003.ndjson")] == ["9.ndjson"] * 2


def test_an_instance_for_which_no_file_is_left_says_so_in_its_manifest(folder, tower, tmp_path):
    write(folder, lots(2))
    for instance in (0, 1):
        run(folder, tower, tmp_path / "out", instance=instance, instances=2)
    assert load_release(tmp_path / "out" / "r").items_in == 2


def test_instances_that_were_given_different_files_are_never_one_release(folder, tower, tmp_path):
    write(folder, lots(2), "a.ndjson")
    run(folder, tower, tmp_path / "out", instance=0, instances=2)
    write(folder, lots(2), "b.ndjson")
    run(folder, tower, tmp_path / "out", instance=1, instances=2)
    with pytest.raises(ReleaseError, match="different runs, inputs or towers"):
        load_release(tmp_path / "out" / "r")


def test_progress_counts_rows_up_to_all_of_them(folder, tower, tmp_path):
    write(folder, lots(10))
    seen = []
    run(folder, tower, tmp_path / "out", part_items=4, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (10, 10)
    assert (4, 10) in seen


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no catalogue file; put at least one of"),
        ({"lots.csv": "name,price\nWatch,1\n"}, "has no column for item_id: it needs one of item_id, id, product_id"),
        ({"lots.parquet": "nonsense"}, "is not a readable parquet file"),
    ],
)
def test_input_that_cannot_be_used_ends_the_job_with_status_2_and_one_line(folder, tower, tmp_path, capsys, files, message):
    for name, text in files.items():
        (folder / name).write_text(text)
    status = main(["--input", str(folder), "--tower", str(tower), "--output", str(tmp_path / "out")])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2
    assert error.startswith("gavel: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_the_command_prints_the_manifest(folder, tower, tmp_path, capsys):
    write(folder, lots(2))
    flags = ["--input", str(folder), "--tower", str(tower), "--output", str(tmp_path / "out"), "--release-id", "night"]
    assert main(flags) == 0
    assert json.loads(capsys.readouterr().out)["items_embedded"] == 2
    assert (tmp_path / "out" / "night" / "manifest.json").is_file()


@pytest.mark.parametrize("release_id", ["..", "a/b", "-x", " ", "x" * 101])
def test_a_release_id_that_is_no_folder_name_is_refused(folder, tower, tmp_path, release_id):
    write(folder, lots(1))
    with pytest.raises(InvalidInput, match="cannot name a folder"):
        run(folder, tower, tmp_path, release_id=release_id)


@pytest.mark.parametrize("flags", [{"batch_size": 0}, {"part_items": 0}, {"workers": -1}, {"instance": 2, "instances": 2}])
def test_numbers_out_of_range_are_refused(folder, tower, tmp_path, flags):
    write(folder, lots(1))
    with pytest.raises(InvalidInput, match=r"allowed are|out of range"):
        run(folder, tower, tmp_path, **flags)


def test_a_folder_without_a_tower_is_refused_with_the_remedy(folder, tmp_path):
    write(folder, lots(1))
    with pytest.raises(TowerError, match="gavel train"):
        run(folder, tmp_path, tmp_path / "out")


def test_instances_are_read_from_sagemakers_resource_config(tmp_path):
    config = tmp_path / "resourceconfig.json"
    assert read_instances(config) == (0, 1)
    config.write_text(json.dumps({"current_host": "algo-2", "hosts": ["algo-2", "algo-1", "algo-3"]}))
    assert read_instances(config) == (1, 3)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"current_host": "x", "hosts": ["y"]}'])
def test_a_broken_resource_config_is_refused(tmp_path, text):
    config = tmp_path / "resourceconfig.json"
    config.write_text(text)
    with pytest.raises(InvalidInput, match="is not SageMaker's resource config"):
        read_instances(config)


def test_the_defaults_are_sagemakers_folders(monkeypatch, tmp_path):
    asked = {}

    def remember(inputs, tower, output, **flags):
        asked.update(inputs=inputs, tower=tower, output=output)
        raise InvalidInput("enough")

    monkeypatch.setattr(embed_items, "embed", remember)
    assert main([]) == 2
    assert asked == {
        "inputs": [Path("/opt/ml/processing/input/items")],
        "tower": Path("/opt/ml/processing/input/tower"),
        "output": Path("/opt/ml/processing/output"),
    }


def test_weights_that_are_not_those_of_the_card_embed_nothing(folder, tower, tmp_path):
    copy = shutil.copytree(tower, tmp_path / tower.name)
    weights = bytearray((copy / ITEM_TOWER_FILE).read_bytes())
    weights[-1] ^= 1  # one bit of one number: it still loads
    (copy / ITEM_TOWER_FILE).write_bytes(weights)
    write(folder, lots(1))
    with pytest.raises(TowerError, match=f"{ITEM_TOWER_FILE} is not the file that tower {tower.name} was saved with"):
        run(folder, copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()
