"""Start of the query Lambda in a new interpreter: time of the import, and until the first answer.

Files are read once before, so that the disk is warm and bytecode exists. SnapStart takes its snapshot after all this, so AWS pays
the time when a version is published, not when a buyer searches.
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
seconds = {"import_s": time.perf_counter() - began}
if sys.argv[1:]:
    event = json.loads(sys.argv[1])
    for name in ("first_answer_s", "second_answer_s"):
        sent = time.perf_counter()
        answer = query_api.handler(event, None)
        seconds[name] = time.perf_counter() - (began if name == "first_answer_s" else sent)
        seconds["status"] = answer["statusCode"]
        seconds["body"] = answer["body"][:300]
print("result:" + json.dumps(seconds))
"""
PREFIX = "result:"


@dataclass(frozen=True)
class ColdStart(Measurement):
    """Seconds, medians over new interpreters.

    Attributes:
        runs: number of interpreters.
        import_s: import of the handler with its dependencies.
        slowest_import_s: maximum of the runs.
        first_answer_s: from the start of the import to the first answer, tower and index included; None without a search.
        second_answer_s: the same search again.
    """

    runs: int
    import_s: float
    slowest_import_s: float
    first_answer_s: float | None
    second_answer_s: float | None


def run_benchmark(query: str | None, *, runs: int = 5, on_run: Callable[[int, int], None] = lambda done, total: None) -> ColdStart:
    """Start the handler several times.

    Args:
        query: searched in the OpenSearch of the settings with their towers; None only imports.
        runs: after one that does not count.
        on_run: called with (runs done, runs).

    Raises:
        GavelError: the handler failed; the message has its last line of output.
    """
    machine = describe_machine()
    arguments = [] if query is None else [json.dumps(search_event(query))]
    _start(arguments)
    results = []
    for run in range(runs):
        results.append(_start(arguments))
        on_run(run + 1, runs)

    def middle(name: str) -> float | None:
        return round(median(result[name] for result in results), 3) if name in results[0] else None

    imports = [result["import_s"] for result in results]
    seconds = round(median(imports), 3), round(max(imports), 3), middle("first_answer_s"), middle("second_answer_s")
    return ColdStart(runs, *seconds, machine=machine)


def search_event(query: str) -> dict[str, object]:
    """Build the event of a search from API Gateway (REST, payload 1.0)."""
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
    environment["GAVEL_CACHED_ANSWERS_S"] = "0"  # compute the second answer, too
    run = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False, env=environment)
    if run.returncode:
        raise GavelError(f"the handler failed: {(run.stderr.strip().splitlines() or ['without a word'])[-1]}")
    result: dict[str, float] = json.loads(next(line for line in run.stdout.splitlines() if line.startswith(PREFIX))[len(PREFIX) :])
    if result.get("status", 200) != 200:
        raise GavelError(f"the search was answered with {result['status']}: {result['body']}")
    return result
