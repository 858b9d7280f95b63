"""The manifest: what commits a release, and what it refuses to say."""

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.contracts.release import IndexedPart, Manifest, Part, check_part, load_release, merge_manifests
from retrieval.errors import ReleaseError


def part(number=0, items=3, data=b"lots"):
    return Part(f"part-{number:05}.ndjson.gz", items, len(data), hashlib.sha256(data).hexdigest())


def manifest(**given):
    values = {"items_in": 5, "items_embedded": 3, "items_rejected": 2, "items_without_image": 1, "parts": (part(),)}
    return Manifest(**{"release_id": "2026-11-21", "tower_id": "a" * 12, "dimensions": 128} | values | given)


def shard(instance, instances=3, **given):
    return manifest(instance=instance, instances=instances, parts=(part(instance),), **given)


@given(st.lists(st.integers(0, 10_000), max_size=5), st.integers(0, 1_000))
def test_a_manifest_reads_back_as_it_was_written(sizes, rejected):
    parts = [part(number, items) for number, items in enumerate(sizes)]
    written = manifest(items_in=sum(sizes) + rejected, items_embedded=sum(sizes), items_rejected=rejected, parts=parts)
    assert Manifest.from_json(written.to_json()) == written


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_a_manifest_cannot_say_that_rows_were_lost(items_in, embedded, rejected):
    counts = {"items_in": items_in, "items_embedded": embedded, "items_rejected": rejected, "parts": (part(items=embedded),)}
    if items_in == embedded + rejected:
        assert manifest(**counts).items_in == items_in
    else:
        with pytest.raises(ReleaseError, match=f"lost rows: {items_in} in, {embedded} embedded \\+ {rejected} rejected"):
            manifest(**counts)


def test_a_manifest_cannot_name_other_counts_than_its_parts():
    with pytest.raises(ReleaseError, match="parts do not add up to the 3 lots"):
        manifest(parts=(part(items=2),))


@pytest.mark.parametrize("text", ["", "3", "[]", "{}", '{"parts": 3}', '{"parts": [{"name": "x"}]}'])
def test_what_is_no_manifest_is_refused(text):
    with pytest.raises(ReleaseError, match="not a release manifest"):
        Manifest.from_json(text)


def test_a_manifest_with_a_field_that_nobody_knows_is_refused():
    values = json.loads(manifest().to_json()) | {"colour": "red"}
    with pytest.raises(ReleaseError, match=r"not a release manifest.*colour"):
        Manifest.from_json(json.dumps(values))


@pytest.mark.parametrize("field", [name for name in json.loads(manifest().to_json()) if name not in ("parts", "items_per_second")])
@pytest.mark.parametrize("value", [None, "a\0b", "\ud800", -1, 1.5, True, [], {}, 10**30])
def test_a_manifest_with_a_field_of_another_kind_is_refused_in_one_sentence(field, value, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps(json.loads(manifest().to_json()) | {field: value}))
    with pytest.raises(ReleaseError, match=r"manifest\.json is damaged \(.*\); embed its lots again"):
        load_release(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("name", value) for value in (None, 1, "", "x", "a\0b", "/etc/passwd", "../part-00000.ndjson.gz", "part-00000.ndjson")),
        *((name, value) for name in ("items", "bytes") for value in (None, "3", -1, 3.0, True, 10**30)),
        *(("sha256", value) for value in (None, 1, [], "a\0b")),
    ],
)
def test_a_part_with_a_field_of_another_kind_is_refused(field, value):
    values = json.loads(manifest().to_json())
    values["parts"][0][field] = value
    with pytest.raises(ReleaseError, match=r"not a release manifest|do not add up"):
        Manifest.from_json(json.dumps(values))


@pytest.mark.parametrize("field", ["instance", "instances", "dimensions"])
def test_a_manifest_of_more_instances_or_dimensions_than_there_can_be_is_refused(field):
    with pytest.raises(ReleaseError, match="not a release manifest"):
        Manifest.from_json(json.dumps(json.loads(manifest().to_json()) | {field: 100_000}))
    with pytest.raises(ReleaseError, match="instance 0 of 0 cannot be"):
        Manifest.from_json(manifest(instances=0).to_json())


def test_the_instance_that_is_missing_among_more_than_memory_holds_is_told_at_once():
    with pytest.raises(ReleaseError, match="waits for the manifest of instance 1 of 1000000000000000000000000000000"):
        merge_manifests([shard(0, 10**30)])


@pytest.mark.parametrize("tower_id", ["../elsewhere", "a/b", "a b"])
def test_a_tower_that_would_lead_out_of_the_folder_is_refused(tower_id):
    with pytest.raises(ReleaseError, match="is no tower"):
        Manifest.from_json(manifest(tower_id=tower_id).to_json())


def receipt(**given):
    values = {"indexed": 1, "stale_ids": ["b"], "deleted_ids": ["c"], "rejected": [("d", "too long")], "sha256": "0" * 64}
    return IndexedPart(**{"part": part().name, "index": "auction-items-t-1", "tower_id": "t"} | values | given)


def test_a_receipt_reads_back_as_it_was_written():
    assert IndexedPart.from_json(receipt().to_json()) == receipt()
    assert IndexedPart.from_json(IndexedPart().to_json()).total == 0


@pytest.mark.parametrize("field", [name for name in json.loads(receipt().to_json()) if name != "counts"])
@pytest.mark.parametrize("value", [None, 1.5, -1, True, {"a": 1}, [1], [["a"]], [["a", 1]], [[1, "b"]], [["a", "b", "c"]]])
def test_a_receipt_with_a_field_of_another_kind_is_refused(field, value):
    with pytest.raises(ReleaseError, match="not the receipt of a part"):
        IndexedPart.from_json(json.dumps(json.loads(receipt().to_json()) | {field: value}))


@pytest.mark.parametrize(("field", "value"), [("indexed", "x"), ("stale_ids", 0), ("stale_ids", "abc"), ("part", 5)])
def test_a_receipt_of_other_kinds_is_refused(field, value):
    with pytest.raises(ReleaseError, match="not the receipt of a part"):
        IndexedPart.from_json(json.dumps(json.loads(receipt().to_json()) | {field: value}))


def test_a_saved_release_is_loaded_and_nothing_half_written_stays(tmp_path):
    manifest().save(tmp_path)
    assert load_release(tmp_path) == manifest(parts=[part()])
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_a_folder_without_a_manifest_is_an_unfinished_run(tmp_path):
    (tmp_path / "manifest.partial").write_text("{")
    with pytest.raises(ReleaseError, match="did not finish; run `gavel embed` again"):
        load_release(tmp_path)


@pytest.mark.parametrize("value", [None, "fast", float("nan"), float("inf"), -1, True, [], 10**30])
def test_a_speed_that_is_no_number_is_refused(value):
    with pytest.raises(ReleaseError, match="not a release manifest: items_per_second is no number from 0"):
        Manifest.from_json(json.dumps(json.loads(manifest().to_json()) | {"items_per_second": value}))


def test_a_manifest_of_a_version_that_named_no_device_can_be_read():
    values = json.loads(manifest(device="NVIDIA A10G, bfloat16", items_per_second=402.5).to_json())
    assert (values.pop("device"), values.pop("items_per_second")) == ("NVIDIA A10G, bfloat16", 402.5)
    assert Manifest.from_json(json.dumps(values)) == manifest(parts=[part()])


def test_instances_name_their_devices_together_and_add_their_speeds():
    both = merge_manifests([shard(0, 2, device="A10G", items_per_second=400.0), shard(1, 2, device="L4", items_per_second=300.5)])
    assert (both.device, both.items_per_second) == ("A10G and L4", 700.5)


def test_the_manifests_of_three_instances_come_out_as_one(tmp_path):
    for instance in (2, 0, 1):
        shard(instance).save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir())[0] == "manifest-00000-of-00003.json"
    whole = load_release(tmp_path)
    assert (whole.items_in, whole.items_embedded, whole.items_rejected, whole.items_without_image) == (15, 9, 6, 3)
    assert [p.name for p in whole.parts] == [f"part-0000{i}.ndjson.gz" for i in range(3)]
    assert whole.file_name == "manifest.json"


def test_a_release_waits_for_the_manifest_of_every_instance(tmp_path):
    shard(0).save(tmp_path)
    shard(2).save(tmp_path)
    with pytest.raises(ReleaseError, match="waits for the manifest of instance 1 of 3"):
        load_release(tmp_path)


@pytest.mark.parametrize(
    "other", [{"tower_id": "b" * 12}, {"release_id": "2026-11-22"}, {"instances": 2}, {"inputs": "other"}, {"dimensions": 64}]
)
def test_manifests_of_different_runs_are_never_put_together(other):
    with pytest.raises(ReleaseError, match="different runs, inputs or towers"):
        merge_manifests([shard(0), replace(shard(1), **other), shard(2)])


def test_two_instances_cannot_have_written_the_same_part():
    with pytest.raises(ReleaseError, match=r"part-00000\.ndjson\.gz was written by two instances"):
        merge_manifests([shard(0, 2), replace(shard(1, 2), parts=(part(0),))])


def test_lots_that_a_newer_row_replaces_are_not_counted_twice():
    assert manifest(items_superseded=1).lots == 2
    assert merge_manifests([shard(0, 2, items_superseded=1), shard(1, 2)]).lots == 5


def test_more_lots_replaced_than_embedded_is_refused():
    with pytest.raises(ReleaseError, match="replaced"):
        manifest(items_superseded=4)


def test_the_bytes_of_a_part_are_held_against_its_hash(tmp_path):
    path = tmp_path / "part-00000.ndjson.gz"
    path.write_bytes(b"lots")
    check_part(part(data=b"lots"), path)
    path.write_bytes(b"lot")
    with pytest.raises(ReleaseError, match=r"part-00000\.ndjson\.gz is damaged \(3 bytes, 4 expected\)"):
        check_part(part(data=b"lots"), path)
    path.unlink()
    with pytest.raises(ReleaseError, match=r"part-00000\.ndjson\.gz is missing; run `gavel embed` again"):
        check_part(part(data=b"lots"), path)
