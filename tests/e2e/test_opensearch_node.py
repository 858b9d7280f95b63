"""`gavel up` and `gavel down`: a node that starts, is found again, stops, and says what it lacks."""

import json
import os
import shutil
import socket
import sys
import urllib.request
from pathlib import Path

import pytest

from gavel.opensearch import jars as opensearch_jars
from gavel.opensearch import jvm
from gavel.opensearch import node as opensearch_node
from gavel.opensearch import service as opensearch_service
from retrieval.errors import IndexUnavailable, InvalidInput, MissingPrerequisite


@pytest.fixture(autouse=True)
def no_opensearch_is_given(monkeypatch):
    monkeypatch.delenv("OPENSEARCH_URL", raising=False)


@pytest.fixture
def without_docker(monkeypatch):
    monkeypatch.setattr(opensearch_service, "docker_answers", lambda: False)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)["version"]["number"]
    except OSError:
        return None


def program(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.usefixtures("needs_java")
def test_up_starts_a_node_once_and_down_stops_it(tmp_path, without_docker):
    port = opensearch_node.free_port()
    first = opensearch_service.up(tmp_path, port)
    assert first == opensearch_service.RunningOpenSearch(f"http://127.0.0.1:{port}", "node")
    assert answers(first.url) == opensearch_jars.VERSION
    node = opensearch_node.find_running(tmp_path)

    assert opensearch_service.up(tmp_path, port) == first
    assert opensearch_node.find_running(tmp_path) == node

    assert opensearch_service.down(tmp_path) == ["node"]
    assert answers(first.url) is None
    assert opensearch_service.down(tmp_path) == []


def test_up_uses_the_opensearch_that_is_given_and_down_leaves_it_running(tmp_path, without_docker, opensearch_url, monkeypatch):
    monkeypatch.setenv("OPENSEARCH_URL", opensearch_url)
    assert opensearch_service.up(tmp_path) == opensearch_service.RunningOpenSearch(opensearch_url, "given")
    assert opensearch_service.down(tmp_path) == []
    assert answers(opensearch_url)


def test_a_given_opensearch_that_does_not_answer_is_named(tmp_path, monkeypatch):
    url = f"http://127.0.0.1:{opensearch_node.free_port()}"
    monkeypatch.setenv("OPENSEARCH_URL", url)
    with pytest.raises(IndexUnavailable, match=url):
        opensearch_service.up(tmp_path)


def test_a_cluster_is_not_begun_when_one_of_its_ports_is_taken(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(MissingPrerequisite, match="is taken"):
            opensearch_service.up(tmp_path, port - 1, nodes=3)
    assert list(tmp_path.rglob("*.json")) == []


@pytest.mark.usefixtures("needs_java")
def test_a_taken_port_is_said_to_be_taken(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(MissingPrerequisite, match=rf"port {port} .* is taken .*--port"):
            opensearch_node.start(tmp_path, port)
    assert opensearch_node.find_running(tmp_path) is None


def test_a_port_that_cannot_be_is_refused():
    with pytest.raises(InvalidInput, match="allowed are 1 to 65535"):
        opensearch_node.require_free_port(99_999)


@pytest.mark.usefixtures("needs_java")
def test_a_node_that_cannot_start_shows_the_end_of_its_log(tmp_path):
    with pytest.raises(IndexUnavailable, match="Invalid initial heap size"):
        opensearch_node.start(tmp_path, opensearch_node.free_port(), heap="nonsense")
    assert opensearch_node.find_running(tmp_path) is None


def test_a_stale_pid_file_never_stops_another_program(tmp_path):
    (tmp_path / opensearch_node.PID_FILE).write_text(json.dumps({"pid": os.getpid(), "port": 9200}))
    assert opensearch_node.find_running(tmp_path) is None
    assert opensearch_node.stop(tmp_path) is False


def test_a_machine_without_java_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPrerequisite, match=r"no `java` is on PATH.*apt-get install openjdk-17-jre-headless"):
        opensearch_node.start(tmp_path / "data")


def test_an_old_java_is_named_with_its_version(tmp_path, monkeypatch):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    program(tmp_path, "java", 'echo "    java.home = /opt/jre8"; echo "    java.specification.version = 1.8"')
    with pytest.raises(MissingPrerequisite, match=r"needs Java 17 or newer, .*/java is Java 8; .*apt-get install"):
        jvm.find_java()


def test_a_java_without_its_locales_is_not_whole(tmp_path, monkeypatch):
    server = tmp_path / "lib" / "server"
    server.mkdir(parents=True)
    (server / ("libjvm.dylib" if sys.platform == "darwin" else "libjvm.so")).touch()
    (tmp_path / "bin").mkdir()
    script = f'[ "$1" = --list-modules ] && echo java.management@17 && exit; echo "java.home = {tmp_path}"; '
    program(tmp_path / "bin", "java", script + 'echo "java.specification.version = 17"')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(MissingPrerequisite, match=r"is not whole: module .* is missing; .*apt-get install"):
        jvm.find_java()


def test_a_java_home_that_holds_no_java_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(MissingPrerequisite, match=f"JAVA_HOME is {tmp_path}"):
        jvm.find_java()


def test_a_full_disk_is_named_before_anything_is_downloaded(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=400_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda where: usage)
    with pytest.raises(MissingPrerequisite, match=r"only 0\.4 GB are free"):
        opensearch_jars.prepare(tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_an_interrupted_preparation_leaves_nothing_that_passes_for_a_layout(tmp_path, monkeypatch):
    def interrupted(staging, progress):
        (staging / "layout" / "lib").mkdir(parents=True)
        (staging / "layout" / "lib" / f"opensearch-{opensearch_jars.VERSION}.jar").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(opensearch_jars, "_lay_out", interrupted)
    home = tmp_path / "home"
    with pytest.raises(KeyboardInterrupt):
        opensearch_jars.prepare(home)
    assert not opensearch_jars.is_prepared(home)
    assert [path.name for path in tmp_path.iterdir()] == [".home.lock"]


def test_a_folder_with_something_else_in_it_is_not_overwritten(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters.txt").write_text("dear")
    with pytest.raises(MissingPrerequisite, match="GAVEL_OPENSEARCH_HOME"):
        opensearch_jars.prepare(tmp_path / "home")
    assert (tmp_path / "home" / "letters.txt").read_text() == "dear"


def test_maven_central_out_of_reach_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("jgo.maven._core.DEFAULT_REMOTE_REPOS", {"central": f"http://127.0.0.1:{opensearch_node.free_port()}"})
    with pytest.raises(MissingPrerequisite, match=r"cannot be fetched from Maven Central .*OPENSEARCH_URL"):
        opensearch_jars.prepare(tmp_path / "home")
    assert not (tmp_path / "home").exists()
