"""The running API held against its own OpenAPI document by schemathesis: what it promises, it answers, and never with a 5xx.

GAVEL_FUZZ_CASES says how many requests are made at least; `make fuzz` makes 5,000.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from served_lots import served_lots

CASES = int(os.environ.get("GAVEL_FUZZ_CASES", "200"))
FUZZED = 8  # operations that take anything; /health does not, and of the ninth some inputs come twice
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
]  # not positive_data_acceptance: that a price range is empty, or an item_id unknown, no schema can say


def test_the_server_answers_as_it_describes_itself(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    phases = "examples,fuzzing" if CASES < 1_000 else "examples,coverage,fuzzing"
    asked = ["--checks", ",".join(CHECKS), "--phases", phases, "--max-examples", str(-(-CASES // FUZZED)), "--seed", "0"]
    told = ["--continue-on-failure", "--no-shrink", "--no-color", "--report", "json", "--report-json-path", str(report)]
    with served_lots(tmp_path) as url:
        command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json", *asked, *told]
        ran = subprocess.run(
            [*command, "--suppress-health-check", "all"],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,  # schemathesis writes .schemathesis into its working directory
        )
    print(ran.stdout[-2_000:])
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr
    assert json.loads(report.read_text())["test_cases"]["generated"] >= CASES
