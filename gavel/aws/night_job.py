"""The nightly job, read from the deployed state machine, so that a job started by hand has the same parameters."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gavel.aws.account import DeployedStage, aws_errors, client
from retrieval.errors import GavelError

JOB_STATE = "createProcessingJob"
CODE = "code"  # name of the input with the sources, which ScriptProcessor adds itself
CONTAINER_SCRIPT = "processing/job_container.sh "  # prepares the container, then runs the command after it
TRAINING_COMMAND = 'bash processing/train_job.sh "$@"'


@dataclass(frozen=True)
class NightJob:
    """Parameters of the nightly job on the first instance type of the ladder.

    Attributes:
        parameters: parameters of CreateProcessingJob; the state machine fills in values whose names end in ".$".
    """

    parameters: dict[str, Any]

    @property
    def cluster(self) -> dict[str, Any]:
        """InstanceType, InstanceCount and VolumeSizeInGB."""
        return dict(self.parameters["ProcessingResources"]["ClusterConfig"])

    @property
    def network(self) -> dict[str, Any]:
        """NetworkConfig of the job."""
        return dict(self.parameters.get("NetworkConfig", {}))

    def inputs(self, **filled: str) -> dict[str, tuple[str, str]]:
        """Return name -> (path in the container, s3:// URI) of each input except the sources.

        Args:
            filled: input name -> s3:// URI, for the inputs that the state machine fills in.

        Raises:
            GavelError: the machine fills in an input that `filled` lacks.
        """
        inputs = {entry["InputName"]: entry["S3Input"] for entry in self.parameters["ProcessingInputs"]}
        for name, source in inputs.items():
            if name not in filled and "S3Uri" not in source:
                raise GavelError(f"the nightly job fills in its input {name!r}, which this version does not know; update Gavel")
        uris = {name: filled.get(name, source.get("S3Uri", "")) for name, source in inputs.items()}
        return {name: (source["LocalPath"], uris[name]) for name, source in inputs.items() if name != CODE}

    @property
    def code_uri(self) -> str:
        """s3:// URI of the sources."""
        (code,) = [entry for entry in self.parameters["ProcessingInputs"] if entry["InputName"] == CODE]
        return str(code["S3Input"]["S3Uri"])

    @property
    def command(self) -> list[str]:
        """Entrypoint without the shell's $0, where ScriptProcessor puts the path of the code."""
        entrypoint: list[str] = self.parameters["AppSpecification"]["ContainerEntrypoint"]
        return entrypoint[:-1]

    @property
    def training_command(self) -> list[str]:
        """Entrypoint that prepares the container as the nightly job does, then trains instead of embedding."""
        *shell, script = self.command
        prepare, container, _ = script.rpartition(CONTAINER_SCRIPT)
        if not container:
            raise GavelError(
                f"the stage was deployed by another version, whose job starts with {script!r}; "
                "`npx cdk deploy --all` brings this one"
            )
        return [*shell, prepare + container + TRAINING_COMMAND]


def night_job(stage: DeployedStage) -> NightJob:
    """Read the nightly job from the definition of the stage's machine EmbedDay."""
    machine = stage.output("EmbedDayMachine")
    states = client("stepfunctions")
    with aws_errors(f"state machine {machine}"):
        definition = json.loads(states.describe_state_machine(stateMachineArn=machine)["definition"])
    jobs = [state["Parameters"] for state in _states(definition) if JOB_STATE in state.get("Resource", "")]
    if not jobs:
        raise GavelError(f"{machine} starts no processing job; deploy stage {stage.name} again")
    return NightJob(jobs[0])


def _states(definition: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the states of a machine, including those of its loops."""
    for state in definition.get("States", {}).values():
        yield state
        yield from _states(state.get("ItemProcessor", {}))
