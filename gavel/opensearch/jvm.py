"""The process that is an OpenSearch node: a JVM inside Python that builds the server's Node class itself.

The server's own start script checks the machine first (root user, memory maps, file limits) and wants its distribution
around it. A node built by hand is asked none of that. The jars of the k-NN plugin carry no native code: only fields of
the "lucene" engine work, a "faiss" field ends the node at its first flush.
"""

import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gavel.opensearch.java import find_java

HOST = "127.0.0.1"

LOG_CONFIGURATION = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d{ISO8601}][%-5p][%c{1.}] %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""


@dataclass(frozen=True, slots=True)
class Member:
    """A node of a cluster, as the others know it.

    Attributes:
        port: where it answers HTTP on 127.0.0.1.
        transport_port: where it talks to the others.
    """

    port: int
    transport_port: int

    @property
    def name(self) -> str:
        """Of the node."""
        return f"gavel-{self.port}"

    @classmethod
    def parse(cls, text: str) -> "Member":
        """Read what str() writes: the two ports with a colon between."""
        port, transport_port = text.split(":")
        return cls(int(port), int(transport_port))

    def __str__(self) -> str:
        return f"{self.port}:{self.transport_port}"


def run(home: Path, data: Path, port: int, heap: str, members: Sequence[Member] = ()) -> None:
    """Run a node in this process until SIGTERM or SIGINT.

    Args:
        home: the prepared layout.
        data: the node's own folder.
        port: where it answers HTTP on 127.0.0.1.
        heap: memory of the JVM.
        members: all nodes of its cluster, itself among them; none for a node that stands alone.
    """
    import jpype

    for folder in (data / "config", data / "tmp"):
        folder.mkdir(parents=True, exist_ok=True)
    (data / "config" / "log4j2.properties").write_text(LOG_CONFIGURATION)
    (data / "config" / "opensearch.yml").touch()
    java = find_java()
    jars = [str(jar) for jar in sorted((home / "lib").glob("*.jar"))]
    jpype.startJVM(str(java.libjvm), *java.vector_options, *_jvm_options(data, heap), classpath=jars, convertStrings=False)
    node = _build_node(jpype, data / "config", _node_settings(home, data, port, members))
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    node.start()
    print(f"OpenSearch answers at http://{HOST}:{port}", flush=True)
    stopped.wait()
    node.close()


def _jvm_options(data: Path, heap: str) -> list[str]:
    return [
        f"-Xms{heap}",
        f"-Xmx{heap}",
        "-XX:+ExitOnOutOfMemoryError",
        f"-Djava.io.tmpdir={data / 'tmp'}",
        f"-Djna.tmpdir={data / 'tmp'}",
        "-Djna.nosys=true",
        "-Dio.netty.noUnsafe=true",
        "-Dio.netty.recycler.maxCapacityPerThread=0",
        "-Dio.netty.allocator.numDirectArenas=0",
        "-Dlog4j.shutdownHookEnabled=false",
        "-Dlog4j2.disable.jmx=true",
    ]


def _node_settings(home: Path, data: Path, port: int, members: Sequence[Member]) -> dict[str, str]:
    return {
        "path.home": str(home),
        "path.data": str(data / "data"),
        "path.logs": str(data / "logs"),
        "network.host": HOST,
        "http.port": str(port),
        "cluster.name": "gavel",
        "node.name": f"gavel-{port}",
        # A laptop's disk is often more than 90 % full; start() asks for what is really needed
        "cluster.routing.allocation.disk.threshold_enabled": "false",
        **_discovery(port, members),
    }


def _discovery(port: int, members: Sequence[Member]) -> dict[str, str]:
    """How it finds the others, all of which may become the cluster manager."""
    if not members:
        return {"discovery.type": "single-node", "transport.port": "0"}
    (own,) = (member for member in members if member.port == port)
    return {
        "transport.port": str(own.transport_port),
        "discovery.seed_hosts": ",".join(f"{HOST}:{member.transport_port}" for member in members),
        "cluster.initial_cluster_manager_nodes": ",".join(member.name for member in members),
    }


def _build_node(jpype: Any, config: Path, settings: dict[str, str]) -> Any:
    builder = jpype.JClass("org.opensearch.common.settings.Settings").builder()
    for key, value in settings.items():
        builder = builder.put(key, value)

    @jpype.JImplements("java.util.function.Supplier")
    class NodeName:
        @jpype.JOverride
        def get(self) -> str:
            return settings["node.name"]

    preparer = jpype.JClass("org.opensearch.node.InternalSettingsPreparer")
    no_properties = jpype.JClass("java.util.HashMap")()
    path = jpype.JClass("java.nio.file.Path").of(str(config))
    environment = preparer.prepareEnvironment(builder.build(), no_properties, path, NodeName())
    log = jpype.JClass("org.opensearch.common.logging.LogConfigurator")
    log.registerErrorListener()
    log.configure(environment)
    return jpype.JClass("org.opensearch.node.Node")(environment)
