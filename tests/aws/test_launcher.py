"""`gavel aws …` against moto: outputs of a tiny stack, the night's own state machine, jobs through the SageMaker SDK."""

import json
import os
import subprocess
import time
from pathlib import Path
from uuid import UUID

import boto3
import pytest
from botocore.client import BaseClient
from job_places import places
from moto import mock_aws
from moto.stepfunctions.models import StateMachine
from small_tower import save_small_item_tower

from gavel.aws import account, jobs, machines, status, towers
from gavel.aws.account import deployed_stage
from gavel.aws.jobs import LaunchOptions
from gavel.aws.night_job import NightJob, night_job
from gavel.cli import main as cli
from infra.embedding_job import JobSize, job_parameters
from infra.nightly_states import embed_day, find_day
from retrieval.errors import GavelError, InvalidInput, MissingPrerequisite, TowerError

ROOT = Path(__file__).resolve().parents[2]
DATE, TOWER = "2026-11-21", "0123456789ab"
ROLES = {name: f"arn:aws:iam::123456789012:role/{name}" for name in ("job", "training")}
PLACES = places(code_uri="s3://assets/abc.zip", job_role_arn=ROLES["job"], image="account/image:1")
LADDER = ["ml.g5.xlarge", "ml.g6.xlarge"]
AT_ONCE = LaunchOptions(wait=False)
CARD = {"name": "shop", "seed": 7, "example_queries": [], "splits": {"train": ["lots.ndjson"]}}


class Stage:
    """A mocked account with what a deployed stage has."""

    def __init__(self):
        self.s3, self.sagemaker, self.machines = (boto3.client(name) for name in ("s3", "sagemaker", "stepfunctions"))
        for bucket in ("new-items", "embeddings", "towers", "releases"):
            self.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        self.embed_day = self.machine("EmbedDay", embed_day(PLACES, JobSize(LADDER, 1, 2)))
        self.find_day = self.machine("FindDay", find_day(PLACES, self.embed_day))
        self.rebuild = self.machine("Rebuild", {"StartAt": "Done", "States": {"Done": {"Type": "Succeed"}}})
        dead = (boto3.client("sqs").create_queue(QueueName=name)["QueueUrl"] for name in ("dead", "dead-states"))
        self.dead_letters, dead_states = dead
        buckets = {"NewItemsBucket": "new-items", "EmbeddingsBucket": "embeddings"}
        buckets |= {"TowersBucket": "towers", "ReleasesBucket": "releases"}
        self.deploy("Storage", **buckets, ArrivalsDeadLetters=self.dead_letters)
        self.deploy("Serving", ApiUrl="https://x", StatesDeadLetters=dead_states)
        started = {"FindDayMachine": self.find_day, "EmbedDayMachine": self.embed_day, "RebuildMachine": self.rebuild}
        self.deploy("Batch", **started, JobRole=ROLES["job"], TrainingRole=ROLES["training"])

    def machine(self, name, definition):
        role = ROLES["job"]
        return self.machines.create_state_machine(name=name, definition=json.dumps(definition), roleArn=role)["stateMachineArn"]

    def deploy(self, stack, **outputs):
        """A stack of one topic and the outputs."""
        body = {"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}, "Outputs": {k: {"Value": v} for k, v in outputs.items()}}
        boto3.client("cloudformation").create_stack(StackName=f"Gavel-dev-{stack}", TemplateBody=json.dumps(body))

    def put(self, bucket, key, content=""):
        self.s3.put_object(Bucket=bucket, Key=key, Body=content if isinstance(content, str) else json.dumps(content))

    def keys(self, bucket):
        return [entry["Key"] for entry in self.s3.list_objects_v2(Bucket=bucket).get("Contents", [])]

    def has_lots_and_tower(self):
        self.put("new-items", f"{DATE}.parquet", "rows")
        self.put("towers", f"{TOWER}/tower.json", {})
        self.put("towers", "current.json", {"tower_id": TOWER})

    def job(self, name):
        return self.sagemaker.describe_processing_job(ProcessingJobName=name)


@pytest.fixture
def credentials(monkeypatch):
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "eu-west-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    return monkeypatch


@pytest.fixture
def cloud(credentials):
    with mock_aws():
        yield Stage()


@pytest.fixture
def stage(cloud):
    return deployed_stage("dev")


@pytest.fixture
def asked(monkeypatch):
    """What SageMaker was asked for, in full: moto's own answer leaves half of it out."""
    requests, call = [], BaseClient._make_api_call

    def recorded(self, operation, parameters):
        if operation == "CreateProcessingJob":
            requests.append(parameters)
        return call(self, operation, parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", recorded)
    return requests


def as_the_night_asks():
    """The job of the night with date, tower and release filled in."""
    text = json.dumps(job_parameters(PLACES, LADDER[0], JobSize(LADDER, 1, 2)))
    for intrinsic, value in (
        ("States.Format('s3://new-items/{}', $.items)", f"s3://new-items/{DATE}.parquet"),
        ("States.Format('s3://towers/{}/', $.tower_id)", f"s3://towers/{TOWER}/"),
    ):
        assert intrinsic in text
        text = text.replace(intrinsic, value)
    return json.loads(text.replace(".$", ""))


def by_name(inputs):
    return {given["InputName"]: given["S3Input"] for given in inputs}


def test_a_job_by_hand_is_the_job_of_the_night(cloud, stage, asked):
    cloud.has_lots_and_tower()
    jobs.embed_date(stage, DATE, None, AT_ONCE)
    (made,), night = asked, as_the_night_asks()
    inputs, wanted = by_name(made["ProcessingInputs"]), by_name(night["ProcessingInputs"])
    defaults = {"S3DataDistributionType": "FullyReplicated", "S3CompressionType": "None"}  # of SageMaker; the SDK says some
    assert {name: {**defaults, **place} for name, place in inputs.items()} == {
        name: {**defaults, **place} for name, place in wanted.items()
    }
    assert made["ProcessingOutputConfig"] == night["ProcessingOutputConfig"]
    assert made["NetworkConfig"] == {"EnableNetworkIsolation": False, **night["NetworkConfig"]}
    for same in ("ProcessingResources", "RoleArn", "StoppingCondition"):
        assert made[same] == night[same]
    assert made["AppSpecification"]["ImageUri"] == night["AppSpecification"]["ImageUri"]
    assert made.keys() <= night.keys()


def test_its_container_runs_the_nights_script_and_names_a_release_of_its_own(cloud, stage):
    cloud.has_lots_and_tower()
    started = jobs.embed_date(stage, DATE, None, AT_ONCE)
    asked = cloud.job(started.job)["AppSpecification"]
    *entry, script_name = asked["ContainerEntrypoint"]
    assert entry == as_the_night_asks()["AppSpecification"]["ContainerEntrypoint"][:-1]
    assert script_name == "/opt/ml/processing/input/code/abc.zip"  # $0 of the shell, a name alone
    assert asked["ContainerArguments"] == ["--release-id", started.release_id]
    assert started.release_id.startswith(f"{DATE}-{TOWER}-by-hand-")
    assert started.release_id != f"{DATE}-{TOWER}"
    assert len(started.job) <= 63


def test_the_nights_entry_ends_with_a_name_that_the_shell_only_shows():
    entry = job_parameters(PLACES, LADDER[0], JobSize(LADDER, 1, 2))["AppSpecification"]["ContainerEntrypoint"]
    assert entry[:2] == ["bash", "-ec"]
    assert len(entry) == 4
    assert all(len(word) <= 256 for word in entry)


def test_instance_and_tower_can_be_chosen(cloud, stage, asked):
    cloud.has_lots_and_tower()
    cloud.put("towers", "other/tower.json", {})
    jobs.embed_date(stage, DATE, "other", LaunchOptions("ml.g4dn.xlarge", wait=False))
    (made,) = asked
    assert made["ProcessingResources"]["ClusterConfig"]["InstanceType"] == "ml.g4dn.xlarge"
    assert by_name(made["ProcessingInputs"])["tower"]["S3Uri"] == "s3://towers/other/"


def test_a_day_without_items_starts_no_job(cloud, stage):
    cloud.put("towers", "current.json", {"tower_id": TOWER})
    with pytest.raises(InvalidInput, match=r"no items for 2026-11-21: put 2026-11-21\.parquet into s3://new-items"):
        jobs.embed_date(stage, DATE, None, AT_ONCE)
    with pytest.raises(InvalidInput, match="no items"):
        machines.start_night(stage, DATE)
    assert cloud.sagemaker.list_processing_jobs()["ProcessingJobSummaries"] == []


def test_what_is_no_date_is_refused(stage):
    with pytest.raises(InvalidInput, match="'yesterday' is no date"):
        jobs.embed_date(stage, "yesterday", None, AT_ONCE)


def test_a_tower_that_is_not_there_is_named_with_those_that_are(cloud, stage):
    cloud.has_lots_and_tower()
    with pytest.raises(InvalidInput, match=rf"no tower 'gone' in s3://towers \(there are: {TOWER}\)"):
        jobs.embed_date(stage, DATE, "gone", AT_ONCE)


def test_without_a_current_tower_the_way_to_one_is_named(cloud, stage):
    cloud.put("new-items", f"{DATE}/a.parquet", "rows")
    with pytest.raises(InvalidInput, match=r"no tower is current; `gavel aws publish TOWER --current`"):
        jobs.embed_date(stage, DATE, None, AT_ONCE)


def test_a_refusal_of_sagemaker_is_told_in_one_line(cloud, stage, monkeypatch):
    cloud.has_lots_and_tower()
    monkeypatch.setattr(NightJob, "cluster", {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": "much"})
    with pytest.raises(GavelError, match=r"job gavel-2026-11-21-by-hand-\w+: Parameter validation failed"):
        jobs.embed_date(stage, DATE, None, AT_ONCE)


@pytest.fixture
def catalog(tmp_path):
    """A catalogue by its description alone: the job reads the rest."""
    folder = tmp_path / "shop"
    (folder / "items").mkdir(parents=True)
    (folder / "catalog.json").write_text(json.dumps(CARD))
    (folder / "items" / "lots.ndjson").write_text("{}\n")
    (folder / ".cache").write_text("stays here")
    return folder


def test_a_training_job_puts_up_the_catalogue_and_leaves_its_tower_in_the_bucket(cloud, stage, catalog):
    started = jobs.train(stage, jobs.upload_catalog(stage, str(catalog)), ["--preset", "compact"], AT_ONCE)
    made = cloud.job(started.job)
    inputs = by_name(made["ProcessingInputs"])
    assert inputs["catalog"]["LocalPath"] == "/opt/ml/processing/input/catalog"
    assert inputs["code"]["S3Uri"] == PLACES.code_uri
    where = inputs["catalog"]["S3Uri"].removeprefix("s3://towers/")
    assert sorted(key.removeprefix(where) for key in cloud.keys("towers")) == ["catalog.json", "items/lots.ndjson"]
    (output,) = made["ProcessingOutputConfig"]["Outputs"]
    assert output["S3Output"]["S3Uri"] == "s3://towers"
    assert output["S3Output"]["LocalPath"] == "/opt/ml/processing/output"
    asked = made["AppSpecification"]
    assert asked["ContainerArguments"] == ["--input", "/opt/ml/processing/input/catalog", "--preset", "compact"]
    assert asked["ContainerEntrypoint"][2].endswith('processing/job_container.sh bash processing/train_job.sh "$@"')
    assert "embed_items" not in asked["ContainerEntrypoint"][2]
    assert len(asked["ContainerEntrypoint"][2]) <= 256
    assert made["RoleArn"] == ROLES["training"]


def test_the_same_catalogue_goes_up_once_and_a_changed_one_again(cloud, stage, catalog):
    places = {jobs.upload_catalog(stage, str(catalog)) for _ in range(2)}
    assert len(places) == 1
    assert len(cloud.keys("towers")) == 2
    (catalog / "items" / "lots.ndjson").write_text("{}\n{}\n")
    assert jobs.upload_catalog(stage, str(catalog)) not in places
    assert len(cloud.keys("towers")) == 4


def test_a_catalogue_elsewhere_is_refused_for_the_role_cannot_read_it(stage):
    with pytest.raises(InvalidInput, match=r"out of the training role's reach; copy it to s3://towers/catalogs/"):
        jobs.upload_catalog(stage, "s3://elsewhere/shop")
    assert jobs.upload_catalog(stage, "s3://towers/catalogs/shop") == "s3://towers/catalogs/shop/"


def test_the_training_job_installs_the_versions_that_the_tests_ran():
    pins = [line for line in (ROOT / "processing" / "requirements-train.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(pins) > 10
    assert [pin for pin in pins if pin not in (ROOT / "requirements.txt").read_text()] == []
    assert not any(pin.startswith("torch") for pin in pins)


def test_the_training_job_leaves_the_tower_alone_in_its_output(tmp_path):
    """With a python that trains nothing but leaves what training leaves: a tower and two hidden folders."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        '#!/bin/bash\necho "$@" >> "$CALLS"\nmkdir -p "$GAVEL_WORK"/{.runs,.photos,abc} && touch "$GAVEL_WORK/abc/tower.json"\n'
    )
    python.chmod(0o755)
    env = {"PATH": f"{python.parent}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}
    env |= {"GAVEL_WORK": str(tmp_path / "work"), "GAVEL_OUTPUT": str(tmp_path / "out")}
    subprocess.run(["bash", "processing/train_job.sh", "--input", "a b"], cwd=ROOT, env=env, check=True)
    assert [path.relative_to(tmp_path / "out").as_posix() for path in sorted((tmp_path / "out").rglob("*"))] == [
        "abc",
        "abc/tower.json",
    ]
    assert f"--output {tmp_path}/work --input a b" in (tmp_path / "calls").read_text().splitlines()[1]


def test_a_training_job_that_is_stopped_passes_the_signal_on_and_waits_for_the_checkpoint(tmp_path):
    """With a python that trains until SIGTERM, then takes a moment, as for a checkpoint, and ends as an interrupted training."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        "#!/bin/bash\n[[ $2 == pip ]] && exit\n"
        "trap 'sleep 0.3; touch \"$GAVEL_WORK/checkpoint\"; exit 130' TERM\n"
        'mkdir -p "$GAVEL_WORK/abc"\nwhile :; do sleep 0.05; done\n'
    )
    python.chmod(0o755)
    env = {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "GAVEL_WORK": str(tmp_path / "work"),
        "GAVEL_OUTPUT": str(tmp_path / "out"),
    }
    with subprocess.Popen(["bash", "processing/train_job.sh"], cwd=ROOT, env=env) as job:
        deadline = time.monotonic() + 30
        while not (tmp_path / "work" / "abc").is_dir() and time.monotonic() < deadline:
            time.sleep(0.02)
        job.terminate()
        assert job.wait(timeout=30) == 130
    assert (tmp_path / "work" / "checkpoint").exists()
    assert not (tmp_path / "out").exists(), "a tower that is not done is not handed over"


@pytest.fixture
def tower(tmp_path):
    return save_small_item_tower(tmp_path / "towers")


def test_a_tower_goes_up_with_its_card_last(cloud, stage, tower, monkeypatch):
    steps = []
    (tower / ".partial").touch()
    uploaded = towers.upload_tower(stage, tower, lambda done, total: steps.append(cloud.keys("towers")))
    assert uploaded == len(steps) == len([p for p in tower.iterdir() if not p.name.startswith(".")])
    assert f"{tower.name}/tower.json" not in steps[-2]
    assert f"{tower.name}/tower.json" in steps[-1]
    assert towers.upload_tower(stage, tower) == 0  # it is there


def test_a_damaged_tower_stays_here(cloud, stage, tower):
    (tower / "item_tower.safetensors").write_bytes(b"damaged")
    with pytest.raises(TowerError):
        towers.upload_tower(stage, tower)
    assert cloud.keys("towers") == []


def test_the_first_tower_becomes_current(cloud, stage):
    cloud.put("towers", f"{TOWER}/tower.json", {})
    assert towers.make_current(stage, TOWER) is True
    assert towers.current_tower(stage) == TOWER
    assert towers.make_current(stage, TOWER) is False


def test_a_tower_that_no_lot_was_indexed_with_may_be_replaced(cloud, stage):
    cloud.has_lots_and_tower()
    cloud.put("towers", "new/tower.json", {})
    cloud.put("embeddings", f"{DATE}-{TOWER}/manifest.json", {"tower_id": TOWER})  # embedded, never indexed
    assert towers.make_current(stage, "new") is True


def test_a_tower_for_an_index_of_another_one_needs_a_rebuild(cloud, stage):
    cloud.has_lots_and_tower()
    cloud.put("towers", "new/tower.json", {})
    cloud.put("embeddings", f"{DATE}-{TOWER}/manifest.json", {"tower_id": TOWER})
    cloud.put("embeddings", f"{DATE}-{TOWER}/indexed.json", {})
    with pytest.raises(InvalidInput, match=r"embedded anew; `gavel aws rebuild new --stage dev`"):
        towers.make_current(stage, "new")
    assert towers.current_tower(stage) == TOWER


def started_with(cloud, machine):
    (execution,) = cloud.machines.list_executions(stateMachineArn=machine)["executions"]
    return json.loads(cloud.machines.describe_execution(executionArn=execution["executionArn"])["input"])


def test_a_night_by_hand_starts_as_the_schedule_does(cloud, stage):
    cloud.has_lots_and_tower()
    machines.start_night(stage, DATE)
    assert started_with(cloud, cloud.find_day) == {"scheduled_time": f"{DATE}T00:00:00Z"}


def test_a_night_that_failed_is_run_again_under_a_name_of_its_own(cloud, stage):
    """Its date is the name of the first one, and what ended in a failure cannot be resumed."""
    cloud.has_lots_and_tower()
    machines.start_night(stage, DATE, again=True)
    given = started_with(cloud, cloud.find_day)
    assert given.pop("night").startswith(f"night-{DATE}-again-")
    assert given == {"scheduled_time": f"{DATE}T00:00:00Z"}


def test_a_rebuild_is_given_its_tower(cloud, stage):
    cloud.has_lots_and_tower()
    machines.start_rebuild(stage, TOWER)
    assert started_with(cloud, cloud.rebuild) == {"tower_id": TOWER}


def test_a_stage_without_a_rebuild_machine_says_so(stage):
    without = account.DeployedStage("dev", {k: v for k, v in stage.outputs.items() if k != "RebuildMachine"})
    with pytest.raises(InvalidInput, match="no rebuild machine"):
        machines.start_rebuild(without, TOWER)


def test_status_tells_of_nights_jobs_dead_letters_and_the_live_release(cloud, stage):
    cloud.has_lots_and_tower()
    cloud.machines.start_execution(stateMachineArn=cloud.embed_day, name=f"night-{DATE}", input="{}")
    cloud.put("releases", "2026-11-19.json", {"date": "2026-11-19", "release_id": "old"})
    cloud.put("releases", "2026-11-20.json", {"date": "2026-11-20", "release_id": "live"})
    cloud.put("releases", "captures/x.json", {})
    boto3.client("sqs").send_message(QueueUrl=cloud.dead_letters, MessageBody="part")
    found = status.stage_status(stage)
    assert [(night.date, night.status) for night in found.nights] == [(DATE, "RUNNING")]
    assert (found.dead_letters, found.tower_id, found.endpoint) == (1, TOWER, None)
    assert found.live["release_id"] == "live"


def test_a_failed_night_tells_its_cause(cloud, stage):
    arn = cloud.machines.start_execution(stateMachineArn=cloud.embed_day, name=f"night-{DATE}", input="{}")["executionArn"]
    cloud.machines.stop_execution(executionArn=arn)
    execution = next(e for e in machine_of(cloud.embed_day).executions if e.execution_arn == arn)
    execution.status, execution.cause = "FAILED", "RowsLost: a manifest"
    (night,) = status.stage_status(stage).nights
    assert (night.status, night.cause) == ("FAILED", "RowsLost: a manifest")
    assert night.minutes is not None


def machine_of(arn) -> StateMachine:
    from moto.stepfunctions.models import stepfunctions_backends

    return next(m for m in stepfunctions_backends["123456789012"]["eu-west-1"].state_machines if m.arn == arn)


def test_a_stage_that_is_not_deployed_is_named_with_its_region(cloud):
    with pytest.raises(
        InvalidInput, match=r"Gavel-prod-Storage is not deployed in eu-west-1; `npx cdk deploy --all -c stage=prod`"
    ):
        deployed_stage("prod")


def test_without_credentials_or_region_the_way_out_is_named(credentials, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        credentials.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        credentials.setenv(name, str(tmp_path / "none"))
    credentials.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(MissingPrerequisite, match="aws configure"):
        deployed_stage("dev")
    credentials.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(MissingPrerequisite, match="set AWS_REGION"):
        deployed_stage("dev")


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["gavel", "aws", *words])
    cli.main()


def test_the_command_line_starts_a_job_and_prints_json(cloud, monkeypatch, capsys):
    cloud.has_lots_and_tower()
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "embed", "--date", DATE, "--no-wait", "--json")
    assert ended.value.code == 0
    said = json.loads(capsys.readouterr().out)
    assert cloud.job(said["job"])["ProcessingJobName"] == said["job"]


def test_the_command_line_shows_status(cloud, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "status")
    assert ended.value.code == 0
    assert "none is current" in capsys.readouterr().out


def test_training_flags_go_through_as_they_stand(cloud, monkeypatch, capsys, catalog):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "train", "--catalog", str(catalog), "--epochs", "3", "--text-only", "--no-wait", "--json")
    assert ended.value.code == 0
    asked = cloud.job(json.loads(capsys.readouterr().out)["job"])["AppSpecification"]["ContainerArguments"]
    assert asked[2:] == ["--preset", "distilbert-resnet50", "--epochs", "3", "--text-only"]


def test_the_deployed_machine_says_what_the_night_runs(stage):
    found = night_job(stage)
    assert found.cluster["InstanceType"] == LADDER[0]
    assert found.code_uri == PLACES.code_uri
    assert found.inputs(items="s3://a", tower="s3://b") == {
        "items": ("/opt/ml/processing/input/items", "s3://a"),
        "tower": ("/opt/ml/processing/input/tower", "s3://b"),
        "packages": ("/opt/ml/processing/input/packages", PLACES.packages_uri),
    }


def test_an_input_that_is_new_to_the_night_is_carried_along_or_refused():
    parameters = job_parameters(PLACES, LADDER[0], JobSize(LADDER, 1, 2))
    words = {"InputName": "words", "S3Input": {"S3Uri": "s3://assets/w.zip", "LocalPath": "/w"}}
    job = NightJob({**parameters, "ProcessingInputs": [*parameters["ProcessingInputs"], words]})
    assert job.inputs(items="s3://a", tower="s3://b")["words"] == ("/w", "s3://assets/w.zip")
    words["S3Input"] = {"S3Uri.$": "$.words", "LocalPath": "/w"}
    with pytest.raises(GavelError, match="fills in its input 'words'"):
        job.inputs(items="s3://a", tower="s3://b")


@pytest.fixture
def ended(cloud, monkeypatch):
    """How the job that is waited for ended; moto leaves its resources out of what it tells."""
    told, call = {"ProcessingJobStatus": "Completed"}, BaseClient._make_api_call

    def answer(self, operation, parameters):
        said = call(self, operation, parameters)
        cluster = {"ClusterConfig": {"InstanceCount": 1}}
        return said | told | {"ProcessingResources": cluster} if operation == "DescribeProcessingJob" else said

    monkeypatch.setattr(BaseClient, "_make_api_call", answer)
    monkeypatch.setattr("sagemaker.core.processing.time.sleep", lambda seconds: None)
    logs, group = boto3.client("logs"), "/aws/sagemaker/ProcessingJobs"
    logs.create_log_group(logGroupName=group)

    def write(job, line):
        logs.create_log_stream(logGroupName=group, logStreamName=f"{job}/algo-1")
        events = [{"timestamp": int(time.time() * 1000), "message": line}]
        logs.put_log_events(logGroupName=group, logStreamName=f"{job}/algo-1", logEvents=events)

    monkeypatch.setattr(jobs, "uuid4", lambda: UUID(int=7))
    write(f"gavel-{DATE}-by-hand-00000000", "100 of 100 rows")
    return told


def test_a_job_that_is_waited_for_shows_its_log_beside_the_answer(cloud, stage, ended, capsys):
    cloud.has_lots_and_tower()
    jobs.embed_date(stage, DATE, None, LaunchOptions(wait=True))
    said = capsys.readouterr()
    assert "100 of 100 rows" in said.err
    assert said.out == ""


@pytest.mark.parametrize("state", ["Failed", "Stopped"])
def test_a_job_that_is_waited_for_and_not_completed_is_told_with_its_reason(cloud, stage, ended, state):
    cloud.has_lots_and_tower()
    ended |= {"ProcessingJobStatus": state, "FailureReason": "AlgorithmError: exit code 2"}
    with pytest.raises(GavelError, match=rf"is {state}: AlgorithmError: exit code 2; its log is in /aws/sagemaker/Proc"):
        jobs.embed_date(stage, DATE, None, LaunchOptions(wait=True))
