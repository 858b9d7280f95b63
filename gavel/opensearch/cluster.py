"""Run several OpenSearch nodes on this machine as one cluster, for shards, replicas and the loss of a node."""

import json
import logging
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from gavel.opensearch.jars import Progress, locked
from gavel.opensearch.jvm import Member
from gavel.opensearch.node import (
    DEFAULT_PORT,
    RunningNode,
    find_running,
    free_port,
    launch,
    require_free_port,
    stop,
    wait_until_healthy,
)
from retrieval.errors import GavelError, IndexUnavailable, InvalidInput
from retrieval.files import reason_of, replace_file

CLUSTER_FILE = "cluster.json"  # holds the ports of the members
DEFAULT_HEAP = "512m"
TRANSPORT_ABOVE_HTTP = 100  # the transport port is this much above the HTTP port, as 9300 above 9200
START_TIMEOUT_S = 240.0  # several JVMs share the cores

logger = logging.getLogger(__name__)


def start_cluster(
    data: Path,
    nodes: int = 3,
    port: int | None = DEFAULT_PORT,
    *,
    heap: str = DEFAULT_HEAP,
    timeout_s: float = START_TIMEOUT_S,
    progress: Progress = logger.info,
) -> list[RunningNode]:
    """Start nodes that outlive this process, each in its own folder, and wait until they form one cluster.

    Running members stay as they are. So a repeated call restarts a lost node with its data.

    Args:
        data: folder of the cluster. A running cluster keeps its ports.
        nodes: number of nodes; three tolerate the loss of one.
        port: HTTP port of the first node; the other nodes take the following ports. None takes free ports or those of the folder.
        heap: memory of each JVM, such as "512m".
        timeout_s: time limit in seconds for all nodes together.
        progress: called with a short description of each step.

    Returns:
        The nodes, in the order of their folders.

    Raises:
        InvalidInput: the folder holds a cluster of another number of nodes.
        MissingPrerequisite: no suitable Java, no disk space, no network, or a port is taken.
        IndexUnavailable: a node ended or did not join in time.
    """
    data = data.resolve()
    data.mkdir(parents=True, exist_ok=True)
    with locked(data / ".lock"):
        members = _members(data, nodes, port)
        running_before = {node.data for node in find_cluster(data)}
        deadline = time.monotonic() + timeout_s
        try:
            started = [
                launch(folder, member.port, members, heap=heap, progress=progress)
                for folder, member in zip(_folders(data, nodes), members, strict=True)
            ]
            for node in started:
                wait_until_healthy(node, deadline - time.monotonic())
            _wait_until_joined(started, deadline)
        except GavelError:
            for folder in set(_folders(data, nodes)) - running_before:
                stop(folder)
            raise
    return started


def stop_cluster(data: Path) -> bool:
    """Stop the nodes of a cluster's folder; acknowledged writes stay.

    Returns:
        True if any node ran.
    """
    stopped = [stop(folder) for folder in sorted(data.resolve().glob("node-*"))]
    return any(stopped)


def find_cluster(data: Path) -> list[RunningNode]:
    """Return the running nodes of a cluster's folder."""
    nodes = (find_running(folder) for folder in sorted(data.resolve().glob("node-*")))
    return [node for node in nodes if node is not None]


def urls_of(nodes: Sequence[RunningNode]) -> str:
    """Return the URLs of nodes in the format of OPENSEARCH_URL."""
    return ",".join(node.url for node in nodes)


def _members(data: Path, nodes: int, port: int | None) -> list[Member]:
    """Return the members of a cluster's folder; choose and store their ports if they have none or may change."""
    file = data / CLUSTER_FILE
    if file.exists():
        members = [Member.parse(text) for text in json.loads(file.read_text())]
        if len(members) != nodes:
            raise InvalidInput(f"the cluster in {data} has {len(members)} nodes, not {nodes}; stop it and delete the folder first")
        if port in (None, members[0].port) or find_cluster(data):
            return members
        # no node runs: data is found by folder, so ports may change
    if port is None:
        members = [Member(free_port(), free_port()) for _ in range(nodes)]
    else:
        members = [Member(port + number, port + number + TRANSPORT_ABOVE_HTTP) for number in range(nodes)]
        for member in members:
            require_free_port(member.port)
            require_free_port(member.transport_port)
    replace_file(file, json.dumps([str(member) for member in members]) + "\n")
    return members


def _folders(data: Path, nodes: int) -> list[Path]:
    folders = [data / f"node-{number}" for number in range(1, nodes + 1)]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    return folders


def _wait_until_joined(nodes: Sequence[RunningNode], deadline: float) -> None:
    """Wait until every node sees all nodes."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for node in nodes:
        left = max(1, round(deadline - time.monotonic()))
        url = f"{node.url}/_cluster/health?wait_for_nodes={len(nodes)}&timeout={left}s"
        try:
            with opener.open(url, timeout=left + 5) as response:
                joined = int(json.load(response)["number_of_nodes"])
        except (OSError, ValueError, KeyError) as error:
            raise IndexUnavailable(
                f"OpenSearch at {node.url} does not say who is in its cluster ({reason_of(error)}); see {node.log}"
            ) from error
        if joined != len(nodes):
            raise IndexUnavailable(f"OpenSearch at {node.url} found {joined} of {len(nodes)} nodes; see {node.log}")
