"""AWS clients, translation of boto's errors, and the outputs of a stage's stacks."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError, PartialCredentialsError

from retrieval.errors import GavelError, InvalidInput, MissingPrerequisite

STACKS = ("Storage", "Serving", "Batch")
NOT_FOUND = ("404", "NoSuchKey", "NotFound")


@contextmanager
def aws_errors(what: str) -> Iterator[None]:
    """Translate boto's errors into errors with a remedy.

    Args:
        what: resource of the request, which begins the message.

    Raises:
        MissingPrerequisite: there are no credentials, or no region.
        GavelError: AWS refused the request, or does not answer.
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
    """Open a session in the shell's account and region.

    AWS_REGION sets the region, as for AWS's command line; boto3 by itself reads only AWS_DEFAULT_REGION.
    """
    return boto3.Session(region_name=os.environ.get("AWS_REGION"))


def client(service: str) -> Any:
    """Create a client in the shell's account and region."""
    with aws_errors(service):
        return session().client(service)


@dataclass(frozen=True)
class DeployedStage:
    """A deployed stage.

    Attributes:
        name: name of the stage, such as "dev".
        outputs: output name -> value, of all stacks of the stage.
    """

    name: str
    outputs: Mapping[str, str]

    def output(self, name: str) -> str:
        """Return the value of an output.

        Raises:
            InvalidInput: no stack of the stage has this output.
        """
        if name not in self.outputs:
            raise InvalidInput(
                f"stage {self.name} has no output {name}: deploy it again, `npx cdk deploy --all -c stage={self.name}`"
            )
        return self.outputs[name]


def deployed_stage(name: str, stacks: Sequence[str] = STACKS) -> DeployedStage:
    """Read the outputs of a stage's stacks.

    Args:
        name: name of the stage.
        stacks: last words of the stacks' names.

    Raises:
        InvalidInput: the stage is not deployed in this account and region.
        MissingPrerequisite: there are no credentials, or no region.
    """
    formation = client("cloudformation")
    outputs: dict[str, str] = {}
    for stack in stacks:
        outputs |= _outputs(formation, f"Gavel-{name}-{stack}", name)
    return DeployedStage(name, outputs)


def _outputs(formation: Any, stack: str, stage: str) -> dict[str, str]:
    with aws_errors(f"stack {stack}"):
        try:
            (description,) = formation.describe_stacks(StackName=stack)["Stacks"]
        except ClientError as error:
            if "does not exist" not in str(error):
                raise
            region = formation.meta.region_name
            raise InvalidInput(
                f"stack {stack} is not deployed in {region}; `npx cdk deploy --all -c stage={stage}`, or set AWS_REGION"
            ) from None
    return {output["OutputKey"]: output["OutputValue"] for output in description.get("Outputs", [])}
