"""Synthesise a stage, bootstrap an account and deploy with the CDK's own command line."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from gavel.rehearsal.cloud import ACCOUNT, REGION, Cloud
from gavel.workspace.cdk_context import CONTEXT_KEY
from gavel.workspace.checkout import require_checkout
from retrieval.errors import GavelError, MissingPrerequisite

CDK = Path("node_modules", ".bin", "cdk")  # in the checkout
QUIET = {"NODE_OPTIONS": "--no-warnings", "JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION": "1", "CDK_DISABLE_VERSION_CHECK": "1"}
ZIPS = Path("build", "zips")
LINES_SHOWN = 15


class DeploymentFailed(GavelError):
    """The CDK command line failed; the message ends with its output."""


def synthesise(stage: str, folder: Path, environment: Mapping[str, str], model_key: str) -> None:
    """Write the cloud assembly of a stage, including bundles with their wheels.

    Args:
        stage: name of a stage in cdk.json.
        folder: folder of the assembly.
        environment: further environment variables of the CDK's command line.
        model_key: key of the re-ranker, given as the CDK reads it from cdk.context.json.

    Raises:
        DeploymentFailed: the app does not synthesise.
        MissingPrerequisite: the CDK command line is not installed.
    """
    app = f"{sys.executable} app.py"
    context = ["-c", f"stage={stage}", "-c", f"{CONTEXT_KEY.format(stage)}={model_key}"]
    _cdk(["synth", "--quiet", "--app", app, *context, "-o", str(folder)], environment)


def bootstrap(cloud: Cloud, assembly: Path) -> None:
    """Bootstrap the account for an assembly."""
    zips = require_checkout() / ZIPS
    zips.mkdir(parents=True, exist_ok=True)
    (assembly / ".cache").symlink_to(zips)  # the command line looks here for zips of assets by hash
    _cdk(["bootstrap", f"aws://{ACCOUNT}/{REGION}", "--app", str(assembly)], cloud.environment)


def deploy(cloud: Cloud, assembly: Path, *stacks: str) -> None:
    """Deploy stacks of an assembly; all of them if none is named.

    Raises:
        DeploymentFailed: a stack was not deployed.
    """
    flags = ["--require-approval", "never", "--method", "direct", "--progress", "events", "--app", str(assembly)]
    _cdk(["deploy", *(stacks or ["--all"]), *flags], cloud.environment)
    states = {stack["StackName"]: stack["StackStatus"] for stack in cloud.client("cloudformation").describe_stacks()["Stacks"]}
    broken = {name: state for name, state in states.items() if state not in ("CREATE_COMPLETE", "UPDATE_COMPLETE")}
    if broken:
        raise DeploymentFailed(f"stacks that were not deployed: {broken}")


def _cdk(arguments: list[str], environment: Mapping[str, str]) -> None:
    checkout = require_checkout()
    if not (checkout / CDK).is_file():
        raise MissingPrerequisite("the CDK command line is not installed here: `npm ci`")
    process = subprocess.run(
        [checkout / CDK, *arguments],
        cwd=checkout,
        env={**os.environ, **QUIET, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        lines = (process.stdout + process.stderr).strip().splitlines()[-LINES_SHOWN:]
        raise DeploymentFailed(f"cdk {arguments[0]} ended with status {process.returncode}:\n" + "\n".join(lines))
