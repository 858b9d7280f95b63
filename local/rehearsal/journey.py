"""What happens in a deployed stage from the first upload to an answer: each step by the interfaces that an operator has."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from local.rehearsal.cloud import Cloud
from local.rehearsal.deployment import DeployedStage
from retrieval.errors import GavelError

QUERY = "red vase"
K = 5
WAIT_S = 120.0
POLL_S = 0.2
STATE_MACHINE, BUCKET, FUNCTION = "AWS::StepFunctions::StateMachine", "AWS::S3::Bucket", "AWS::Lambda::Function"


class RehearsalFailed(GavelError):
    """A step did not do what it must."""


@dataclass
class Journey:
    """The steps of one stage, in their order.

    Attributes:
        cloud: the account.
        stage: what is deployed there.
        day: date of the lots, ISO.
        seconds: step -> how long it took.
        found: titles that the last search answered with, best first.
    """

    cloud: Cloud
    stage: DeployedStage
    day: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())
    seconds: dict[str, float] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)

    def step(self, label: str, run: Callable[[], Any]) -> Any:
        """Run a step and take its time."""
        start = time.perf_counter()
        done = run()
        self.seconds[label] = time.perf_counter() - start
        return done

    def run(self, towers: Sequence[Path], lots: Path) -> None:
        """Every step.

        Args:
            towers: artefacts of the first tower and of the one that takes over.
            lots: folder with the day's item files and photos.

        Raises:
            RehearsalFailed: the message names step and reason.
        """
        self.step("a search before anything is indexed", self.refuse_search)
        self.step("publish a tower", lambda: self.publish_tower(towers[0], current=True))
        self.step(
            "a night without lots", lambda: self.night((datetime.now(UTC) - timedelta(days=7)).date().isoformat(), lots=False)
        )
        self.step("upload the day's lots", lambda: self.upload(lots))
        self.step("the night: find, embed, count, index, record", lambda: self.night(self.day, lots=True))
        self.step("the same night again", lambda: self.night(self.day, lots=True))
        self.step("a search", lambda: self.search(towers[0].name))
        self.step("publish another tower", lambda: self.publish_tower(towers[1], current=False))
        self.step("rebuild for it: embed all, swap, embed the day again", lambda: self.rebuild(towers[1].name))
        self.step("a search with it", lambda: self.search(towers[1].name))

    def bucket(self, name: str) -> str:
        """Name of one of the stage's buckets."""
        return self.stage.physical(f"ItemStore{name}", BUCKET)

    def publish_tower(self, tower: Path, *, current: bool) -> None:
        """Put a tower where the jobs and the queries look for it; nights embed with the current one."""
        self._upload(tower, self.bucket("Towers"), f"{tower.name}/")
        if current:
            named = json.dumps({"tower_id": tower.name})
            self.cloud.client("s3").put_object(Bucket=self.bucket("Towers"), Key="current.json", Body=named)

    def upload(self, lots: Path) -> None:
        """Put the day's files where the night looks for them."""
        self._upload(lots, self.bucket("NewItems"), f"{self.day}/")

    def night(self, day: str, *, lots: bool) -> None:
        """Start the first machine as the schedule does, and see the second one to its end."""
        machines = self.cloud.client("stepfunctions")
        started = machines.start_execution(
            stateMachineArn=self.stage.physical("NightlyBatchFindDay", STATE_MACHINE),
            name=uuid4().hex,
            input=json.dumps({"scheduled_time": f"{day}T02:00:00Z"}),
        )
        self._ended(started["executionArn"])
        of_day = self._names(self.stage.physical("NightlyBatchEmbedDay", STATE_MACHINE), day)
        if len(of_day) != int(lots):
            raise RehearsalFailed(f"{len(of_day)} executions embed {day}, {int(lots)} were expected")
        if lots:
            self._ended(of_day[0])
            self._check_record(day)

    def rebuild(self, tower_id: str) -> None:
        """Have another tower take over; the days that it embeds again end before this does."""
        machines = self.cloud.client("stepfunctions")
        started = machines.start_execution(
            stateMachineArn=self.stage.physical("Rebuild", STATE_MACHINE),
            name=uuid4().hex,
            input=json.dumps({"tower_id": tower_id}),
        )
        self._ended(started["executionArn"])
        nights = self.stage.physical("NightlyBatchEmbedDay", STATE_MACHINE)
        self._until(lambda: self._names(nights, tower_id), f"the day was not embedded again with {tower_id}")
        for night in machines.list_executions(stateMachineArn=nights)["executions"]:
            self._ended(night["executionArn"])

    def refuse_search(self) -> None:
        """Before the first release the API must say that there is no index, not fail."""
        status, answer = self._ask()
        if status != 503 or answer["type"] != "index_unavailable":
            raise RehearsalFailed(f"without an index the search answered {status}: {answer}")

    def search(self, tower_id: str) -> None:
        """Ask the deployed query function; the best lots must be of the asked kind, from this tower's index."""
        status, answer = self._ask()
        if status != 200 or answer["tower_id"] != tower_id:
            raise RehearsalFailed(f"the search answered {status}: {json.dumps(answer)[:500]}")
        self.found = [str(lot["fields"]["title"]) for lot in answer["results"]]
        if len(self.found) != K or QUERY.split()[-1] not in self.found[0].lower():
            raise RehearsalFailed(f"a search for {QUERY!r} found {self.found}")

    def _ask(self) -> tuple[int, dict[str, Any]]:
        """GET /search as API Gateway hands it to the alias that the API calls."""
        parameters = {"q": QUERY, "k": str(K)}
        event = {
            "resource": "/search",
            "path": "/search",
            "httpMethod": "GET",
            "headers": {"Host": "api.example.com"},
            "queryStringParameters": parameters,
            "multiValueQueryStringParameters": {name: [value] for name, value in parameters.items()},
            "requestContext": {
                "resourcePath": "/search",
                "httpMethod": "GET",
                "stage": "v1",
                "requestId": "rehearsal",
                "path": "/v1/search",
            },
            "body": None,
            "isBase64Encoded": False,
        }
        function = self.stage.physical("QueryApiFunction", FUNCTION)
        called = self.cloud.client("lambda").invoke(FunctionName=function, Qualifier="live", Payload=json.dumps(event))
        answer = json.loads(called["Payload"].read())
        if "FunctionError" in called or not isinstance(answer, dict) or answer["isBase64Encoded"]:
            raise RehearsalFailed(f"the query function failed: {self.cloud.invocations[-1][1].log[-2000:]}")
        return int(answer["statusCode"]), json.loads(answer["body"])

    def _check_record(self, day: str) -> None:
        """The night must have written down that every row is accounted for and the release is live."""
        written = self.cloud.client("s3").get_object(Bucket=self.bucket("Releases"), Key=f"{day}.json")
        record = json.loads(written["Body"].read())
        counts = record["counts"]
        if not record["indexed"]["lots"] or any(count["items_in"] != count["accounted"] for count in counts):
            raise RehearsalFailed(f"the record of {day} does not add up: {record}")

    def _names(self, machine: str, part: str) -> list[str]:
        """ARNs of a machine's executions in whose names a word stands."""
        executions = self.cloud.client("stepfunctions").list_executions(stateMachineArn=machine)["executions"]
        return [execution["executionArn"] for execution in executions if part in execution["name"]]

    def _ended(self, execution: str) -> None:
        """Wait for the good end of an execution."""
        machines = self.cloud.client("stepfunctions")
        self._until(lambda: machines.describe_execution(executionArn=execution)["status"] != "RUNNING", f"{execution} did not end")
        told = machines.describe_execution(executionArn=execution)
        if told["status"] != "SUCCEEDED":
            raise RehearsalFailed(f"{execution.rsplit(':', 2)[-2]} {told['status']}: {told.get('error')} {told.get('cause')}")

    def _until(self, holds: Callable[[], object], otherwise: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not holds():
            if time.monotonic() > deadline:
                raise RehearsalFailed(f"{otherwise} in {WAIT_S:g} s")
            time.sleep(POLL_S)

    def _upload(self, folder: Path, bucket: str, prefix: str) -> None:
        s3 = self.cloud.client("s3")
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            s3.upload_file(str(path), bucket, f"{prefix}{path.relative_to(folder)}")
