"""Read the CloudFormation templates of a stage, or synthesise them without an account and without wheels.

`python -m gavel.cost.stage_templates` writes those of every stage beside this file, so that a wheel carries them (`make wheel`).
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gavel.workspace.cdk_context import CONTEXT_FILE, CONTEXT_KEY, read_context
from gavel.workspace.checkout import find_checkout, require_checkout
from retrieval.errors import InvalidInput, MissingPrerequisite

PACKAGED = Path(__file__).with_name("templates")  # <stage>/<stack>.template.json of a wheel
SUFFIX = ".template.json"
ANY_RERANKER = "rerankers/any/model.tar.gz"  # every re-ranker costs the same


@dataclass(frozen=True)
class Resource:
    """One resource of a template.

    Attributes:
        stack: file name of the template without the suffix.
        logical_id: name of the resource in the template.
        kind: resource type, such as "AWS::SQS::Queue".
        properties: properties as written in the template.
    """

    stack: str
    logical_id: str
    kind: str
    properties: Mapping[str, Any]


def read_templates(folder: Path) -> list[Resource]:
    """Return every resource of the templates in a folder, ordered by stack and logical id.

    Raises:
        InvalidInput: the folder holds no template, or one that cannot be read.
    """
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    if not paths:
        raise InvalidInput(f"{folder} holds no *{SUFFIX}; `make synth` writes cdk.out/dev and cdk.out/prod")
    return [resource for path in paths for resource in _resources(path)]


def _resources(path: Path) -> Iterator[Resource]:
    stack = path.name.removesuffix(SUFFIX)
    try:
        resources = json.loads(path.read_text())["Resources"]
        for logical_id, resource in sorted(resources.items()):
            yield Resource(stack, logical_id, resource["Type"], resource.get("Properties", {}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{path} is no CloudFormation template ({error!r}); run `make synth` again") from error


def packaged_templates(stage: str) -> Path | None:
    """Return the folder with the templates of a stage that this installation carries; None in a checkout, which synthesises them.

    Raises:
        InvalidInput: this installation carries no templates of this stage.
    """
    if find_checkout() is not None:
        return None
    folder = PACKAGED / stage
    if not folder.is_dir():
        stages = sorted(path.name for path in PACKAGED.glob("*"))
        raise InvalidInput(
            f"this installation carries templates of {', '.join(stages) or 'no stage'}, not of {stage!r}; "
            "run it in a checkout of Gavel, or give --templates FOLDER"
        )
    return folder


def synthesise(stage: str, folder: Path, reranker: bool = False) -> None:
    """Run the CDK app for one stage, without an account and without downloads, with the re-ranker that cdk.context.json names.

    Args:
        stage: a key of `stages` in cdk.json.
        folder: folder to write the cloud assembly to.
        reranker: True includes the re-rank endpoint of the stage even if no re-ranker is published yet.

    Raises:
        InvalidInput: cdk.json has no such stage, or the stage cannot be synthesised.
        MissingPrerequisite: there is no checkout here, or the CDK or node is not installed.
    """
    checkout = require_checkout()
    context = _context(checkout)
    if stage not in context["stages"]:
        raise InvalidInput(f"cdk.json has no stage {stage!r}; it has {', '.join(context['stages'])}")
    if importlib.util.find_spec("aws_cdk") is None:
        raise MissingPrerequisite("the CDK is not installed; run `make .venv/installed-dev`, or give --templates FOLDER")
    if shutil.which("node") is None:
        raise MissingPrerequisite("the CDK runs on Node.js, and there is none; install 22 or newer, or give --templates FOLDER")
    context |= {CONTEXT_KEY.format(stage): ANY_RERANKER} if reranker else {}
    stage_context = json.dumps({**context, **read_context(checkout / CONTEXT_FILE), "stage": stage, "gavel:bundle": "false"})
    env = {**os.environ, "CDK_CONTEXT_JSON": stage_context, "CDK_OUTDIR": str(folder)}
    process = subprocess.run([sys.executable, "app.py"], cwd=checkout, env=env, capture_output=True, text=True, check=False)
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise InvalidInput(f"stage {stage} cannot be synthesised: {reason}; `make synth` shows more")


def _context(checkout: Path) -> dict[str, Any]:
    return dict(json.loads((checkout / "cdk.json").read_text())["context"])


def main(folder: Path = PACKAGED) -> None:
    """Write the templates of every stage of cdk.json into a folder for each, without anything else of the cloud assembly."""
    shutil.rmtree(folder, ignore_errors=True)
    for stage in _context(require_checkout())["stages"]:
        (folder / stage).mkdir(parents=True)
        with tempfile.TemporaryDirectory() as assembly:
            synthesise(stage, Path(assembly))
            for template in Path(assembly).glob(f"*{SUFFIX}"):
                shutil.copy(template, folder / stage)


if __name__ == "__main__":
    main()
