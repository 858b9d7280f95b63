"""A real OpenSearch node on this machine, without Docker: start it, stop it, or run it in the foreground.

    python -m gavel.opensearch.node prepare [--home DIR]
    python -m gavel.opensearch.node run [--home DIR] [--data DIR] [--port 9200] [--heap 1g] [--members 9200:9300 9201:9301 …]

The node has no security plugin, so it listens only on 127.0.0.1. It is for laptops, tests and CI. With `--secured` it has the
plugin, and believes the headers of a proxy (security.py); rehearsals use that.
"""

import argparse
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gavel.opensearch.jars import Progress, default_home, locked, prepare, prepare_security_plugin, require_free_disk
from gavel.opensearch.jvm import HOST, Member, find_java, run
from gavel.opensearch.security import SERVICE, proxy_headers
from retrieval.errors import GavelError, IndexUnavailable, InvalidInput, MissingPrerequisite
from retrieval.files import replace_file

DEFAULT_PORT = 9200
DEFAULT_HEAP = "1g"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.2
PID_FILE = "node.json"
LOG_FILE = "node.log"
LOG_TAIL_BYTES = 4_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunningNode:
    """A running node of this machine.

    Attributes:
        pid: id of the node's process.
        port: HTTP port on 127.0.0.1.
        data: the node's own folder, with data/, config/, the log and the pid file.
        secured: True if the node has the security plugin.
    """

    pid: int
    port: int
    data: Path
    secured: bool = False

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """Log file."""
        return self.data / LOG_FILE


def start(
    data: Path,
    port: int = DEFAULT_PORT,
    *,
    home: Path | None = None,
    heap: str = DEFAULT_HEAP,
    secured: bool = False,
    timeout_s: float = START_TIMEOUT_S,
    progress: Progress = logger.info,
) -> RunningNode:
    """Start a node that outlives this process, and wait until its cluster is yellow or green.

    Args:
        data: the node's own folder. If its node runs already, that node is returned, whatever its port.
        port: HTTP port on 127.0.0.1.
        home: folder of the layout, prepared if it is absent. None takes default_home().
        heap: memory of the JVM, such as "512m" or "1g".
        secured: if True, a new node has the security plugin (security.py).
        timeout_s: time limit in seconds until the cluster is yellow or green.
        progress: called with a short description of each step.

    Raises:
        MissingPrerequisite: no suitable Java, no disk space, no network, or the port is taken.
        IndexUnavailable: the node ended or did not answer in time; the message quotes its log.
    """
    data = data.resolve()
    data.mkdir(parents=True, exist_ok=True)
    with locked(data / ".lock"):
        running = launch(data, port, home=home, heap=heap, secured=secured, progress=progress)
        try:
            wait_until_healthy(running, timeout_s)
        except IndexUnavailable:
            stop(data)
            raise
    return running


def launch(
    data: Path,
    port: int,
    members: Sequence[Member] = (),
    *,
    home: Path | None = None,
    heap: str = DEFAULT_HEAP,
    secured: bool = False,
    progress: Progress = logger.info,
) -> RunningNode:
    """Start a node without waiting for it. If the folder's node runs already, return that node.

    Args:
        data: the node's own folder; it exists and is locked by the caller.
        port: HTTP port on 127.0.0.1.
        members: all nodes of the cluster; empty for a single node.
        home: see start().
        heap: see start().
        secured: see start().
        progress: see start().

    Raises:
        MissingPrerequisite: as start().
    """
    running = find_running(data)
    if running is None:
        find_java()
        require_free_disk(data)
        require_free_port(port)
        layout = prepare(home or default_home(), progress)
        if secured:
            prepare_security_plugin(layout, progress)
        progress(f"starting OpenSearch on {HOST}:{port}")
        running = _spawn(layout, RunningNode(0, port, data.resolve(), secured), heap, members)
    return running


def stop(data: Path, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """Stop the node of a folder, which first flushes to disk.

    Args:
        data: folder of the node.
        timeout_s: seconds after which the node is killed. Acknowledged writes are durable even then.

    Returns:
        True if a node ran.
    """
    data = data.resolve()
    node = find_running(data)
    if node is not None:
        os.kill(node.pid, signal.SIGTERM)
        if not _wait_until_ended(node, timeout_s):
            logger.warning("OpenSearch (process %d) did not end within %.0f s and is killed", node.pid, timeout_s)
            os.kill(node.pid, signal.SIGKILL)
            _wait_until_ended(node, timeout_s)
    (data / PID_FILE).unlink(missing_ok=True)
    return node is not None


def wait_until_healthy(node: RunningNode, timeout_s: float) -> None:
    """Wait until the cluster of a node is yellow or green.

    Raises:
        IndexUnavailable: the node ended or did not answer in time; the message quotes its log.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not _is_ours(node):
            raise IndexUnavailable(f"OpenSearch ended while it started; the end of {node.log}:\n{_log_tail(node.log)}")
        if _health(node) in ("yellow", "green"):
            return
        time.sleep(POLL_S)
    raise IndexUnavailable(f"OpenSearch at {node.url} did not answer within {timeout_s:.0f} s; see {node.log}")


def find_running(data: Path) -> RunningNode | None:
    """Return the folder's node if it runs, or None. The process id in a stale pid file may belong to another program."""
    data = data.resolve()
    try:
        values = json.loads((data / PID_FILE).read_text())
        node = RunningNode(int(values["pid"]), int(values["port"]), data, bool(values.get("secured")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return node if _is_ours(node) else None


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def require_free_port(port: int) -> None:
    """Check that a port can be listened on.

    Raises:
        InvalidInput: the number is not in 0 to 65535.
        MissingPrerequisite: the port cannot be bound, for example because another program listens on it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OverflowError:
            raise InvalidInput(f"there is no port {port}; allowed are 1 to 65535") from None
        except OSError as error:
            raise MissingPrerequisite(
                f"port {port} of {HOST} is taken ({error.strerror}); choose another with --port, "
                f"or set OPENSEARCH_URL=http://{HOST}:{port} if an OpenSearch of yours runs there"
            ) from error


def _spawn(home: Path, planned: RunningNode, heap: str, members: Sequence[Member]) -> RunningNode:
    """Start the process of a node, and return the node with the process's id."""
    data, port = planned.data, planned.port
    command = [sys.executable, "-m", "gavel.opensearch.node", "run", "--home", home, "--data", data, "--port", port, "--heap", heap]
    command += ["--members", *members] if members else []
    command += ["--secured"] if planned.secured else []
    with (data / LOG_FILE).open("wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal must not end the node
        )
    node = replace(planned, pid=process.pid)
    _write_pid_file(node)
    while process.poll() is None and not _is_ours(node):
        time.sleep(POLL_S / 10)  # the kernel shows the new command line shortly after exec
    return node


def _write_pid_file(node: RunningNode) -> None:
    replace_file(node.data / PID_FILE, json.dumps({**asdict(node), "data": str(node.data)}) + "\n")


def _is_ours(node: RunningNode) -> bool:
    """True if the process exists and is the node of this folder."""
    _reap(node.pid)
    arguments = Path(f"/proc/{node.pid}/cmdline")
    if Path("/proc/self").exists():
        line = arguments.read_bytes().replace(b"\0", b" ").decode(errors="replace") if arguments.exists() else ""
    else:
        line = subprocess.run(["ps", "-o", "command=", "-p", str(node.pid)], capture_output=True, text=True, check=False).stdout
    return re.search(r"opensearch[._]node", line) is not None and str(node.data) in line


def _reap(pid: int) -> None:
    """Collect the exit status of an ended child process, so that it does not stay a zombie."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # not a child of this process


def _health(node: RunningNode) -> str | None:
    request = urllib.request.Request(f"{node.url}/_cluster/health", headers=proxy_headers(SERVICE) if node.secured else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy for the loopback address
    try:
        with opener.open(request, timeout=5) as response:
            return str(json.load(response)["status"])
    except (OSError, ValueError, KeyError):
        return None


def _wait_until_ended(node: RunningNode, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while _is_ours(node):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _log_tail(log: Path) -> str:
    return log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip() or "(it is empty)"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["prepare", "run"])
    parser.add_argument("--home", type=lambda text: Path(text).resolve(), default=default_home())
    parser.add_argument("--data", type=lambda text: Path(text).resolve(), default=Path(".gavel/opensearch").resolve())
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    parser.add_argument("--heap", default=DEFAULT_HEAP)
    parser.add_argument(
        "--members", type=Member.parse, nargs="*", default=(), help="HTTP and transport port of all nodes of a cluster"
    )
    parser.add_argument("--secured", action="store_true", help="with the security plugin, which believes the headers of a proxy")
    flags = parser.parse_args()
    try:
        prepare(flags.home, lambda line: print(line, flush=True))
        if flags.secured:
            prepare_security_plugin(flags.home, lambda line: print(line, flush=True))
        if flags.verb == "run":
            run(flags.home, flags.data, flags.port, flags.heap, flags.members, secured=flags.secured)
    except GavelError as error:
        sys.exit(f"opensearch_node: {error}")


if __name__ == "__main__":
    main()
