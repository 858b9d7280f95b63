"""Use a deployed stage from the first upload to an answer, through the functions behind `gavel aws`."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from catalog.event_files import read_events
from gavel.aws.account import DeployedStage
from gavel.aws.buckets import Bucket
from gavel.aws.indices import drop_index, list_indices
from gavel.aws.machines import start_night, start_rebuild
from gavel.aws.night_job import night_job
from gavel.aws.status import stage_status
from gavel.aws.towers import make_current, upload_tower
from gavel.opensearch.security import SECURITY_API
from gavel.rehearsal.cloud import Cloud
from gavel.rehearsal.domain import YOUNG, Domain
from gavel.rehearsal.lambda_runtime import proxy_event
from gavel.rehearsal.parts import make_part
from retrieval.contracts.tower_card import TowerCard
from retrieval.errors import GavelError

QUERY = "red vase"
BUYER = "rehearsal"
K = 5
BIDS, PRICE = 77, 1.5
WAIT_S = 300.0  # a rebuild takes minutes on a slow or busy machine
POLL_S = 0.2
PART_SIZES = (1_000, 5_000)  # items; the job writes parts of 5,000 at most
MAX_SEARCHABLE_S = 60.0
ATTEMPTS = 5  # at a search that the re-ranker answers in time, because a busy machine may take longer than its 50 ms


class RehearsalFailed(GavelError):
    """A step of the journey failed."""


@dataclass
class Journey:
    """The ordered steps of one stage.

    Attributes:
        cloud: emulated account.
        domain: OpenSearch domain of the stage.
        stage: stage that is deployed in the account.
        day: ISO date of the items.
        seconds: step -> duration in seconds.
        titles: titles of the last search's results, best first.
        searchable_s: number of items in a part -> seconds from the part's arrival in S3 to the end of the search that finds it.
    """

    cloud: Cloud
    domain: Domain
    stage: DeployedStage
    day: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())
    seconds: dict[str, float] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)
    searchable_s: dict[int, float] = field(default_factory=dict)

    def step(self, label: str, run: Callable[[], Any]) -> Any:
        """Run a step, store its duration and return its result.

        Raises:
            AccessRefused: a role was refused a call, even if the step went on without it.
        """
        start = time.perf_counter()
        try:
            result = run()
        finally:
            self.cloud.principals.check()
        self.seconds[label] = time.perf_counter() - start
        return result

    def run(self, towers: Sequence[Path], lots: Path) -> None:
        """Run every step.

        Args:
            towers: folders of the first tower and of its successor.
            lots: folder with the day's item files and photos.

        Raises:
            RehearsalFailed: a step failed; the message says why.
        """
        self.step("a search before anything is indexed", self.refuse_search)
        self.step("publish a tower", lambda: self.publish_tower(towers[0], current=True))
        self.step("a night without lots", lambda: self.empty_night("2020-02-29"))
        self.step("upload the day's lots", lambda: self.upload(lots))
        self.step("the night: find, embed, count, index, record", self.night)
        self.step("the same night again", self.night)
        self.step("a search, re-ranked", lambda: self.search(towers[0].name))
        self.step("publish another tower", lambda: self.publish_tower(towers[1], current=False))
        self.step("rebuild for it: embed all, swap, embed the day again", lambda: self.rebuild(towers[1].name))
        self.step("a search with it", lambda: self.search(towers[1].name))
        self.step("the snapshot of the query function", self.check_snapshot)
        self.step("tell what was clicked, and find it in the bucket of events", self.send_click)
        self.step("lots for that buyer; forgotten, popular and fresh ones", self.retrieve_and_erase)
        self.step("a bid by message, a price by event, a withdrawal by request", self.send_states)
        for items in PART_SIZES:
            self.step(f"a part of {items:,} more lots, until a search finds it", partial(self.measure_part, items, towers[1]))
        self.step("a part by hand", self.send_by_hand)
        self.step("operators list the indices, and drop the one before", lambda: self.operate(towers[0].name, towers[1].name))
        self.step("status", lambda: self.check_status(towers[1].name))
        self.step("what SageMaker would do with the role of trainings", self.check_training_role)
        self.step("the set-up of OpenSearch deleted and created again, side by side", self.repeat_set_up)

    def publish_tower(self, tower: Path, *, current: bool) -> None:
        """Upload a tower; if `current`, let the nightly runs use it."""
        upload_tower(self.stage, tower)
        if current:
            make_current(self.stage, tower.name)

    def upload(self, lots: Path) -> None:
        """Upload the day's files for the nightly run."""
        Bucket(self.stage.output("NewItemsBucket")).upload(lots, self.day)

    def empty_night(self, day: str) -> None:
        """Start the machine of the schedule for a day without items; the run must succeed and embed nothing."""
        event = json.dumps({"scheduled_time": f"{day}T02:00:00Z"})
        machine = self.stage.output("FindDayMachine")
        self._wait_for(self.cloud.client("stepfunctions").start_execution(stateMachineArn=machine, input=event)["executionArn"])
        if self._nights(day):
            raise RehearsalFailed(f"{day} has no lots, and was embedded")

    def night(self) -> None:
        """Start the night of the day and wait for its end. Repeated starts must embed the day only once."""
        self._wait_for(start_night(self.stage, self.day))
        if len(self._nights(self.day)) != 1:
            raise RehearsalFailed(f"{len(self._nights(self.day))} executions embed {self.day}, one was expected")
        self._wait_for(self._nights(self.day)[0])
        self._check_record()

    def rebuild(self, tower_id: str) -> None:
        """Rebuild the index with another tower, and wait until the day is embedded again."""
        self._wait_for(start_rebuild(self.stage, tower_id))
        self._poll(lambda: self._nights(tower_id), f"the day was not embedded again with {tower_id}")
        for night in self._nights(tower_id):
            self._wait_for(night)

    def check_snapshot(self) -> None:
        """Check that night and rebuild each published a version of the query function, and that the last one is live."""
        function, _, alias = self.stage.output("SearchFunction").rpartition(":")
        live = self.cloud.client("lambda").get_alias(FunctionName=function, Name=alias)
        if live["FunctionVersion"] != "3":  # the first one is the deployment's
            raise RehearsalFailed(
                f"the alias of the query function is at version {live['FunctionVersion']}, 3 was expected: {live}"
            )

    def operate(self, before: str, live: str) -> None:
        """List and drop as `gavel aws indices` and `drop-index` do.

        Args:
            before: tower of the index before the rebuild.
            live: tower of the live index, which cannot be dropped.
        """
        by_tower = {index["tower_id"]: index for index in list_indices(self.stage)}
        if {tower_id: index["is_live"] for tower_id, index in by_tower.items()} != {before: False, live: True}:
            raise RehearsalFailed(f"the indices of towers {before} and {live}, which is live, were expected: {by_tower}")
        try:
            drop_index(self.stage, by_tower[live]["name"])
        except GavelError:  # emulated functions do not say which
            drop_index(self.stage, by_tower[before]["name"])
        else:
            raise RehearsalFailed(f"the live index {by_tower[live]['name']} was dropped")
        if [index["tower_id"] for index in list_indices(self.stage)] != [live]:
            raise RehearsalFailed(f"the index of tower {before} was dropped, and is listed still")

    def check_status(self, tower_id: str) -> None:
        """Check that the status of the stage reports no failure and this tower as current."""
        status = stage_status(self.stage)
        failed = [night.cause for night in status.nights if night.status != "SUCCEEDED"]
        if failed or status.dead_letters or status.tower_id != tower_id:
            raise RehearsalFailed(f"the stage is not well: {status}")

    def refuse_search(self) -> None:
        """Check that the API reports a missing index before the first release."""
        status, answer = self._search()
        if status != 503 or answer["type"] != "index_unavailable":
            raise RehearsalFailed(f"without an index the search answered {status}: {answer}")

    def search(self, tower_id: str) -> None:
        """Search with the deployed function. The index must be this tower's, re-ranked, and the best result match the query."""
        for _ in range(ATTEMPTS):
            status, answer = self._search()
            if status != 200 or answer["tower_id"] != tower_id:
                raise RehearsalFailed(f"the search answered {status}: {json.dumps(answer)[:500]}")
            if answer["reranked"]:
                break
        else:
            raise RehearsalFailed(f"{ATTEMPTS} searches were not re-ranked, without {answer['degraded']}")
        self.titles = [str(lot["fields"]["title"]) for lot in answer["results"]]
        if len(self.titles) != K or QUERY.split()[-1] not in self.titles[0].lower():
            raise RehearsalFailed(f"a search for {QUERY!r} found {self.titles}")

    def send_click(self) -> None:
        """Post a click as the page does. The reader of training events must then find the click in the bucket."""
        now = datetime.now(UTC).isoformat()
        _, answer = self._search()
        best = {name: answer["results"][0][name] for name in ("item_id", "proof")}
        click = {"event_type": "click", "position": 1, "timestamp": now, **best}
        shown = {"query_id": answer["query_id"], "session_id": BUYER, "query": QUERY, "shown_at": now, "events": [click]}
        status, body = self._call(proxy_event("/events", {}, json.dumps(shown)))
        if status != 202 or body != {"accepted": 1, "served": 1}:
            raise RehearsalFailed(f"a click was answered {status}: {body}")
        with TemporaryDirectory() as folder:
            Bucket(self.stage.output("EventsBucket")).download("events/", Path(folder))
            log = read_events([Path(folder)])
        if log.rejects or [(event.query, event.event_type) for event in log.clicks] != [(QUERY, "view")]:
            raise RehearsalFailed(f"the bucket of events holds {log}, one click was sent")

    def send_states(self) -> None:
        """Send a bid to the queue, a price as an event and a withdrawal to the API; lot and search must show them, and then not."""
        _, answer = self._search()
        item_id = answer["results"][0]["item_id"]
        bid = json.dumps({"item_id": item_id, "bid_count": BIDS})
        self.cloud.client("sqs").send_message(QueueUrl=self.stage.output("StatesQueue"), MessageBody=bid)
        event = {"Source": f"gavel.{self.stage.name}", "DetailType": "Item State"}
        detail = json.dumps({"item_id": item_id, "current_price": PRICE})
        self.cloud.client("events").put_events(Entries=[{**event, "Detail": detail}])
        self._poll(lambda: self._state_of(item_id) == (BIDS, PRICE), f"lot {item_id} did not show its bid and price")
        withdraw = proxy_event(f"/items/{item_id}/state", {}, json.dumps({"status": "withdrawn"}), "PATCH")
        status, outcome = self._call(withdraw, "StatesFunction")
        if (status, outcome) != (200, {"item_id": item_id, "outcome": "applied"}):
            raise RehearsalFailed(f"the withdrawal of lot {item_id} was answered {status}: {outcome}")
        _, answer = self._search()
        if item_id in [result["item_id"] for result in answer["results"]]:
            raise RehearsalFailed(f"lot {item_id} is withdrawn, and a search finds it")
        self._call(proxy_event(f"/items/{item_id}/state", {}, json.dumps({"status": "open"}), "PATCH"), "StatesFunction")

    def _state_of(self, item_id: str) -> tuple[int | None, float | None]:
        """Return bids and price of a lot."""
        _, answer = self._call(proxy_event(f"/items/{item_id}", {}))
        return answer["fields"].get("bid_count"), answer["fields"].get("current_price")

    def retrieve_and_erase(self) -> None:
        """Check that lots are retrieved by the buyer's click, and by popularity and freshness after the buyer is erased."""
        for source, erased in (("history", 1), ("popular_and_fresh", 0)):
            status, answer = self._retrieve()
            if (status, answer.get("source"), len(answer.get("results", []))) != (200, source, K) or answer["degraded"]:
                raise RehearsalFailed(f"lots by {source} were asked for, the answer was {status}: {json.dumps(answer)[:500]}")
            status, answer = self._call(proxy_event(f"/buyers/{BUYER}", {}, method="DELETE"))
            if (status, answer) != (200, {"erased": erased}):
                raise RehearsalFailed(f"a buyer of {erased} acts was erased, the answer was {status}: {answer}")

    def measure_part(self, items: int, tower: Path) -> None:
        """Put a part into the bucket and search for its last item until a search finds it; that must take less than a minute.

        The time starts when S3 has the part and ends with the answer, so it includes the event, the queue, the indexer, the
        refresh of the index and one search.
        """
        last = f"last{items}"
        titles = [*(f"lot {number} of a part" for number in range(items - 1)), f"lot {last} of a part"]
        part = make_part(titles, TowerCard.load(tower), f"part-of-{items}")
        Bucket(self.stage.output("EmbeddingsBucket")).write(self._part_key(items), part)
        start = time.perf_counter()
        self._poll(lambda: self._finds(last), f"the part of {items:,} lots was not searchable")
        self.searchable_s[items] = time.perf_counter() - start
        if self.searchable_s[items] >= MAX_SEARCHABLE_S:
            raise RehearsalFailed(f"a part of {items:,} lots took {self.searchable_s[items]:.0f} s until a search found it")

    def send_by_hand(self) -> None:
        """Call the indexer with the key of a part, as `aws lambda invoke` does, and check the counts of its answer."""
        key = self._part_key(PART_SIZES[0])
        event = {"s3_key": key}
        answer = self._invoke(self.stage.output("BulkIndexerFunction"), event)
        counts = answer.get("part", {})
        if (counts.get("indexed"), counts.get("stale"), counts.get("refused")) != (PART_SIZES[0], 0, 0):
            raise RehearsalFailed(f"the part {key} was sent by hand, the answer was {answer}")

    def check_training_role(self) -> None:
        """Check that the role of training jobs, none of which runs here, may do what SageMaker does with it (gavel/aws/jobs.py)."""
        job, towers = night_job(self.stage), f"s3://{self.stage.output('TowersBucket')}/"
        inputs = [job.code_uri, *(uri for _, uri in job.inputs(items="", tower="").values() if uri), towers + "catalogs/"]
        parameters = {
            "AppSpecification": {"ImageUri": self.stage.output("ProcessingImage")},
            "ProcessingInputs": [{"S3Input": {"S3Uri": uri}} for uri in inputs],
            "ProcessingOutputConfig": {"Outputs": [{"S3Output": {"S3Uri": towers}}]},
        }
        for role, call in self.cloud.deployed.job(self.stage.output("TrainingRole"), parameters):
            self.cloud.principals.allows(role, [call])

    def repeat_set_up(self) -> None:
        """Delete and create all custom resources side by side, as CloudFormation does, in a domain that answers as a young one."""
        for request, roles in (("Delete", 0), ("Create", len(self.cloud.deployed.of("Custom::IndexAccess")))):
            self.domain.passing.extend(YOUNG)
            failures = [answer for answer in self.cloud.change_custom_resources(request) if answer.get("Status") != "SUCCESS"]
            present = [name for name in self.domain.ask_as_service("GET", f"{SECURITY_API}/roles") if name.startswith("gavel_")]
            if failures or len(present) != roles:
                raise RehearsalFailed(f"{request} of the set-up left the roles {present}, with failures {failures}")

    def _part_key(self, items: int) -> str:
        return f"{self.day}-part-of-{items}/part-00000.ndjson.gz"

    def _finds(self, word: str) -> bool:
        """True if a search for a word finds a lot whose title has it."""
        status, answer = self._call(proxy_event("/search", {"q": word, "k": str(K)}))
        return status == 200 and any(word in lot["fields"]["title"] for lot in answer["results"])

    def _retrieve(self) -> tuple[int, dict[str, Any]]:
        """Send GET /retrieve, again while only the re-ranker is late."""
        for _ in range(ATTEMPTS):
            status, answer = self._call(proxy_event("/retrieve", {"buyer_id": BUYER, "k": str(K)}))
            if answer.get("degraded") != ["rerank"]:
                break
        return status, answer

    def _search(self) -> tuple[int, dict[str, Any]]:
        """Send GET /search as the page does."""
        return self._call(proxy_event("/search", {"q": QUERY, "k": str(K)}))

    def _call(self, event: dict[str, Any], function: str = "SearchFunction") -> tuple[int, dict[str, Any]]:
        """Invoke a function of the API, named by its output, with a request, as API Gateway does."""
        answer = self._invoke(self.stage.output(function), event)
        if answer["isBase64Encoded"]:
            raise RehearsalFailed(f"{function} answered bytes: {answer}")
        return int(answer["statusCode"]), json.loads(answer["body"])

    def _invoke(self, function: str, event: dict[str, Any]) -> dict[str, Any]:
        """Invoke a function and return its answer."""
        response = self.cloud.client("lambda").invoke(FunctionName=function, Payload=json.dumps(event))
        answer = json.loads(response["Payload"].read())
        if "FunctionError" in response or not isinstance(answer, dict):
            raise RehearsalFailed(f"{function} failed: {self.cloud.invocations[-1][1].log[-2000:]}")
        return answer

    def _check_record(self) -> None:
        """Check that the record of the night accounts for every row and counts indexed lots."""
        record = Bucket(self.stage.output("ReleasesBucket")).read_json(f"{self.day}.json")
        counts = record["counts"]
        if not record["indexed"]["lots"] or any(count["items_in"] != count["accounted"] for count in counts):
            raise RehearsalFailed(f"the record of {self.day} does not add up: {record}")

    def _nights(self, part: str) -> list[str]:
        """Return the ARNs of the nights whose names contain `part`, a date or a tower_id."""
        machine = self.stage.output("EmbedDayMachine")
        executions = self.cloud.client("stepfunctions").list_executions(stateMachineArn=machine)["executions"]
        return [execution["executionArn"] for execution in executions if part in execution["name"]]

    def _wait_for(self, execution: str) -> None:
        """Wait until an execution ends, and check that it succeeded."""
        machines = self.cloud.client("stepfunctions")
        self._poll(lambda: machines.describe_execution(executionArn=execution)["status"] != "RUNNING", f"{execution} did not end")
        result = machines.describe_execution(executionArn=execution)
        if result["status"] != "SUCCEEDED":
            raise RehearsalFailed(f"{execution.rsplit(':', 2)[-2]} {result['status']}: {result.get('error')} {result.get('cause')}")

    def _poll(self, holds: Callable[[], object], otherwise: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not holds():
            self.cloud.principals.check()
            if time.monotonic() > deadline:
                raise RehearsalFailed(f"{otherwise} in {WAIT_S:g} s")
            time.sleep(POLL_S)
