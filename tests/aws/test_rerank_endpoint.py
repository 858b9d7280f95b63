"""The adapter of the re-rank endpoint, against the container's own functions behind SageMaker's address, and against faults."""

import logging
import time

import boto3
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rerank_servers import faulty_server, ranker_server
from trained_booster import feature_rows, trained_booster

from gavel.opensearch.node import free_port
from gavel.workspace import wiring
from processing.reranker_endpoint.inference import BOOSTER_FILE
from retrieval.config.settings import Settings
from retrieval.errors import RankerUnavailable
from retrieval.ranker import sagemaker_ranker as adapter
from retrieval.ranker.features import FEATURES
from retrieval.ranker.port import ExplainingRanker
from retrieval.ranker.sagemaker_ranker import EndpointRanker

PATIENT_S = 5.0


@pytest.fixture(scope="module")
def in_process():
    return trained_booster()


@pytest.fixture(scope="module")
def server(in_process, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    in_process.save(folder / BOOSTER_FILE)
    with ranker_server(folder) as url:
        yield url


@pytest.fixture(scope="module", autouse=True)
def aws():
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "eu-west-1"}.items():
            patched.setenv(name, value)
        yield


def endpoint(url, timeout_s=PATIENT_S):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", url)
        return EndpointRanker("gavel-test-reranker", timeout_s)


@given(rows=st.integers(0, 60), seed=st.integers(0, 1_000))
def test_an_endpoint_scores_as_the_booster_in_process(rows, seed, in_process, server):
    features = feature_rows(rows, seed)
    scores = endpoint_of(server).score(features)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, in_process.score(features))


@given(rows=st.integers(0, 12), seed=st.integers(0, 1_000))
def test_an_endpoint_explains_as_the_booster_in_process(rows, seed, in_process, server):
    features = feature_rows(rows, seed)
    contributions = endpoint_of(server).explain(features)
    assert contributions.dtype == np.float32
    np.testing.assert_array_equal(contributions, in_process.explain(features))
    assert isinstance(endpoint_of(server), ExplainingRanker)


def test_an_endpoint_that_knows_nothing_of_explaining_is_told_apart():
    with faulty_server(b"0.5\n0.25") as url, pytest.raises(RankerUnavailable, match=r"2 rows of \d+ numbers with 2 scores"):
        endpoint(url).explain(feature_rows(2))


def endpoint_of(server, made={}):  # noqa: B006  # one client for all examples
    return made.setdefault(server, endpoint(server))


def test_the_server_answers_pings_and_bare_invocations_as_the_container_does(server, in_process):
    assert httpx.get(f"{server}/ping").status_code == 200
    rows = feature_rows(3)
    asked = {"features": list(FEATURES), "rows": np.where(np.isnan(rows), None, rows.astype(object)).tolist()}
    answer = httpx.post(f"{server}/invocations", json=asked, headers={"accept": "application/json"})
    np.testing.assert_array_equal(np.float32(answer.json()["scores"]), in_process.score(rows))
    refused = httpx.post(f"{server}/invocations", content=b"0.5,0.5", headers={"content-type": "text/csv"})
    assert (refused.status_code, refused.headers["content-type"]) == (400, "text/plain; charset=utf-8")


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"0.5\n0.25", 200, "3 rows with 2 scores"),
        (b"0.5\n0.25\n0.1\n0.1", 200, "3 rows with 4 scores"),
        (b"0.5\nnan\n0.1", 200, "3 scores, 2 finite"),
        (b"0.5\n1e300\n-inf", 200, "3 scores, 1 finite"),
        (b"0.5,0.25,0.1", 200, "something else than numbers"),
        (b"<html>", 200, "something else than numbers"),
        (b"\xff\xfe", 200, "something else than numbers"),
        (b"", 200, "3 rows with 0 scores"),
        (b"", 500, "does not score"),
        (b"<html>", 503, "does not score"),
        (b'{"OriginalStatusCode": 500, "OriginalMessage": "out of memory\\nTraceback"}', 424, "does not score: out of memory$"),
        (b"{", 400, "does not score"),
    ],
)
def test_nonsense_is_no_score(body, status, reason):
    with faulty_server(body, status) as url, pytest.raises(RankerUnavailable, match=reason):
        endpoint(url).score(feature_rows(3))


def test_an_answer_that_breaks_off_is_no_score():
    with faulty_server(b"0.5\n0.25", promised=40) as url, pytest.raises(RankerUnavailable, match="does not answer"):
        endpoint(url, 0.3).score(feature_rows(3))


def test_a_slow_endpoint_is_asked_once_and_given_up_in_time():
    with faulty_server(b"0.5", after_s=2.0) as url:
        ranker = endpoint(url, 0.1)
        start = time.perf_counter()
        with pytest.raises(RankerUnavailable, match="does not answer: Read timeout"):
            ranker.score(feature_rows(1))
        assert 0.1 <= time.perf_counter() - start < 1.0


def test_an_endpoint_that_is_not_there_is_no_score():
    with pytest.raises(RankerUnavailable, match="does not answer: Could not connect"):
        endpoint(f"http://127.0.0.1:{free_port()}").score(feature_rows(1))


def test_without_a_region_the_way_out_is_told(monkeypatch, tmp_path):
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(RankerUnavailable, match="set AWS_DEFAULT_REGION"):
        EndpointRanker("e", 1.0)


def test_without_credentials_there_is_no_score(monkeypatch, server, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(RankerUnavailable, match="does not answer: Unable to locate credentials"):
        endpoint(server).score(feature_rows(1))


def test_an_endpoint_of_other_features_refuses_and_that_is_logged_once(server, monkeypatch, caplog):
    monkeypatch.setattr(adapter, "FEATURES", (*FEATURES[:-1], "colour"))
    ranker = endpoint(server)
    for _ in range(3):
        with pytest.raises(RankerUnavailable, match=r"trained on other features \(colour, has_image\)"):
            ranker.score(feature_rows(2))
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "refuses every request (400): this re-ranker was trained on other features" in errors[0]


def test_a_matrix_of_the_wrong_width_is_an_error_and_no_score(server):
    with pytest.raises(RankerUnavailable, match=rf"shape \(2, 3\) under {len(FEATURES)} names"):
        endpoint(server).score(np.zeros((2, 3), dtype=np.float32))


def test_the_laptop_asks_the_endpoint_that_its_settings_name(tmp_path, server, monkeypatch, in_process):
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", server)
    assert wiring.load_ranker(Settings(home=tmp_path), "a1b2c3d4e5f6") is None
    ranker = wiring.load_ranker(Settings(home=tmp_path, ranker_endpoint="local", ranker_timeout_s=PATIENT_S), "a1b2c3d4e5f6")
    np.testing.assert_array_equal(ranker.score(feature_rows(5)), in_process.score(feature_rows(5)))
