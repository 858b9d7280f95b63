"""The query Lambda, imported as Lambda imports it: events of API Gateway, a tower in S3 (moto), the re-rank endpoint, SnapStart."""

import asyncio
import base64
import importlib
import json
import logging
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from types import ModuleType, SimpleNamespace

import boto3
import numpy as np
import pytest
from aws_lambda_powertools.metrics.provider.base import reset_cold_start_flag_provider
from buyer_tables import make_buyer_table
from hostile_photos import HOSTILE, plain
from lots import lot
from moto import mock_aws
from rerank_servers import faulty_server, ranker_server
from small_tower import WORDS, small_config
from trained_booster import trained_booster

from gavel.opensearch.node import free_port
from processing.reranker_endpoint.inference import BOOSTER_FILE
from retrieval import resilience as circuit
from retrieval.buyers.dynamodb_history import BuyerTable
from retrieval.contracts.events import Interaction
from retrieval.contracts.tower_card import IMAGE_TOWER_FILE, SMALL_QUERY_TOWER_FILE, TowerCard
from retrieval.encoders.image_encoder import ImageEncoder
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.encoders.static_query_encoder import Int8Table, SmallQueryEncoder, SmallQueryTower
from retrieval.encoders.tower_store import SERVING_FILES, SMALL_SERVING_FILES
from retrieval.errors import IndexUnavailable
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter
from retrieval.index.fusion import Fusion
from retrieval.index.hybrid_tuning import TUNING_FILE, FieldBoosts, Tuning
from retrieval.index.opensearch import store as opensearch_client
from retrieval.ranker import sagemaker_ranker as sagemaker
from retrieval.ranker.features import FEATURES
from retrieval.search.service import SearchModels, SearchRequest, SearchService

BUCKET = "towers-bucket"
SECRET = "vintage"  # a word of the query that must not be written down anywhere
CONTEXT = SimpleNamespace(aws_request_id="r-1", function_name="query")
TITLES = [
    f"{colour} {metal} {kind}"
    for colour in ("red", "blue", "green")
    for metal in ("steel", "gold")
    for kind in ("watch", "ring", "vase")
]


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """The folder of small towers with random weights."""
    import torch

    from models.artefacts.tower_files import save_towers
    from models.towers.tokenizer import train_wordpiece
    from models.towers.two_towers import TwoTowers

    torch.manual_seed(0)
    config = small_config()
    tokenizer = train_wordpiece([WORDS], config.vocabulary)
    text = replace(config.text, config={**config.text.config, "vocab_size": tokenizer.get_vocab_size()})
    return save_towers(TwoTowers(replace(config, text=text)), tokenizer, tmp_path_factory.mktemp("towers"))


@pytest.fixture(scope="module")
def in_process():
    return trained_booster()


@pytest.fixture(scope="module")
def model_dir(in_process, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    in_process.save(folder / BOOSTER_FILE)
    return folder


@pytest.fixture
def bucket(monkeypatch, tower, tmp_path):
    environment = {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "GAVEL_TOWERS_URI": f"s3://{BUCKET}",
        "GAVEL_STAGE": "dev",
        "GAVEL_RANKER_TIMEOUT_S": "5",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)  # it would lead past moto
    with mock_aws():
        made = boto3.resource("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        for name in SERVING_FILES:
            made.upload_file(str(tower / name), f"{tower.name}/{name}")
        yield made


@pytest.fixture
def store(tmp_path, monkeypatch):
    made = EmbeddedStore(tmp_path / "index")
    monkeypatch.setattr(opensearch_client, "open_store", lambda settings, tuning: made)
    return made


@pytest.fixture
def imported(bucket, store, tmp_path, monkeypatch):
    """Imports the handler anew, in Lambda, with the environment as it is by then."""

    def anew() -> ModuleType:
        monkeypatch.setattr(importlib.import_module("lambdas.query_api.wiring"), "TOWER_CACHE", tmp_path / "writable")
        return importlib.import_module("lambdas.query_api.handler")

    hooks = SimpleNamespace(registered=[])
    hooks.register_after_restore = hooks.registered.append
    monkeypatch.setitem(sys.modules, "snapshot_restore_py", hooks)  # a part of Lambda's Python
    forget()
    yield anew
    forget()


def forget():
    for name in ("handler", "measurements", "wiring"):
        sys.modules.pop(f"lambdas.query_api.{name}", None)
    reset_cold_start_flag_provider()
    logging.root.manager.loggerDict.pop("query-api", None)  # it writes to the stdout of the test that made it
    for room in ("retrieval", "lambdas", "mangum"):
        logging.getLogger(room).handlers.clear()
        logging.getLogger(room).propagate = True


@pytest.fixture
def published(store, tower):
    return publish(store, tower)


def publish(store, tower):
    encoder = QueryEncoder.load(tower)
    lots = [lot(f"lot-{n:02}", title, current_price=0.1 if n % 3 else 40.0) for n, title in enumerate(TITLES)]
    lots = [
        replace(entry, vector=encoder.encode([entry.document["title"]])[0], document={**entry.document, "tower_id": tower.name})
        for entry in lots
    ]
    index = store.create(tower.name, len(lots[0].vector))
    index.upsert(lots)
    index.refresh()
    store.publish(index.name)
    return index


def event(method="GET", path="/search", query=None, body=None, resource=None):
    """What API Gateway's REST proxy sends (payload 1.0)."""
    return {
        "resource": resource or path,
        "path": path,
        "httpMethod": method,
        "headers": {"Host": "api.example", "Content-Type": "application/json"},
        "multiValueHeaders": {"Host": ["api.example"], "Content-Type": ["application/json"]},
        "queryStringParameters": query,
        "multiValueQueryStringParameters": {name: [value] for name, value in query.items()} if query else None,
        "pathParameters": None,
        "stageVariables": None,
        "requestContext": {"resourcePath": path, "httpMethod": method, "path": f"/v1{path}", "stage": "v1", "requestId": "g-1"},
        "body": None if body is None else json.dumps(body),
        "isBase64Encoded": False,
    }


def ask(module: ModuleType, **given):
    answer = module.handler(event(**({"query": {"q": f"{SECRET} red watch", "k": "5"}} | given)), CONTEXT)
    assert not answer["isBase64Encoded"], "no answer is of a binary media type that API Gateway decodes"
    return answer["statusCode"], json.loads(answer["body"])


def ask_by_photo(module: ModuleType, photo: bytes, kind="image/jpeg", **query):
    """As API Gateway sends a body of a binary media type."""
    asked = event("POST", "/search/image", {name: str(value) for name, value in query.items()})
    said = {"Host": "api.example", "Content-Type": kind}
    asked |= {"headers": said, "multiValueHeaders": {name: [value] for name, value in said.items()}}
    answer = module.handler(asked | {"body": base64.b64encode(photo).decode(), "isBase64Encoded": True}, CONTEXT)
    assert not answer["isBase64Encoded"]
    return answer["statusCode"], json.loads(answer["body"])


def logged(capsys):
    """The lines of the log, and the metrics among them."""
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [line for line in lines if "_aws" not in line], [line for line in lines if "_aws" in line]


def in_first_stage_order(store, tower):
    answer = SearchService(store, SearchModels(lambda _: QueryEncoder.load(tower))).search(
        SearchRequest(f"{SECRET} red watch", k=5)
    )
    return [result.item_id for result in answer.results]


def ids(body):
    return [result["item_id"] for result in body["results"]]


def test_a_search_is_answered_with_the_tower_that_the_index_names_fetched_from_s3(imported, published, store, tower, tmp_path):
    status, body = ask(imported())
    assert (status, body["tower_id"], body["reranked"], body["degraded"]) == (200, tower.name, False, [])
    assert ids(body) == in_first_stage_order(store, tower)
    assert sorted(path.name for path in (tmp_path / "writable" / tower.name).iterdir()) == sorted(SERVING_FILES)


def test_a_query_tower_that_is_not_its_cards_is_not_searched_with_and_fetched_again(imported, published, bucket, tower, tmp_path):
    bucket.put_object(Key=f"{tower.name}/query_tower.onnx", Body=(tower / "query_tower.onnx").read_bytes() + b" ")
    module = imported()
    status, body = ask(module)
    assert (status, body["degraded"]) == (200, ["semantic"])
    status, body = ask(module, query={"q": "red watch", "mode": "semantic"})
    assert (status, body["type"]) == (503, "tower_unavailable")
    bucket.upload_file(str(tower / "query_tower.onnx"), f"{tower.name}/query_tower.onnx")
    status, body = ask(imported_again(imported))
    assert (status, body["degraded"]) == (200, [])


def imported_again(imported) -> ModuleType:
    """The handler of another process on the same machine, which finds what the one before fetched."""
    forget()
    return imported()


def test_a_stage_of_small_query_towers_fetches_no_network(imported, published, bucket, store, tower, tmp_path, monkeypatch):
    monkeypatch.setenv("GAVEL_QUERY_TOWER", "small")
    card, random = TowerCard.load(tower), np.random.default_rng(0)
    tokens = Int8Table.of(random.normal(size=(300, card.dimensions)).astype(np.float32))
    none = Int8Table.of(np.zeros((0, card.dimensions), np.float32))
    bias = np.zeros(card.dimensions, np.float32)
    path = SmallQueryTower(tower.name, tokens, np.zeros(0, np.int64), none, bias).save(tmp_path)
    bucket.upload_file(str(path), f"{tower.name}/{SMALL_QUERY_TOWER_FILE}")
    module = imported()
    status, body = ask(module, query={"q": "red watch", "k": "5", "mode": "semantic"})
    assert (status, body["tower_id"], body["degraded"]) == (200, tower.name, [])
    fetched = tmp_path / "writable" / tower.name
    assert sorted(path.name for path in fetched.iterdir()) == sorted(SMALL_SERVING_FILES)
    here = SearchService(store, SearchModels(lambda _: SmallQueryEncoder.load(fetched)))
    assert ids(body) == [r.item_id for r in here.search(SearchRequest("red watch", k=5, mode="semantic")).results]
    assert ask(module, path="/health", query=None)[1]["query_tower"] == "small"


def test_a_stage_of_small_query_towers_goes_on_by_words_where_there_is_none(imported, published, monkeypatch, capsys):
    monkeypatch.setenv("GAVEL_QUERY_TOWER", "small")
    status, body = ask(imported())
    assert (status, body["degraded"]) == (200, ["semantic"])
    assert "query_tower_small.npz" in capsys.readouterr().out


def test_an_index_is_searched_as_was_tuned_for_the_tower_that_lies_in_s3(imported, published, bucket, store, tower, monkeypatch):
    given = []
    monkeypatch.setattr(opensearch_client, "open_store", lambda settings, tuning: given.append(tuning) or store)
    chosen = Tuning(Fusion("min_max", (0.3, 0.7)), FieldBoosts(brand=0.5))
    bucket.put_object(Key=f"{tower.name}/{TUNING_FILE}", Body=json.dumps(asdict(chosen)))
    assert ask(imported())[0] == 200
    assert given[0](tower.name) == chosen
    assert given[0]("0123456789ab") == Tuning()  # nothing was tuned for that one


def test_a_request_is_answered_after_other_code_of_the_process_ran_a_loop_of_its_own(imported, published):
    module = imported()
    assert ask(module)[0] == 200
    asyncio.run(asyncio.sleep(0))  # it leaves the thread without an event loop, which Mangum asks for
    assert ask(module)[0] == 200


def test_a_search_by_body_is_the_same_search(imported, published):
    module = imported()
    by_body = ask(module, method="POST", query=None, body={"q": f"{SECRET} red watch", "k": 5})
    assert by_body[1]["results"] == ask(module)[1]["results"]


def test_a_parameter_that_is_given_twice_is_refused_however_api_gateway_writes_it(imported, published):
    module = imported()
    rest = event(query={"q": "watch", "mode": "keyword"})  # payload 1.0: the last value alone, and beside it all of them
    rest["multiValueQueryStringParameters"]["mode"] = ["semantic", "keyword"]
    joined = {  # payload 2.0: values with commas between, and the query string as it came
        "version": "2.0",
        "routeKey": "GET /search",
        "rawPath": "/search",
        "rawQueryString": "q=watch&mode=semantic&mode=keyword",
        "queryStringParameters": {"q": "watch", "mode": "semantic,keyword"},
        "headers": {"host": "api.example"},
        "requestContext": {"http": {"method": "GET", "path": "/search", "sourceIp": "192.0.2.7"}, "stage": "$default"},
        "isBase64Encoded": False,
    }
    for asked in (rest, joined):
        answer = module.handler(asked, CONTEXT)
        assert (answer["statusCode"], json.loads(answer["body"])["detail"]) == (400, "mode: given 2 times; give it once")
    joined["rawQueryString"] = "q=watch&k=1&category=watch%2Cring"  # one value with a comma in it
    assert module.handler(joined, CONTEXT)["statusCode"] == 200


def test_a_stage_with_a_quota_takes_one_search_a_request(imported, published, monkeypatch):
    monkeypatch.setenv("GAVEL_QUERIES_PER_REQUEST", "1")
    module = imported()
    assert ask(module, method="POST", query=None, body=[{"q": "red watch"}])[0] == 200
    status, body = ask(module, method="POST", query=None, body=[{"q": "red watch"}, {"q": "gold ring"}])
    assert (status, body["type"]) == (400, "invalid_query")


def test_the_function_has_no_page_of_its_own(imported, published):
    module = imported()
    for path in ("/docs", "/redoc", "/docs/oauth2-redirect"):
        assert (ask(module, path=path, query=None)[0], ask(module, path=path, query=None)[1]["type"]) == (404, "not_found")
    assert ask(module, path="/openapi.json", query=None)[0] == 200


def test_similar_lots_buyers_and_vectors_are_answered_too(imported, published):
    module = imported()
    similar = ask(module, path="/items/lot-00/similar", query={"k": "3"})
    assert similar[0] == 200
    assert "lot-00" not in ids(similar[1])
    act = {"item_id": "lot-00", "event_type": "view", "timestamp": "2026-11-21T20:00:00Z"}
    status, buyer = ask(module, method="POST", path="/encode_buyer", query=None, body={"events": [act]})
    assert (status, buyer["known_items"]) == (200, ["lot-00"])
    status, nearest = ask(module, method="POST", path="/retrieve", query=None, body={"vector": buyer["vector"], "k": 4})
    assert (status, ids(nearest)[1:]) == (200, ids(similar[1]))
    assert ask(module, path="/items/lot-99/similar", query=None)[0] == 404


def test_a_query_is_encoded_for_the_live_index(imported, published):
    module = imported()
    status, encoded = ask(module, method="POST", path="/encode_query", query=None, body={"query": "lot"})
    assert (status, len(encoded["query_embedding"])) == (200, encoded["dimension"])
    assert ask(module, method="POST", path="/encode_query", query=None, body={})[0] == 400


def test_a_buyer_without_times_is_answered_in_the_documented_fields(imported, published):
    module = imported()
    done = [{"product_id": "lot-00", "event_type": "view"}, {"product_id": "lot-01", "event_type": "add_to_cart"}]
    body = {"buyer_id": "buyer-4711", "recent_interactions": done, "k": 3}
    status, buyer = ask(module, method="POST", path="/encode_buyer", query=None, body=body)
    assert (status, len(buyer["buyer_embedding"])) == (200, buyer["dimension"])
    status, answer = ask(module, method="POST", path="/retrieve", query=None, body=body)
    assert (status, answer["product_ids"], len(answer["scores"])) == (200, ids(answer), 3)
    blocked = {"blocked_items": answer["product_ids"], "most_per_category": 1, "rank_by": "expected_value"}
    status, other = ask(module, method="POST", path="/retrieve", query=None, body=body | blocked)
    assert status == 200
    assert not set(other["product_ids"]) & set(answer["product_ids"])


def test_several_queries_in_a_body_are_measured_one_by_one(imported, published, capsys):
    module = imported()
    status, answers = ask(module, method="POST", query=None, body=[{"q": "red watch"}, {"q": "gold ring"}])
    assert (status, len(answers)) == (200, 2)
    own, _ = sorted(logged(capsys)[1], key=lambda line: "ColdStart" in line)
    assert (own["searches"], own["total_ms"]) == ([1.0, 1.0], [answer["timings_ms"]["total"] for answer in answers])


def test_a_request_is_one_line_of_the_log_and_one_set_of_metrics(imported, published, tower, capsys):
    module = imported()
    _, body = ask(module)
    lines, metrics = logged(capsys)
    (line,) = lines
    assert (line["request_id"], line["route"], line["method"], line["status"]) == ("r-1", "/search", "GET", 200)
    assert (line["mode"], line["tower_id"], line["reranked"], line["degraded"]) == ("hybrid", tower.name, False, [])
    assert line["timings"]["total_ms"] == body["timings_ms"]["total"]
    own, cold = sorted(metrics, key=lambda line: "ColdStart" in line)
    (described,) = own["_aws"]["CloudWatchMetrics"]
    assert (described["Namespace"], described["Dimensions"], own["stage"]) == ("Gavel", [["stage"]], "dev")
    assert {metric["Name"] for metric in described["Metrics"]} == {
        *("load_ms", "encode_ms", "retrieve_ms", "total_ms"),
        *("searches", "rerank_fallbacks", "cached_answers", "half_searches"),
    }
    assert (own["searches"], own["rerank_fallbacks"], own["encode_ms"]) == ([1.0], [0.0], [body["timings_ms"]["encode"]])
    assert cold["ColdStart"] == [1.0]
    ask(module)
    assert len(logged(capsys)[1]) == 1, "a start is cold once"


def test_a_line_says_nothing_of_the_request_before(imported, published, capsys):
    module = imported()
    ask(module)
    logged(capsys)
    module.handler(event(path="/health"), CONTEXT)
    (line,), metrics = logged(capsys)
    assert (line["route"], line["status"], metrics) == ("/health", 200, [])
    assert "mode" not in line
    assert "timings" not in line


def test_what_buyers_search_for_is_written_down_nowhere(imported, published, store, capsys, monkeypatch, model_dir):
    monkeypatch.setenv("GAVEL_RANKER_ENDPOINT", "gone")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", f"http://127.0.0.1:{free_port()}")
    module = imported()
    ask(module)
    for refused in ({"q": SECRET, "k": "0"}, {"q": SECRET * 100}, {"q": SECRET, "colour": SECRET}):
        assert ask(module, query=refused)[0] == 400
    assert ask(module, path="/search/unknown", query={"q": SECRET})[0] == 404
    with monkeypatch.context() as down:
        down.setattr(SearchService, "live", unreachable)
        assert ask(module)[0] == 503
    captured = capsys.readouterr()
    assert "answered without the re-ranker" in captured.out
    assert "index_unavailable" in captured.out
    assert SECRET not in captured.out + captured.err
    assert all(json.loads(line) for line in captured.out.splitlines())


def test_a_buyer_is_looked_up_in_the_table_of_the_stage_and_named_in_no_log(imported, published, monkeypatch, capsys):
    monkeypatch.setenv("GAVEL_BUYER_EVENTS_TABLE", "buyers")
    make_buyer_table("buyers")
    BuyerTable("buyers", 90).append([Interaction("buyer-4711", "lot-00", "purchase", datetime.now(UTC))])
    buyer = {"path": "/buyers/buyer-4711", "resource": "/buyers/{buyer_id}"}
    module = imported()
    status, known = ask(module, path="/retrieve", query={"buyer_id": "buyer-4711", "k": "3"})
    assert (status, known["source"], len(known["results"])) == (200, "history", 3)
    assert "lot-00" not in ids(known)
    status, searched = ask(module, query={"q": "ring", "buyer_id": "buyer-4711", "explain": "true"})
    assert (status, searched["degraded"]) == (200, [])
    assert searched["results"][0]["explanation"]["features"]["buyer_affinity"] is not None
    assert len(ask(module, query=None, **buyer)[1]["acts"]) == 1
    assert ask(module, method="DELETE", query=None, **buyer) == (200, {"erased": 1})
    assert ask(module, path="/retrieve", query={"buyer_id": "buyer-4711"})[1]["source"] == "popular_and_fresh"
    boto3.client("dynamodb").delete_table(TableName="buyers")
    assert ask(module, query={"q": "ring", "buyer_id": "buyer-4711"})[1]["degraded"] == ["buyer"]
    assert ask(module, method="DELETE", query=None, **buyer)[0] == 503
    written = capsys.readouterr()
    assert "ResourceNotFoundException" in written.out
    assert "4711" not in written.out + written.err


def unreachable(self):
    raise IndexUnavailable("OpenSearch at https://domain does not answer")


def test_before_the_first_release_the_function_starts_and_later_finds_it(imported, store, tower, monkeypatch, capsys):
    module = imported()
    assert logged(capsys)[0][0]["message"] == "not warm yet"
    status, body = ask(module)
    assert (status, body["type"]) == (503, "index_unavailable")
    publish(store, tower)
    assert ask(module)[0] == 200


def test_the_picture_of_snapstart_holds_the_tower_and_no_connection(imported, published, bucket, monkeypatch, store):
    opened = []
    monkeypatch.setattr(opensearch_client, "open_store", lambda settings, tuning: opened.append(settings) or store)
    module = imported()
    assert len(opened) == 1
    bucket.objects.all().delete()
    (restore,) = sys.modules["snapshot_restore_py"].registered
    restore()
    assert ask(module)[0] == 200, "the tower came with the picture"
    assert len(opened) == 2, "its client did not"


def test_outside_lambda_an_import_loads_nothing_and_leaves_the_logs_alone(imported, monkeypatch):
    monkeypatch.delenv("AWS_LAMBDA_INITIALIZATION_TYPE")
    monkeypatch.setattr(opensearch_client, "open_store", lambda settings, tuning: pytest.fail("opened"))
    imported()
    assert logging.getLogger("retrieval").propagate


@pytest.fixture
def endpoint_named(monkeypatch):
    monkeypatch.setenv("GAVEL_RANKER_ENDPOINT", "gavel-dev-reranker")

    def at(url, timeout_s=5.0):
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", url)
        monkeypatch.setenv("GAVEL_RANKER_TIMEOUT_S", str(timeout_s))

    return at


def test_with_an_endpoint_lots_come_in_the_order_of_the_booster_in_process(
    imported, published, endpoint_named, model_dir, in_process, store, tower, monkeypatch, capsys
):
    moment = Filter().moment()
    monkeypatch.setattr("retrieval.index.filters.utc_now", lambda: moment)
    with ranker_server(model_dir) as url:
        endpoint_named(url)
        status, body = ask(imported())
    assert (status, body["reranked"], body["degraded"]) == (200, True, [])
    here = SearchService(store, SearchModels(lambda _: QueryEncoder.load(tower), lambda _: in_process))
    wanted = here.search(SearchRequest(f"{SECRET} red watch", k=5)).results
    assert ids(body) == [result.item_id for result in wanted] != in_first_stage_order(store, tower)
    assert [result["score"] for result in body["results"]] == [result.score for result in wanted]
    measured = logged(capsys)[1][-1]
    assert (measured["rerank_ms"], measured["rerank_fallbacks"]) == ([body["timings_ms"]["rerank"]], [0.0])


@pytest.mark.parametrize(
    ("faulty", "timeout_s"),
    [
        ({"body": b"", "status": 500}, 5.0),
        ({"body": b"a page"}, 5.0),
        ({"body": b"1.0"}, 5.0),
        ({"body": b"1.0", "after_s": 1.0}, 0.05),
    ],
)
def test_an_endpoint_that_fails_talks_nonsense_or_sleeps_costs_the_reranking_alone(
    faulty, timeout_s, imported, published, endpoint_named, store, tower, capsys
):
    with faulty_server(**faulty) as url:
        endpoint_named(url, timeout_s)
        module = imported()
        ask(module)
        status, body = ask(module)
    assert (status, body["reranked"], body["degraded"]) == (200, False, ["rerank"])
    assert ids(body) == in_first_stage_order(store, tower)
    assert body["timings_ms"]["rerank"] < 1_000
    measured = logged(capsys)[1][-1]
    assert (measured["rerank_fallbacks"], measured["searches"]) == ([1.0], [1.0])
    assert measured["rerank_ms"] == [body["timings_ms"]["rerank"]]


def test_an_endpoint_that_keeps_sleeping_is_left_alone_for_a_while(imported, published, endpoint_named, store, tower):
    with faulty_server(b"1.0", after_s=2.0) as url:
        endpoint_named(url, 0.2)
        module = imported()
        answers = [ask(module, query={"q": "red watch", "k": "5"})[1] for _ in range(circuit.FAILURES + 1)]
        health = ask(module, path="/health", query=None)[1]
    assert {tuple(body["degraded"]) for body in answers} == {("rerank",)}
    slow, quick = answers[0]["timings_ms"]["rerank"], answers[-1]["timings_ms"]["rerank"]
    assert quick < 150 < slow
    assert health["circuits"]["rerank"] == "open"


def test_an_endpoint_of_other_features_is_told_once_and_search_goes_on(
    imported, published, endpoint_named, model_dir, store, tower, monkeypatch, capsys
):
    monkeypatch.setattr(sagemaker, "FEATURES", (*FEATURES[:-1], "colour"))
    with ranker_server(model_dir) as url:
        endpoint_named(url)
        module = imported()
        answers = [ask(module) for _ in range(3)]
    assert {(status, body["reranked"]) for status, body in answers} == {(200, False)}
    lines, _ = logged(capsys)
    refusals = [line for line in lines if line["level"] == "ERROR"]
    assert len(refusals) == 1
    assert "trained on other features (colour, has_image)" in refusals[0]["message"]


def test_a_photo_is_searched_by_with_the_image_branch_that_is_fetched_for_the_first_one(
    imported, published, bucket, store, tower, tmp_path, capsys
):
    bucket.upload_file(str(tower / IMAGE_TOWER_FILE), f"{tower.name}/{IMAGE_TOWER_FILE}")
    module, photo = imported(), plain("PNG", (20, 200, 90))
    fetched = tmp_path / "writable" / tower.name / IMAGE_TOWER_FILE
    assert ask(module)[0] == 200
    assert not fetched.exists()
    status, body = ask_by_photo(module, photo, "image/png", k=4)
    assert fetched.exists()
    assert (status, body["tower_id"], body["mode"], body["reranked"]) == (200, tower.name, "semantic", False)
    wanted = store.live().semantic(ImageEncoder.load(tower).encode(photo), 4, Filter())
    assert ids(body) == [candidate.item_id for candidate in wanted]
    with_words = ask_by_photo(module, photo, "image/png", k=4, text=f"{SECRET} red watch")
    assert with_words[0] == 200
    lines, metrics = logged(capsys)
    assert metrics[-1]["searches"] == [1.0]
    assert not any(SECRET in json.dumps(line) for line in lines)


@pytest.mark.parametrize("name", ["bomb", "svg", "truncated jpeg"])
def test_a_hostile_photo_is_a_bad_one_in_the_function_too(imported, published, bucket, tower, name):
    bucket.upload_file(str(tower / IMAGE_TOWER_FILE), f"{tower.name}/{IMAGE_TOWER_FILE}")
    status, body = ask_by_photo(imported(), HOSTILE[name][0])
    assert (status, body["type"]) == (400, "invalid_photo")


def test_a_body_that_api_gateway_took_for_text_is_refused_for_its_type(imported, published):
    status, body = ask_by_photo(imported(), b"any", "application/octet-stream")
    assert (status, body["type"]) == (400, "invalid_photo")
    assert "Content-Type" in body["detail"]


def test_an_image_branch_that_is_not_in_the_bucket_is_told_to_the_log_and_words_go_on(imported, published, capsys):
    module = imported()
    status, body = ask_by_photo(module, plain("JPEG"))
    assert (status, body["type"]) == (503, "tower_unavailable")
    assert IMAGE_TOWER_FILE not in body["detail"]
    assert IMAGE_TOWER_FILE in capsys.readouterr().out
    assert ask(module)[0] == 200


def shown_list():
    now = datetime.now(UTC).isoformat()
    click = {"event_type": "click", "item_id": "lot-01", "position": 3, "timestamp": now}
    return {"query_id": "l-1", "session_id": "s-1", "query": f"{SECRET} watch", "shown_at": now, "events": [click]}


def test_what_buyers_did_goes_to_the_stream_of_the_setting_and_into_no_log(imported, bucket, monkeypatch, capsys):
    place = {"RoleARN": "arn:aws:iam::123456789012:role/r", "BucketARN": f"arn:aws:s3:::{BUCKET}", "Prefix": "events/"}
    boto3.client("firehose").create_delivery_stream(DeliveryStreamName="told", ExtendedS3DestinationConfiguration=place)
    monkeypatch.setenv("GAVEL_EVENTS_STREAM", "told")
    status, body = ask(imported(), method="POST", path="/events", query=None, body=shown_list())
    assert (status, body) == (202, {"accepted": 1, "served": 0})
    (told,) = bucket.objects.filter(Prefix="events/")
    assert json.loads(told.get()["Body"].read())["query"] == f"{SECRET} watch"
    assert SECRET not in capsys.readouterr().out


def test_without_a_stream_events_are_a_503_and_the_log_says_why(imported, bucket, capsys):
    status, body = ask(imported(), method="POST", path="/events", query=None, body=shown_list())
    assert (status, body["type"]) == (503, "feedback_unavailable")
    lines, _ = logged(capsys)
    assert any("GAVEL_EVENTS_STREAM" in line["message"] for line in lines)
