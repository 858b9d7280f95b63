"""The operators' function over a real node: what it lists, publishes and drops, and what it refuses."""

import uuid
from types import SimpleNamespace

import pytest
from lots import TOWER_ID, WORDS, lot
from opensearchpy import OpenSearch

from lambdas.index_operations import handler as module
from lambdas.index_operations.handler import handler, run
from retrieval.contracts.documents import Deletion
from retrieval.errors import InvalidInput, ReleaseError
from retrieval.index.opensearch.store import OpenSearchStore

OTHER = "fedcba987654"
FUNCTION = "arn:aws:lambda:eu-west-1:123456789012:function:operations"


@pytest.fixture
def store(opensearch_url):
    """A store behind an alias of its own."""
    alias = f"operated-{uuid.uuid4().hex[:8]}"
    yield OpenSearchStore(opensearch_url, alias=alias)
    client = OpenSearch(opensearch_url)
    client.indices.delete(index=f"{alias}-*")
    client.close()


def fill(store, tower_id, count):
    index = store.create(tower_id, len(WORDS) + 1)
    index.upsert([lot(f"lot-{number}", "red vase") for number in range(count)])
    index.refresh()
    return index.name


@pytest.fixture
def indices(store):
    """Two indices of two towers; the newer one is live, as after a rebuild."""
    before, live = fill(store, OTHER, 3), fill(store, TOWER_ID, 4)
    store.publish(live)
    return SimpleNamespace(before=before, live=live)


def publish(store, name, **given):
    return run({"operation": "publish", "index": name, **given}, store)


def test_every_index_is_listed_with_its_lots_and_the_live_one_is_marked(store, indices):
    listed = {index["name"]: index for index in run({"operation": "list"}, store)["indices"]}
    assert listed.keys() == {indices.before, indices.live}
    live, before = listed[indices.live], listed[indices.before]
    assert (live["tower_id"], live["items"], live["open_items"], live["is_live"]) == (TOWER_ID, 4, 4, True)
    assert (before["tower_id"], before["items"], before["is_live"]) == (OTHER, 3, False)
    assert live["bytes"] > 0


def test_the_index_before_goes_live_again_and_both_stay(store, indices):
    assert publish(store, indices.before) == {"index": indices.before, "previous": indices.live, "moved": True}
    assert store.live().name == indices.before
    assert publish(store, indices.before) == {"index": indices.before, "previous": indices.before, "moved": False}
    assert len(store.list_indices()) == 2


def test_what_was_withdrawn_meanwhile_stays_withdrawn_in_the_index_before(store, indices):
    live = store.live()
    live.upsert([Deletion("lot-0", lot("lot-0", "red vase").version + 1)])
    live.refresh()
    publish(store, indices.before)
    assert store.live().count() == 2
    assert store.live().fetch(["lot-0"]) == []


def test_an_index_with_too_few_lots_takes_the_alias_by_force_alone(store, indices):
    small = fill(store, OTHER, 1)
    with pytest.raises(ReleaseError, match=rf"{small} would hold 1 open lots, the live one has 4; below 50% .* --force"):
        publish(store, small)
    assert store.live().name == indices.live
    assert publish(store, small, force=True)["moved"]
    assert store.live().name == small


def test_the_first_index_of_all_can_be_published(store):
    name = fill(store, TOWER_ID, 2)
    assert publish(store, name) == {"index": name, "previous": None, "moved": True}


def test_an_index_that_was_not_made_by_gavel_is_shown_and_never_published(store, indices, opensearch_url):
    stray = f"{indices.live.rpartition('-')[0]}-stray"
    client = OpenSearch(opensearch_url)
    client.index(index=stray, body={"title": "red vase"}, refresh=True)
    client.close()
    (shown,) = [index for index in run({"operation": "list"}, store)["indices"] if index["name"] == stray]
    assert (shown["tower_id"], shown["items"]) == (None, None)
    with pytest.raises(InvalidInput, match=f"{stray} was not made by Gavel"):
        publish(store, stray, force=True)
    assert run({"operation": "drop", "index": stray}, store) == {"index": stray, "items": None}


def test_an_index_is_dropped_unless_it_is_live(store, indices):
    with pytest.raises(InvalidInput, match=f"index {indices.live} is live"):
        run({"operation": "drop", "index": indices.live}, store)
    assert run({"operation": "drop", "index": indices.before}, store) == {"index": indices.before, "items": 3}
    assert [summary.name for summary in store.list_indices()] == [indices.live]


@pytest.mark.parametrize("name", ["surely-not", "*", "_all", ""])
@pytest.mark.parametrize("operation", ["publish", "drop"])
def test_a_name_that_is_none_changes_nothing(store, indices, operation, name):
    """Neither does a pattern, which OpenSearch would take for every index that fits."""
    with pytest.raises(InvalidInput, match=r"there is no index .*; there are: .*" + indices.live):
        run({"operation": operation, "index": name}, store)
    with pytest.raises(InvalidInput, match="there is no index"):
        run({"operation": operation, "index": f"{indices.live[:-3]}*"}, store)
    assert len(store.list_indices()) == 2


@pytest.mark.parametrize("event", [{}, {"operation": "list-all"}, {"operation": "drop"}, {"operation": "publish", "index": 7}])
def test_what_is_no_operation_is_refused(event):
    with pytest.raises(InvalidInput, match="the event is no operation"):
        run(event, None)


def test_the_alias_that_reads_lists_and_does_nothing_else(store, indices, monkeypatch):
    monkeypatch.setattr(module, "store", lambda: store)
    reader, operator = (SimpleNamespace(invoked_function_arn=f"{FUNCTION}:{name}") for name in ("read", "change"))
    assert len(handler({"operation": "list"}, reader)["indices"]) == 2
    for operation in ("publish", "drop"):
        with pytest.raises(InvalidInput, match=f"only lists; to {operation}, invoke the alias 'change'"):
            handler({"operation": operation, "index": indices.before}, reader)
    assert handler({"operation": "drop", "index": indices.before}, operator)["items"] == 3
