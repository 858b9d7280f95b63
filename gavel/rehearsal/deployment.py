"""The CDK's own command line: synthesise a stage, prepare an account for it, deploy it, read what was deployed."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from gavel.rehearsal.cloud import ACCOUNT, REGION, Cloud
from retrieval.errors import GavelError, MissingPrerequisite

ROOT = Path(__file__).resolve().parents[2]
CDK = ROOT / "node_modules" / ".bin" / "cdk"
QUIET = {"NODE_OPTIONS": "--no-warnings", "JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION": "1", "CDK_DISABLE_VERSION_CHECK": "1"}
ZIPS = ROOT / "build" / "zips"
LINES_SHOWN = 15


class DeploymentFailed(GavelError):
    """The CDK command line gave up; the message ends with what it said."""


def synthesise(stage: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Write the cloud assembly of a stage, bundles with their wheels included.

    Raises:
        DeploymentFailed: the app does not synthesise.
        MissingPrerequisite: the CDK command line is not installed.
    """
    app = f"{sys.executable} app.py"
    _cdk(["synth", "--quiet", "--app", app, "-c", f"stage={stage}", "-o", str(folder)], environment)


def deploy(cloud: Cloud, assembly: Path) -> None:
    """Bootstrap the account and deploy every stack of an assembly.

    Raises:
        DeploymentFailed: a stack was not deployed.
    """
    where = ["--app", str(assembly)]
    ZIPS.mkdir(parents=True, exist_ok=True)
    (assembly / ".cache").symlink_to(ZIPS)  # where the command line looks for zips of assets, by their hashes
    _cdk(["bootstrap", f"aws://{ACCOUNT}/{REGION}", *where], cloud.environment)
    _cdk(
        ["deploy", "--all", "--require-approval", "never", "--method", "direct", "--progress", "events", *where], cloud.environment
    )
    states = {stack["StackName"]: stack["StackStatus"] for stack in cloud.client("cloudformation").describe_stacks()["Stacks"]}
    broken = {name: state for name, state in states.items() if state not in ("CREATE_COMPLETE", "UPDATE_COMPLETE")}
    if broken:
        raise DeploymentFailed(f"stacks that were not deployed: {broken}")


def _cdk(arguments: list[str], environment: Mapping[str, str]) -> None:
    if not CDK.is_file():
        raise MissingPrerequisite("the CDK command line is not installed here: `npm ci`")
    ran = subprocess.run(
        [CDK, *arguments], cwd=ROOT, env={**os.environ, **QUIET, **environment}, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        said = (ran.stdout + ran.stderr).strip().splitlines()[-LINES_SHOWN:]
        raise DeploymentFailed(f"cdk {arguments[0]} ended with status {ran.returncode}:\n" + "\n".join(said))
