"""The wheel in an environment of its own, in a folder that is no checkout."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest
from command_runs import DEMO_LOTS, ROOT

from gavel.opensearch.node import free_port

UV = Path(sys.executable).with_name("uv")
pytestmark = pytest.mark.timeout(1800)  # a wheel, an environment and a demo; minutes on a busy machine
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def must(command: list[object], **options: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=900, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """This process's variables, with the workspace of the installation."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("GAVEL_", "PYTHON"))}
    home = tmp_path_factory.mktemp("installed") / "home"
    return own | {
        "GAVEL_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="module")
def program() -> Path:
    """The `gavel` of a fresh environment. It lies beside the package cache of uv, whose files are linked and not copied."""
    folder = ROOT / "build" / "installed"
    must([sys.executable, "-m", "gavel.cost.stage_templates"], cwd=ROOT)
    must([UV, "build", "--wheel", "--out-dir", folder / "dist", "--clear"], cwd=ROOT)
    (wheel,) = (folder / "dist").glob("*.whl")
    must([UV, "venv", "--clear", "--python", sys.executable, folder / "venv"])
    must([UV, "pip", "install", "--python", folder / "venv" / "bin" / "python", "-c", ROOT / "requirements.txt", wheel])
    return folder / "venv" / "bin" / "gavel"


@pytest.fixture
def run(program: Path, variables: dict[str, str], tmp_path: Path) -> Run:
    """A function that runs the installed command in an empty folder."""

    def run(*arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
        own = variables | ({"GAVEL_HOME": str(home)} if home else {})
        command = [str(program), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True, timeout=1500, check=False)

    return run


def test_the_demo_runs_from_the_wheel(run: Run) -> None:
    done = run("demo", "--lots", str(DEMO_LOTS))
    assert done.returncode == 0, done.stderr
    assert "What was built" in done.stdout
    assert json.loads(run("search", "red vase", "--json").stdout)["results"]


def test_own_lots_become_an_index(run: Run, tmp_path: Path) -> None:
    rows = "".join(f"{number},red vase number {number},{number}.50\n" for number in range(40))
    (tmp_path / "lots.csv").write_text("id,title,price\n" + rows)
    done = run("try", "lots.csv", "--no-serve", "--json", "--mode", "keyword", home=tmp_path / "try")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["lots"] == 40


def test_the_page_and_the_description_are_served(program: Path, variables: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    command = [str(program), "serve", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=tmp_path, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            assert server.stdout is not None
            said = ""
            while f":{port}" not in said:
                line = server.stdout.readline()
                assert line, said
                said += line
            for path, kind in (("/", "text/html"), ("/docs", "text/html"), ("/assets/app.js", "text/javascript")):
                with urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
                    assert answer.headers["content-type"].startswith(kind)
        finally:
            server.terminate()


def test_an_index_is_advised_and_a_stage_priced_without_the_checkout(run: Run) -> None:
    assert "GAVEL_EMBEDDED_INDEX=" in run("index", "advise", "--items", "50e6", "--memory", "16GB").stdout
    bill = json.loads(run("cost", "--stage", "prod", "--items-per-night", "100000", "--json").stdout)
    assert bill["unpriced"] == []
    assert bill["usd_month"]["idle"] > 0
    unknown = run("cost", "--stage", "other")
    assert unknown.returncode == 2
    assert "dev, prod, not of 'other'" in " ".join(unknown.stderr.split())


def test_what_needs_a_checkout_says_so(run: Run) -> None:
    refused = run("cost", "--reranker")
    assert refused.returncode == 2
    assert "in a checkout of Gavel" in " ".join(refused.stderr.split())
