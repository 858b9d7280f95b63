"""One demo for all tests that need its workspace."""

import os
import shutil
from pathlib import Path

import pytest
from command_runs import DEMO_LOTS, gavel

from gavel.opensearch.jars import locked


@pytest.fixture(scope="session")
def demo_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the demo once for all workers of pytest-xdist. Tests change copies of it, see `home`."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    home, finished = root / "demo" / "home", root / "demo" / "finished"
    home.mkdir(parents=True, exist_ok=True)
    with locked(root / "demo" / "lock"):
        if not finished.exists():
            run = gavel(home, "demo", "--lots", str(DEMO_LOTS))
            assert run.returncode == 0, run.stderr
            for word in ("How good", "keyword (BM25)", "text + photo", "What was built", "gavel search"):
                assert word in run.stdout
            finished.touch()
    return home


@pytest.fixture(scope="module")
def home(demo_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo's workspace for one module; files that name paths name those of the copy."""
    home = tmp_path_factory.mktemp("demo") / "home"
    shutil.copytree(demo_home, home)
    for file in (*home.glob("*.json"), *home.glob("sources/*.json")):
        changed = file.stat()
        file.write_text(file.read_text().replace(str(demo_home), str(home)))
        os.utime(file, ns=(changed.st_atime_ns, changed.st_mtime_ns))
    return home
