"""What this machine lacks is named with the command that mends it."""

import subprocess
import sys
from pathlib import Path

import pytest

from gavel import prerequisites


def test_an_old_python_is_named_with_its_remedy() -> None:
    assert "Python 3.9 is too old" in str(prerequisites.missing_python((3, 9, 2)))
    assert "apt-get install python3.11" in str(prerequisites.missing_python((3, 9, 2)))


def test_this_python_will_do() -> None:
    assert prerequisites.missing_python() is None


def test_a_full_disk_is_named_with_what_is_free(tmp_path: Path) -> None:
    assert prerequisites.missing_disk(tmp_path, need_gb=0.001) is None
    assert "needs 1000000 GB" in str(prerequisites.missing_disk(tmp_path, need_gb=1e6))


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JAVA_HOME", "OPENSEARCH_URL"):
        monkeypatch.delenv(name, raising=False)


def test_no_java_is_needed_where_an_opensearch_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("OPENSEARCH_URL", "http://127.0.0.1:9200")
    assert prerequisites.missing_java() is None


def test_the_java_of_java_home_counts_before_the_one_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder, version in (("old", "11.0.2"), ("new/bin", "21.0.1")):
        java = tmp_path / folder / "java"
        java.parent.mkdir(parents=True)
        java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
        java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'old'}:/bin:/usr/bin")
    assert "11.0.2" in str(prerequisites.missing_java())
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "new"))
    assert prerequisites.missing_java() is None
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    assert "there is none" in str(prerequisites.missing_java())


def test_a_machine_without_java_is_told_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt-get install openjdk-17-jre-headless" in str(prerequisites.missing_java())


@pytest.mark.parametrize(("version", "enough"), [("1.8.0_392", False), ("11.0.2", False), ("17.0.15", True), ("25", True)])
def test_the_version_of_java_decides(version: str, enough: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert (prerequisites.missing_java() is None) == enough


def test_the_check_runs_before_anything_is_installed_and_exits_with_1_when_something_lacks(tmp_path: Path) -> None:
    script = Path(prerequisites.__file__)
    run = subprocess.run(
        [sys.executable, "-S", script, "java"], capture_output=True, text=True, env={"PATH": str(tmp_path)}, check=False
    )
    assert run.returncode == 1
    assert run.stderr.startswith("gavel: OpenSearch needs Java 17")
