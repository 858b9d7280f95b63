"""Both stages, synthesised once: without wheels, without a network, without an account."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App, Validations
from cdk_nag import AwsSolutionsChecks

from infra.stacks import compose
from infra.stage import Stage, read_stage

ROOT = Path(__file__).resolve().parents[2]
CONTEXT: dict[str, Any] = json.loads((ROOT / "cdk.json").read_text())["context"]


@dataclass(frozen=True)
class Synthesised:
    """What one stage comes out as.

    Attributes:
        stage: its values.
        folder: the cloud assembly.
        templates: stack ("Storage", …) -> CloudFormation template.
    """

    stage: Stage
    folder: Path
    templates: dict[str, dict[str, Any]]

    def of_type(self, kind: str, stack: str | None = None) -> dict[str, dict[str, Any]]:
        """logical id -> resource, of every stack or of one."""
        return {
            logical_id: resource
            for name, template in self.templates.items()
            for logical_id, resource in template["Resources"].items()
            if resource["Type"] == kind and stack in (None, name)
        }

    def properties(self, kind: str) -> list[dict[str, Any]]:
        """Properties of every resource of a type."""
        return [resource.get("Properties", {}) for resource in self.of_type(kind).values()]


def synthesise(name: str, folder: Path, published_reranker: str | None = None, **overrides: Any) -> Synthesised:
    """Synthesise a stage into a folder, with some of its values replaced, before or after a re-ranker was published."""
    stages = {**CONTEXT["stages"], name: {**CONTEXT["stages"][name], **overrides}}
    app = App(context={**CONTEXT, "stages": stages, "gavel:bundle": False}, outdir=str(folder))
    stage = read_stage(stages, name, published_reranker)
    stacks = compose(app, stage)
    Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    app.synth()
    read = {short: json.loads((folder / f"{stack.stack_name}.template.json").read_text()) for short, stack in stacks.items()}
    return Synthesised(stage, folder, read)


@pytest.fixture(scope="session")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Synthesised:
    return synthesise("dev", tmp_path_factory.mktemp("dev"))


@pytest.fixture(scope="session")
def prod(tmp_path_factory: pytest.TempPathFactory) -> Synthesised:
    return synthesise("prod", tmp_path_factory.mktemp("prod"))


@pytest.fixture(params=["dev", "prod"])
def stage(request: pytest.FixtureRequest) -> Synthesised:
    """Each stage in turn."""
    synthesised: Synthesised = request.getfixturevalue(request.param)
    return synthesised
