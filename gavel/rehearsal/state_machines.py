"""Where moto's Step Functions differ from AWS's in what the machines of Gavel do, put right while a block runs."""

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
    """Put right what differs.

    - Parameters begin with a capital in a definition and with a small letter in some APIs; moto leaves them as they are.
    - Objects go in and come out as text; moto hands the body through to and from boto3.
    - An execution without a name is given one there, and called None here.
    - Errors of S3 are called S3.… there, s3.… here.
    - CloudFormation makes machines where the interpreter does not look for them.
    - `createProcessingJob.sync` ends when the job does; moto refuses the word, so it is taken out and the job is run in its place.

    Args:
        run_job: runs a processing job to its end, given the parameters of CreateProcessingJob; None starts the job alone.
    """
    start, call = StateTaskServiceSfn._eval_service_task, StateTaskServiceAwsSdk._eval_service_task
    create, define = StateTaskServiceUnsupported._eval_service_task, StepFunctionsParserBackend.create_state_machine

    # the names of the parameters are moto's, which passes them by name
    def started(
        self: Any, env: Any, resource_runtime_part: Any, normalised_parameters: dict[str, Any], state_credentials: Any
    ) -> None:
        small = {name[0].lower() + name[1:]: value for name, value in normalised_parameters.items()}
        start(self, env, resource_runtime_part, small, state_credentials)

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

    def defined(self: Any, name: str, definition: str, roleArn: str, **named: Any) -> Any:
        started_alone = definition.replace("createProcessingJob.sync", "createProcessingJob")
        return define(self, name=name, definition=started_alone, roleArn=roleArn, **named)

    begin = StepFunctionsParserBackend.start_execution

    def begun(self: Any, state_machine_arn: str, name: str | None = None, *rest: Any, **named: Any) -> Any:
        return begin(self, state_machine_arn, name or uuid4().hex, *rest, **named)

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
