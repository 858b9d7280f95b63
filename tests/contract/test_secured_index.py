"""A part of what every index promises, through fine-grained access control: signed by the indexer's role, which may do no more."""

import uuid
from collections.abc import Callable, Iterator

import pytest
from secured_domain import SecuredDomain, secured_domain
from test_corrections import *  # noqa: F403  # the tests themselves, which this module's store() is given to
from test_top_lots import *  # noqa: F403
from test_writes import *  # noqa: F403

from infra.vector_index import WRITER
from retrieval.index.port import IndexStore, VectorIndex

OVERWRITE = "indices:admin/settings/update"  # for `gavel index --overwrite`, which the deployed indexer never does
ALIAS = "contract"  # first word of the aliases of this module's stores


@pytest.fixture(scope="module")
def domain(secured_node: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredDomain]:
    with secured_domain(secured_node, tmp_path_factory.mktemp("domain")) as secured:
        yield secured


@pytest.fixture(scope="module")
def writer(domain: SecuredDomain) -> str:
    """ARN of a role that is let in as the indexer's is."""
    arn = domain.role()
    (permissions,) = WRITER["index_permissions"]
    given = [
        {"index_patterns": [f"{ALIAS}-*"], "allowed_actions": [*permissions["allowed_actions"], OVERWRITE]},
    ]
    access = {"Role": ALIAS, "BackendRole": arn, "Permissions": {**WRITER, "index_permissions": given}}
    with domain.acting_as(domain.admin):
        domain.set_up("Create", "Custom::IndexAccess", access)
    return arn


@pytest.fixture
def store(domain: SecuredDomain, writer: str) -> Iterator[IndexStore]:
    """An empty store behind an alias of its own. In the end nothing was refused, and the service drops the indices."""
    alias = f"{ALIAS}-{uuid.uuid4().hex[:8]}"
    yield domain.store(writer, alias)
    domain.domain.ask_as_service("DELETE", f"/{alias}-*")
    denials = list(domain.domain.principals.denials)
    domain.domain.principals.denials.clear()
    assert denials == []


@pytest.fixture
def restart(domain: SecuredDomain) -> Callable[[VectorIndex], None]:
    """Closes an index and opens it again, as the service may and the writer may not."""

    def reopen(index: VectorIndex) -> None:
        index.close()
        for step in ("_flush", "_close", "_open?wait_for_active_shards=1"):
            domain.domain.ask_as_service("POST", f"/{index.name}/{step}")

    return reopen
