"""The function of states over a real node: messages of the queue, and what is handed back."""

import json
import uuid

import pytest
from lots import TOWER_ID, WORDS, lot
from opensearchpy import OpenSearch

from lambdas.item_states import handler as module
from lambdas.item_states.handler import MAX_STATES, handler
from retrieval.errors import IndexMissing, IndexUnavailable, InvalidInput
from retrieval.index.opensearch.store import OpenSearchStore

SENT = 1_795_982_400_000  # ms


@pytest.fixture
def store(opensearch_url, monkeypatch):
    """The function's store, behind an alias of its own."""
    alias = f"stated-{uuid.uuid4().hex[:8]}"
    store = OpenSearchStore(opensearch_url, alias=alias)
    monkeypatch.setattr(module, "store", lambda: store)
    yield store
    client = OpenSearch(opensearch_url)
    client.indices.delete(index=f"{alias}-*")
    client.close()


@pytest.fixture
def index(store):
    index = store.create(TOWER_ID, len(WORDS) + 1)
    index.upsert([lot(f"lot-{number}", "red vase", current_price=10.0) for number in range(3)])
    index.refresh()
    store.publish(index.name)
    return store.live()


def messages(*bodies, sent=SENT):
    """An event of SQS with these bodies."""
    return {
        "Records": [
            {
                "eventSource": "aws:sqs",
                "messageId": f"m-{number}",
                "body": body if isinstance(body, str) else json.dumps(body),
                "attributes": {"SentTimestamp": str(sent)},
            }
            for number, body in enumerate(bodies)
        ]
    }


def failures(event):
    return [failure["itemIdentifier"] for failure in handler(event, None)["batchItemFailures"]]


def bids(index):
    return {lot.item_id: lot.document.get("bid_count") for lot in index.fetch(["lot-0", "lot-1", "lot-2"])}


def test_a_message_is_one_state_or_several_or_an_event_with_them(index):
    event = {"detail-type": "Item State", "source": "gavel.dev", "detail": {"item_id": "lot-2", "bid_count": 3}}
    sent = messages({"item_id": "lot-0", "bid_count": 1}, [{"item_id": "lot-1", "bid_count": 2}], event)
    assert failures(sent) == []
    assert bids(index) == {"lot-0": 1, "lot-1": 2, "lot-2": 3}


def test_a_message_that_comes_again_does_not_undo_what_came_meanwhile(index):
    assert failures(messages({"item_id": "lot-0", "bid_count": 1})) == []
    assert failures(messages({"item_id": "lot-0", "bid_count": 2}, sent=SENT + 1)) == []
    assert failures(messages({"item_id": "lot-0", "bid_count": 1})) == []
    assert bids(index)["lot-0"] == 2


@pytest.mark.parametrize(
    "body",
    [
        "no JSON",
        "7",
        {"bid_count": 1},
        {"item_id": "lot-1", "bids_total": 1},
        [{"item_id": "lot-1", "bid_count": -1}],
        {"detail-type": "Item State"},
        [{"item_id": "lot-1", "bid_count": 1}] * (MAX_STATES + 1),
    ],
)
def test_a_state_that_cannot_be_read_hands_its_message_back_and_stops_no_other(index, body):
    assert failures(messages(body, {"item_id": "lot-0", "bid_count": 1})) == ["m-0"]
    assert bids(index)["lot-0"] == 1


def test_the_good_states_of_a_message_with_a_bad_one_count(index):
    assert failures(messages([{"item_id": "lot-0", "bid_count": 1}, {"item_id": "lot-1", "bid_count": "x"}])) == ["m-0"]
    assert bids(index)["lot-0"] == 1


def test_every_message_comes_again_if_the_index_fails(index, monkeypatch):
    def fails(updates):
        raise IndexUnavailable("no answer")

    monkeypatch.setattr(index, "update_states", fails)
    monkeypatch.setattr(module, "live_index", lambda: index)
    assert failures(messages({"item_id": "lot-0", "bid_count": 1}, {"item_id": "lot-1", "bid_count": 1})) == ["m-0", "m-1"]


def test_before_the_first_release_messages_wait(store):
    with pytest.raises(IndexMissing):
        handler(messages({"item_id": "lot-0", "bid_count": 1}), None)


def test_an_event_of_another_service_is_refused(store):
    with pytest.raises(InvalidInput, match="neither of SQS nor of API Gateway"):
        handler({"Records": [{"eventSource": "aws:s3"}]}, None)
