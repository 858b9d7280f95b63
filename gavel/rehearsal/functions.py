"""Lambda functions of an emulated account: the uploaded code runs when a client or a queue calls it."""

import io
import json
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from moto.awslambda.models import EventSourceMapping, LambdaBackend, LambdaFunction
from moto.awslambda.utils import get_backend
from moto.sqs.models import Queue, sqs_backends

from gavel.rehearsal.lambda_runtime import Invocation, invoke
from retrieval.errors import GavelError

POLL_S = 0.2
IDLE_S = 120.0


class Functions:
    """Runs functions and polls the queues that are mapped to them.

    Args:
        invocations: list that receives (function name, result) of every call.
        environment: environment variables of every function; the function's own variables outrank them.
        credentials: ARN of a role -> variables with its access key.
        work: folder for the code and files of functions.
    """

    def __init__(
        self,
        invocations: list[tuple[str, Invocation]],
        environment: Mapping[str, str],
        credentials: Callable[[str], Mapping[str, str]],
        work: Path,
    ) -> None:
        self._invocations, self._environment, self._credentials, self._work = invocations, environment, credentials, work
        self._calls, self._lock = 0, threading.Lock()
        self._mappings: list[EventSourceMapping] = []
        self._ended = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run functions and deliver messages for the length of the block."""
        create = LambdaBackend.create_event_source_mapping
        functions = self

        def created(backend: LambdaBackend, spec: dict[str, Any]) -> EventSourceMapping:
            mapping = create(backend, spec)
            mapping.enabled = False  # moto would deliver one old message for each new one
            functions._mappings.append(mapping)
            return mapping

        def run(function: LambdaFunction, event: Any = None) -> tuple[str, bool, str]:
            result = functions._call(function, event)
            return json.dumps(result.answer), result.failed, result.log

        with (
            patch.object(LambdaBackend, "create_event_source_mapping", created),
            patch.object(LambdaFunction, "_invoke_lambda", run),
        ):
            poller = threading.Thread(target=self._poll, daemon=True)
            poller.start()
            try:
                yield
            finally:
                self._ended.set()
                poller.join()

    def wait_until_idle(self) -> None:
        """Wait until no mapped queue holds a message.

        Raises:
            GavelError: messages are still queued after IDLE_S, because a function is busy or keeps failing.
        """
        deadline = time.monotonic() + IDLE_S
        while any(_waiting(_queue(mapping)) for mapping in list(self._mappings)):
            if time.monotonic() > deadline:
                raise GavelError(f"messages are still waiting after {IDLE_S:g} s: {self._invocations[-1:]}")
            time.sleep(POLL_S)

    def _poll(self) -> None:
        """Deliver messages in batches until the block ends, and keep the messages that a function reports as failed."""
        while not self._ended.wait(POLL_S):
            for mapping in list(self._mappings):
                queue = _queue(mapping)
                backend = sqs_backends[queue.account_id][queue.region]
                while not self._ended.is_set():
                    timeout_s = int(vars(queue)["visibility_timeout"])
                    messages = backend.receive_message(queue.name, mapping.batch_size, 0, timeout_s)
                    if not messages:
                        break
                    failed = self._deliver(mapping, messages)
                    for message in messages:
                        if message.id not in failed:
                            backend.delete_message(queue.name, str(message.receipt_handle))

    def _deliver(self, mapping: EventSourceMapping, messages: list[Any]) -> set[str]:
        """Call the function with a batch and return the ids of failed messages."""
        source = {"eventSource": "aws:sqs", "eventSourceARN": mapping.event_source_arn}
        records = [
            {"messageId": message.id, "body": message.body, "attributes": {"SentTimestamp": str(message.sent_timestamp)}, **source}
            for message in messages
        ]
        event = {"Records": records}
        account, region = mapping.function_arn.split(":")[4], mapping.function_arn.split(":")[3]
        result = self._call(get_backend(account, region).get_function(mapping.function_arn), event)
        if result.failed:
            return {message.id for message in messages}
        return {failure["itemIdentifier"] for failure in (result.answer or {}).get("batchItemFailures", [])}

    def _call(self, function: Any, event: Any) -> Invocation:
        code = self._work / function.code_sha_256.replace("/", "_")
        with self._lock:
            if not code.is_dir():
                zipfile.ZipFile(io.BytesIO(function.code_bytes)).extractall(code)
            self._calls += 1
            work = self._work / f"call-{self._calls}"
            warm = self._work / "tmp" / function.function_name  # a warm environment keeps its files; a new account has none
            warm.mkdir(parents=True, exist_ok=True)
        own = {"TMPDIR": str(warm), **self._credentials(function.role), **function.environment_vars}
        environment = {**self._environment, **own}
        result = invoke(
            code, function.handler, event, environment, work, timeout_s=int(function.timeout), name=function.function_name
        )
        self._invocations.append((function.function_name, result))
        return result


def _queue(mapping: EventSourceMapping) -> Queue:
    _, _, _, region, account, name = mapping.event_source_arn.split(":")
    return sqs_backends[account][region].get_queue(name)


def _waiting(queue: Queue) -> int:
    """Return the number of messages that are visible or in flight."""
    return int(queue.approximate_number_of_messages) + int(queue.approximate_number_of_messages_not_visible)
