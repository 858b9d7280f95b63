"""Run Lambda functions as Lambda does: in a new Python 3.12 with only the unpacked bundle and AWS's library."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from retrieval.errors import MissingPrerequisite

PYTHON = "3.12"
RUNTIME_PACKAGES = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six", "urllib3")  # in Lambda's Python
INVOCATION = """
import importlib, json, sys, types
given = json.load(sys.stdin)
module, _, name = given["handler"].rpartition(".")
context = types.SimpleNamespace(**given["context"], get_remaining_time_in_millis=lambda: 1000 * given["timeout_s"])
answer = getattr(importlib.import_module(module), name)(given["event"], context)
with open(given["answer"], "w") as file:
    json.dump(answer, file)
"""


@dataclass(frozen=True)
class Invocation:
    """Result of one call of a function.

    Attributes:
        answer: return value of the handler; None if the call failed.
        log: output of the process, stdout before stderr.
        failed: True if the handler raised or exceeded the time limit.
    """

    answer: Any
    log: str
    failed: bool


@cache
def lambda_python() -> Path:
    """Find a Python of Lambda's version on this machine.

    Raises:
        MissingPrerequisite: there is no such Python, and uv cannot fetch one.
    """
    uv = [sys.executable, "-m", "uv", "python"]
    env = {**os.environ, "PYENV_VERSION": PYTHON}  # otherwise pyenv's shim refuses to run
    for install in ([], [*uv, "install", "--quiet", PYTHON]):
        if install:
            subprocess.run(install, capture_output=True, check=False)
        result = subprocess.run([*uv, "find", PYTHON], env=env, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            return Path(result.stdout.strip())
    raise MissingPrerequisite(
        f"Lambda runs Python {PYTHON}, and this machine has none: `uv python install {PYTHON}`, or put python{PYTHON} on the PATH"
    )


def invoke(
    code: Path,
    handler: str,
    event: Any,
    environment: Mapping[str, str],
    work: Path,
    *,
    timeout_s: float = 60,
    name: str = "function",
) -> Invocation:
    """Call a handler once in a new process.

    Args:
        code: folder of the unpacked bundle.
        handler: dotted name, such as "lambdas.query_api.handler.handler".
        event: argument of the handler, as JSON values.
        environment: the function's environment variables; none of this process's variables are inherited.
        work: folder for the files of the call.
        timeout_s: time limit in seconds.
        name: name of the function.
    """
    work.mkdir(parents=True, exist_ok=True)
    answer = work / "answer.json"
    answer.unlink(missing_ok=True)
    context = {"function_name": name, "aws_request_id": "rehearsal", "log_stream_name": "rehearsal", "memory_limit_in_mb": 1024}
    context["invoked_function_arn"] = f"arn:aws:lambda:eu-west-1:123456789012:function:{name}"
    call = {"handler": handler, "event": event, "context": context, "timeout_s": timeout_s, "answer": str(answer)}
    lambda_env = {
        "LAMBDA_TASK_ROOT": str(code),
        "AWS_LAMBDA_FUNCTION_NAME": name,
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
    }
    command = [
        str(lambda_python()),
        "-I",
        "-X",
        f"pycache_prefix={code.parent / 'bytecode'}",  # bundles have no bytecode: without this every call compiles everything
        "-c",
        f"import sys; sys.path[:0] = {[str(code), str(_aws_library(work))]!r}\n{INVOCATION}",
    ]
    try:
        process = subprocess.run(
            command,
            input=json.dumps(call),
            env={**lambda_env, "TMPDIR": str(work), **environment},
            cwd=work,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Invocation(None, f"{name} took more than {timeout_s:g} s", failed=True)
    log = process.stdout + process.stderr
    if process.returncode:
        return Invocation(None, log, failed=True)
    return Invocation(json.loads(answer.read_text()), log, failed=False)


def proxy_event(path: str, parameters: Mapping[str, str], body: str | None = None, method: str = "") -> dict[str, Any]:
    """Build the event of API Gateway's proxy integration. Without `method` it is a GET, or a POST if there is a JSON body."""
    method = method or ("GET" if body is None else "POST")
    headers = {} if body is None else {"Content-Type": "application/json", "Content-Length": str(len(body.encode()))}
    context = {"resourcePath": path, "httpMethod": method, "stage": "v1", "requestId": "rehearsal", "path": f"/v1{path}"}
    return {
        "resource": path,
        "path": path,
        "httpMethod": method,
        "headers": {"Host": "api.example.com", **headers},
        "queryStringParameters": dict(parameters),
        "multiValueQueryStringParameters": {name: [value] for name, value in parameters.items()},
        "requestContext": context,
        "body": body,
        "isBase64Encoded": False,
    }


def _aws_library(work: Path) -> Path:
    """Return a folder of links to boto3 and its dependencies, which are pure Python and fit any version."""
    folder = work / "aws-library"
    folder.mkdir(exist_ok=True)
    for package in RUNTIME_PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None, package
        assert spec.origin is not None, package
        origin = Path(spec.origin)
        target = origin.parent if origin.name == "__init__.py" else origin
        link = folder / target.name
        if not link.exists():
            link.symlink_to(target)
    return folder
