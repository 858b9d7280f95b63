"""Feedback on its way through Firehose into S3 (moto), from the route to the trainer's reader, with what may go wrong between."""

import json
from datetime import UTC, datetime

import boto3
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError, ConnectTimeoutError
from fastapi.testclient import TestClient
from moto import mock_aws

from catalog.event_files import read_events
from gavel.workspace.wiring import event_sink
from lambdas.query_api.app import create_app
from lambdas.query_api.events import events_router
from retrieval.config.settings import Settings
from retrieval.errors import FeedbackUnavailable
from retrieval.feedback import firehose_sink as event_stream
from retrieval.feedback.file_sink import EventLog
from retrieval.feedback.firehose_sink import ATTEMPTS, EventStream
from retrieval.feedback.rows import MAX_EVENTS, Feedback, ListEvent, feedback_rows

STREAM, BUCKET = "gavel-dev-events", "events-bucket"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def bucket(monkeypatch):
    """The bucket that a delivery stream writes to."""
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "eu-west-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setattr(event_stream, "LONGEST_WAIT_S", 0.01)
    with mock_aws():
        made = boto3.resource("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        place = {"RoleARN": "arn:aws:iam::123456789012:role/r", "BucketARN": f"arn:aws:s3:::{BUCKET}", "Prefix": "events/"}
        boto3.client("firehose").create_delivery_stream(DeliveryStreamName=STREAM, ExtendedS3DestinationConfiguration=place)
        yield made


def rows(count=1, item_id="v"):
    acts = [ListEvent("click", f"{item_id}{n}", n + 1, NOW) for n in range(count)]
    return feedback_rows(Feedback("list-1", "session-1", "rote Vase", NOW, acts), NOW)


def fetched(bucket, folder):
    """What the trainer reads of the bucket."""
    for number, entry in enumerate(bucket.objects.all()):
        bucket.download_file(entry.key, str(folder / f"{number}"))
    return read_events([folder], trust_unsigned=True)


@pytest.fixture
def calls(monkeypatch):
    """Every call of PutRecordBatch; a function in `answers` answers the next one instead of moto."""
    made, call = [], BaseClient._make_api_call

    def recorded(self, operation, parameters):
        if operation != "PutRecordBatch":
            return call(self, operation, parameters)
        made.append([record["Data"] for record in parameters["Records"]])
        if recorded.answers:
            return recorded.answers.pop(0)(lambda kept: call(self, operation, {**parameters, "Records": kept}), parameters)
        return call(self, operation, parameters)

    recorded.answers = []
    made_calls = type("Calls", (), {"made": made, "answers": recorded.answers})
    monkeypatch.setattr(BaseClient, "_make_api_call", recorded)
    return made_calls


def refuses_the_first(go_on, parameters):
    """Firehose takes all records but the first."""
    _, *others = parameters["Records"]
    taken = go_on(others)["RequestResponses"] if others else []
    refused = {"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down."}
    return {"FailedPutCount": 1, "Encrypted": False, "RequestResponses": [refused, *taken]}


def test_a_request_of_the_page_comes_out_as_the_trainer_reads_it(bucket, tmp_path):
    api = create_app(lambda: None)
    api.include_router(events_router(EventStream(STREAM)))
    now = datetime.now(UTC).isoformat()
    click = {"event_type": "click", "item_id": "v1", "position": 3, "timestamp": now}
    shown = {"query_id": "l-1", "session_id": "s-1", "query": "red vase", "shown_at": now, "events": [click]}
    answer = TestClient(api).post("/events", json=shown)
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "served": 0})
    (read,) = fetched(bucket, tmp_path).clicks
    assert (read.query, read.item_id, read.position, read.event_type) == ("red vase", "v1", 3, "view")


def test_the_rows_of_a_request_travel_in_one_record(bucket, calls, tmp_path):
    EventStream(STREAM).append(rows(MAX_EVENTS))
    assert [len(records) for records in calls.made] == [1]
    assert len(fetched(bucket, tmp_path).clicks) == MAX_EVENTS


def test_the_largest_request_is_cut_into_records_that_firehose_takes(bucket, calls, tmp_path):
    acts = [ListEvent("click", f"{n:03}{'x' * 509}", n + 1, NOW) for n in range(MAX_EVENTS)]
    largest = feedback_rows(Feedback("\u00e9" * 128, "\u00e9" * 128, "\U0001f3fa" * 512, NOW, acts), NOW)
    EventStream(STREAM).append(largest)
    assert len(calls.made[0]) > 1
    assert all(len(record) < 1_024_000 for record in calls.made[0])
    assert sum(map(len, calls.made[0])) < 4 * 1024 * 1024
    assert len(fetched(bucket, tmp_path).clicks) == MAX_EVENTS


def test_records_that_were_not_taken_are_sent_again_and_no_others(bucket, calls, monkeypatch, tmp_path):
    monkeypatch.setattr(event_stream, "MAX_RECORD_BYTES", 400)  # a row a record
    calls.answers += [refuses_the_first, refuses_the_first]
    EventStream(STREAM).append(rows(3))
    assert [len(records) for records in calls.made] == [3, 1, 1]
    read = fetched(bucket, tmp_path)
    assert (len(read.clicks), read.duplicates) == (3, 0)


def test_a_stream_that_goes_on_refusing_is_a_503_with_the_way_out_and_a_repeated_request_counts_once(
    bucket, calls, tmp_path, caplog
):
    api = create_app(lambda: None)
    api.include_router(events_router(EventStream(STREAM)))
    now = datetime.now(UTC).isoformat()
    click = {"event_type": "click", "item_id": "v1", "position": 3, "timestamp": now}
    shown = {"query_id": "l-1", "session_id": "s-1", "query": "red vase", "shown_at": now, "events": [click]}
    calls.answers += [refuses_the_first] * ATTEMPTS
    answer = TestClient(api).post("/events", json=shown)
    assert (answer.status_code, answer.json()["type"]) == (503, "feedback_unavailable")
    assert "Slow down" not in answer.json()["detail"]
    assert "Slow down" in caplog.text
    assert answer.headers["retry-after"] == "5"
    assert len(calls.made) == ATTEMPTS
    for _ in range(2):
        assert TestClient(api).post("/events", json=shown).status_code == 202
    read = fetched(bucket, tmp_path)
    assert (len(read.clicks), read.duplicates) == (1, 1)


def throttled(*_):
    raise ClientError({"Error": {"Code": "ServiceUnavailableException", "Message": "Slow down."}}, "PutRecordBatch")


def out_of_reach(*_):
    raise ConnectTimeoutError(endpoint_url="https://firehose")


@pytest.mark.parametrize("fails", [throttled, out_of_reach])
def test_a_call_that_fails_is_told_as_feedback_that_is_not_kept(bucket, calls, fails):
    calls.answers += [fails]
    with pytest.raises(FeedbackUnavailable, match=f"{STREAM} does not take events .* send them again"):
        EventStream(STREAM).append(rows())


@pytest.mark.parametrize(("name", "words"), [("", "GAVEL_EVENTS_STREAM"), ("another", "another does not take events")])
def test_without_a_stream_the_setting_is_named(bucket, name, words):
    with pytest.raises(FeedbackUnavailable, match=words):
        EventStream(name).append(rows())


def test_the_setting_chooses_between_the_stream_and_the_files(bucket, tmp_path):
    event_sink(Settings(home=tmp_path / "home", events_stream=STREAM)).append(rows())
    assert not (tmp_path / "home").exists()
    assert len(list(bucket.objects.all())) == 1
    files = event_sink(Settings(home=tmp_path / "home"))
    assert isinstance(files, EventLog)
    files.append(rows())
    (written,) = (tmp_path / "home" / "events").iterdir()
    assert json.loads(written.read_text())["item_id"] == "v0"
