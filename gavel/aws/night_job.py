"""The job of the nights, read from the deployed machine: a job that is started by hand is the same by construction."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gavel.aws.account import DeployedStage, asking_aws, client
from retrieval.errors import GavelError

JOB_STATE = "createProcessingJob"
CODE = "code"  # name of the input with the sources; ScriptProcessor brings it by itself
TRAINING_SCRIPT = 'exec bash processing/train_job.sh "$@"'
LONGEST = 256  # characters of a word of ContainerEntrypoint


@dataclass(frozen=True)
class NightJob:
    """What the machine asks SageMaker for on the first type of its ladder.

    Attributes:
        parameters: of CreateProcessingJob; names that end in ".$" are filled in at night.
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
        """Where each input goes and comes from: name -> (path in the container, s3:// URI); the sources are left out.

        Args:
            filled: URI of an input that the machine fills in at night.

        Raises:
            GavelError: the machine fills in another one.
        """
        inputs = {given["InputName"]: given["S3Input"] for given in self.parameters["ProcessingInputs"]}
        for name, place in inputs.items():
            if name not in filled and "S3Uri" not in place:
                raise GavelError(f"the nightly job fills in its input {name!r}, which this version does not know; update Gavel")
        uris = {name: filled.get(name, place.get("S3Uri", "")) for name, place in inputs.items()}
        return {name: (place["LocalPath"], uris[name]) for name, place in inputs.items() if name != CODE}

    @property
    def code_uri(self) -> str:
        """s3:// URI of the sources."""
        (code,) = [given for given in self.parameters["ProcessingInputs"] if given["InputName"] == CODE]
        return str(code["S3Input"]["S3Uri"])

    @property
    def command(self) -> list[str]:
        """The entry without the name that the shell gives its script ($0): ScriptProcessor puts the code's path there."""
        entrypoint: list[str] = self.parameters["AppSpecification"]["ContainerEntrypoint"]
        return entrypoint[:-1]

    @property
    def training_command(self) -> list[str]:
        """The same preparation, then training in the place of embedding."""
        *shell, script = self.command
        prepare, found, _ = script.rpartition("exec ")
        if not found or len(prepare + TRAINING_SCRIPT) > LONGEST:
            raise GavelError(f"the nightly job's script has no room for training: {script!r}; change it in infra/embedding_job.py")
        return [*shell, prepare + TRAINING_SCRIPT]


def night_job(stage: DeployedStage) -> NightJob:
    """Read the job from the definition of the stage's machine EmbedDay."""
    machine = stage.output("EmbedDayMachine")
    states = client("stepfunctions")
    with asking_aws(f"state machine {machine}"):
        definition = json.loads(states.describe_state_machine(stateMachineArn=machine)["definition"])
    jobs = [state["Parameters"] for state in _states(definition) if JOB_STATE in state.get("Resource", "")]
    if not jobs:
        raise GavelError(f"{machine} starts no processing job; deploy stage {stage.name} again")
    return NightJob(jobs[0])


def _states(definition: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The states of a machine, those of its loops as well."""
    for state in definition.get("States", {}).values():
        yield state
        yield from _states(state.get("ItemProcessor", {}))
