"""The bundles with their wheels, fetched from the package index once and found by their hash afterwards."""

import ast
import re
import sys
from pathlib import Path

import pytest

from infra.python_asset import BUNDLES, MOST_BYTES, ROOT, bundle, check_size

RUNTIMES_OWN = {"boto3", "botocore"}  # what Lambda's Python 3.12 has beside the standard library
OURS = {"retrieval", "lambdas"}
COMPILED = re.compile(r"\.(cpython-312-x86_64-linux-gnu|abi3)\.so$")


@pytest.fixture(params=["query_api", "bulk_indexer"])
def bundled(request) -> Path:
    return bundle(ROOT, request.param, BUNDLES)


def test_a_bundle_with_its_wheels_stays_below_the_limit(bundled):
    assert 20 * 1024**2 < check_size(bundled, bundled.name, MOST_BYTES) <= MOST_BYTES


def test_every_extension_module_is_built_for_lambdas_python(bundled):
    modules = [p.name for p in bundled.rglob("*.so") if ".cpython-" in p.name or ".abi3." in p.name]
    assert modules
    assert [name for name in modules if not COMPILED.search(name)] == []


def test_a_bundle_carries_no_tests_and_no_bytecode(bundled):
    assert not any(path.name in ("tests", "__pycache__") or path.suffix == ".pyc" for path in bundled.rglob("*"))


def test_what_our_sources_import_at_module_level_is_in_the_bundle(bundled):
    """Followed from the handler through our own modules; imports inside functions belong to adapters that are not used here."""
    (name,) = [folder.name for folder in (bundled / "lambdas").iterdir() if folder.is_dir()]
    seen, waiting, foreign = set(), [f"lambdas.{name}.handler"], set()
    while waiting:
        module = waiting.pop()
        path = bundled / (module.replace(".", "/") + ".py")
        if module in seen or not path.is_file():
            continue
        seen.add(module)
        for node in ast.parse(path.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
            waiting += [n for n in names if n.split(".")[0] in OURS]
            foreign |= {n.split(".")[0] for n in names} - OURS - set(sys.stdlib_module_names)
    assert len(seen) > 5
    missing = {n for n in foreign - RUNTIMES_OWN if not (bundled / n).exists() and not (bundled / f"{n}.py").exists()}
    assert missing == set()
