"""The bundles unpacked and run: a fresh Python of Lambda's version, with the bundle and AWS's own library on its path alone."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from colour_tower import save_colour_tower
from hostile_photos import HOSTILE, plain

from gavel.rehearsal.lambda_runtime import PYTHON, invoke, lambda_python, proxy_event
from infra.python_asset import BUNDLES, PYTHON_VERSION, bundle

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "http://127.0.0.1:1"
ENVIRONMENT = {
    "AWS_ENDPOINT_URL": NOWHERE,
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_REGION": "eu-west-1",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "GAVEL_INDEX": "opensearch",
    "GAVEL_OPENSEARCH_URL": NOWHERE,
    "GAVEL_OPENSEARCH_AUTH": "sigv4",
    "GAVEL_TOWERS_URI": "s3://towers",
}


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """Calls the handler of a bundle once."""

    def called(name, event):
        work = tmp_path_factory.mktemp(name)
        return invoke(bundle(ROOT, name, BUNDLES), f"lambdas.{name}.handler.handler", event, ENVIRONMENT, work, name=name)

    return called


def test_the_python_is_the_one_that_bundles_are_built_for():
    assert PYTHON == PYTHON_VERSION


def test_the_query_function_answers_a_bad_question_by_itself(call):
    called = call("query_api", proxy_event("/search", {"q": "vase", "k": "0"}))
    assert not called.failed, called.log
    assert (called.answer["statusCode"], json.loads(called.answer["body"])["type"]) == (400, "invalid_query")


def test_the_query_function_says_that_the_index_is_out_of_reach(call):
    called = call("query_api", proxy_event("/search", {"q": "vase"}))
    assert not called.failed, called.log
    assert (called.answer["statusCode"], json.loads(called.answer["body"])["type"]) == (503, "index_unavailable")
    assert "vase" not in called.log


def test_an_error_leaves_api_gateway_as_json_not_as_base64(call):
    answer = call("query_api", proxy_event("/search", {"q": "vase", "k": "0"})).answer
    assert (answer["isBase64Encoded"], answer["headers"]["content-type"]) == (False, "application/problem+json")


def test_the_query_functions_bundle_reads_photos_and_encodes_them(tmp_path):
    save_colour_tower(tmp_path, {"red": np.eye(4, dtype=np.float32)[0], "blue": np.eye(4, dtype=np.float32)[1]})
    for format in ("JPEG", "PNG", "WEBP"):
        (tmp_path / format).write_bytes(plain(format))
    (tmp_path / "bomb").write_bytes(HOSTILE["bomb"][0])
    code = (
        f"import sys; sys.path[:0] = [{str(bundle(ROOT, 'query_api', BUNDLES))!r}]\n"
        "from pathlib import Path\nfrom retrieval.encoders.image_encoder import ImageEncoder\n"
        "from retrieval.errors import InvalidPhoto\n"
        f"folder = Path({str(tmp_path)!r}); encoder = ImageEncoder.load(folder)\n"
        "print([int(encoder.encode((folder / name).read_bytes()).argmax()) for name in ('JPEG', 'PNG', 'WEBP')])\n"
        "try:\n    encoder.encode((folder / 'bomb').read_bytes())\nexcept InvalidPhoto:\n    print('refused')"
    )
    ran = subprocess.run([lambda_python(), "-I", "-S", "-B", "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.split("\n")[:2] == ["[0, 0, 0]", "refused"], ran.stderr


def test_the_bulk_indexer_takes_an_event_without_objects(call):
    called = call("bulk_indexer", {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"})
    assert not called.failed, called.log
    assert called.answer == {"batchItemFailures": []}


def test_the_bulk_indexer_hands_a_message_back_that_it_could_not_take_in(call):
    body = {"Records": [{"s3": {"bucket": {"name": "b"}, "object": {"key": "r/part-00000.ndjson.gz"}}}]}
    called = call("bulk_indexer", {"Records": [{"eventSource": "aws:sqs", "messageId": "m-0", "body": json.dumps(body)}]})
    assert called.answer == {"batchItemFailures": [{"itemIdentifier": "m-0"}]}
    assert "EndpointConnectionError" in called.log


def test_the_operators_function_refuses_what_is_no_operation_and_tells_that_the_index_is_out_of_reach(call):
    for event, kind in (({}, "InvalidInput: the event is no operation"), ({"operation": "list"}, "IndexUnavailable")):
        called = call("index_operations", event)
        assert called.failed
        assert kind in called.log


def test_the_function_of_states_hands_messages_back_while_the_index_is_out_of_reach_and_answers_requests(call):
    message = {"eventSource": "aws:sqs", "messageId": "m-0", "body": "{}", "attributes": {"SentTimestamp": "1795982400000"}}
    called = call("item_states", {"Records": [message]})
    assert called.failed
    assert "IndexUnavailable" in called.log
    called = call("item_states", proxy_event("/items/v1/state", {}, '{"bid_count": "many"}', "PATCH"))
    assert (called.answer["statusCode"], json.loads(called.answer["body"])["type"]) == (400, "invalid_query")
