"""What every kind of test shares: a real OpenSearch node of its own."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from local import opensearch_node
from local.java import find_java
from retrieval.errors import MissingPrerequisite

# how fast inputs are made says how busy the machine is, not whether a rule holds
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def opensearch_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real OpenSearch: the one at OPENSEARCH_URL, or a node that lives as long as the session.

    Without a Java the tests that ask for it are skipped with the remedy, except in CI (CI=true), where that is a failure.
    """
    given = os.environ.get("OPENSEARCH_URL")
    if given:
        yield given
        return
    _require_java()
    data = tmp_path_factory.mktemp("opensearch")
    try:
        yield opensearch_node.start(data, opensearch_node.free_port(), heap="768m").url
    finally:
        opensearch_node.stop(data)


@pytest.fixture(scope="session")
def needs_java() -> None:
    """For a test that starts a node itself, wherever OPENSEARCH_URL points: skipped, or failed, as opensearch_url() says."""
    _require_java()


def _require_java() -> None:
    try:
        find_java()
    except MissingPrerequisite as missing:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            raise
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For small k-means, which waits more for threads than it computes."""
    import faiss  # here, for most tests need none

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)
