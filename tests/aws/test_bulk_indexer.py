"""The bulk-index Lambda against S3 (moto) and the embedded index: events of every shape, failures one message at a time."""

import gzip
import hashlib
import json
from collections import Counter
from dataclasses import asdict, replace
from urllib.parse import quote_plus

import boto3
import pytest
from lots import TOWER_ID, lot, publish
from moto import mock_aws

from lambdas.bulk_indexer import handler as lambda_module
from lambdas.bulk_indexer import tower_index
from lambdas.bulk_indexer.handler import handler
from retrieval.errors import IndexMissing, IndexUnavailable, TowerError
from retrieval.index.base import Filter
from retrieval.index.faiss import FaissStore
from retrieval.release import RECEIPT_FILE, Manifest, Part
from retrieval.schema import bulk_lines
from retrieval.tower import CARD_FILE, TowerCard

BUCKET = "embeddings"
FOLDER = "embeddings/night 1+2/"  # a blank and a plus, which S3 encodes in event keys


@pytest.fixture
def store(tmp_path, monkeypatch):
    made = FaissStore(tmp_path / "index")
    monkeypatch.setattr(lambda_module, "store", lambda: made)
    return made


@pytest.fixture
def bucket(monkeypatch):
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "eu-west-1"}.items():
        monkeypatch.setenv(name, value)
    lambda_module.s3.cache_clear()
    with mock_aws():
        made = boto3.resource("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        yield made
    lambda_module.s3.cache_clear()


def lots(count, start=0, **fields):
    return [lot(f"lot-{i}", f"old watch {i}", **fields) for i in range(start, start + count)]


def put_part(bucket, entries, number=0) -> Part:
    data = gzip.compress("".join(line + "\n" for entry in entries for line in bulk_lines(entry)).encode())
    name = f"part-{number:05}.ndjson.gz"
    bucket.put_object(Key=FOLDER + name, Body=data)
    return Part(name, len(entries), len(data), hashlib.sha256(data).hexdigest())


def put_manifest(bucket, *parts, **given) -> str:
    embedded = sum(part.items for part in parts)
    manifest = Manifest("night", TOWER_ID, 13, embedded, embedded, 0, 0, parts, **given)
    bucket.put_object(Key=FOLDER + manifest.file_name, Body=manifest.to_json().encode())
    return manifest.file_name


def s3_event(*names, event="ObjectCreated:Put"):
    records = [
        {
            "eventSource": "aws:s3",
            "eventName": event,
            "s3": {"bucket": {"name": BUCKET}, "object": {"key": quote_plus(FOLDER + n, "/")}},
        }
        for n in names
    ]
    return {"Records": records}


def sqs_event(*bodies):
    texts = [body if isinstance(body, str) else json.dumps(body) for body in bodies]
    records = [{"eventSource": "aws:sqs", "messageId": f"m-{number}", "body": text} for number, text in enumerate(texts)]
    return {"Records": records}


def failures(answer):
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


def test_a_part_named_by_a_message_is_searchable_afterwards(bucket, store):
    part = put_part(bucket, lots(3))
    assert handler(sqs_event(s3_event(part.name)), None) == {"batchItemFailures": []}
    found = store.find(TOWER_ID).semantic(lots(1)[0].vector, 3, Filter())
    assert {c.item_id for c in found} == {"lot-0", "lot-1", "lot-2"}


def test_a_message_may_name_several_parts_and_a_batch_several_messages(bucket, store):
    names = [put_part(bucket, lots(2, start=2 * n), n).name for n in range(4)]
    assert failures(handler(sqs_event(s3_event(*names[:2]), s3_event(names[2]), s3_event(names[3])), None)) == []
    assert store.find(TOWER_ID).count() == 8


def test_a_bare_s3_event_from_the_console_is_taken_too(bucket, store):
    assert handler(s3_event(put_part(bucket, lots(2)).name), None) == {"batchItemFailures": []}
    assert store.find(TOWER_ID).count() == 2


@pytest.mark.parametrize("body", ["", "{}", {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": BUCKET}])
def test_a_message_that_names_no_object_is_done(bucket, store, body):
    assert failures(handler(sqs_event(body), None)) == []


@pytest.mark.parametrize("event", [{}, {"Records": []}])
def test_an_event_without_records_is_done(bucket, store, event):
    assert failures(handler(event, None)) == []


def test_other_objects_and_removals_are_passed_over(bucket, store):
    bucket.put_object(Key=FOLDER + "rejects.ndjson", Body=b"")
    message = s3_event("rejects.ndjson", "part-00000.receipt", "manifest.partial")
    gone = s3_event("part-00009.ndjson.gz", event="ObjectRemoved:Delete")
    assert failures(handler(sqs_event(message, gone), None)) == []
    assert store.find(TOWER_ID) is None


def test_only_the_message_that_failed_comes_again(bucket, store):
    good = put_part(bucket, lots(2))
    bucket.put_object(Key=FOLDER + "part-00001.ndjson.gz", Body=b"no gzip")
    answer = handler(
        sqs_event(s3_event("part-00001.ndjson.gz"), s3_event(good.name), s3_event("missing.ndjson.gz"), "not json"), None
    )
    assert failures(answer) == ["m-0", "m-2", "m-3"]
    assert store.find(TOWER_ID).count() == 2


def test_a_bare_s3_event_that_fails_fails_the_call(bucket, store):
    with pytest.raises(lambda_module.s3().exceptions.NoSuchKey):
        handler(s3_event("missing.ndjson.gz"), None)


def test_a_part_comes_again_when_the_index_does_not_answer(bucket, store, monkeypatch):
    def down(tower_id):
        raise IndexUnavailable("no answer")

    monkeypatch.setattr(store, "find", down)
    assert failures(handler(sqs_event(s3_event(put_part(bucket, lots(2)).name)), None)) == ["m-0"]


def test_the_same_message_twice_changes_nothing(bucket, store):
    event = sqs_event(s3_event(put_part(bucket, lots(3)).name))
    handler(event, None)
    before = store.find(TOWER_ID).fetch(["lot-0"])[0].document
    assert failures(handler(event, None)) == []
    assert store.find(TOWER_ID).count() == 3
    assert store.find(TOWER_ID).fetch(["lot-0"])[0].document == before


def test_a_manifest_makes_its_release_live(bucket, store):
    parts = [put_part(bucket, lots(30, start=30 * n), n) for n in range(2)]
    handler(sqs_event(s3_event(*[part.name for part in parts])), None)
    with pytest.raises(IndexMissing):
        store.live()
    assert failures(handler(sqs_event(s3_event(put_manifest(bucket, *parts))), None)) == []
    assert store.live().count() == 60
    told = json.loads(bucket.Object(FOLDER + RECEIPT_FILE).get()["Body"].read())
    assert (told["index"], told["lots"], told["published"]) == (store.live().name, 60, True)


def test_a_manifest_that_is_quicker_than_its_parts_comes_again(bucket, store):
    parts = [put_part(bucket, lots(3, start=3 * n), n) for n in range(2)]
    manifest = put_manifest(bucket, *parts)
    assert failures(handler(sqs_event(s3_event(manifest)), None)) == ["m-0"]
    handler(sqs_event(s3_event(parts[0].name)), None)
    assert failures(handler(sqs_event(s3_event(manifest)), None)) == ["m-0"]
    with pytest.raises(IndexMissing):
        store.live()
    assert RECEIPT_FILE not in [entry.key.removeprefix(FOLDER) for entry in bucket.objects.all()]
    assert failures(handler(sqs_event(s3_event(parts[1].name), s3_event(manifest)), None)) == []
    assert store.live().count() == 6


def test_the_manifest_of_the_last_instance_publishes_the_release(bucket, store):
    parts = [put_part(bucket, lots(3, start=3 * n), n) for n in range(2)]
    handler(sqs_event(s3_event(*[part.name for part in parts])), None)
    first = put_manifest(bucket, parts[0], instance=0, instances=2)
    assert failures(handler(sqs_event(s3_event(first)), None)) == []
    with pytest.raises(IndexMissing):
        store.live()
    last = put_manifest(bucket, parts[1], instance=1, instances=2)
    assert failures(handler(sqs_event(s3_event(last)), None)) == []
    assert store.live().count() == 6


def test_a_part_of_another_tower_does_not_reach_the_live_index(bucket, store):
    part = put_part(bucket, lots(3))
    handler(sqs_event(s3_event(part.name), s3_event(put_manifest(bucket, part))), None)
    other = [replace(e, document={**e.document, "tower_id": "f" * 12}) for e in lots(2, start=9)]
    assert failures(handler(sqs_event(s3_event(put_part(bucket, other, 1).name)), None)) == []
    assert (store.live().tower_id, store.live().count()) == (TOWER_ID, 3)


def test_a_part_is_streamed_and_never_read_whole(bucket, store, monkeypatch):
    part = put_part(bucket, lots(2_000, description="x" * 500))
    reads = Counter()
    body = lambda_module._body

    class Watched:
        def __init__(self, stream):
            self._stream = stream

        def read(self, size=-1):
            reads["calls"] += 1
            reads["unbounded"] += size is None or size < 0
            return self._stream.read(size)

    monkeypatch.setattr(lambda_module, "_body", lambda *where: Watched(body(*where)))
    assert failures(handler(sqs_event(s3_event(part.name)), None)) == []
    assert reads["unbounded"] == 0
    assert reads["calls"] > 1


@pytest.fixture
def towers(bucket, monkeypatch, tmp_path):
    monkeypatch.setenv("GAVEL_TOWERS_URI", f"s3://{BUCKET}/towers")
    monkeypatch.setattr(tower_index, "CARD_CACHE", tmp_path / "cards")
    card = TowerCard(TOWER_ID, "small", 13, 16, 32, (0.0,) * 3, (1.0,) * 3)
    bucket.put_object(Key=f"towers/{TOWER_ID}/{CARD_FILE}", Body=json.dumps(asdict(card)))


def test_the_index_of_a_tower_is_made_once_with_the_length_that_its_card_says(store, towers):
    first, again = (handler({"ensure_index": {"tower_id": TOWER_ID}}, None) for _ in range(2))
    assert first == again == {"index": store.find(TOWER_ID).name}
    assert store.find(TOWER_ID).dimensions == 13


def test_a_tower_that_is_not_in_the_bucket_gets_no_index(store, towers):
    with pytest.raises(TowerError, match=r"s3://embeddings/towers/ffffffffffff/tower\.json cannot be fetched: .*put the folder"):
        handler({"ensure_index": {"tower_id": "f" * 12}}, None)
    assert store.find("f" * 12) is None


def test_a_schedule_gets_the_recall_of_the_live_index(store):
    with pytest.raises(IndexMissing):
        handler({"probe": {}}, None)
    live = publish(store, lots(30))
    assert handler({"probe": {}}, None) == {"index": live.name, "lots": 30, "recall": 1.0}


def test_a_release_of_a_day_does_not_take_the_alias_from_an_index_of_another_tower(bucket, store):
    publish(store, [replace(e, document={**e.document, "tower_id": "f" * 12}) for e in lots(9)], tower_id="f" * 12)
    part = put_part(bucket, lots(3))
    assert failures(handler(sqs_event(s3_event(part.name), s3_event(put_manifest(bucket, part))), None)) == ["m-1"]
    assert store.live().tower_id == "f" * 12
