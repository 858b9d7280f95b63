"""AWS as the commands see it: clients, errors of ours in the place of boto's, and the outputs of a stage's stacks."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError, PartialCredentialsError

from retrieval.errors import GavelError, InvalidInput, MissingPrerequisite

STACKS = ("Storage", "Serving", "Batch")
NOT_FOUND = ("404", "NoSuchKey", "NotFound")


@contextmanager
def asking_aws(what: str) -> Iterator[None]:
    """Turn what boto raises into an error with a way out.

    Args:
        what: is asked for, as it stands before the reason.

    Raises:
        MissingPrerequisite: there are no credentials, or no region.
        GavelError: AWS refused, or does not answer.
    """
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise MissingPrerequisite(f"{what}: no AWS credentials ({error}); run `aws configure` or set AWS_PROFILE") from error
    except NoRegionError as error:
        raise MissingPrerequisite(f"{what}: no AWS region; set AWS_REGION to the stage's region") from error
    except (BotoCoreError, ClientError) as error:
        raise GavelError(f"{what}: {error}") from error


def session() -> boto3.Session:
    """The shell's account and region: AWS's command line reads AWS_REGION first, boto3 by itself AWS_DEFAULT_REGION alone."""
    return boto3.Session(region_name=os.environ.get("AWS_REGION"))


def client(service: str) -> Any:
    """A client of the shell's account and region."""
    with asking_aws(service):
        return session().client(service)


@dataclass(frozen=True)
class DeployedStage:
    """A stage as it is deployed.

    Attributes:
        name: such as "dev".
        outputs: of its stacks, by name.
    """

    name: str
    outputs: Mapping[str, str]

    def output(self, name: str) -> str:
        """The value of an output.

        Raises:
            InvalidInput: no stack of the stage has it.
        """
        if name not in self.outputs:
            raise InvalidInput(
                f"stage {self.name} has no output {name}: deploy it again, `npx cdk deploy --all -c stage={self.name}`"
            )
        return self.outputs[name]


def deployed_stage(name: str) -> DeployedStage:
    """Read the outputs of a stage's stacks.

    Raises:
        InvalidInput: the stage is not deployed in this account and region.
        MissingPrerequisite: there are no credentials, or no region.
    """
    formation = client("cloudformation")
    outputs: dict[str, str] = {}
    for stack in STACKS:
        outputs |= _outputs(formation, f"Gavel-{name}-{stack}", name)
    return DeployedStage(name, outputs)


def _outputs(formation: Any, stack: str, stage: str) -> dict[str, str]:
    with asking_aws(f"stack {stack}"):
        try:
            (found,) = formation.describe_stacks(StackName=stack)["Stacks"]
        except ClientError as error:
            if "does not exist" not in str(error):
                raise
            region = formation.meta.region_name
            raise InvalidInput(
                f"stack {stack} is not deployed in {region}; `npx cdk deploy --all -c stage={stage}`, or set AWS_REGION"
            ) from None
    return {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}
