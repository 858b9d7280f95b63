"""What happens in a deployed stage from the first upload to an answer, by what `gavel aws` does for an operator."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from catalog.event_files import read_events
from gavel.aws.account import DeployedStage
from gavel.aws.buckets import Bucket
from gavel.aws.machines import start_night, start_rebuild
from gavel.aws.status import stage_status
from gavel.aws.towers import make_current, upload_tower
from gavel.rehearsal.cloud import Cloud
from gavel.rehearsal.lambda_runtime import proxy_event
from retrieval.errors import GavelError

QUERY = "red vase"
BUYER = "rehearsal"
K = 5
WAIT_S = 300.0  # on a slow machine, or beside other work, a rebuild takes minutes
POLL_S = 0.2


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
        self.step("a night without lots", lambda: self.empty_night("2020-02-29"))
        self.step("upload the day's lots", lambda: self.upload(lots))
        self.step("the night: find, embed, count, index, record", self.night)
        self.step("the same night again", self.night)
        self.step("a search", lambda: self.search(towers[0].name))
        self.step("publish another tower", lambda: self.publish_tower(towers[1], current=False))
        self.step("rebuild for it: embed all, swap, embed the day again", lambda: self.rebuild(towers[1].name))
        self.step("a search with it", lambda: self.search(towers[1].name))
        self.step("tell what was clicked, and find it in the bucket of events", self.tell)
        self.step("lots for that buyer; forgotten, popular and fresh ones", self.know_and_forget)
        self.step("status", lambda: self.check_status(towers[1].name))

    def publish_tower(self, tower: Path, *, current: bool) -> None:
        """Put a tower where the jobs and the queries look for it; nights embed with the current one."""
        upload_tower(self.stage, tower)
        if current:
            make_current(self.stage, tower.name)

    def upload(self, lots: Path) -> None:
        """Put the day's files where the night looks for them."""
        Bucket(self.stage.output("NewItemsBucket")).upload(lots, self.day)

    def empty_night(self, day: str) -> None:
        """The schedule on a day without lots: it ends well, and nothing is embedded."""
        given = json.dumps({"scheduled_time": f"{day}T02:00:00Z"})
        machine = self.stage.output("FindDayMachine")
        self._ended(self.cloud.client("stepfunctions").start_execution(stateMachineArn=machine, input=given)["executionArn"])
        if self._nights(day):
            raise RehearsalFailed(f"{day} has no lots, and was embedded")

    def night(self) -> None:
        """Start the day's night, and see it to its end; however often it is started, it is embedded once."""
        self._ended(start_night(self.stage, self.day))
        if len(self._nights(self.day)) != 1:
            raise RehearsalFailed(f"{len(self._nights(self.day))} executions embed {self.day}, one was expected")
        self._ended(self._nights(self.day)[0])
        self._check_record()

    def rebuild(self, tower_id: str) -> None:
        """Have another tower take over; the days that it embeds again end before this does."""
        self._ended(start_rebuild(self.stage, tower_id))
        self._until(lambda: self._nights(tower_id), f"the day was not embedded again with {tower_id}")
        for night in self._nights(tower_id):
            self._ended(night)

    def check_status(self, tower_id: str) -> None:
        """What an operator is told in the end must be good."""
        told = stage_status(self.stage)
        failed = [night.cause for night in told.nights if night.status != "SUCCEEDED"]
        if failed or told.dead_letters or told.tower_id != tower_id:
            raise RehearsalFailed(f"the stage is not well: {told}")

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

    def tell(self) -> None:
        """Post a click as the page does; a moment later the trainer must read it from the bucket."""
        now = datetime.now(UTC).isoformat()
        _, found = self._ask()
        best = {name: found["results"][0][name] for name in ("item_id", "proof")}
        click = {"event_type": "click", "position": 1, "timestamp": now, **best}
        shown = {"query_id": found["query_id"], "session_id": BUYER, "query": QUERY, "shown_at": now, "events": [click]}
        status, answer = self._call(proxy_event("/events", {}, json.dumps(shown)))
        if status != 202 or answer != {"accepted": 1, "served": 1}:
            raise RehearsalFailed(f"a click was answered {status}: {answer}")
        with TemporaryDirectory() as folder:
            Bucket(self.stage.output("EventsBucket")).download("events/", Path(folder))
            told = read_events([Path(folder)])
        if told.rejects or [(click.query, click.event_type) for click in told.clicks] != [(QUERY, "view")]:
            raise RehearsalFailed(f"the bucket of events holds {told}, one click was told")

    def know_and_forget(self) -> None:
        """The click must be the buyer's history, by which lots are found until the buyer is erased."""
        for source, erased in (("history", 1), ("popular_and_fresh", 0)):
            status, answer = self._call(proxy_event("/retrieve", {"buyer_id": BUYER, "k": str(K)}))
            if (status, answer.get("source"), len(answer.get("results", []))) != (200, source, K) or answer["degraded"]:
                raise RehearsalFailed(f"lots by {source} were asked for, the answer was {status}: {json.dumps(answer)[:500]}")
            status, answer = self._call(proxy_event(f"/buyers/{BUYER}", {}, method="DELETE"))
            if (status, answer) != (200, {"erased": erased}):
                raise RehearsalFailed(f"a buyer of {erased} acts was erased, the answer was {status}: {answer}")

    def _ask(self) -> tuple[int, dict[str, Any]]:
        """GET /search, as the page asks."""
        return self._call(proxy_event("/search", {"q": QUERY, "k": str(K)}))

    def _call(self, event: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Hand a request to the alias that the API calls, as API Gateway does."""
        live = self.stage.output("SearchFunction")
        called = self.cloud.client("lambda").invoke(FunctionName=live, Payload=json.dumps(event))
        answer = json.loads(called["Payload"].read())
        if "FunctionError" in called or not isinstance(answer, dict) or answer["isBase64Encoded"]:
            raise RehearsalFailed(f"the query function failed: {self.cloud.invocations[-1][1].log[-2000:]}")
        return int(answer["statusCode"]), json.loads(answer["body"])

    def _check_record(self) -> None:
        """The night must have written down that every row is accounted for and the release is live."""
        record = Bucket(self.stage.output("ReleasesBucket")).read_json(f"{self.day}.json")
        counts = record["counts"]
        if not record["indexed"]["lots"] or any(count["items_in"] != count["accounted"] for count in counts):
            raise RehearsalFailed(f"the record of {self.day} does not add up: {record}")

    def _nights(self, part: str) -> list[str]:
        """ARNs of the nights in whose names a date or a tower stands."""
        machine = self.stage.output("EmbedDayMachine")
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
