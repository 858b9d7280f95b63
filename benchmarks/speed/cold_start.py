"""How long the query Lambda takes to import in a fresh interpreter, and until it has answered its first search.

Files are read once before, so that the disk is warm, and bytecode is there. SnapStart takes its picture after all this, so that in
AWS it is paid when a version is published and not by a buyer.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from benchmarks.machine import describe_machine
from benchmarks.measurement import Measurement
from retrieval.errors import GavelError

PROGRAM = """
import json, sys, time
began = time.perf_counter()
import lambdas.query_api.handler as query_api
told = {"import_s": time.perf_counter() - began}
if sys.argv[1:]:
    event = json.loads(sys.argv[1])
    for name in ("first_answer_s", "second_answer_s"):
        asked = time.perf_counter()
        answer = query_api.handler(event, None)
        told[name] = time.perf_counter() - (began if name == "first_answer_s" else asked)
        told["status"] = answer["statusCode"]
        told["body"] = answer["body"][:300]
print("told:" + json.dumps(told))
"""
TOLD = "told:"


@dataclass(frozen=True)
class ColdStart(Measurement):
    """Seconds, medians over fresh interpreters.

    Attributes:
        runs: interpreters.
        import_s: importing the handler, and what it imports.
        slowest_import_s: of the runs.
        first_answer_s: from the start of the import to the first answer, tower and index included; None without a search.
        second_answer_s: the same search once more.
    """

    runs: int
    import_s: float
    slowest_import_s: float
    first_answer_s: float | None
    second_answer_s: float | None


def run_benchmark(query: str | None, *, runs: int = 5, on_run: Callable[[int, int], None] = lambda done, total: None) -> ColdStart:
    """Start the handler over and over.

    Args:
        query: is searched for, in the OpenSearch of the settings, with towers of the settings; None only imports.
        runs: how often, after one that does not count.
        on_run: called with (runs done, runs).

    Raises:
        GavelError: the handler failed; the message has its last words.
    """
    machine = describe_machine()
    arguments = [] if query is None else [json.dumps(search_event(query))]
    _start(arguments)
    told = []
    for run in range(runs):
        told.append(_start(arguments))
        on_run(run + 1, runs)

    def middle(name: str) -> float | None:
        return round(median(one[name] for one in told), 3) if name in told[0] else None

    imports = [one["import_s"] for one in told]
    seconds = round(median(imports), 3), round(max(imports), 3), middle("first_answer_s"), middle("second_answer_s")
    return ColdStart(runs, *seconds, machine=machine)


def search_event(query: str) -> dict[str, object]:
    """A search as API Gateway (REST, payload 1.0) hands it on."""
    return {
        "resource": "/search",
        "path": "/search",
        "httpMethod": "GET",
        "headers": {"host": "127.0.0.1"},
        "multiValueHeaders": {"host": ["127.0.0.1"]},
        "queryStringParameters": {"q": query},
        "multiValueQueryStringParameters": {"q": [query]},
        "requestContext": {"resourcePath": "/search", "httpMethod": "GET", "path": "/search", "stage": "bench"},
        "body": None,
        "isBase64Encoded": False,
    }


def _start(arguments: list[str]) -> dict[str, float]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment.setdefault("AWS_DEFAULT_REGION", "eu-west-1")
    environment["GAVEL_CACHED_ANSWERS_S"] = "0"  # the second answer is worked out, too
    ran = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False, env=environment)
    if ran.returncode:
        raise GavelError(f"the handler failed: {(ran.stderr.strip().splitlines() or ['without a word'])[-1]}")
    told: dict[str, float] = json.loads(next(line for line in ran.stdout.splitlines() if line.startswith(TOLD))[len(TOLD) :])
    if told.get("status", 200) != 200:
        raise GavelError(f"the search was answered with {told['status']}: {told['body']}")
    return told
