"""Lambdas and commands start without training libraries: torch takes seconds to import, and does not fit the bundle of a Lambda."""

import subprocess
import sys

import pytest

FORBIDDEN = ("torch", "torchvision", "transformers", "faiss", "xgboost", "pandas", "pyarrow", "PIL", "matplotlib")

SLOW = ("torch", "torchvision", "transformers", "faiss", "xgboost", "pandas", "matplotlib", "sklearn", "scipy", "boto3", "moto")


@pytest.mark.parametrize("handler", ["lambdas.query_api.handler", "lambdas.bulk_indexer.handler"])
def test_a_handler_import_pulls_no_training_or_embedded_library(handler: str) -> None:
    program = f"import sys, {handler}; print(*(m for m in {FORBIDDEN} if m in sys.modules))"
    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PATH": ""})
    assert imported.stdout.split() == []


@pytest.mark.parametrize("module", ["gavel.cli.main", "gavel.web.page_app", "benchmarks.cli.main"])
def test_a_command_starts_without_a_library_that_only_few_commands_need(module: str) -> None:
    program = f"import sys, {module}; print(*(m for m in {SLOW} if m in sys.modules))"
    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert imported.stdout.split() == []


def test_the_check_itself_sees_a_forbidden_library() -> None:
    program = f"import sys, pyarrow; print(*(m for m in {FORBIDDEN} if m in sys.modules))"
    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pyarrow" in imported.stdout.split()


@pytest.mark.parametrize("handler", ["lambdas/query_api/handler.py", "lambdas/bulk_indexer/handler.py"])
def test_a_handler_is_a_shell_of_at_most_100_lines(handler: str) -> None:
    from pathlib import Path

    root = Path(__file__).resolve().parents[2]
    assert len((root / handler).read_text().splitlines()) <= 100
