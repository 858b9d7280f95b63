"""`gavel aws search`, `indices`, `publish-index`, `rollback`, `drop-index` and their like against an emulated account.

Functions are stood in for, because an emulated account does not run them: tests/aws/test_index_operations.py and
tests/aws/test_query_snapshot.py have what they do.
"""

import io
import json
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from moto import mock_aws

from gavel.cli import main as cli

LIVE, BEFORE = "auction-items-0123456789ab-2", "auction-items-fedcba987654-1"
TOWER, TOWER_BEFORE = "0123456789ab", "fedcba987654"
FUNCTION = "arn:aws:lambda:eu-west-1:123456789012:function:"
ARNS = {"IndexReader": f"{FUNCTION}ops:read", "IndexOperator": f"{FUNCTION}ops:change", "SnapshotFunction": f"{FUNCTION}snapshot"}


class Account:
    """What a deployed stage has, and what its functions were called with."""

    def __init__(self):
        self.s3, self.sqs, self.calls, self.refusals = boto3.client("s3"), boto3.client("sqs"), [], {}
        for bucket in ("towers", "releases", "embeddings"):
            self.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        self.dead, self.dead_states = (self.sqs.create_queue(QueueName=name)["QueueUrl"] for name in ("dead", "dead-states"))
        self.outputs = {"ApiUrl": "http://127.0.0.1:9/v1/", **ARNS}
        self.moves = []
        for tower_id in (TOWER, TOWER_BEFORE):
            self.put("towers", f"{tower_id}/tower.json", {})
        self.put("towers", "current.json", {"tower_id": TOWER})

    def deploy(self, **serving):
        storage = {"TowersBucket": "towers", "ReleasesBucket": "releases", "EmbeddingsBucket": "embeddings"}
        serving = {**self.outputs, "StatesDeadLetters": self.dead_states, **serving}
        stacks = {"Storage": {**storage, "ArrivalsDeadLetters": self.dead}, "Serving": serving, "Batch": {}}
        for stack, outputs in stacks.items():
            body = {"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}, "Outputs": {k: {"Value": v} for k, v in outputs.items()}}
            boto3.client("cloudformation").create_stack(StackName=f"Gavel-dev-{stack}", TemplateBody=json.dumps(body))

    def put(self, bucket, key, value):
        self.s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(value))

    def current(self):
        return json.loads(self.s3.get_object(Bucket="towers", Key="current.json")["Body"].read())["tower_id"]

    def invoke(self, FunctionName, Payload):
        event = json.loads(Payload)
        self.calls.append((FunctionName, event))
        if refusal := self.refusals.get(event.get("operation", "renew")):
            return {"FunctionError": "Unhandled", "Payload": body({"errorType": refusal[0], "errorMessage": refusal[1]})}
        answers = {
            None: {"version": "8", "previous": "7"},
            "list": {"indices": [index(LIVE, TOWER, is_live=True), index(BEFORE, TOWER_BEFORE)]},
            "publish": {"index": event.get("index"), "previous": LIVE, "moved": True},
            "drop": {"index": event.get("index"), "items": 3},
        }
        return {"Payload": body(answers[event.get("operation")])}


def body(value):
    return io.BytesIO(json.dumps(value).encode())


def index(name, tower_id, *, is_live=False):
    return {"name": name, "tower_id": tower_id, "items": 1200, "open_items": 1000, "bytes": 2_500_000, "is_live": is_live}


@pytest.fixture
def account(monkeypatch):
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "eu-west-1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    call = BaseClient._make_api_call
    with mock_aws():
        made = Account()

        def answered(self, operation, parameters):
            if operation == "Invoke":
                return made.invoke(**parameters)
            if operation == "StartMessageMoveTask":
                made.moves.append(parameters["SourceArn"])
                return {"TaskHandle": "handle"}
            return call(self, operation, parameters)

        monkeypatch.setattr(BaseClient, "_make_api_call", answered)
        yield made


@pytest.fixture
def gavel(monkeypatch, capsys):
    """Runs a command; returns its exit status, stdout and stderr."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["gavel", "aws", *words])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = stop.code or 0
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_indices_are_shown_as_a_table_and_as_json(account, gavel):
    account.deploy()
    status, out, _ = gavel("indices")
    assert status == 0
    (live,) = [line for line in out.splitlines() if line.strip().startswith("live")]
    assert all(text in live for text in (LIVE, TOWER, "1,200", "1,000", "2.5"))
    assert json.loads(gavel("indices", "--json")[1])[1] == index(BEFORE, TOWER_BEFORE)
    assert account.calls[-1] == (ARNS["IndexReader"], {"operation": "list"})


def test_a_published_index_brings_its_tower_and_a_snapshot(account, gavel):
    account.deploy()
    status, out, err = gavel("publish-index", BEFORE, "--json")
    assert status == 0, err
    answer = json.loads(out)
    assert (answer["index"], answer["tower_id"], answer["previous"], answer["live_version"]) == (BEFORE, TOWER_BEFORE, LIVE, "8")
    assert account.current() == TOWER_BEFORE
    assert account.calls[-2:] == [
        (ARNS["IndexOperator"], {"operation": "publish", "index": BEFORE, "force": False}),
        (ARNS["SnapshotFunction"], {}),
    ]


def test_an_index_whose_tower_is_not_in_the_bucket_stays_where_it_is(account, gavel):
    account.deploy()
    account.s3.delete_object(Bucket="towers", Key=f"{TOWER_BEFORE}/tower.json")
    status, _, err = gavel("publish-index", BEFORE)
    assert (status, account.current()) == (2, TOWER)
    assert f"there is no tower '{TOWER_BEFORE}'" in " ".join(err.split())
    assert [event["operation"] for _, event in account.calls] == ["list"]


@pytest.mark.parametrize(
    ("kind", "message", "status"),
    [("InvalidInput", "there is no index 'x'; there are: none", 2), ("ReleaseError", "x has 1 open lots, the live index 4", 1)],
)
def test_what_the_function_refuses_is_told_and_changes_nothing(account, gavel, kind, message, status):
    account.deploy()
    account.refusals["publish"] = (kind, message)
    code, _, err = gavel("publish-index", "x")
    assert (code, account.current()) == (status, TOWER)
    assert message in " ".join(err.split())


def test_another_failure_of_the_function_names_it_and_where_to_look(account, gavel):
    account.deploy()
    account.refusals["list"] = ("Runtime.ExitError", "killed")
    status, _, err = gavel("indices")
    assert status == 1
    assert "function ops:read failed: Runtime.ExitError: killed; its log group" in " ".join(err.split())


def test_a_caller_without_the_permission_is_told_which_function_it_is(account, gavel, monkeypatch):
    account.deploy()

    def refuse(**_):
        message = "not authorized to perform: lambda:InvokeFunction"
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": message}}, "Invoke")

    monkeypatch.setattr(account, "invoke", refuse)
    status, _, err = gavel("drop-index", BEFORE, "--yes")
    assert status == 1
    assert "function ops:change: " in err
    assert "lambda:InvokeFunction" in err


def test_a_snapshot_that_is_not_renewed_leaves_the_index_published(account, gavel):
    account.deploy()
    account.refusals["renew"] = ("SnapshotFailed", "query has no new version: out of memory")
    status, out, _ = gavel("publish-index", BEFORE, "--json")
    answer = json.loads(out)
    assert (status, answer["live_version"], account.current()) == (0, None, TOWER_BEFORE)
    assert "`gavel aws renew-snapshot` does it" in answer["warning"]
    assert "out of memory" in answer["warning"]
    assert gavel("renew-snapshot")[0] == 1


def test_a_rollback_goes_where_the_rebuild_came_from_and_lists_the_days_to_embed_again(account, gavel):
    account.deploy()
    record = {"tower_id": TOWER, "tower_before": TOWER_BEFORE, "date": "2026-11-21"}
    account.put("releases", f"rebuild-2026-11-21-{TOWER}.json", record)
    for date, tower_id in (("2026-11-20", TOWER_BEFORE), ("2026-11-21", TOWER), ("2026-11-22", TOWER)):
        account.put("releases", f"{date}.json", {"date": date, "release_id": f"{date}-{tower_id}"})
    status, out, err = gavel("rollback", "--json")
    assert status == 0, err
    answer = json.loads(out)
    assert (answer["index"], answer["embed_again"]) == (BEFORE, ["2026-11-21", "2026-11-22"])
    assert account.current() == TOWER_BEFORE


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "no rebuild brought the live index"),
        ({"tower_before": "none"}, "no rebuild brought the live index"),
        ({"tower_before": "0" * 12}, f"the index of tower {'0' * 12}, which was live before, was dropped; `gavel aws rebuild"),
    ],
)
def test_a_rollback_without_a_known_place_to_go_is_refused_with_the_way_out(account, gavel, record, message):
    account.deploy()
    if record:
        account.put("releases", f"rebuild-2026-11-21-{TOWER}.json", record)
    status, _, err = gavel("rollback")
    assert (status, account.current()) == (2, TOWER)
    assert message in " ".join(err.split())


def test_an_index_is_dropped_only_when_that_is_meant(account, gavel):
    account.deploy()
    status, _, err = gavel("drop-index", BEFORE)
    assert (status, account.calls) == (2, [])
    assert "add --yes" in err
    assert json.loads(gavel("drop-index", BEFORE, "--yes", "--json")[1]) == {"index": BEFORE, "items": 3}
    assert account.calls == [(ARNS["IndexOperator"], {"operation": "drop", "index": BEFORE})]


def test_dead_letters_of_parts_and_states_go_back_to_their_queues(account, gavel):
    account.deploy()
    assert json.loads(gavel("redrive", "--json")[1]) == {"messages": 0, "tasks": []}
    assert account.moves == []
    account.sqs.send_message(QueueUrl=account.dead, MessageBody="part")
    account.sqs.send_message(QueueUrl=account.dead_states, MessageBody="{}")
    assert json.loads(gavel("redrive", "--json")[1]) == {"messages": 2, "tasks": ["handle", "handle"]}
    assert [arn.rpartition(":")[2] for arn in account.moves] == ["dead", "dead-states"]


@pytest.mark.parametrize("command", [["indices"], ["search", "vase"], ["rollback"], ["redrive"], ["drop-index", "x", "--yes"]])
def test_a_stage_that_is_not_deployed_is_told(account, gavel, command):
    status, _, err = gavel(*command, "--stage", "staging")
    assert status == 2
    assert "stack Gavel-staging-Storage is not deployed in eu-west-1" in " ".join(err.split())


def test_without_credentials_the_way_out_is_told(account, gavel, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    status, _, err = gavel("indices")
    assert status == 1
    assert "no AWS credentials" in err


@contextmanager
def api(status=200, answer=None):
    """An API that answers every request in one way, and writes down what it was asked."""
    asked = []

    class Api(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, dict(self.headers)))
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/", asked
    finally:
        server.shutdown()
        server.server_close()


ANSWER = {
    "results": [{"item_id": "lot-7", "score": 0.91, "fields": {"title": "Red vase, Lalique"}}],
    "tower_id": TOWER,
    "degraded": ["rerank"],
}


def test_a_search_goes_to_the_stages_address_with_its_key(account, gavel):
    key = boto3.client("apigateway").create_api_key(name="key", value="a-key-of-twenty-characters")["id"]
    with api(answer=ANSWER) as (url, asked):
        account.deploy(ApiUrl=url, ApiKeyId=key)
        status, out, err = gavel("search", "red vase", "-k", "3")
        assert status == 0, err
        assert all(text in out for text in ("lot-7", "Red vase, Lalique", "0.910", url, "rerank"))
        assert json.loads(gavel("search", "red vase", "--json")[1]) == ANSWER
    path, headers = asked[0]
    assert path == "/v1/search?q=red+vase&k=3"
    assert {name.lower(): value for name, value in headers.items()}["x-api-key"] == "a-key-of-twenty-characters"


def test_where_callers_sign_the_search_is_signed(account, gavel):
    with api(answer=ANSWER) as (url, asked):
        account.deploy(ApiUrl=url)
        assert gavel("search", "red vase")[0] == 0
    assert "/eu-west-1/execute-api/aws4_request" in asked[0][1]["Authorization"]


@pytest.mark.parametrize(
    ("status", "answer", "code", "message"),
    [
        (400, {"type": "invalid_query", "detail": "q is empty"}, 2, "answers 400: q is empty"),
        (403, {"message": "Forbidden"}, 1, "answers 403: Forbidden; the API refuses the key or the signature"),
        (429, {"message": "Limit Exceeded"}, 1, "answers 429: Limit Exceeded; more requests than the key's rate"),
        (503, {"type": "index_unavailable", "detail": "nothing is published"}, 1, "before the first release that is so"),
        (502, "no object", 1, "answers 502"),
    ],
)
def test_what_the_api_refuses_is_told_with_what_to_do(account, gavel, status, answer, code, message):
    with api(status, answer) as (url, _):
        account.deploy(ApiUrl=url)
        got, _, err = gavel("search", "red vase")
    assert got == code
    assert message in " ".join(err.split())


def test_an_api_that_cannot_be_reached_is_told(account, gavel):
    account.deploy()
    status, _, err = gavel("search", "red vase")
    assert status == 1
    assert "http://127.0.0.1:9/v1/search" in err
