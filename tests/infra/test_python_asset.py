"""Bundles: named by what they are made of, bounded in size, whole in a fresh interpreter."""

import re
import shutil
from pathlib import Path

import pytest

from infra import python_asset
from infra.python_asset import ROOT, BundleError, bundle, check_size

PINS = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
FUNCTIONS = ("query_api", "bulk_indexer")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one function that needs nothing."""
    for path, text in {
        "retrieval/core.py": "ANSWER = 42\n",
        "retrieval/lazy/__init__.py": "",
        "retrieval/lazy/part.py": "def work(): from retrieval.lazy import deeper\n",
        "retrieval/lazy/deeper.py": "import retrieval.core\n",
        "retrieval/lazy/unused.py": "",
        "retrieval/types.py": "",
        "lambdas/__init__.py": "",
        "lambdas/echo/handler.py": (
            "from typing import TYPE_CHECKING\n"
            "from retrieval.core import ANSWER\n"
            "if TYPE_CHECKING:\n    import retrieval.types\n"
            "else:\n    import lambdas.echo.other\n"
            "def handler():\n    import retrieval.lazy.part, json\n"
        ),
        "lambdas/echo/other.py": "",
        "lambdas/echo/script.py": "",
        "lambdas/echo/requirements.txt": "",
        "lambdas/other/handler.py": "",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def test_a_bundle_holds_what_its_function_imports_lazily_too_and_nothing_else(root):
    made = bundle(root, "echo", root / "build", with_wheels=False)
    files = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    assert files == {
        *("retrieval/core.py", "retrieval/lazy/__init__.py", "retrieval/lazy/part.py", "retrieval/lazy/deeper.py"),
        *("lambdas/__init__.py", "lambdas/echo/handler.py", "lambdas/echo/other.py"),
    }


def test_the_same_sources_give_the_same_bundle(root):
    assert bundle(root, "echo", root / "build", with_wheels=False) == bundle(root, "echo", root / "build", with_wheels=False)


@pytest.mark.parametrize(
    "changed", ["retrieval/core.py", "retrieval/lazy/deeper.py", "lambdas/echo/handler.py", "lambdas/echo/requirements.txt"]
)
def test_a_change_of_sources_or_requirements_makes_a_new_bundle(root, changed):
    before = bundle(root, "echo", root / "build", with_wheels=False)
    (root / changed).write_text("# changed\n")
    assert bundle(root, "echo", root / "build", with_wheels=False) != before


@pytest.mark.parametrize("changed", ["lambdas/other/handler.py", "retrieval/lazy/unused.py", "retrieval/types.py"])
def test_a_change_of_what_it_does_not_import_does_not(root, changed):
    before = bundle(root, "echo", root / "build", with_wheels=False)
    (root / changed).write_text("# changed\n")
    assert bundle(root, "echo", root / "build", with_wheels=False) == before


def test_a_relative_import_is_refused(root):
    (root / "lambdas/echo/other.py").write_text("from . import script\n")
    with pytest.raises(BundleError, match=r"`from \. import script` is a relative import; write the whole name"):
        bundle(root, "echo", root / "build", with_wheels=False)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_embedded_index_and_the_command_line_are_in_no_bundle(function, tmp_path):
    made = bundle(ROOT, function, tmp_path, with_wheels=False)
    files = {str(path.relative_to(made)) for path in made.rglob("*.py")}
    assert {"retrieval/index/opensearch/store.py", f"lambdas/{function}/handler.py"} <= files
    assert not [
        name for name in files if name.startswith(("retrieval/index/ann", "retrieval/index/embedded", "retrieval/evaluation"))
    ]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_edit_of_the_index_advisor_gives_no_function_a_new_version(function, tmp_path):
    for room in ("retrieval", "lambdas"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    before = bundle(tmp_path, function, tmp_path / "build", with_wheels=False)
    with (tmp_path / "retrieval/index/ann/advice.py").open("a") as file:
        file.write("# changed\n")
    assert bundle(tmp_path, function, tmp_path / "build", with_wheels=False) == before
    with (tmp_path / "retrieval/index/opensearch/index.py").open("a") as file:
        file.write("# changed\n")
    assert bundle(tmp_path, function, tmp_path / "build", with_wheels=False) != before


def test_a_bundle_without_wheels_never_passes_for_one_with_them(root):
    assert bundle(root, "echo", root / "build", with_wheels=False) != bundle(root, "echo", root / "build")


def test_a_bundle_that_failed_is_not_there_for_the_next_synth(root, monkeypatch):
    monkeypatch.setattr(python_asset, "MAX_BYTES", 0)
    for _ in range(2):
        with pytest.raises(BundleError):
            bundle(root, "echo", root / "build", with_wheels=False)


def test_a_bundle_that_is_too_large_names_its_largest_folders(tmp_path):
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "model.so").write_bytes(b"x" * 2 * 1024**2)
    (tmp_path / "small.py").write_bytes(b"x")
    with pytest.raises(
        BundleError, match=r"query_api has 2\.0 MiB, 1 are allowed; largest are onnxruntime 2\.0 MiB.*requirements\.txt"
    ):
        check_size(tmp_path, "lambdas/query_api", 1024**2)


def test_a_wheel_that_cannot_be_had_is_named(root, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (root / "lambdas/echo/requirements.txt").write_text("no-such-wheel==1.0\n")
    with pytest.raises(BundleError, match=r"requirements\.txt cannot be had: .*no-such-wheel==1\.0.*check the pins"):
        bundle(root, "echo", root / "build")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_runs_the_versions_that_the_tests_ran(function):
    lines = (ROOT / "lambdas" / function / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    newer = dict(
        re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+) ; python_full_version >= '3\.12'", (ROOT / "requirements.txt").read_text(), re.M)
    )
    assert pins
    assert pins == {name: newer.get(name, PINS.get(name)) for name in pins}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_bundle_carries_no_training_library(function):
    text = (ROOT / "lambdas" / function / "requirements.txt").read_text()
    assert not re.search(r"^(torch|transformers|faiss|xgboost|pandas|pyarrow|grpcio)", text, re.MULTILINE)
