"""The operators' function in a real node with the security plugin: what it does passes, and nothing else."""

from uuid import uuid4

import pytest
from lots import TOWER_ID, WORDS, lot
from opensearchpy.exceptions import TransportError
from secured_domain import ALIAS, secured_domain

from lambdas.index_operations.handler import run
from retrieval.contracts.documents import Deletion

OTHER = "fedcba987654"
OWN_ALIAS = f"{ALIAS}-operated"  # other tests use the same node


@pytest.fixture(scope="module")
def domain(secured_node, tmp_path_factory):
    with secured_domain(secured_node, tmp_path_factory.mktemp("secured")) as secured:
        yield secured


@pytest.fixture(scope="module")
def stores(domain, dev):
    """The stores of the indexer and of the operators' function, let in as the templates say."""
    arns = {name: domain.role() for name in ("gavel_writer", "gavel_operator")}
    with domain.acting_as(domain.admin):
        for properties in dev.properties("Custom::IndexAccess"):
            if properties["Role"] in arns:
                domain.set_up("Create", "Custom::IndexAccess", access_of(properties, arns[properties["Role"]]))
    return {name: domain.store(arn, OWN_ALIAS) for name, arn in arns.items()}


def access_of(properties, arn):
    """The properties of a grant, with an OpenSearch role of its own, because other tests change those of the templates."""
    return {**properties, "Role": f"{properties['Role']}-{uuid4().hex[:8]}", "BackendRole": arn}


def fill(store, tower_id, count):
    index = store.create(tower_id, len(WORDS) + 1)
    index.upsert([lot(f"lot-{number}", "red vase") for number in range(count)])
    index.refresh()
    return index


def test_an_operator_lists_publishes_and_drops_and_copies_what_was_withdrawn(stores):
    writer, operator = stores["gavel_writer"], stores["gavel_operator"]
    before, live = fill(writer, OTHER, 3), fill(writer, TOWER_ID, 4)
    writer.publish(live.name)
    live.upsert([Deletion("lot-0", lot("lot-0", "red vase").version + 1)])
    live.refresh()
    listed = {index["name"]: index for index in run({"operation": "list"}, operator)["indices"]}
    assert (listed[live.name]["items"], listed[live.name]["is_live"], listed[before.name]["items"]) == (3, True, 3)
    assert listed[live.name]["bytes"] > 0
    assert run({"operation": "publish", "index": before.name}, operator)["moved"]
    assert (operator.live().name, operator.live().count()) == (before.name, 2)
    assert run({"operation": "drop", "index": live.name}, operator) == {"index": live.name, "items": 3}


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", f"/{ALIAS}-new"), ("GET", "/.opendistro_security/_search"), ("DELETE", "/other"), ("PUT", "/_search/pipeline/x")],
)
def test_an_operator_does_nothing_else(stores, method, path):
    client = stores["gavel_operator"]._client
    with pytest.raises(TransportError) as refusal:
        client.transport.perform_request(method, path, body={} if method == "PUT" else None)
    assert refusal.value.status_code == 403
