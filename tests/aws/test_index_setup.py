"""What stands in OpenSearch before the first lot: the bodies that are deployed, written to a real node by the function."""

import json
import uuid
from types import SimpleNamespace

import pytest
from lots import TOWER_ID, WORDS, WordEncoder, lot
from opensearchpy import OpenSearch
from opensearchpy.exceptions import NotFoundError
from recording_server import recording_server

from lambdas.index_setup.handler import apply, handler
from retrieval.contracts.documents import VECTOR_FIELD
from retrieval.index.filters import Filter
from retrieval.index.opensearch.mapping import HYBRID_PIPELINE, SLOW_SEARCH, pipeline_name, template_body
from retrieval.index.opensearch.store import OpenSearchStore


@pytest.fixture
def credentials(monkeypatch):
    """A node of one's own takes a signed request and does not look at the signature."""
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "eu-west-1"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture
def alias(credentials, opensearch_url):
    """An alias of its own on a real node, set up as a deployment does; everything of it is taken away in the end."""
    credentials.setenv("GAVEL_OPENSEARCH_URL", opensearch_url)
    alias = f"setup-{uuid.uuid4().hex[:8]}"
    for resource in resources(alias):
        apply(change("Create", resource))
    yield alias
    client = OpenSearch(opensearch_url)
    client.indices.delete(index=f"{alias}-*")
    client.close()
    for resource in resources(alias):
        apply(change("Delete", resource))


@pytest.fixture
def node(opensearch_url):
    client = OpenSearch(opensearch_url)
    yield client
    client.close()


def resources(alias):
    return [
        {"Path": f"/_index_template/{alias}", "Body": json.dumps(template_body(alias))},
        {"Path": f"/_search/pipeline/{pipeline_name(alias)}", "Body": json.dumps(HYBRID_PIPELINE)},
    ]


def change(kind, properties):
    return {"RequestType": kind, "ResourceType": "Custom::IndexResource", "ResourceProperties": properties}


def test_an_index_that_is_made_under_the_template_answers_hybrid_queries(alias, opensearch_url):
    store = OpenSearchStore(opensearch_url, alias=alias)
    index = store.create(TOWER_ID, len(WORDS) + 1)
    assert index.upsert([lot("a", "red vase"), lot("b", "old watch")]).indexed == 2
    index.refresh()
    store.publish(index.name)
    found = store.live().hybrid("watch", WordEncoder().encode(["old watch"])[0], 2, Filter())
    assert [candidate.item_id for candidate in found] == ["b", "a"]


def test_an_index_that_a_stray_write_makes_guesses_no_field_and_is_nobodys(alias, opensearch_url, node):
    stray = f"{alias}-{TOWER_ID}-stray"
    node.index(index=stray, body={"title": "red vase", "embedding": [0.1, 0.2], "surprise": "7"}, refresh=True)
    mapping = node.indices.get_mapping(index=stray)[stray]["mappings"]
    assert mapping["dynamic"] == "false"
    assert {"surprise", VECTOR_FIELD}.isdisjoint(mapping["properties"])
    assert mapping["properties"]["title"]["analyzer"] == "item_text"
    assert node.count(index=stray, body={"query": {"match": {"title": "vases"}}})["count"] == 1  # cut as titles of lots are
    store = OpenSearchStore(opensearch_url, alias=alias)
    assert store.find(TOWER_ID) is None
    made = store.create(TOWER_ID, 2)
    assert store.find(TOWER_ID).name == made.name


@pytest.mark.parametrize("by_hand", [False, True])
def test_slow_requests_to_every_index_are_logged(alias, opensearch_url, node, by_hand):
    if by_hand:
        name = f"{alias}-by-hand"
        node.indices.create(index=name)
    else:
        name = OpenSearchStore(opensearch_url, alias=alias).create(TOWER_ID, 2).name
    settings = node.indices.get_settings(index=name, params={"flat_settings": "true"})[name]["settings"]
    assert settings["index.search.slowlog.threshold.query.warn"] == SLOW_SEARCH
    assert settings["index.search.slowlog.threshold.fetch.warn"] == SLOW_SEARCH
    assert settings["index.indexing.slowlog.threshold.index.warn"]
    assert settings["index.indexing.slowlog.source"] == "false"


def test_writing_it_again_changes_nothing_and_taking_it_away_twice_is_fine(credentials, opensearch_url, node):
    credentials.setenv("GAVEL_OPENSEARCH_URL", opensearch_url)
    alias = f"setup-{uuid.uuid4().hex[:8]}"
    template, pipeline = resources(alias)
    for kind in ("Create", "Update"):
        assert [apply(change(kind, resource)) for resource in (template, pipeline)] == [template["Path"], pipeline["Path"]]
    assert node.search_pipeline.get(id=pipeline_name(alias))
    for _ in range(2):
        for resource in (template, pipeline):
            apply(change("Delete", resource))
    with pytest.raises(NotFoundError):
        node.search_pipeline.get(id=pipeline_name(alias))


def test_a_body_that_opensearch_refuses_reaches_cloudformation(credentials):
    with recording_server() as server:
        credentials.setenv("GAVEL_OPENSEARCH_URL", server.url)
        server.statuses["PUT", "/_index_template/lots"] = 400
        told = {"ResponseURL": f"{server.url}/cloudformation", "StackId": "s", "RequestId": "r", "LogicalResourceId": "Template"}
        handler(
            {**change("Create", {"Path": "/_index_template/lots", "Body": "{}"}), **told}, SimpleNamespace(log_stream_name="log")
        )
        answer = json.loads(server.asked[-1][3])
    assert (answer["Status"], answer["PhysicalResourceId"]) == ("FAILED", "/_index_template/lots")
    assert "400" in answer["Reason"]
