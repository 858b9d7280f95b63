"""What every kind of test shares: a real OpenSearch node of its own."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from gavel.opensearch import node as opensearch_node
from gavel.opensearch.jvm import find_java
from retrieval.errors import MissingPrerequisite

# how fast inputs are made says how busy the machine is, not whether a rule holds
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


NODE_FOLDER = "GAVEL_TEST_NODE"  # variable: data folder of the node that all workers of a run share
SECURED = "secured"  # sub-folder of the node with the security plugin
TEMP_ROOT = "PYTEST_DEBUG_TEMPROOT"  # pytest's variable: folder of every tmp_path
MEMORY = Path("/dev/shm")  # Linux' file system in memory, where a durable write does not wait for a disk
MEMORY_BYTES = 6e9  # free, so that a run's files fit; containers often have 64 MB


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # pytest-xdist's mark of a worker
        if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES:
            os.environ.setdefault(TEMP_ROOT, str(MEMORY))
        os.environ[NODE_FOLDER] = tempfile.mkdtemp(prefix="gavel-node-", dir=os.environ.get(TEMP_ROOT))
        if workers := config.getoption("numprocesses", None):
            # inherited by workers and by the processes that tests start: threads of several torches on one core wait for each other
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        data = Path(os.environ.pop(NODE_FOLDER))
        for folder in (data, data / SECURED):
            opensearch_node.stop(folder)
        shutil.rmtree(data, ignore_errors=True)


@pytest.fixture(scope="session")
def opensearch_url() -> str:
    """URL of a real OpenSearch: the one at OPENSEARCH_URL, or a node that lives as long as the run and is shared by its workers.

    Without a Java the tests that ask for it are skipped with the remedy, except in CI (CI=true), where that is a failure.
    """
    given = os.environ.get("OPENSEARCH_URL")
    if given:
        return given
    _require_java()
    return opensearch_node.start(Path(os.environ[NODE_FOLDER]), opensearch_node.free_port(), heap="768m").url


@pytest.fixture(scope="session")
def secured_node(needs_java: None) -> str:
    """URL of a real OpenSearch with the security plugin, which lives as long as the run and is shared by its workers."""
    data = Path(os.environ[NODE_FOLDER]) / SECURED
    return opensearch_node.start(data, opensearch_node.free_port(), heap="512m", secured=True).url


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
