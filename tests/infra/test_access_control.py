"""Fine-grained access control: the roles of the templates in a real node with the security plugin, each held to its permissions."""

import threading

import pytest
from lots import TOWER_ID, WORDS, WordEncoder, lot
from opensearchpy.exceptions import AuthorizationException, TransportError
from secured_domain import ALIAS, secured_domain

from gavel.rehearsal.domain import YOUNG
from gavel.rehearsal.principals import Denial
from lambdas.index_setup import handler as index_setup
from retrieval.contracts.documents import Deletion
from retrieval.errors import IndexUnavailable
from retrieval.index.filters import Filter

RUNS = 10  # of creations and deletions side by side; before the function repeated requests, 13 of 30 failed
SECURITY_INDEX = ".opendistro_security"


@pytest.fixture(scope="module")
def domain(secured_node, tmp_path_factory):
    with secured_domain(secured_node, tmp_path_factory.mktemp("secured")) as secured:
        yield secured


@pytest.fixture(autouse=True)
def _no_denials(domain):
    """Denials of one test are not another's."""
    domain.domain.principals.denials.clear()


@pytest.fixture(scope="module")
def resources(dev):
    """The custom resources of a stage, without what only a deployment knows."""
    made = {}
    for kind in ("Custom::IndexResource", "Custom::IndexAccess"):
        for properties in dev.properties(kind):
            made[properties.get("Role", properties.get("Path"))] = (kind, dict(properties))
    return made


@pytest.fixture(scope="module")
def roles(domain, resources):
    """The roles of indexer and query function, let in as the templates say."""
    arns = {name: domain.role() for name in ("gavel_writer", "gavel_reader", "gavel_statewriter", "gavel_operator")}
    with domain.acting_as(domain.admin):
        for name, (kind, properties) in resources.items():
            if name in arns:
                properties["BackendRole"] = arns[name]
            domain.set_up("Create", kind, properties)
    return arns


@pytest.fixture(scope="module")
def writer(domain, roles):
    return domain.store(roles["gavel_writer"])


@pytest.fixture(scope="module")
def reader(domain, roles):
    return domain.store(roles["gavel_reader"])


@pytest.fixture(scope="module")
def filled(writer):
    """A live index of the writer."""
    index = writer.create(TOWER_ID, len(WORDS) + 1)
    assert index.upsert([lot("a", "red vase"), lot("b", "old watch"), lot("c", "red watch")]).indexed == 3
    index.refresh()
    writer.publish(index.name)
    return index


def refused(domain):
    return [denial.action for denial in domain.domain.principals.denials]


def test_the_writer_does_all_that_indexer_and_rebuild_do(domain, writer, filled):
    rebuilt = writer.create("fedcba987654", len(WORDS) + 1)
    assert rebuilt.upsert([lot("d", "red vase"), Deletion("e", 1)]).rejected == ()
    rebuilt.refresh()
    assert rebuilt.count() == 1
    assert [found.item_id for found in rebuilt.semantic(WordEncoder().encode(["red vase"])[0], 5, Filter(), exact=True)] == ["d"]
    assert writer.find("fedcba987654").name == rebuilt.name
    writer.publish(rebuilt.name)
    assert writer.live().name == rebuilt.name
    writer.publish(filled.name)
    assert writer.live_tower() == TOWER_ID
    assert rebuilt.deletions() == [Deletion("e", 1)]
    assert refused(domain) == []


def test_the_reader_searches_in_every_mode(domain, reader, filled):
    index, red = reader.live(), WordEncoder().encode(["red vase"])[0]
    assert [found.item_id for found in index.hybrid("red vase", red, 1, Filter())] == ["a"]
    assert [found.item_id for found in index.semantic(red, 1, Filter())] == ["a"]
    assert {found.item_id for found in index.keyword("watch", 5, Filter())} == {"b", "c"}
    assert [found.item_id for found in index.fetch(["a", "z"])] == ["a"]
    assert index.top("listed_at", 2, Filter()) is not None
    assert index.corrections(["vaze"]) is not None
    assert index.count() == 3
    assert len(index.sample(2, Filter(), 7)) == 2
    assert refused(domain) == []


def ask(store, method, path, body=None):
    """Send a request with a store's client, and return the permission that it lacks."""
    client = store._client
    with pytest.raises(TransportError) as refusal:
        client.transport.perform_request(method, path, body=body)
    assert refusal.value.status_code == 403, refusal.value
    assert isinstance(refusal.value, AuthorizationException)


READER_MUST_NOT = [
    ("PUT", f"/{ALIAS}-x/_doc/1", {"title": "x"}),
    ("POST", f"/{ALIAS}-*/_update_by_query", {}),
    ("DELETE", f"/{ALIAS}-x", None),
    ("PUT", f"/{ALIAS}-y", {}),
    ("POST", "/_aliases", {"actions": [{"add": {"index": f"{ALIAS}-x", "alias": ALIAS}}]}),
    ("PUT", f"/_search/pipeline/{ALIAS}-hybrid", {}),
    ("GET", f"/{SECURITY_INDEX}/_search", None),
    ("GET", "/_plugins/_security/api/roles", None),
    ("GET", "/other/_search", None),
    ("GET", "/_cluster/settings", None),
]
WRITER_MUST_NOT = [
    ("DELETE", f"/{ALIAS}-x", None),
    ("POST", f"/{ALIAS}-x/_close", None),
    ("PUT", "/other/_doc/1", {"title": "x"}),
    ("DELETE", f"/_search/pipeline/{ALIAS}-hybrid", None),
    ("PUT", "/_index_template/all", {"index_patterns": ["*"], "template": {"settings": {"index.number_of_shards": 1}}}),
    ("PUT", "/_cluster/settings", {"persistent": {"action.auto_create_index": "false"}}),
    ("GET", f"/{SECURITY_INDEX}/_search", None),
    ("PUT", "/_plugins/_security/api/rolesmapping/all_access", {"backend_roles": ["arn"]}),
]


@pytest.mark.parametrize(("method", "path", "body"), READER_MUST_NOT)
def test_a_reader_may_not(domain, reader, filled, method, path, body):
    ask(reader, method, path, body)
    assert len(domain.domain.principals.denials) == 1


@pytest.mark.parametrize(("method", "path", "body"), WRITER_MUST_NOT)
def test_a_writer_may_not(domain, writer, filled, method, path, body):
    ask(writer, method, path, body)
    assert len(domain.domain.principals.denials) == 1


def test_a_denial_inside_a_request_of_several_is_seen(domain, writer, filled):
    write = [{"index": {"_index": "other", "_id": "1"}}, {"title": "x"}]
    answer = writer._client.bulk(body=write)
    assert answer["items"][0]["index"]["status"] == 403
    assert refused(domain) == ["indices:admin/create"]


def test_a_role_that_iam_lets_through_but_nobody_let_in_is_refused_by_the_node(domain, filled):
    with pytest.raises(IndexUnavailable):
        domain.store(domain.role()).live()
    assert [denial.by for denial in domain.domain.principals.denials] == ["OpenSearch"]


def test_a_role_without_a_policy_for_the_verb_does_not_reach_the_node(domain, filled):
    role = domain.role("es:ESHttpPost")
    with pytest.raises(IndexUnavailable):
        domain.store(role).live()
    (denial,) = domain.domain.principals.denials
    assert (denial.action, denial.by) == ("es:ESHttpGet", "IAM")
    assert denial.resource.startswith("arn:aws:es:eu-west-1:123456789012:domain/gavel/")


# ------------------------------------------------------------------------------------------------------------------------------
def side_by_side(domain, kind, resources):
    """Create or delete resources at the same moment, as CloudFormation does, and return what failed."""
    failures, gate = [], threading.Barrier(len(resources))

    def one(resource, properties):
        gate.wait()
        try:
            domain.set_up(kind, resource, properties)
        except Exception as error:
            failures.append(error)

    with domain.acting_as(domain.admin):
        threads = [threading.Thread(target=one, args=given) for given in resources]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return failures


def two_roles(domain, resources, run):
    role = domain.role()
    return [
        (kind, {**properties, "Role": f"{name}_{run}", "BackendRole": role})
        for name, (kind, properties) in resources.items()
        if name.startswith("gavel_")
    ]


@pytest.fixture
def impatient(monkeypatch):
    """Requests that are repeated follow each other sooner, so that the test takes seconds."""
    monkeypatch.setattr(index_setup, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(index_setup, "MAX_WAIT_S", 0.2)


def test_roles_are_created_and_deleted_side_by_side(domain, resources, impatient):
    for run in range(RUNS):
        pair = two_roles(domain, resources, run)
        assert side_by_side(domain, "Create", pair) == []
        assert side_by_side(domain, "Delete", pair) == []


@pytest.mark.parametrize("kind", ["Create", "Delete"])
def test_a_young_domain_is_waited_for(domain, resources, impatient, kind):
    pair = two_roles(domain, resources, kind)
    domain.domain.passing.extend(YOUNG * 5)
    assert side_by_side(domain, kind, pair) == []
    assert not domain.domain.passing
    assert refused(domain) == []


def test_denials_name_role_action_and_resource(domain):
    denial = Denial("reader", "indices:data/write/index", "PUT /auction-items-x/_doc/1", "OpenSearch")
    assert str(denial) == "OpenSearch refuses reader indices:data/write/index on PUT /auction-items-x/_doc/1"
