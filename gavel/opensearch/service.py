"""Provide an OpenSearch: the one of OPENSEARCH_URL, or a container, or a node on this machine's Java."""

import logging
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from opensearchpy.exceptions import OpenSearchException

from gavel.opensearch import node as opensearch_node
from gavel.opensearch.cluster import find_cluster, start_cluster, stop_cluster, urls_of
from gavel.opensearch.jars import Progress
from gavel.opensearch.jvm import HOST
from retrieval.errors import IndexUnavailable, MissingPrerequisite
from retrieval.index.opensearch.client import connect

Kind = Literal["given", "container", "node", "cluster"]

COMPOSE_FILE = Path(__file__).with_name("compose.yaml")
CLUSTER = "cluster"  # name of the folder that holds the nodes of a cluster
NEEDED_PLUGINS = ("opensearch-knn", "opensearch-neural-search")
CHECK_TIMEOUT_S = 5.0
ENGINE_TIMEOUT_S = 20.0
PULL_TIMEOUT_S = 900.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunningOpenSearch:
    """A running OpenSearch.

    Attributes:
        url: base URL; for a cluster the URLs of all nodes, separated by commas.
        kind: "given" (by OPENSEARCH_URL), "container" (of compose.yaml), "node" (on this machine's Java) or "cluster" (of nodes).
    """

    url: str
    kind: Kind


def up(
    data: Path, port: int = opensearch_node.DEFAULT_PORT, progress: Progress = logger.info, *, nodes: int = 1
) -> RunningOpenSearch:
    """Start an OpenSearch with the k-NN plugin, unless one runs already.

    Args:
        data: folder of a node's data, GAVEL_HOME/opensearch.
        port: port on 127.0.0.1 for a new OpenSearch.
        progress: called with a short description of each step.
        nodes: number of nodes; two or more form a cluster on this machine's Java, on `port` and the following ports.

    Raises:
        IndexUnavailable: OpenSearch does not answer or lacks a plugin.
        MissingPrerequisite: neither a container nor a node can start; the message names the remedy.
    """
    url = os.environ.get("OPENSEARCH_URL")
    if url:
        require_plugins(url)
        return RunningOpenSearch(url, "given")
    if nodes > 1:
        urls = urls_of(start_cluster(data / CLUSTER, nodes, port, progress=progress))
        require_plugins(urls)
        return RunningOpenSearch(urls, "cluster")
    if running := find_cluster(data / CLUSTER):
        return RunningOpenSearch(urls_of(running), "cluster")
    if opensearch_node.find_running(data) is None and docker_answers():
        try:
            return _container_up(port, progress)
        except MissingPrerequisite as failure:
            progress(f"no container ({failure}); starting a node on this machine's Java instead")
    node = opensearch_node.start(data, port, progress=progress)
    require_plugins(node.url)
    return RunningOpenSearch(node.url, "node")


def down(data: Path) -> list[Kind]:
    """Stop the node, cluster or container that up() started. The data stays, and the OpenSearch of OPENSEARCH_URL runs on.

    Args:
        data: see up().

    Returns:
        The kinds of OpenSearch that were stopped.
    """
    stopped: list[Kind] = []
    if opensearch_node.stop(data):
        stopped.append("node")
    if stop_cluster(data / CLUSTER):
        stopped.append("cluster")
    if docker_answers() and _compose("ps", "--quiet").stdout.strip():
        _compose("down")
        stopped.append("container")
    return stopped


def require_plugins(url: str) -> None:
    """Check that an OpenSearch answers and has the plugins for vectors and hybrid queries.

    Raises:
        IndexUnavailable: OpenSearch does not answer, or a plugin is missing.
    """
    client = connect(url, CHECK_TIMEOUT_S)
    try:
        plugins = {row["component"] for row in client.cat.plugins(params={"format": "json"})}
    except OpenSearchException as error:
        raise IndexUnavailable(f"OpenSearch at {url} does not answer ({error}); start it, or unset OPENSEARCH_URL") from error
    finally:
        client.close()
    for name in NEEDED_PLUGINS:
        if name not in plugins:
            raise IndexUnavailable(f"OpenSearch at {url} lacks the plugin {name}; `opensearch-plugin install {name}` adds it")


def docker_answers() -> bool:
    """True if a Docker engine answers and `docker compose` works; a Docker client without an engine is not enough."""
    if shutil.which("docker") is None:
        return False
    try:
        for command in (["docker", "info"], ["docker", "compose", "version"]):
            subprocess.run(command, capture_output=True, check=True, timeout=ENGINE_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _container_up(port: int, progress: Progress) -> RunningOpenSearch:
    url = f"http://{HOST}:{port}"
    running = _compose("port", "opensearch", "9200").stdout.strip()
    if running:
        url = f"http://{running}"
    else:
        opensearch_node.require_free_port(port)
        progress(f"starting the container of {COMPOSE_FILE.name} on {HOST}:{port}")
        started = _compose("up", "--detach", "--wait", port=port)
        if started.returncode != 0:
            raise MissingPrerequisite(f"docker compose failed: {started.stderr.strip().splitlines()[-1:]}")
    require_plugins(url)
    return RunningOpenSearch(url, "container")


def _compose(*verb: str, port: int = opensearch_node.DEFAULT_PORT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GAVEL_OPENSEARCH_PORT": str(port)}
    command = ["docker", "compose", "--file", str(COMPOSE_FILE), *verb]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PULL_TIMEOUT_S, env=environment)
    except subprocess.TimeoutExpired as error:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {error.timeout:.0f} s")
