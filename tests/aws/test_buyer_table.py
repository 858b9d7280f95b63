"""The table of buyers' events when DynamoDB takes half, cuts its answers into pages, or is not there (moto)."""

from datetime import UTC, datetime, timedelta

import boto3
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError, ConnectTimeoutError
from buyer_tables import make_buyer_table
from moto import mock_aws

from retrieval.buyers import dynamodb_history as buyer_table
from retrieval.buyers.dynamodb_history import ATTEMPTS, BuyerTable
from retrieval.contracts.events import Interaction
from retrieval.errors import FeedbackUnavailable

NOW = datetime(2026, 11, 21, 20, tzinfo=UTC)
TABLE = "buyers"


def acts(count, buyer_id="buyer-1"):
    return [Interaction(buyer_id, f"v{n:04}", "view", NOW - timedelta(minutes=n)) for n in range(count)]


@pytest.fixture
def table(monkeypatch):
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "eu-west-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setattr(buyer_table, "LONGEST_WAIT_S", 0.01)
    with mock_aws():
        make_buyer_table(TABLE)
        yield BuyerTable(TABLE, 90, lambda: NOW)


@pytest.fixture
def calls(monkeypatch):
    """(operation, parameters) of every call; a function of `instead` answers calls of its operation in the place of moto."""
    made, call = [], BaseClient._make_api_call

    def recorded(self, operation, parameters):
        made.append((operation, parameters))
        other = recorded.instead.get(operation)
        return other(lambda changed: call(self, operation, changed), parameters) if other else call(self, operation, parameters)

    recorded.instead = {}
    monkeypatch.setattr(BaseClient, "_make_api_call", recorded)
    return type("Calls", (), {"made": made, "instead": recorded.instead})


def takes_ten(go_on, parameters):
    """DynamoDB takes ten writes of a call and leaves the others."""
    ((name, writes),) = parameters["RequestItems"].items()
    answer = go_on({"RequestItems": {name: writes[:10]}})
    return {**answer, "UnprocessedItems": {name: writes[10:]} if writes[10:] else {}}


def sizes(calls):
    return [len(given["RequestItems"][TABLE]) for operation, given in calls.made if operation == "BatchWriteItem"]


def test_what_was_not_taken_is_sent_again_and_nothing_else(table, calls):
    calls.instead["BatchWriteItem"] = takes_ten
    table.append(acts(30))
    assert sizes(calls) == [25, 15, 5, 5]
    assert len(table.recent("buyer-1")) == 30
    assert table.erase("buyer-1") == 30
    assert table.recent("buyer-1") == []


def test_a_table_that_goes_on_refusing_is_told_and_all_may_be_sent_again(table, calls):
    calls.instead["BatchWriteItem"] = lambda go_on, given: {"UnprocessedItems": given["RequestItems"]}
    with pytest.raises(FeedbackUnavailable, match=r"3 writes were not taken.*try again"):
        table.append(acts(3))
    assert sizes(calls) == [3] * ATTEMPTS
    calls.instead.clear()
    table.append(acts(3))
    assert len(table.recent("buyer-1")) == 3


def test_a_buyer_is_erased_page_by_page_by_consistent_reads(table, calls):
    table.append(acts(57))
    calls.instead["Query"] = lambda go_on, given: go_on({**given, "Limit": 20})
    assert table.erase("buyer-1") == 57
    pages = [given for operation, given in calls.made if operation == "Query"]
    assert len(pages) == 3
    assert all(page["ConsistentRead"] for page in pages)
    calls.instead.clear()
    assert table.recent("buyer-1") == []


def test_every_act_says_when_it_may_go(table):
    ahead = Interaction("buyer-1", "ahead", "view", NOW + timedelta(hours=20))
    table.append([*acts(1), ahead])
    items = boto3.client("dynamodb").scan(TableName=TABLE)["Items"]
    gone = [datetime.fromtimestamp(int(item["expires_at"]["N"]), UTC) for item in items]
    assert all(timedelta(0) <= moment - (NOW + timedelta(days=90)) < timedelta(seconds=2) for moment in gone), (
        "nothing stays longer"
    )


def refused(*_):
    raise ClientError({"Error": {"Code": "ValidationException", "Message": "the key buyer-1 is bad"}}, "Query")


def out_of_reach(*_):
    raise ConnectTimeoutError(endpoint_url="https://dynamodb")


@pytest.mark.parametrize("fails", [refused, out_of_reach])
def test_a_call_that_fails_is_told_without_the_buyer(table, calls, fails):
    calls.instead |= dict.fromkeys(("Query", "BatchWriteItem"), fails)
    for call in (lambda: table.append(acts(1)), lambda: table.recent("buyer-1"), lambda: table.erase("buyer-1")):
        with pytest.raises(FeedbackUnavailable, match="does not answer") as told:
            call()
        assert "buyer-1" not in str(told.value)
        assert told.value.__cause__ is None


def test_a_table_that_is_not_there_is_told(table):
    with pytest.raises(FeedbackUnavailable, match="ResourceNotFoundException"):
        BuyerTable("another", 90, lambda: NOW).recent("buyer-1")
