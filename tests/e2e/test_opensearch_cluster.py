"""Three real OpenSearch nodes as one cluster: the answers of one unsharded exact index, also when a node is killed."""

import pytest

from benchmarks.reliability.cluster import VICTIMS, run_benchmark
from gavel.opensearch import cluster as opensearch_cluster
from gavel.opensearch.node import free_port
from retrieval.errors import InvalidInput

pytestmark = pytest.mark.timeout(900)  # three nodes start, one is killed and comes back: minutes on a busy machine


@pytest.fixture(scope="module")
def result(tmp_path_factory, needs_java):
    """A small run: the cluster manager is killed under load and comes back."""
    folder = tmp_path_factory.mktemp("cluster")
    victims = VICTIMS[:1]
    made = run_benchmark(folder, lots=1_000, dimensions=32, questions=120, seconds=2, victims=victims, heap="384m")
    assert opensearch_cluster.find_cluster(folder / "cluster") == []
    return made


def test_three_shards_with_replicas_answer_as_one_unsharded_exact_index(result):
    assert (result.exact, result.by_words) == (result.questions, result.questions)
    assert result.sound == result.questions
    assert result.recall >= 0.95


def test_no_answer_is_wrong_and_none_fails_when_the_cluster_manager_is_killed_and_comes_back(result):
    assert list(result.phases) == ["before", "killed", "returning", "after"]
    assert all(seen.answers > 10 for seen in result.phases.values())
    assert [seen.failed for seen in result.phases.values()] == [[], [], [], []]
    assert [seen.wrong for seen in result.phases.values()] == [[], [], [], []]


def test_no_lot_that_was_acknowledged_meanwhile_is_lost(result):
    assert result.written > 0
    assert (result.writes_failed, result.lost) == ([], 0)


def test_a_cluster_does_not_change_its_number_of_nodes(tmp_path):
    ports = [f"{free_port()}:{free_port()}" for _ in range(2)]
    (tmp_path / opensearch_cluster.CLUSTER_FILE).write_text(str(ports).replace("'", '"'))
    with pytest.raises(InvalidInput, match="has 2 nodes, not 3"):
        opensearch_cluster.start_cluster(tmp_path, 3)
