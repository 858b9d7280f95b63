"""Synthesise a stage, bootstrap an account and deploy with the CDK's own command line."""

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
    """The CDK command line failed; the message ends with its output."""


def synthesise(stage: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Write the cloud assembly of a stage, including bundles with their wheels.

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
    app = ["--app", str(assembly)]
    ZIPS.mkdir(parents=True, exist_ok=True)
    (assembly / ".cache").symlink_to(ZIPS)  # the command line looks here for zips of assets by hash
    _cdk(["bootstrap", f"aws://{ACCOUNT}/{REGION}", *app], cloud.environment)
    _cdk(["deploy", "--all", "--require-approval", "never", "--method", "direct", "--progress", "events", *app], cloud.environment)
    states = {stack["StackName"]: stack["StackStatus"] for stack in cloud.client("cloudformation").describe_stacks()["Stacks"]}
    broken = {name: state for name, state in states.items() if state not in ("CREATE_COMPLETE", "UPDATE_COMPLETE")}
    if broken:
        raise DeploymentFailed(f"stacks that were not deployed: {broken}")


def _cdk(arguments: list[str], environment: Mapping[str, str]) -> None:
    if not CDK.is_file():
        raise MissingPrerequisite("the CDK command line is not installed here: `npm ci`")
    process = subprocess.run(
        [CDK, *arguments], cwd=ROOT, env={**os.environ, **QUIET, **environment}, capture_output=True, text=True, check=False
    )
    if process.returncode:
        lines = (process.stdout + process.stderr).strip().splitlines()[-LINES_SHOWN:]
        raise DeploymentFailed(f"cdk {arguments[0]} ended with status {process.returncode}:\n" + "\n".join(lines))
