"""How processes on AWS reach OpenSearch: signed requests, and the function that lets roles in and sets it up."""

import json
from types import SimpleNamespace

import pytest
from recording_server import recording_server

from lambdas.index_setup import handler as handler_module
from lambdas.index_setup.handler import handler
from retrieval.config.settings import Settings
from retrieval.errors import IndexMissing, InvalidSettings
from retrieval.index.opensearch.store import open_store

ROLE = "arn:aws:iam::111111111111:role/query"
PERMISSIONS = {"cluster_permissions": ["cluster_composite_ops_ro"], "index_permissions": []}
LIVE = "/auction-items-*/_alias/auction-items?local=true"  # with indices in the path: access is judged over these alone
CONTEXT = SimpleNamespace(log_stream_name="the-stream")


@pytest.fixture
def server(monkeypatch):
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "eu-west-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with recording_server() as recording:
        monkeypatch.setenv("GAVEL_OPENSEARCH_URL", recording.url)
        yield recording


def event(kind, server):
    return {
        "RequestType": kind,
        "ResourceType": "Custom::IndexAccess",
        "ResponseURL": f"{server.url}/cloudformation",
        "StackId": "stack",
        "RequestId": "request",
        "LogicalResourceId": "Reader",
        "ResourceProperties": {"Role": "gavel_reader", "BackendRole": ROLE, "Permissions": PERMISSIONS},
    }


def signed(headers):
    return "/eu-west-1/es/aws4_request" in headers.get("Authorization", "")


def test_requests_to_the_domain_are_signed(server):
    server.statuses["GET", LIVE] = 404
    with pytest.raises(IndexMissing):
        open_store(Settings(opensearch_url=server.url, opensearch_auth="sigv4")).live()
    assert [signed(headers) for _, _, headers, _ in server.asked] == [True]


def test_requests_to_a_node_of_ones_own_are_not(server):
    server.statuses["GET", LIVE] = 404
    with pytest.raises(IndexMissing):
        open_store(Settings(opensearch_url=server.url)).live()
    assert [signed(headers) for _, _, headers, _ in server.asked] == [False]


def test_without_a_region_the_way_out_is_told(server, monkeypatch, tmp_path):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(InvalidSettings, match="no region; set AWS_PROFILE and AWS_DEFAULT_REGION"):
        open_store(Settings(opensearch_url=server.url, opensearch_auth="sigv4"))


@pytest.mark.parametrize("kind", ["Create", "Update"])
def test_a_role_is_let_in_with_what_it_may_do(server, kind):
    handler(event(kind, server), CONTEXT)
    (_, role, first, permissions), (_, mapping, second, backend), (method, path, _, answer) = server.asked
    assert (role, json.loads(permissions)) == ("/_plugins/_security/api/roles/gavel_reader", PERMISSIONS)
    assert (mapping, json.loads(backend)) == ("/_plugins/_security/api/rolesmapping/gavel_reader", {"backend_roles": [ROLE]})
    assert signed(first)
    assert signed(second)
    assert (method, path) == ("PUT", "/cloudformation")
    assert json.loads(answer) == {
        "Status": "SUCCESS",
        "PhysicalResourceId": "gavel_reader",
        "StackId": "stack",
        "RequestId": "request",
        "LogicalResourceId": "Reader",
    }


def test_a_role_that_goes_is_let_out_even_when_it_was_never_in(server):
    server.statuses["DELETE", "/_plugins/_security/api/rolesmapping/gavel_reader"] = 404
    handler(event("Delete", server), CONTEXT)
    assert [(method, path.rsplit("/", 2)[-2:]) for method, path, _, _ in server.asked[:2]] == [
        ("DELETE", ["rolesmapping", "gavel_reader"]),
        ("DELETE", ["roles", "gavel_reader"]),
    ]
    assert json.loads(server.asked[-1][3])["Status"] == "SUCCESS"


ROLES = "/_plugins/_security/api/roles/gavel_reader"


@pytest.fixture
def quick(monkeypatch):
    """Repeated requests follow each other at once, and end after a second."""
    monkeypatch.setattr(handler_module, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(handler_module, "MAX_WAIT_S", 0.02)
    monkeypatch.setattr(handler_module, "RETRY_S", 1.0)


def asked_of(server):
    return [(method, path) for method, path, _, _ in server.asked]


@pytest.mark.parametrize("status", [401, 403, 409, 429, 500, 503])
def test_what_a_young_domain_answers_is_tried_again_and_signed_anew(server, quick, status):
    server.statuses["PUT", ROLES] = [status] * 3
    handler(event("Create", server), CONTEXT)
    assert json.loads(server.asked[-1][3])["Status"] == "SUCCESS"
    assert asked_of(server).count(("PUT", ROLES)) == 4
    assert all(signed(headers) for _, path, headers, _ in server.asked if path == ROLES)


def test_a_wrong_request_is_not_repeated(server, quick):
    server.statuses["PUT", ROLES] = 400
    handler(event("Create", server), CONTEXT)
    assert asked_of(server).count(("PUT", ROLES)) == 1
    assert json.loads(server.asked[-1][3])["Status"] == "FAILED"


def test_a_refusal_that_stays_reaches_cloudformation_with_where_to_look(server, quick):
    server.statuses["PUT", ROLES] = 403
    handler(event("Create", server), CONTEXT)
    answer = json.loads(server.asked[-1][3])
    assert answer["Status"] == "FAILED"
    assert "403" in answer["Reason"]
    assert "the-stream" in answer["Reason"]


def test_a_domain_that_cannot_be_reached_is_told_without_waiting_for_ever(server, quick, monkeypatch):
    monkeypatch.setenv("GAVEL_OPENSEARCH_URL", "http://127.0.0.1:9")
    handler(event("Create", server), CONTEXT)
    assert "does not answer" in json.loads(server.asked[-1][3])["Reason"]


def test_a_deletion_never_keeps_the_stack(server, quick):
    server.statuses["DELETE", ROLES] = 403
    handler(event("Delete", server), CONTEXT)
    assert json.loads(server.asked[-1][3])["Status"] == "SUCCESS"
