"""Lambda functions run as Lambda runs them: a fresh Python 3.12 with the unpacked bundle and AWS's own library, nothing else."""

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
BESIDE_BUNDLES = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six", "urllib3")  # what Lambda's Python brings
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
    """What came of calling a function.

    Attributes:
        answer: what the handler returned; None when it failed.
        log: what it wrote.
        failed: whether it raised, or took too long.
    """

    answer: Any
    log: str
    failed: bool


@cache
def lambda_python() -> Path:
    """A Python of Lambda's version on this machine.

    Raises:
        MissingPrerequisite: there is none, and uv cannot fetch one.
    """
    uv = [sys.executable, "-m", "uv", "python"]
    there = {**os.environ, "PYENV_VERSION": PYTHON}  # or pyenv's shim of it would refuse to run
    for bring in ([], [*uv, "install", "--quiet", PYTHON]):
        if bring:
            subprocess.run(bring, capture_output=True, check=False)
        found = subprocess.run([*uv, "find", PYTHON], env=there, capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return Path(found.stdout.strip())
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
    """Call a handler once, in a process of its own.

    Args:
        code: the unpacked bundle.
        handler: such as "lambdas.query_api.handler.handler".
        event: what it is called with; JSON.
        environment: the function's own variables; of this process it inherits none.
        work: a folder for the call's own files.
        timeout_s: after which it is ended.
        name: of the function.
    """
    work.mkdir(parents=True, exist_ok=True)
    answer = work / "answer.json"
    answer.unlink(missing_ok=True)
    context = {"function_name": name, "aws_request_id": "rehearsal", "log_stream_name": "rehearsal", "memory_limit_in_mb": 1024}
    context["invoked_function_arn"] = f"arn:aws:lambda:eu-west-1:123456789012:function:{name}"
    given = {"handler": handler, "event": event, "context": context, "timeout_s": timeout_s, "answer": str(answer)}
    of_lambda = {"LAMBDA_TASK_ROOT": str(code), "AWS_LAMBDA_FUNCTION_NAME": name, "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand"}
    command = [
        str(lambda_python()),
        "-I",
        "-X",
        f"pycache_prefix={code.parent / 'bytecode'}",  # a bundle has none: without it every call compiles all of it anew
        "-c",
        f"import sys; sys.path[:0] = {[str(code), str(_aws_library(work))]!r}\n{INVOCATION}",
    ]
    try:
        ran = subprocess.run(
            command,
            input=json.dumps(given),
            env={**of_lambda, "TMPDIR": str(work), **environment},
            cwd=work,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Invocation(None, f"{name} took more than {timeout_s:g} s", failed=True)
    said = ran.stdout + ran.stderr
    if ran.returncode:
        return Invocation(None, said, failed=True)
    return Invocation(json.loads(answer.read_text()), said, failed=False)


def proxy_event(path: str, parameters: Mapping[str, str], body: str | None = None, method: str = "") -> dict[str, Any]:
    """A request as API Gateway's proxy integration hands it over: GET, or POST of a body of JSON, unless told otherwise."""
    method = method or ("GET" if body is None else "POST")
    headers = {} if body is None else {"Content-Type": "application/json", "Content-Length": str(len(body.encode()))}
    where = {"resourcePath": path, "httpMethod": method, "stage": "v1", "requestId": "rehearsal", "path": f"/v1{path}"}
    return {
        "resource": path,
        "path": path,
        "httpMethod": method,
        "headers": {"Host": "api.example.com", **headers},
        "queryStringParameters": dict(parameters),
        "multiValueQueryStringParameters": {name: [value] for name, value in parameters.items()},
        "requestContext": where,
        "body": body,
        "isBase64Encoded": False,
    }


def _aws_library(work: Path) -> Path:
    """A folder of links to boto3 and what it needs, which are pure Python and serve any version."""
    folder = work / "aws-library"
    folder.mkdir(exist_ok=True)
    for package in BESIDE_BUNDLES:
        spec = importlib.util.find_spec(package)
        assert spec is not None, package
        assert spec.origin is not None, package
        origin = Path(spec.origin)
        place = origin.parent if origin.name == "__init__.py" else origin
        link = folder / place.name
        if not link.exists():
            link.symlink_to(place)
    return folder
