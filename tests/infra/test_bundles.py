"""The bundles with their wheels, fetched from the package index once and found by their hash afterwards."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gavel.rehearsal.lambda_runtime import lambda_python
from infra.python_asset import BUNDLES, MAX_BYTES, MAX_JOB_BYTES, ROOT, bundle, bundle_packages, check_size

RUNTIMES_OWN = {"boto3", "botocore"}  # what Lambda's Python 3.12 has beside the standard library
OURS = {"retrieval", "lambdas", "catalog", "models", "processing"}
IMAGES_OWN = {"torch", "torchvision"}  # what the job's container has
COMPILED = re.compile(r"\.(cpython-312-x86_64-linux-gnu|abi3)\.so$")


@pytest.fixture(params=["query_api", "bulk_indexer", "index_operations", "item_states"])
def bundled(request) -> Path:
    return bundle(ROOT, request.param, BUNDLES)


@pytest.fixture(params=["query_api", "bulk_indexer", "index_operations", "item_states", "job"])
def wheels(request) -> Path:
    """A bundle of a Lambda, or the packages of the embedding job."""
    return bundle_packages(ROOT, BUNDLES) if request.param == "job" else bundle(ROOT, request.param, BUNDLES)


def test_the_jobs_packages_stay_below_their_limit():
    assert 200 * 1024**2 < check_size(bundle_packages(ROOT, BUNDLES), "processing", MAX_JOB_BYTES) <= MAX_JOB_BYTES


def test_a_bundle_with_its_wheels_stays_below_the_limit(bundled):
    assert 20 * 1024**2 < check_size(bundled, bundled.name, MAX_BYTES) <= MAX_BYTES


def test_every_extension_module_is_built_for_the_python_that_runs_it(wheels):
    modules = [p.name for p in wheels.rglob("*.so") if ".cpython-" in p.name or ".abi3." in p.name]
    assert modules
    assert [name for name in modules if not COMPILED.search(name)] == []


def test_a_bundle_carries_no_tests_and_no_bytecode(wheels):
    assert not any(path.name in ("tests", "__pycache__") or path.suffix == ".pyc" for path in wheels.rglob("*"))


def foreign_imports(root: Path, *modules: str) -> set[str]:
    """What our sources import at module level, followed through our own modules from those that are named.

    Imports inside functions belong to adapters that are not used here.
    """
    seen, waiting, foreign = set(), list(modules), set()
    while waiting:
        module = waiting.pop()
        path = root / (module.replace(".", "/") + ".py")
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
    return foreign


def missing(bundled: Path, names: set[str]) -> set[str]:
    return {n for n in names if not (bundled / n).exists() and not (bundled / f"{n}.py").exists()}


def test_what_a_function_imports_is_in_its_bundle(bundled):
    (handler,) = (bundled / "lambdas").glob("*/handler.py")
    name = handler.parent.name
    assert missing(bundled, foreign_imports(bundled, f"lambdas.{name}.handler") - RUNTIMES_OWN) == set()


def test_what_the_embedding_job_imports_is_in_its_packages_or_in_its_image():
    wanted = foreign_imports(ROOT, "processing.embedding.job", "models.artefacts.item_encoder") | {
        "boto3",
        "pyarrow",
    }  # photos, parquet
    assert "torch" in wanted
    assert missing(bundle_packages(ROOT, BUNDLES), wanted - IMAGES_OWN) == set()


def test_the_job_starts_on_the_images_python_with_its_packages_and_nothing_else(tmp_path):
    """As the container starts it, but for torch, which is the image's; its Python is that of the functions."""
    for room in ("retrieval", "catalog", "models", "processing"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    env = {"PYTHONPATH": str(bundle_packages(ROOT, BUNDLES)), "HF_HUB_OFFLINE": "1"}

    def run(*arguments):
        python = [lambda_python(), "-S", "-B", *arguments]  # -S: without that interpreter's own packages
        return subprocess.run(python, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    assert "--release-id" in run("-m", "processing.embed_items", "--help").stdout
    assert run("-c", "import boto3, onnx, onnxruntime, PIL.Image, pyarrow.parquet, transformers, yaml").returncode == 0
    assert (
        run("-c", "import models.artefacts.item_encoder").stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'torch'"
    )
