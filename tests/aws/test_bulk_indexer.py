"""The bulk-index Lambda against S3 (moto) and the embedded index: events of every shape, failures one message at a time."""

import gzip
import hashlib
import json
import random
from collections import Counter
from dataclasses import asdict, replace
from datetime import UTC, datetime
from urllib.parse import quote_plus

import boto3
import numpy as np
import pytest
from lots import TOWER_ID, lot, publish
from moto import mock_aws

from lambdas.bulk_indexer import handler as lambda_module
from lambdas.bulk_indexer import tower_index
from lambdas.bulk_indexer.handler import handler
from lambdas.bulk_indexer.publishing import Bucket
from retrieval.contracts.documents import Deletion, bulk_lines
from retrieval.contracts.items import latest_version
from retrieval.contracts.release import INDEX_REJECTS_FILE, RECEIPT_FILE, IndexedPart, Manifest, Part
from retrieval.contracts.tower_card import CARD_FILE, TowerCard
from retrieval.errors import IndexMissing, IndexUnavailable, InvalidInput, ReleaseError, TowerError
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter

BUCKET = "embeddings"
FOLDER = "embeddings/night 1+2/"  # a blank and a plus, which S3 encodes in event keys


@pytest.fixture
def store(tmp_path, monkeypatch):
    made = EmbeddedStore(tmp_path / "index")
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
    text = "".join(line + "\n" for entry in entries for line in bulk_lines(entry))
    data = gzip.compress(text.encode(), mtime=0)  # the same entries, the same bytes
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


def created(key):
    """As EventBridge tells of an object: the key as it is."""
    return {"source": "aws.s3", "detail-type": "Object Created", "detail": {"bucket": {"name": BUCKET}, "object": {"key": key}}}


def sns(message):
    return {"Type": "Notification", "TopicArn": "arn:aws:sns:eu-west-1:123456789012:parts", "Message": json.dumps(message)}


def of_function(message):
    """As SNS calls a function."""
    return {"Records": [{"EventSource": "aws:sns", "Sns": {"Message": json.dumps(message)}}]}


FORMS = {
    "S3": lambda key: s3_event(key.removeprefix(FOLDER)),
    "SNS": lambda key: sns(s3_event(key.removeprefix(FOLDER))),
    "EventBridge": created,
    "SNS of EventBridge": lambda key: sns(created(key)),
    "SNS of SNS": lambda key: sns(sns(created(key))),
    "SNS as it calls a function": lambda key: of_function(created(key)),
    "SQS in SNS": lambda key: sns(sqs_event(created(key))),
    "by hand": lambda key: {"s3_key": key},
    "by hand, of a bucket": lambda key: {"s3_key": key, "bucket": BUCKET},
    "S3 without an event": lambda key: {"s3": {"bucket": {"name": BUCKET}, "object": {"key": quote_plus(key, "/")}}},
    "S3 with an event of null": lambda key: {"Records": [s3_event(key.removeprefix(FOLDER))["Records"][0] | {"eventName": None}]},
    "S3 as MinIO says it": lambda key: s3_event(key.removeprefix(FOLDER), event="s3:ObjectCreated:Put"),
}


@pytest.mark.parametrize("queued", [True, False], ids=["queued", "called"])
def test_a_part_is_found_in_every_wrapping_of_its_message(bucket, store, monkeypatch, queued):
    monkeypatch.setenv("GAVEL_EMBEDDINGS_BUCKET", BUCKET)
    parts = [put_part(bucket, lots(2, start=2 * n), n) for n in range(len(FORMS))]
    messages = [form(FOLDER + part.name) for form, part in zip(FORMS.values(), parts, strict=True)]
    if queued:
        assert [list(FORMS)[int(name.removeprefix("m-"))] for name in failures(handler(sqs_event(*messages), None))] == []
    else:
        by_hand = [message for message in messages if "s3_key" in message]
        assert [handler(m, None) for m in messages if m not in by_hand] == [{"batchItemFailures": []}] * (len(FORMS) - 2)
        assert [handler(message, None)["part"]["indexed"] for message in by_hand] == [2, 2]
    assert store.find(TOWER_ID).count() == 2 * len(FORMS)


DONE = {
    "test": {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": BUCKET},
    "test in SNS": sns({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": BUCKET}),
    "removed": s3_event("part-00009.ndjson.gz", event="ObjectRemoved:DeleteMarkerCreated"),
    "expired": s3_event("part-00009.ndjson.gz", event="LifecycleExpiration:Delete"),
    "removed, by EventBridge": {**created(FOLDER + "part-00009.ndjson.gz"), "detail-type": "Object Deleted"},
}


def test_a_message_that_asks_for_nothing_is_done(bucket, store):
    assert failures(handler(sqs_event(*DONE.values()), None)) == []
    for message in DONE.values():
        assert handler(message, None) == {"batchItemFailures": []}
    assert store.find(TOWER_ID) is None


UNKNOWN = {
    "nothing": "",
    "null": "null",
    "list": "[]",
    "list of one": [{"s3_key": "x.ndjson.gz"}],
    "number": "5",
    "text": '"part-00000.ndjson.gz"',
    "no JSON": "{oops",
    "empty": {},
    "no records": {"Records": []},
    "records of null": {"Records": [None]},
    "records that are none": {"Records": "part-00000.ndjson.gz"},
    "S3 without s3": {"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put"}]},
    "S3 without a key": {"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": BUCKET}, "object": {}}}]},
    "another event of S3": s3_event("part-00000.ndjson.gz", event="ObjectTagging:Put"),
    "another event of EventBridge": {"source": "aws.ec2", "detail-type": "EC2 Instance State-change", "detail": {}},
    "another source": {**created("part-00000.ndjson.gz"), "source": "shop"},
    "SNS that is no JSON": {"Type": "Notification", "Message": "hello"},
    "SNS of nothing known": sns({"hello": "world"}),
    "a subscription": {"Type": "SubscriptionConfirmation", "Message": "You have chosen to subscribe"},
    "a key that is none": {"s3_key": 5},
    "a bucket that is none": {"s3_key": "night/part-00000.ndjson.gz", "bucket": 5},
    "a part with a word that the indexer does not know": {"s3_key": "night/part-00000.ndjson.gz", "force": True},
    "a key of no part": {"s3_key": "night/part-00000.ndjson"},
    **{
        f"{name} by hand": {"s3_key": f"night/{name}", "bucket": BUCKET}
        for name in ("Manifest.json", "manifest-1-of-2.json", "manifests.json", "rejects.json", "indexed.json", "manifest.json/")
    },
    "of another program": {"job": "resize", "image": "a.jpg"},
}


def test_a_message_that_nobody_understands_is_never_done(bucket, store):
    good = s3_event(put_part(bucket, lots(2)).name)
    failed = failures(handler(sqs_event(*UNKNOWN.values(), good), None))
    assert [list(UNKNOWN)[int(name.removeprefix("m-"))] for name in failed] == list(UNKNOWN)
    assert store.find(TOWER_ID).count() == 2, "one bad message does not hold back the others"


@pytest.mark.parametrize("message", [None, 5, [], *UNKNOWN.values()])
def test_a_call_that_nobody_understands_is_an_error(message):
    with pytest.raises(InvalidInput, match=r"the bulk indexer does not know|the message is no JSON"):
        handler(message, None)


def test_a_key_alone_needs_a_bucket(bucket, store, monkeypatch):
    monkeypatch.delenv("GAVEL_EMBEDDINGS_BUCKET", raising=False)
    with pytest.raises(InvalidInput, match=r'names no bucket: add "bucket", or set GAVEL_EMBEDDINGS_BUCKET'):
        handler({"s3_key": FOLDER + put_part(bucket, lots(2)).name}, None)


@pytest.fixture
def own(monkeypatch, tmp_path):
    """The environment of the deployed function: its own bucket, and a store of towers without a tower."""
    monkeypatch.setenv("GAVEL_EMBEDDINGS_BUCKET", BUCKET)
    monkeypatch.setenv("GAVEL_TOWERS_URI", str(tmp_path / "towers"))
    return tmp_path / "towers"


def by_hand(name, **bucket):
    return handler({"s3_key": FOLDER + name, **bucket}, None)


def test_a_part_sent_by_hand_is_searchable_and_its_counts_are_the_answer(bucket, store, own):
    index = store.create(TOWER_ID, 13)
    part = put_part(bucket, [*lots(19), replace(lots(20)[19], vector=np.zeros(13, np.float32))])
    answer = by_hand(part.name)
    receipt = f"{FOLDER}receipts/{part.name}.receipt"
    counts = {"indexed": 19, "stale": 0, "refused": 1, "withdrawn": 0}
    assert answer == {
        "bucket": BUCKET,
        "s3_key": FOLDER + part.name,
        "part": {"index": index.name, "tower_id": TOWER_ID, "receipt": receipt, **counts},
        "release": {"published": False, "reason": f"{FOLDER}manifest.json is not there yet"},
    }
    assert len(index.semantic(lots(1)[0].vector, 3, Filter())) == 3
    assert IndexedPart.from_json(bucket.Object(receipt).get()["Body"].read().decode()).rejected


def test_the_last_part_sent_by_hand_and_its_manifest_publish_the_release(bucket, store, own):
    store.create(TOWER_ID, 13)
    parts = [put_part(bucket, lots(30, start=30 * n), n) for n in range(2)]
    manifest = put_manifest(bucket, *parts)
    assert by_hand(parts[0].name)["release"] == {"published": False, "reason": "1 of 2 parts are indexed"}
    told = by_hand(parts[1].name, bucket=BUCKET)["release"]
    assert (told["published"], told["lots"], told["indexed"]) == (True, 60, 60)
    again = by_hand(manifest)
    assert "part" not in again
    assert (again["release"]["published"], again["release"]["lots"]) == (False, 60), "it was live before"


def test_a_wrong_key_by_hand_is_named_with_the_way_to_the_right_one(bucket, store, own):
    with pytest.raises(InvalidInput, match=r"s3://embeddings/.*/missing.ndjson.gz does not exist; `aws s3 ls s3://embeddings/`"):
        by_hand("missing.ndjson.gz")


def test_a_foreign_bucket_by_hand_is_refused_before_anything_is_read(bucket, store, own):
    with pytest.raises(InvalidInput, match=r"reads the bucket embeddings alone, not 'others'; copy the release there"):
        by_hand("part-00000.ndjson.gz", bucket="others")


def test_a_part_whose_tower_is_nowhere_makes_no_index(bucket, store, own):
    part = put_part(bucket, lots(3))
    with pytest.raises(TowerError, match=f"tower {TOWER_ID}, which no index .* `gavel aws publish {TOWER_ID}`"):
        by_hand(part.name)
    assert store.find(TOWER_ID) is None
    store.create(TOWER_ID, 13)
    assert by_hand(part.name)["part"]["indexed"] == 3, "an index that is there already has its tower"


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


def receipt_of(bucket):
    """What the release's receipt says; None where there is none."""
    there = [entry.key for entry in bucket.objects.filter(Prefix=FOLDER + RECEIPT_FILE)]
    return json.loads(bucket.Object(there[0]).get()["Body"].read()) if there else None


def rejects_of(bucket):
    return [json.loads(line) for line in bucket.Object(FOLDER + INDEX_REJECTS_FILE).get()["Body"].read().splitlines()]


@pytest.fixture(params=["new index", "live index"])
def shop(request, store):
    """A store without an index, and one whose live index holds more lots than any release."""
    if request.param == "live index":
        publish(store, lots(100, start=500))
    return store


def test_a_manifest_before_its_part_is_not_done_and_the_part_publishes(bucket, shop):
    data_of = put_part(bucket, lots(30))
    manifest = put_manifest(bucket, data_of)
    bucket.Object(FOLDER + data_of.name).delete()  # the event of the manifest is quicker than the upload of its part
    assert failures(handler(sqs_event(s3_event(manifest)), None)) == ["m-0"]
    assert receipt_of(bucket) is None
    part = put_part(bucket, lots(30))
    assert failures(handler(sqs_event(s3_event(part.name)), None)) == [], "it waits for no second look at the manifest"
    assert receipt_of(bucket)["indexed"] == 30
    moved = receipt_of(bucket)["published"]
    assert failures(handler(sqs_event(s3_event(manifest)), None)) == []
    assert receipt_of(bucket)["published"] == moved


def test_a_manifest_whose_part_failed_is_not_done(bucket, shop):
    parts = [put_part(bucket, lots(30, start=30 * n), n) for n in range(2)]
    whole = bucket.Object(FOLDER + parts[1].name).get()["Body"].read()
    bucket.put_object(Key=FOLDER + parts[1].name, Body=whole[: len(whole) // 2])
    events = [s3_event(name) for name in (parts[0].name, parts[1].name, put_manifest(bucket, *parts))]
    with pytest.raises(ReleaseError, match=rf"^{parts[1].name} is not a whole embedding part: .* `gavel embed` again"):
        handler(events[1], None)
    assert failures(handler(sqs_event(*events), None)) == ["m-1", "m-2"]
    assert receipt_of(bucket) is None
    bucket.put_object(Key=FOLDER + parts[1].name, Body=whole)
    assert failures(handler(sqs_event(*events[1:]), None)) == []
    assert receipt_of(bucket)["indexed"] == 60


@pytest.mark.parametrize("manifest_first", [True, False])
def test_a_part_that_was_cut_to_a_shorter_whole_one_fails_until_the_whole_one_comes(bucket, shop, manifest_first):
    part = put_part(bucket, lots(20))
    manifest = put_manifest(bucket, part)
    put_part(bucket, lots(10))
    events = [s3_event(part.name), s3_event(manifest)]
    assert failures(handler(sqs_event(*(reversed(events) if manifest_first else events)), None)) == ["m-0", "m-1"]
    assert receipt_of(bucket) is None
    put_part(bucket, lots(20))
    assert failures(handler(sqs_event(*events), None)) == []
    assert receipt_of(bucket)["indexed"] == 20


def test_an_item_that_the_index_refuses_is_in_the_rejects_and_the_rest_is_live(bucket, shop, caplog):
    entries = [*lots(19), replace(lots(20)[19], vector=np.zeros(13, np.float32))]
    part = put_part(bucket, entries)
    assert failures(handler(sqs_event(s3_event(part.name), s3_event(put_manifest(bucket, part))), None)) == []
    assert (receipt_of(bucket)["indexed"], receipt_of(bucket)["refused"]) == (19, 1)
    assert rejects_of(bucket) == [{"part": part.name, "item_id": "lot-19", "reason": "the vector has length 0, not 1"}]
    (told,) = [record for record in caplog.records if record.message == "part indexed"]
    assert (told.indexed, told.refused) == (19, 1), "the metric and its alarm count this line"


def test_a_release_of_which_most_was_refused_is_not_done_and_tells_why(bucket, shop):
    part = put_part(bucket, [*lots(4), *[replace(entry, vector=np.zeros(13, np.float32)) for entry in lots(20, start=4)]])
    assert failures(handler(sqs_event(s3_event(part.name), s3_event(put_manifest(bucket, part))), None)) == ["m-1"]
    assert receipt_of(bucket) is None
    assert len(rejects_of(bucket)) == 20


def test_a_rebuild_into_an_index_that_is_there_already_needs_its_own_lots(bucket, store):
    """The index of the tower was filled before; its lots are not those of the rebuild."""
    publish(store, [replace(e, document={**e.document, "tower_id": "f" * 12}) for e in lots(9)], tower_id="f" * 12)
    there = store.create(TOWER_ID, 13)
    there.upsert(lots(100, start=500))
    part = put_part(bucket, lots(100))
    manifest = put_manifest(bucket, part)
    assert failures(handler(sqs_event(s3_event(manifest)), None)) == ["m-0"]
    assert store.live().tower_id == "f" * 12
    assert failures(handler(sqs_event(s3_event(part.name)), None)) == []
    assert (store.live().name, receipt_of(bucket)["indexed"]) == (there.name, 100)
    assert len(store.live().fetch([f"lot-{i}" for i in range(100)])) == 100


def test_the_receipt_of_a_part_says_what_was_stale_and_withdrawn_and_the_next_one_replaces_it(bucket, store):
    index = store.create(TOWER_ID, 13)
    index.upsert(lots(2, updated_at=datetime(2026, 11, 22, tzinfo=UTC)))
    part = put_part(bucket, [*lots(5), Deletion("lot-4", latest_version())])
    handler(sqs_event(s3_event(part.name)), None)
    receipt = IndexedPart.from_json(bucket.Object(FOLDER + IndexedPart(part=part.name).key).get()["Body"].read().decode())
    assert (receipt.index, receipt.tower_id, receipt.sha256) == (index.name, TOWER_ID, part.sha256)
    assert (receipt.indexed, receipt.stale_ids, receipt.deleted_ids) == (3, ["lot-0", "lot-1"], ["lot-4"])
    again = put_part(bucket, lots(3, start=7))
    handler(sqs_event(s3_event(part.name)), None)
    receipt = IndexedPart.from_json(bucket.Object(FOLDER + IndexedPart(part=part.name).key).get()["Body"].read().decode())
    assert (receipt.indexed, receipt.stale, receipt.sha256) == (3, 0, again.sha256)


def test_sixteen_parts_shuffled_and_doubled_are_right_to_the_last_item(bucket, shop):
    before = 100 if shop.find(TOWER_ID) else 0
    parts = [put_part(bucket, lots(5, start=5 * n), n) for n in range(16)]
    manifests = [put_manifest(bucket, *parts[n::2], instance=n, instances=2) for n in range(2)]
    waiting = [*(part.name for part in parts), *manifests] * 2
    random.Random(7).shuffle(waiting)
    while waiting:
        failed = failures(handler(sqs_event(*map(s3_event, waiting)), None))
        waiting = [waiting[int(name.removeprefix("m-"))] for name in failed]
    assert receipt_of(bucket)["indexed"] == 80
    assert shop.live().count() == before + 80


def test_a_manifest_of_another_program_beside_a_release_does_not_hold_it_back(bucket, store):
    bucket.put_object(Key=FOLDER + "manifest-of-photos.json", Body=b'{"photos": []}')
    part = put_part(bucket, lots(3))
    events = map(s3_event, (part.name, put_manifest(bucket, part), "manifest-of-photos.json"))
    assert failures(handler(sqs_event(*events), None)) == []
    assert store.live().count() == 3


@pytest.mark.parametrize("text", [b"", b"null", b"{}", b"\xff\xfe", b'{"parts": 3}', "instances"], ids=str)
def test_a_manifest_that_is_damaged_is_named(bucket, store, text):
    part = put_part(bucket, lots(3))
    there = bucket.Object(FOLDER + put_manifest(bucket, part))
    text = there.get()["Body"].read().replace(b'"instances": 1', b'"instances": "1"') if text == "instances" else text
    there.put(Body=text)
    with pytest.raises(
        ReleaseError, match=r"^s3://embeddings/.*/manifest.json is damaged \(not a release manifest: .*\); .* `gavel embed`"
    ):
        handler(s3_event("manifest.json"), None)


def test_a_receipt_that_is_damaged_is_named_until_its_part_comes_again(bucket, store):
    part = put_part(bucket, lots(3))
    handler(s3_event(part.name), None)
    bucket.put_object(Key=FOLDER + IndexedPart(part=part.name).key, Body=b"\xff")
    with pytest.raises(ReleaseError, match=r"\.receipt is damaged \(not the receipt of a part: .*\); index its part again"):
        handler(s3_event(put_manifest(bucket, part)), None)
    handler(s3_event(part.name), None)
    assert receipt_of(bucket)["indexed"] == 3


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b"5", b"null", b"\xff", b'{"index": "x", "published": 1}'])
def test_the_receipt_of_a_release_that_is_damaged_or_of_another_is_written_anew(bucket, store, damage):
    part = put_part(bucket, lots(3))
    handler(s3_event(part.name, put_manifest(bucket, part)), None)
    for name in (RECEIPT_FILE, f"{RECEIPT_FILE}.bak"):
        bucket.put_object(Key=FOLDER + name, Body=damage)
    assert failures(handler(sqs_event(s3_event(part.name), s3_event("manifest.json")), None)) == []
    assert (receipt_of(bucket)["lots"], receipt_of(bucket)["published"]) == (3, False)
    assert bucket.Object(f"{FOLDER}{RECEIPT_FILE}.bak").get()["Body"].read() == damage


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
    body = Bucket.body

    class Watched:
        def __init__(self, stream):
            self._stream = stream

        def read(self, size=-1):
            reads["calls"] += 1
            reads["unbounded"] += size is None or size < 0
            return self._stream.read(size)

    monkeypatch.setattr(Bucket, "body", lambda releases, key: Watched(body(releases, key)))
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
