"""A Lambda that drags torch along does not fit its bundle, and starts in seconds instead of milliseconds."""

import subprocess
import sys

import pytest

FORBIDDEN = ("torch", "torchvision", "transformers", "faiss", "xgboost", "pandas", "pyarrow", "PIL", "matplotlib")


@pytest.mark.parametrize("handler", ["lambdas.query_api.handler", "lambdas.bulk_indexer.handler"])
def test_a_handler_import_pulls_no_training_or_embedded_library(handler: str) -> None:
    program = f"import sys, {handler}; print(*(m for m in {FORBIDDEN} if m in sys.modules))"
    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PATH": ""})
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
