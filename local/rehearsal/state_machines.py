"""Where moto's Step Functions differ from AWS's in what the machines of Gavel do, put right while a block runs."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from moto.stepfunctions.models import StepFunctionBackend
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_aws_sdk import StateTaskServiceAwsSdk
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_sfn import StateTaskServiceSfn
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_unsupported import (
    StateTaskServiceUnsupported,
)

Parameters = Mapping[str, Any]
RunJob = Callable[[Parameters], None]


@contextmanager
def as_on_aws(run_job: RunJob | None = None) -> Iterator[None]:
    """Put right what differs.

    - Parameters begin with a capital in a definition and with a small letter in some APIs; moto leaves them as they are.
    - Objects go in and come out as text; moto hands the body through to and from boto3.
    - `createProcessingJob.sync` ends when the job does; moto refuses the word, so it is taken out and the job is run in its place.

    Args:
        run_job: runs a processing job to its end, given the parameters of CreateProcessingJob; None starts the job alone.
    """
    start, call = StateTaskServiceSfn._eval_service_task, StateTaskServiceAwsSdk._eval_service_task
    create, define = StateTaskServiceUnsupported._eval_service_task, StepFunctionBackend.create_state_machine

    def started(self: Any, env: Any, part: Any, parameters: dict[str, Any], credentials: Any) -> None:
        start(self, env, part, {name[0].lower() + name[1:]: value for name, value in parameters.items()}, credentials)

    def called(self: Any, env: Any, part: Any, parameters: dict[str, Any], credentials: Any) -> None:
        if isinstance(parameters.get("Body"), dict):
            parameters["Body"] = json.dumps(parameters["Body"])
        call(self, env, part, parameters, credentials)
        if "Body" in env.stack[-1]:
            env.stack[-1]["Body"] = env.stack[-1]["Body"].read().decode()

    def created(self: Any, env: Any, part: Any, parameters: dict[str, Any], credentials: Any) -> None:
        create(self, env, part, parameters, credentials)
        if run_job:
            run_job(parameters)

    def defined(self: Any, name: str, definition: str, *rest: Any, **named: Any) -> Any:
        return define(self, name, definition.replace("createProcessingJob.sync", "createProcessingJob"), *rest, **named)

    with (
        patch.object(StateTaskServiceSfn, "_eval_service_task", started),
        patch.object(StateTaskServiceAwsSdk, "_eval_service_task", called),
        patch.object(StateTaskServiceUnsupported, "_eval_service_task", created),
        patch.object(StepFunctionBackend, "create_state_machine", defined),
    ):
        yield
