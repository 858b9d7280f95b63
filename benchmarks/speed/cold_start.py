"""Start time of the query Lambda in a new interpreter: time of the import, and time until the first answer.

An uncounted start comes first, so that files are in the page cache and bytecode exists. SnapStart takes its snapshot after the
import. So on AWS the import takes time when a version is published, not when a buyer searches.
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
    """Start times in seconds, medians over new interpreters.

    Attributes:
        runs: number of interpreters.
        import_s: import of the handler with its dependencies.
        slowest_import_s: longest import of all runs.
        first_answer_s: time from the start of the import to the first answer, including tower and index; None without a query.
        second_answer_s: time of the same search when repeated; None without a query.
    """

    runs: int
    import_s: float
    slowest_import_s: float
    first_answer_s: float | None
    second_answer_s: float | None


def run_benchmark(query: str | None, *, runs: int = 5, on_run: Callable[[int, int], None] = lambda done, total: None) -> ColdStart:
    """Start the handler several times.

    Args:
        query: query to search for, in the OpenSearch and with the towers of the settings; None only imports.
        runs: number of counted runs; an uncounted run comes first.
        on_run: called with (runs done, runs in all).

    Raises:
        GavelError: the handler failed; the message has the last line of the handler's output.
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
