"""Correct the differences between moto's and AWS's Step Functions that matter to Gavel's machines."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from uuid import uuid4

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
RunJob = Callable[[Parameters], None]


@contextmanager
def as_on_aws(run_job: RunJob | None = None) -> Iterator[None]:
    """Correct these differences for the length of the block.

    - Definitions capitalise parameter names and some APIs do not; AWS converts the names, moto does not.
    - AWS passes objects as text; moto passes boto3's body.
    - AWS names an unnamed execution; moto calls it None.
    - AWS names errors of S3 "S3.…"; moto names them "s3.…".
    - moto's CloudFormation creates machines in another backend than moto's interpreter uses.
    - moto rejects `createProcessingJob.sync`; the suffix is removed and the job runs synchronously.

    Args:
        run_job: runs a processing job with the parameters of CreateProcessingJob; None only creates the job.
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
            run_job(normalised_parameters)

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
    ):
        yield
