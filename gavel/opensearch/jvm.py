"""The process that is an OpenSearch node: a JVM inside Python that builds the server's Node class itself.

The server's own start script checks the machine first (root user, memory maps, file limits) and wants its distribution
around it. A node built by hand is asked none of that. The jars of the k-NN plugin carry no native code: only fields of
the "lucene" engine work, a "faiss" field ends the node at its first flush.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.errors import MissingPrerequisite

HOST = "127.0.0.1"
OLDEST_JAVA = 17
REMEDY = "install one with: apt-get install openjdk-17-jre-headless"
# jdk.localedata: without it OpenSearch starts, but refuses every index when it builds the Thai analyzer
NEEDED_MODULES = ("java.management", "java.logging", "jdk.localedata", "jdk.management", "jdk.unsupported")
FIRST_SIMD_JAVA = 20  # from here on Lucene 9.12 can use the Vector API

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
class Java:
    """A Java runtime that was found and asked for its version.

    Attributes:
        home: its folder.
        version: feature release, such as 17.
        libjvm: the virtual machine as a shared library.
    """

    home: Path
    version: int
    libjvm: Path

    @property
    def vector_options(self) -> list[str]:
        """Options that let Lucene compute distances with SIMD; empty below Java 20, where it cannot."""
        if self.version < FIRST_SIMD_JAVA:
            return []
        return [
            "--add-modules=jdk.incubator.vector",
            "--enable-native-access=ALL-UNNAMED",
            f"-Dorg.apache.lucene.vectorization.upperJavaFeatureVersion={self.version}",
        ]


def find_java() -> Java:
    """Find the Java of JAVA_HOME, or else the `java` on PATH.

    Raises:
        MissingPrerequisite: none, too old, or not a whole runtime; the message says what was found and what to install.
    """
    program = _java_program()
    asked = _ask(program, "-XshowSettings:properties", "-version")
    home_line = re.search(r"java\.home = (.+)", asked)
    version_line = re.search(r"java\.specification\.version = (?:1\.)?(\d+)", asked)
    if not home_line or not version_line:
        raise MissingPrerequisite(f"{program} does not tell its version; {REMEDY}")
    home, version = Path(home_line[1].strip()), int(version_line[1])
    if version < OLDEST_JAVA:
        raise MissingPrerequisite(f"OpenSearch needs Java {OLDEST_JAVA} or newer, {program} is Java {version}; {REMEDY}")
    libjvm = home / "lib" / "server" / ("libjvm.dylib" if sys.platform == "darwin" else "libjvm.so")
    if not libjvm.exists():
        raise MissingPrerequisite(f"the Java in {home} is not whole: {libjvm} is missing; {REMEDY}")
    modules = {line.split("@")[0] for line in _ask(program, "--list-modules").splitlines()}
    lacking = [name for name in NEEDED_MODULES if name not in modules]
    if lacking:
        raise MissingPrerequisite(f"the Java in {home} is not whole: module {lacking[0]} is missing; {REMEDY}")
    return Java(home, version, libjvm)


def _java_program() -> str:
    java_home = os.environ.get("JAVA_HOME")
    if java_home:
        program = Path(java_home) / "bin" / "java"
        if not program.exists():
            raise MissingPrerequisite(f"JAVA_HOME is {java_home}, which holds no bin/java; unset it, or {REMEDY}")
        return str(program)
    found = shutil.which("java")
    if not found:
        raise MissingPrerequisite(f"OpenSearch needs Java {OLDEST_JAVA} or newer, and no `java` is on PATH; {REMEDY}")
    return found


def _ask(program: str, *flags: str) -> str:
    try:
        answer = subprocess.run([program, *flags], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingPrerequisite(f"{program} does not run ({error}); {REMEDY}") from error
    return answer.stderr + answer.stdout


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
        @jpype.JOverride  # type: ignore[untyped-decorator]
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
