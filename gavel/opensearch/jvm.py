"""Find a Java and run an OpenSearch node in it: a JVM inside this Python process builds the server's Node class.

The server's own start script first checks the machine (root user, memory maps, file limits) and needs the distribution. A node
built this way skips these checks. The jars of the k-NN plugin carry no native code. So only fields of the "lucene" engine work;
a "faiss" field ends the node at its first flush.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gavel.opensearch.security import configure, lay_out_home, security_settings
from retrieval.errors import MissingPrerequisite
from retrieval.files import reason_of

HOST = "127.0.0.1"
MIN_JAVA = 17
REMEDY = "install one with: apt-get install openjdk-17-jre-headless"
# jdk.localedata: without it OpenSearch starts, but refuses every index when it builds the Thai analyzer
NEEDED_MODULES = ("java.management", "java.logging", "jdk.localedata", "jdk.management", "jdk.unsupported")
MIN_SIMD_JAVA = 20  # oldest Java whose Vector API Lucene 9.12 uses

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
    """A Java runtime.

    Attributes:
        home: folder of the runtime.
        version: feature release, such as 17.
        libjvm: shared library of the virtual machine.
    """

    home: Path
    version: int
    libjvm: Path

    @property
    def vector_options(self) -> list[str]:
        """JVM options for SIMD distances in Lucene; empty below Java 20."""
        if self.version < MIN_SIMD_JAVA:
            return []
        return [
            "--add-modules=jdk.incubator.vector",
            "--enable-native-access=ALL-UNNAMED",
            f"-Dorg.apache.lucene.vectorization.upperJavaFeatureVersion={self.version}",
        ]


def find_java() -> Java:
    """Find the Java of JAVA_HOME, or the `java` on PATH.

    Raises:
        MissingPrerequisite: Java is absent, too old or incomplete; the message names the remedy.
    """
    program = _java_program()
    properties = _run_java(program, "-XshowSettings:properties", "-version")
    home_line = re.search(r"java\.home = (.+)", properties)
    version_line = re.search(r"java\.specification\.version = (?:1\.)?(\d+)", properties)
    if not home_line or not version_line:
        raise MissingPrerequisite(f"{program} does not tell its version; {REMEDY}")
    home, version = Path(home_line[1].strip()), int(version_line[1])
    if version < MIN_JAVA:
        raise MissingPrerequisite(f"OpenSearch needs Java {MIN_JAVA} or newer, {program} is Java {version}; {REMEDY}")
    libjvm = home / "lib" / "server" / ("libjvm.dylib" if sys.platform == "darwin" else "libjvm.so")
    if not libjvm.exists():
        raise MissingPrerequisite(f"the Java in {home} is not whole: {libjvm} is missing; {REMEDY}")
    modules = {line.split("@")[0] for line in _run_java(program, "--list-modules").splitlines()}
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
    program_on_path = shutil.which("java")
    if not program_on_path:
        raise MissingPrerequisite(f"OpenSearch needs Java {MIN_JAVA} or newer, and no `java` is on PATH; {REMEDY}")
    return program_on_path


def _run_java(program: str, *flags: str) -> str:
    try:
        result = subprocess.run([program, *flags], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingPrerequisite(f"{program} does not run ({reason_of(error)}); {REMEDY}") from error
    return result.stderr + result.stdout


@dataclass(frozen=True, slots=True)
class Member:
    """Ports of one node of a cluster.

    Attributes:
        port: HTTP port on 127.0.0.1.
        transport_port: port for the other nodes of the cluster.
    """

    port: int
    transport_port: int

    @property
    def name(self) -> str:
        """Name of the node."""
        return f"gavel-{self.port}"

    @classmethod
    def parse(cls, text: str) -> "Member":
        """Parse "port:transport_port", as str() writes it."""
        port, transport_port = text.split(":")
        return cls(int(port), int(transport_port))

    def __str__(self) -> str:
        return f"{self.port}:{self.transport_port}"


def run(home: Path, data: Path, port: int, heap: str, members: Sequence[Member] = (), *, secured: bool = False) -> None:
    """Run a node in this process until SIGTERM or SIGINT.

    Args:
        home: folder of the prepared layout.
        data: the node's own folder.
        port: HTTP port on 127.0.0.1.
        heap: memory of the JVM, such as "1g".
        members: all nodes of the cluster, this one included; empty for a single node.
        secured: if True, the node has the security plugin (security.py).
    """
    import jpype

    for folder in (data / "config", data / "tmp"):
        folder.mkdir(parents=True, exist_ok=True)
    (data / "config" / "log4j2.properties").write_text(LOG_CONFIGURATION)
    (data / "config" / "opensearch.yml").touch()
    settings: dict[str, str | list[str]] = {**_node_settings(home, data, port, members)}
    if secured:
        configure(home, data)
        settings |= {"path.home": str(lay_out_home(home, data)), **security_settings(data)}
    java = find_java()
    jars = [str(jar) for jar in sorted((home / "lib").glob("*.jar"))]
    jpype.startJVM(str(java.libjvm), *java.vector_options, *_jvm_options(data, heap), classpath=jars, convertStrings=False)
    node = _build_node(jpype, data / "config", settings)
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
        # Laptop disks are often more than 90 % full; launch() checks the space that is needed
        "cluster.routing.allocation.disk.threshold_enabled": "false",
        **_discovery(port, members),
    }


def _discovery(port: int, members: Sequence[Member]) -> dict[str, str]:
    """Return the settings by which nodes find each other. Every member may become the cluster manager."""
    if not members:
        return {"discovery.type": "single-node", "transport.port": "0"}
    (own,) = (member for member in members if member.port == port)
    return {
        "transport.port": str(own.transport_port),
        "discovery.seed_hosts": ",".join(f"{HOST}:{member.transport_port}" for member in members),
        "cluster.initial_cluster_manager_nodes": ",".join(member.name for member in members),
    }


def _build_node(jpype: Any, config: Path, settings: Mapping[str, str | list[str]]) -> Any:
    builder = jpype.JClass("org.opensearch.common.settings.Settings").builder()
    for key, value in settings.items():
        builder = builder.put(key, value) if isinstance(value, str) else builder.putList(key, value)

    @jpype.JImplements("java.util.function.Supplier")
    class NodeName:
        @jpype.JOverride  # type: ignore[untyped-decorator]
        def get(self) -> str:
            return str(settings["node.name"])

    preparer = jpype.JClass("org.opensearch.node.InternalSettingsPreparer")
    no_properties = jpype.JClass("java.util.HashMap")()
    path = jpype.JClass("java.nio.file.Path").of(str(config))
    environment = preparer.prepareEnvironment(builder.build(), no_properties, path, NodeName())
    log = jpype.JClass("org.opensearch.common.logging.LogConfigurator")
    log.registerErrorListener()
    log.configure(environment)
    return jpype.JClass("org.opensearch.node.Node")(environment)
