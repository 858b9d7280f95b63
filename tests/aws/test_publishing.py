"""What `gavel aws` leaves in a stage's buckets and takes from them (moto): late tunings, archives for the endpoint, events."""

import io
import json
import tarfile
from dataclasses import replace

import boto3
import pytest
from moto import mock_aws
from small_tower import save_small_item_tower
from trained_booster import feature_rows, ranking_data, trained_booster

from catalog.event_files import event_files
from gavel.aws.account import deployed_stage
from gavel.aws.rankers import upload_ranker
from gavel.aws.towers import upload_tower
from gavel.cli import main as cli
from gavel.workspace.cdk_context import CONTEXT_KEY, name_reranker
from infra.reranker import SCRIPT_MODE
from infra.stage import RERANKER_CONTEXT
from processing.reranker_endpoint import inference
from retrieval.encoders.tower_store import tower_tuning
from retrieval.errors import InvalidInput, RankerUnavailable
from retrieval.index.fusion import Fusion
from retrieval.index.hybrid_tuning import TUNING_FILE, FieldBoosts, Tuning
from retrieval.ranker.parameters import BoosterParameters
from retrieval.ranker.xgboost_ranker import fit_booster

TOWER = "0123456789ab"
STACKS = {
    "Storage": {"TowersBucket": "towers-bucket", "EventsBucket": "towers-bucket"},
    "Serving": {"ApiUrl": "https://x"},
    "Batch": {"JobRole": "role"},
}


@pytest.fixture
def bucket(monkeypatch):
    """The towers bucket of a deployed stage."""
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "eu-west-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws():
        for stack, outputs in STACKS.items():
            body = {"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}, "Outputs": {k: {"Value": v} for k, v in outputs.items()}}
            boto3.client("cloudformation").create_stack(StackName=f"Gavel-dev-{stack}", TemplateBody=json.dumps(body))
        place = {"LocationConstraint": "eu-west-1"}
        yield boto3.resource("s3").create_bucket(Bucket="towers-bucket", CreateBucketConfiguration=place)


def test_a_tower_that_was_tuned_after_it_went_up_is_searched_as_tuned(bucket, tmp_path):
    stage, tower = deployed_stage("dev"), save_small_item_tower(tmp_path / "towers")
    upload_tower(stage, tower)
    first = Tuning(boosts=FieldBoosts(title=2.0))
    first.save(tower)
    assert upload_tower(stage, tower) == 1
    assert tower_tuning("s3://towers-bucket", tower.name, tmp_path / "cache") == first
    assert upload_tower(stage, tower) == 0, "it is there"
    second = replace(first, fusion=Fusion.parse("min_max:0.7,0.3"))
    second.save(tower)
    assert upload_tower(stage, tower) == 1
    assert tower_tuning("s3://towers-bucket", tower.name, tmp_path / "cache") == second


def test_a_tuning_that_is_gone_here_stays_there(bucket, tmp_path):
    stage, tower = deployed_stage("dev"), save_small_item_tower(tmp_path / "towers")
    Tuning(boosts=FieldBoosts(title=2.0)).save(tower)
    upload_tower(stage, tower)
    (tower / TUNING_FILE).unlink()
    assert upload_tower(stage, tower) == 0
    assert tower_tuning("s3://towers-bucket", tower.name, tmp_path / "cache").boosts.title == 2.0


def test_the_endpoint_finds_booster_and_script_in_the_archive_of_the_key(bucket, tmp_path):
    ranker = trained_booster()
    ranker.save(tmp_path / "r.ubj")
    key, uploaded = upload_ranker(deployed_stage("dev"), tmp_path / "r.ubj", TOWER)
    assert uploaded
    assert key.startswith(f"rerankers/{TOWER}-")
    with tarfile.open(fileobj=io.BytesIO(bucket.Object(key).get()["Body"].read())) as archive:
        archive.extractall(tmp_path / "model", filter="data")
    folder = SCRIPT_MODE["SAGEMAKER_SUBMIT_DIRECTORY"].removeprefix("/opt/ml/model/")
    assert (tmp_path / "model" / folder / SCRIPT_MODE["SAGEMAKER_PROGRAM"]).is_file()
    features = feature_rows(5)
    names = json.loads(inference.model_fn(str(tmp_path / "model")).attr("features"))
    scores = inference.predict_fn(inference.Request(names, features), inference.model_fn(str(tmp_path / "model")))
    assert scores.tolist() == ranker.score(features).tolist()


def test_another_booster_has_another_key_and_the_same_goes_up_once(bucket, tmp_path):
    stage = deployed_stage("dev")
    for name, seed in (("a", 0), ("same", 0), ("b", 2)):
        fit_booster(ranking_data(seed), ranking_data(1), parameters=BoosterParameters(rounds=3)).save(tmp_path / f"{name}.ubj")
    (a, first), (same, again), (b, _) = (upload_ranker(stage, tmp_path / f"{name}.ubj", TOWER) for name in ("a", "same", "b"))
    assert (first, again) == (True, False)
    assert a == same != b


def test_a_booster_that_is_missing_or_none_stays_here(bucket, tmp_path):
    stage = deployed_stage("dev")
    with pytest.raises(InvalidInput, match="gavel train reranker"):
        upload_ranker(stage, tmp_path / "missing.ubj", TOWER)
    (tmp_path / "none.ubj").write_bytes(b"no booster")
    with pytest.raises(RankerUnavailable):
        upload_ranker(stage, tmp_path / "none.ubj", TOWER)
    assert list(bucket.objects.all()) == []


def test_the_command_puts_up_the_re_ranker_of_the_current_tower(bucket, tmp_path, monkeypatch, capsys):
    bucket.put_object(Key="current.json", Body=json.dumps({"tower_id": TOWER}))
    bucket.put_object(Key=f"{TOWER}/tower.json", Body=b"{}")
    trained_booster().save(tmp_path / "home" / "rankers" / f"{TOWER}.ubj")
    monkeypatch.setenv("GAVEL_HOME", str(tmp_path / "home"))
    context = tmp_path / "cdk.context.json"
    context.write_text('{"availability-zones": ["a"]}')

    def publish_ranker():
        monkeypatch.setattr("sys.argv", ["gavel", "aws", "publish-ranker", "--context", str(context), "--json"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        return json.loads(capsys.readouterr().out)

    said = publish_ranker()
    assert (said["tower_id"], said["uploaded"], said["changed"]) == (TOWER, True, True)
    bucket.Object(said["model_key"]).load()
    assert json.loads(context.read_text()) == {"availability-zones": ["a"], "gavel:reranker:dev": said["model_key"]}
    assert "`npx cdk deploy --all -c stage=dev` serves it; commit cdk.context.json" in said["next"]
    assert (publish_ranker()["uploaded"], publish_ranker()["changed"]) == (False, False)


def test_the_context_names_a_re_ranker_as_the_app_reads_it():
    assert CONTEXT_KEY.format("dev") == f"{RERANKER_CONTEXT}dev"


def test_a_context_file_that_is_damaged_is_named_and_stays(tmp_path):
    for text in ("{oops", "[]"):
        (tmp_path / "cdk.context.json").write_text(text)
        with pytest.raises(InvalidInput, match=r"cdk.context.json .*; mend it, or delete it"):
            name_reranker("dev", "rerankers/a/model.tar.gz", tmp_path / "cdk.context.json")
        assert (tmp_path / "cdk.context.json").read_text() == text


def test_events_are_fetched_once_a_day_or_all(bucket, tmp_path, monkeypatch, capsys):
    for day in ("20", "21"):
        bucket.put_object(Key=f"events/2026/11/{day}/gavel-dev-events-1", Body=b"{}")
    bucket.put_object(Key="errors/processing-failed/2026/11/21/x", Body=b"{}")
    counts = []
    for flags in (["--date", "2026-11-21"], [], []):
        monkeypatch.setattr("sys.argv", ["gavel", "aws", "events", "--out", str(tmp_path / "here"), *flags, "--json"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        counts.append(json.loads(capsys.readouterr().out)["fetched"])
    assert counts == [1, 1, 0]
    assert sorted(path.parent.name for path in event_files([tmp_path / "here"])) == ["20", "21"]
