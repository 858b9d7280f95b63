"""Correct the differences between moto's and AWS's Step Functions that matter to Gavel's machines."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import boto3
from botocore.config import Config
from moto.settings import moto_server_port
from moto.stepfunctions import models as simple
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_aws_sdk import (
    _SERVICE_ERROR_NAMES as SERVICE_NAMES,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_aws_sdk import (
    StateTaskServiceAwsSdk,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_sfn import StateTaskServiceSfn
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_unsupported import (
    StateTaskServiceUnsupported,
)
from moto.stepfunctions.parser.models import StepFunctionsParserBackend, stepfunctions_parser_backends

Parameters = Mapping[str, Any]
RunJob = Callable[[Parameters, str], None]
Credentials = Callable[[str], Mapping[str, str]]
MACHINES = "moto.stepfunctions.parser."  # prefix of the modules of moto's interpreter


@contextmanager
def as_on_aws(run_job: RunJob | None = None, credentials: Credentials | None = None) -> Iterator[None]:
    """Correct these differences for the length of the block.

    - Definitions capitalise parameter names and some APIs do not; AWS converts the names, moto does not.
    - AWS passes objects as text; moto passes boto3's body.
    - AWS names an unnamed execution; moto calls it None.
    - AWS names errors of S3 "S3.…"; moto names them "s3.…".
    - moto's CloudFormation creates machines in another backend than moto's interpreter uses.
    - moto rejects `createProcessingJob.sync`; the suffix is removed and the job runs synchronously.
    - A machine calls with its role; moto calls with one key for all.

    Args:
        run_job: runs a processing job with the parameters of CreateProcessingJob and the ARN of the machine's role; None only
            creates the job.
        credentials: ARN of a role -> variables with its access key; None leaves moto's key.
    """
    start, call = StateTaskServiceSfn._eval_service_task, StateTaskServiceAwsSdk._eval_service_task
    create, define = StateTaskServiceUnsupported._eval_service_task, StepFunctionsParserBackend.create_state_machine

    # moto passes arguments by name, so the parameters have moto's names
    def started(
        self: Any, env: Any, resource_runtime_part: Any, normalised_parameters: dict[str, Any], state_credentials: Any
    ) -> None:
        uncapitalised = {name[0].lower() + name[1:]: value for name, value in normalised_parameters.items()}
        start(self, env, resource_runtime_part, uncapitalised, state_credentials)

    def called(
        self: Any, env: Any, resource_runtime_part: Any, normalised_parameters: dict[str, Any], state_credentials: Any
    ) -> None:
        if isinstance(normalised_parameters.get("Body"), dict):
            normalised_parameters["Body"] = json.dumps(normalised_parameters["Body"])
        call(self, env, resource_runtime_part, normalised_parameters, state_credentials)
        if "Body" in env.stack[-1]:
            env.stack[-1]["Body"] = env.stack[-1]["Body"].read().decode()

    def created(
        self: Any, env: Any, resource_runtime_part: Any, normalised_parameters: dict[str, Any], state_credentials: Any
    ) -> None:
        create(self, env, resource_runtime_part, normalised_parameters, state_credentials)
        if run_job:
            run_job(normalised_parameters, state_credentials.role_arn)

    def defined(self: Any, name: str, definition: str, roleArn: str, **kwargs: Any) -> Any:
        started_alone = definition.replace("createProcessingJob.sync", "createProcessingJob")
        return define(self, name=name, definition=started_alone, roleArn=roleArn, **kwargs)

    begin = StepFunctionsParserBackend.start_execution

    def begun(self: Any, state_machine_arn: str, name: str | None = None, *rest: Any, **kwargs: Any) -> Any:
        return begin(self, state_machine_arn, name or uuid4().hex, *rest, **kwargs)

    with (
        patch.dict(SERVICE_NAMES, {"s3": "S3"}),
        patch.object(StateTaskServiceSfn, "_eval_service_task", started),
        patch.object(StateTaskServiceAwsSdk, "_eval_service_task", called),
        patch.object(StateTaskServiceUnsupported, "_eval_service_task", created),
        patch.object(simple, "stepfunctions_backends", stepfunctions_parser_backends),
        patch.object(StepFunctionsParserBackend, "start_execution", begun),
        patch.object(StepFunctionsParserBackend, "create_state_machine", defined),
        ExitStack() as clients,
    ):
        if credentials:
            for module in [module for name, module in sys.modules.items() if name.startswith(MACHINES)]:
                if hasattr(module, "boto_client_for"):
                    clients.enter_context(patch.object(module, "boto_client_for", _client_of_role(credentials)))
        yield


def _client_of_role(credentials: Credentials) -> Callable[..., Any]:
    """Return the function that replaces boto_client_for() of moto's interpreter, which moto calls with these names."""

    def client(region: str, service: str, state_credentials: Any = None) -> Any:
        return boto3.client(
            service,
            region_name=region,
            endpoint_url=f"http://localhost:{moto_server_port()}",
            config=Config(parameter_validation=False, retries={"max_attempts": 0, "total_max_attempts": 1}),
            **{name.lower(): value for name, value in credentials(state_credentials.role_arn).items()},
        )

    return client
