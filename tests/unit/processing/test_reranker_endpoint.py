"""The script that the re-rank endpoint's container runs, and the archive that it travels in."""

import ast
import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from trained_booster import feature_rows, trained_booster

from processing.reranker_endpoint import inference
from processing.reranker_endpoint.inference import ServerError, input_fn, model_fn, output_fn, predict_fn
from processing.reranker_endpoint.packing import pack_model
from retrieval.errors import FeatureMismatch, RankerUnavailable
from retrieval.ranker import xgboost_ranker as adapter
from retrieval.ranker.features import FEATURES
from retrieval.ranker.xgboost_ranker import BoosterRanker

NAMES = ",".join(FEATURES)
ROW = ",".join(["0.5"] * len(FEATURES))


@pytest.fixture(scope="module")
def ranker() -> BoosterRanker:
    return trained_booster()


@pytest.fixture(scope="module")
def model_dir(ranker, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    ranker.save(folder / inference.BOOSTER_FILE)
    return folder


@pytest.fixture(scope="module")
def booster(model_dir):
    return model_fn(str(model_dir))


def csv_of(rows) -> str:
    return "\n".join([NAMES, *(",".join("" if np.isnan(v) else repr(float(v)) for v in row) for row in rows)])


def json_of(rows) -> str:
    return json.dumps({"features": list(FEATURES), "rows": [[None if np.isnan(v) else float(v) for v in row] for row in rows]})


@pytest.mark.parametrize(("kind", "written"), [("text/csv", csv_of), ("application/json; charset=utf-8", json_of)])
@pytest.mark.parametrize("as_sent", [str, str.encode, lambda text: bytearray(text.encode())])
def test_rows_are_scored_as_in_process_however_they_are_written(kind, written, as_sent, booster, ranker):
    rows = feature_rows(50)
    asked = input_fn(as_sent(written(rows)), kind)
    np.testing.assert_array_equal(asked.rows, rows)
    np.testing.assert_array_equal(predict_fn(asked, booster), ranker.score(rows))


@pytest.mark.parametrize("accept", ["application/json", "text/csv"])
def test_a_request_may_ask_what_every_feature_added(accept, booster, ranker):
    rows = feature_rows(5)
    asked = input_fn(json.dumps({**json.loads(json_of(rows)), "explain": True}), "application/json")
    body, _ = output_fn(predict_fn(asked, booster), accept)
    if accept == "text/csv":
        scores, contributions = np.split(np.float32([line.split(",") for line in body.splitlines()]), [1], axis=1)
    else:
        answer = json.loads(body)
        scores, contributions = np.float32(answer["scores"])[:, None], np.float32(answer["contributions"])
    np.testing.assert_array_equal(scores[:, 0], ranker.score(rows))
    np.testing.assert_array_equal(contributions, ranker.explain(rows))


@given(arrays.arrays(np.float32, st.integers(1, 30), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_every_score_is_written_so_that_it_reads_back_the_same(scores):
    body, kind = output_fn(scores, "text/csv")
    assert kind == "text/csv"
    np.testing.assert_array_equal(np.array([float(line) for line in body.splitlines()], dtype=np.float32), scores)
    np.testing.assert_array_equal(np.float32(json.loads(output_fn(scores, "application/json")[0])["scores"]), scores)


@pytest.mark.parametrize(
    ("accept", "kind"), [("", "text/csv"), ("*/*", "text/csv"), ("application/json, text/plain", "application/json")]
)
def test_the_answer_is_of_the_kind_that_is_accepted(accept, kind):
    assert output_fn(np.float32([1]), accept)[1] == kind


@pytest.mark.parametrize(
    ("body", "kind", "status", "reason"),
    [
        ("", "text/csv", 400, "cannot be read"),
        (NAMES, "text/csv", 400, r"shape \(0,\)"),
        (f"{NAMES}\n0.5,0.5", "text/csv", 400, rf"shape \(1, 2\) under {len(FEATURES)} names"),
        (f"{NAMES}\n{ROW}\n0.5", "text/csv", 400, "cannot be read"),
        (f"{NAMES}\n{ROW},0.5", "text/csv", 400, rf"shape \(1, {len(FEATURES) + 1}\)"),
        (f"{NAMES}\n{ROW[:-3]}much", "text/csv", 400, "much"),
        (f"{NAMES}\n{ROW[:-3]}inf", "text/csv", 400, "no finite number"),
        (f"{NAMES}\n{ROW[:-3]}nan", "text/csv", 400, "no finite number"),
        (f"{NAMES}\n{ROW[:-3]}1e300", "text/csv", 400, "cannot be read"),
        (b"\xff\xfe", "text/csv", 400, "cannot be read"),
        ("{", "application/json", 400, "cannot be read"),
        ("[1]", "application/json", 400, "cannot be read"),
        ('{"rows": [[1]]}', "application/json", 400, "features"),
        ('{"features": ["a"], "rows": 3}', "application/json", 400, "cannot be read"),
        (ROW, "text/libsvm", 415, "send text/csv or application/json"),
        (ROW, None, 415, "content type None"),
    ],
)
def test_a_request_that_cannot_be_read_is_refused_with_the_reason(body, kind, status, reason):
    with pytest.raises(ServerError, match=reason) as refused:
        input_fn(body, kind)
    assert refused.value.status_code == status


def test_an_answer_of_another_kind_is_refused():
    with pytest.raises(ServerError, match="accept text/csv") as refused:
        output_fn(np.float32([1]), "image/png")
    assert refused.value.status_code == 406


@pytest.mark.parametrize(
    ("names", "differing"),
    [
        ((*FEATURES[:-1], "colour"), "colour, has_image"),
        (FEATURES[::-1], "their order"),
        (FEATURES[:-1], "has_image"),
        ((ROW,), ROW),
    ],
)
def test_rows_of_other_features_are_never_scored(names, differing, booster):
    body = json.dumps({"features": names, "rows": [[0.5] * len(names)]})
    with pytest.raises(ServerError, match="trained on other features") as refused:
        predict_fn(input_fn(body, "application/json"), booster)
    assert refused.value.status_code == 400
    assert differing[:40] in refused.value.message


@pytest.mark.parametrize(
    "attributes",
    [
        {"features": None},
        {"features_hash": None},
        {"features_hash": "0" * 12},
        {"features": json.dumps(FEATURES[::-1])},
        {"features": json.dumps(["a"]), "features_hash": hashlib.sha256(b"a").hexdigest()[:12]},
    ],
)
def test_a_booster_whose_features_are_not_what_it_says_is_refused_at_load(attributes, model_dir, tmp_path):
    spoiled = model_fn(str(model_dir))
    spoiled.set_attr(**attributes)
    spoiled.save_model(tmp_path / inference.BOOSTER_FILE)
    with pytest.raises(ValueError, match="train it again with `gavel train`, and pack it anew"):
        model_fn(str(tmp_path))


def test_the_script_needs_nothing_that_the_container_lacks():
    tree = ast.parse(Path(inference.__file__).read_text(), feature_version=(3, 10))
    imported = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported - set(sys.stdlib_module_names) == {"numpy", "xgboost", "sagemaker_inference"}


def test_the_archive_holds_booster_and_script_where_the_container_looks(model_dir, tmp_path, ranker):
    archive = pack_model(model_dir / inference.BOOSTER_FILE, tmp_path / "r1" / "model.tar.gz")
    with tarfile.open(archive) as packed:
        assert packed.getnames() == ["reranker.ubj", "code/inference.py"]
        packed.extractall(tmp_path / "unpacked", filter="data")
    rows = feature_rows(4)
    program = (
        "import sys, inference; model = inference.model_fn(sys.argv[1]); "
        "print(inference.output_fn(inference.predict_fn(inference.input_fn(sys.stdin.read(), 'text/csv'), model), 'text/csv')[0])"
    )
    # without the repository on the path, as the container runs it
    called = [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, 'code'); {program}", "."]
    said = subprocess.run(called, input=csv_of(rows), cwd=tmp_path / "unpacked", capture_output=True, text=True, check=True)
    np.testing.assert_array_equal(np.float32(said.stdout.split()), ranker.score(rows))


def test_the_same_booster_is_packed_into_the_same_bytes(model_dir, tmp_path):
    source = model_dir / inference.BOOSTER_FILE
    first, second = (pack_model(source, tmp_path / name).read_bytes() for name in ("a.tar.gz", "another name.tar.gz"))
    assert first == second


def test_what_is_no_booster_of_todays_features_is_not_packed(ranker, tmp_path, monkeypatch):
    with pytest.raises(RankerUnavailable):
        pack_model(tmp_path / "missing.ubj", tmp_path / "model.tar.gz")
    with monkeypatch.context() as older:
        older.setattr(adapter, "FEATURES", FEATURES[::-1])
        older.setattr(adapter, "FEATURES_HASH", "0" * 12)
        ranker.save(tmp_path / "old.ubj")
    with pytest.raises(FeatureMismatch, match="their order"):
        pack_model(tmp_path / "old.ubj", tmp_path / "model.tar.gz")
    assert not (tmp_path / "model.tar.gz").exists()


def test_a_booster_has_the_base_score_that_the_containers_xgboost_reads_right(ranker, tmp_path):
    """XGBoost 3.0 takes the list that newer ones write for 0.5, whatever stands in it."""
    ranker.save(tmp_path / "r.ubj")
    booster = xgboost.Booster(model_file=tmp_path / "r.ubj")
    saved = json.loads(booster.save_raw("json"))["learner"]["learner_model_param"]["base_score"]
    assert [float(number) for number in saved.strip("[]").split(",")] == [0.5]
