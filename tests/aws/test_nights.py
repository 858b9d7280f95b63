"""The state machines of a night, run by moto's interpreter."""

import cloud as cloud_module
import pytest
from botocore.exceptions import ClientError
from cloud import LADDER, TOWER, cloud_of, instance_of, jobs_asked

from infra.embedding_job import JobSize
from infra.nightly_states import embed_day, find_day
from infra.release_states import MAX_THROTTLES
from lambdas.query_snapshot.handler import SnapshotFailed

DATE = "2026-11-21"
RELEASE = f"{DATE}-{TOWER}"


@pytest.fixture
def cloud(monkeypatch, tmp_path):
    with cloud_of(monkeypatch, tmp_path) as made:
        yield made


@pytest.fixture
def embed(cloud):
    """The machine that embeds a day."""
    definition = embed_day(cloud.places, JobSize(LADDER, 1, 2))
    # the machine forgets old receipts before the job; what the job and the indexer write is laid down before it starts
    definition["States"]["ForgetReceipt"] = {"Type": "Pass", "Next": "CountThrottles"}
    cloud.put("towers", "current.json", {"tower_id": TOWER})
    return cloud.machine("embed", definition)


@pytest.fixture
def day(cloud):
    """The file of the day."""
    cloud.put("new-items", f"{DATE}.parquet", "rows")


def test_a_day_without_items_ends_well_with_a_notice(cloud, embed):
    found = cloud.run(cloud.machine("find", find_day(cloud.places, embed)), {"scheduled_time": f"{DATE}T02:00:00Z"})
    assert found["status"] == "SUCCEEDED"
    assert cloud.machines.list_executions(stateMachineArn=embed)["executions"] == []
    assert [f"no new items for {DATE}" in notice for notice in cloud.notices()] == [True]


def test_a_day_is_embedded_once_however_often_it_is_found(cloud, embed):
    cloud.put("new-items", f"{DATE}.parquet", "rows")
    find = cloud.machine("find", find_day(cloud.places, embed))
    for hour in (2, 5):
        assert cloud.run(find, {"scheduled_time": f"{DATE}T0{hour}:00:00Z"})["status"] == "SUCCEEDED"
    assert cloud.started(embed) == [f"night-{DATE}"]


def find(cloud, embed):
    return cloud.machine("find", find_day(cloud.places, embed))


@pytest.mark.parametrize("key", [f"{DATE}.parquet", f"{DATE}/_SUCCESS"])
def test_a_file_or_marker_that_arrives_starts_its_day(cloud, embed, key):
    cloud.put("new-items", key, "rows")
    assert cloud.run(find(cloud, embed), {"key": key, "time": f"{DATE}T09:30:00Z"})["status"] == "SUCCEEDED"
    assert cloud.started(embed) == [f"night-{DATE}"]


@pytest.mark.parametrize(
    "key",
    [f"{DATE}/part-00000.parquet", "2026-13-41.parquet", "2-a-b.parquet", f"photos/{DATE}.parquet", f"{DATE}.parquet/_SUCCESS"],
)
def test_another_object_that_passes_the_rule_starts_nothing(cloud, embed, key):
    cloud.put("new-items", key, "rows")
    assert cloud.run(find(cloud, embed), {"key": key, "time": f"{DATE}T09:30:00Z"})["status"] == "SUCCEEDED"
    assert cloud.started(embed) == []
    assert cloud.notices() == []


def test_the_file_of_a_day_that_has_not_begun_waits_for_its_schedule(cloud, embed):
    key = f"{DATE}.parquet"
    cloud.put("new-items", key, "rows")
    machine = find(cloud, embed)
    cloud.run(machine, {"key": key, "time": "2026-11-20T23:59:59Z"})
    assert cloud.started(embed) == []
    cloud.run(machine, {"scheduled_time": f"{DATE}T02:00:00Z"})
    assert cloud.started(embed) == [f"night-{DATE}"]


def test_a_file_that_comes_after_its_night_had_begun_is_told(cloud, embed):
    key = f"{DATE}.parquet"
    cloud.put("new-items", key, "rows")
    machine = find(cloud, embed)
    cloud.run(machine, {"scheduled_time": f"{DATE}T02:00:00Z"})
    cloud.started(embed)
    cloud.notices()
    assert cloud.run(machine, {"key": key, "time": f"{DATE}T09:30:00Z"})["status"] == "SUCCEEDED"
    assert cloud.started(embed) == [f"night-{DATE}"]
    assert [f"{key} came after the night of {DATE} had begun" in notice for notice in cloud.notices()] == [True]


def test_a_night_ends_with_a_record_and_a_notice(cloud, embed, day):
    cloud.lay_down_manifest(RELEASE)
    cloud.put("embeddings", f"{RELEASE}/indexed.json", {"lots": 4, "published": True})
    assert cloud.run(embed, {"date": DATE})["status"] == "SUCCEEDED"
    record = cloud.read("releases", f"{DATE}.json")
    assert (record["release_id"], record["indexed"]["lots"]) == (RELEASE, 4)
    counts = {"items_in": 5, "items_embedded": 4, "items_rejected": 1, "accounted": 5}
    assert record["counts"] == [{**counts, "device": "NVIDIA A10G, bfloat16", "items_per_second": 402.5}]
    assert [f"the lots of {DATE} can be found" in notice for notice in cloud.notices()] == [True]


@pytest.mark.parametrize(("published", "renewals"), [(True, 1), (False, 0)])
def test_the_snapshot_of_the_query_function_is_renewed_where_the_alias_moved(cloud, embed, day, monkeypatch, published, renewals):
    calls = []
    monkeypatch.setattr(cloud_module, "renew_snapshot", lambda: calls.append("renewed") or {})
    cloud.lay_down_manifest(RELEASE)
    cloud.put("embeddings", f"{RELEASE}/indexed.json", {"lots": 4, "published": published})
    assert cloud.run(embed, {"date": DATE})["status"] == "SUCCEEDED"
    assert len(calls) == renewals


def test_a_snapshot_that_was_not_renewed_is_told_and_the_night_succeeds(cloud, embed, day, monkeypatch):
    def fail():
        raise SnapshotFailed("query has no new version: out of memory")

    monkeypatch.setattr(cloud_module, "renew_snapshot", fail)
    cloud.lay_down_manifest(RELEASE)
    cloud.put("embeddings", f"{RELEASE}/indexed.json", {"lots": 4, "published": True})
    assert cloud.run(embed, {"date": DATE})["status"] == "SUCCEEDED"
    stale, done = sorted(cloud.notices(), key=lambda notice: "can be found" in notice)
    assert "snapshot" in stale
    assert "out of memory" in stale
    assert f"the lots of {DATE} can be found" in done


@pytest.fixture
def asked(monkeypatch):
    """The parameters of every job that was asked for; which types are refused, in what words; how often, if not always."""
    refusals, times = {}, {}

    def run(job):
        code, message = refusals.get(instance_of(job), (None, None))
        left = times.get(instance_of(job), 1)
        if code and left:
            if instance_of(job) in times:
                times[instance_of(job)] = left - 1
            answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": 400, "RequestId": "1"}}
            raise ClientError(answer, "CreateProcessingJob")

    return jobs_asked(monkeypatch, run), refusals, times


QUOTA = ("ResourceLimitExceeded", "The account-level service limit 'ml.p3.2xlarge for processing job usage' is 0 Instances")
CAPACITY = ("ValidationException", "CapacityError: Unable to provision requested ML compute capacity")
UNSUPPORTED = (
    "ValidationException",
    "Value 'ml.p3.2xlarge' at 'instanceType' failed to satisfy constraint: Member must satisfy enum",
)
THROTTLED = ("AmazonSageMakerException", "ThrottlingException (Service: SageMaker, Status Code: 400)")
RATE = ("AmazonSageMakerException", "Rate exceeded (Service: SageMaker, Status Code: 400)")
OTHER = ("ValidationException", "Could not access the image")


def indexed(cloud):
    cloud.lay_down_manifest(RELEASE)
    cloud.put("embeddings", f"{RELEASE}/indexed.json", {"lots": 4})


def test_the_job_is_started_once_on_the_first_type_of_the_ladder(cloud, embed, day, asked):
    indexed(cloud)
    assert cloud.run(embed, {"date": DATE})["status"] == "SUCCEEDED"
    assert [instance_of(job) for job in asked[0]] == LADDER[:1]
    (job,) = asked[0]
    assert job["AppSpecification"]["ContainerArguments"] == ["--release-id", RELEASE]
    uris = {given["InputName"]: given["S3Input"]["S3Uri"] for given in job["ProcessingInputs"]}
    assert uris == {
        "items": f"s3://new-items/{DATE}.parquet",
        "tower": f"s3://towers/{TOWER}/",
        "code": "s3://assets/code.zip",
        "packages": "s3://assets/packages.zip",
    }
    assert len(job["ProcessingJobName"]) <= 63


@pytest.mark.parametrize("refusal", [THROTTLED, RATE])
def test_a_throttled_start_is_tried_again_on_the_same_type(cloud, embed, day, asked, refusal):
    indexed(cloud)
    asked[1][LADDER[0]] = refusal
    asked[2][LADDER[0]] = 2
    assert cloud.run(embed, {"date": DATE})["status"] == "SUCCEEDED"
    assert [instance_of(job) for job in asked[0]] == [LADDER[0]] * 3


def test_throttling_without_an_end_fails_the_night_and_is_told(cloud, embed, day, asked):
    asked[1][LADDER[0]] = RATE
    ended = cloud.run(embed, {"date": DATE})
    assert (ended["status"], "Rate exceeded" in ended["cause"]) == ("FAILED", True)
    assert [instance_of(job) for job in asked[0]] == [LADDER[0]] * (1 + MAX_THROTTLES)
    assert ["Rate exceeded" in notice for notice in cloud.notices()] == [True]


@pytest.mark.parametrize("refusal", [QUOTA, CAPACITY, UNSUPPORTED])
def test_a_type_that_cannot_be_had_leads_to_the_next(cloud, embed, day, asked, refusal):
    indexed(cloud)
    asked[1][LADDER[0]] = refusal
    assert cloud.run(embed, {"date": DATE})["status"] == "SUCCEEDED"
    assert [instance_of(job) for job in asked[0]] == LADDER[:2]


def test_any_other_error_fails_the_night_without_trying_on(cloud, embed, day, asked):
    asked[1][LADDER[0]] = OTHER
    ended = cloud.run(embed, {"date": DATE})
    assert ended["status"] == "FAILED"
    assert "Could not access the image" in ended["cause"]
    assert [instance_of(job) for job in asked[0]] == LADDER[:1]


def test_a_ladder_without_a_type_that_can_be_had_fails_the_night(cloud, embed, day, asked):
    asked[1].update(dict.fromkeys(LADDER, CAPACITY))
    ended = cloud.run(embed, {"date": DATE})
    assert ended["status"] == "FAILED"
    assert "CapacityError" in ended["cause"]
    assert [instance_of(job) for job in asked[0]] == LADDER


def test_a_manifest_that_lost_rows_fails_the_night(cloud, embed, day):
    cloud.lay_down_manifest(RELEASE, items_in=6)
    ended = cloud.run(embed, {"date": DATE})
    assert (ended["status"], ended["error"]) == ("FAILED", "NightFailed")
    assert ended["cause"].startswith("RowsLost: items_in is not")
    assert ["RowsLost" in notice for notice in cloud.notices()] == [True]


def test_a_job_that_left_no_manifest_fails_the_night(cloud, embed, day):
    ended = cloud.run(embed, {"date": DATE})
    assert ended["status"] == "FAILED"
    assert ended["cause"].startswith("ManifestsMissing")


def test_a_release_that_is_never_indexed_fails_the_night(cloud, embed, day):
    cloud.lay_down_manifest(RELEASE)
    ended = cloud.run(embed, {"date": DATE})
    assert ended["status"] == "FAILED"
    assert "NoSuchKey" in ended["cause"]


def test_without_a_tower_the_night_fails_and_says_so(cloud, embed, day):
    cloud.s3.delete_object(Bucket="towers", Key="current.json")
    assert cloud.run(embed, {"date": DATE})["status"] == "FAILED"
    assert [DATE in notice and "NoSuchKey" in notice for notice in cloud.notices()] == [True]


def test_the_index_of_a_new_tower_is_there_before_the_job(cloud, embed, day, monkeypatch):
    found = []
    jobs_asked(monkeypatch, lambda job: found.append(cloud.store.find(TOWER)))
    cloud.run(embed, {"date": DATE})
    assert [(index.tower_id, index.dimensions) for index in found] == [(TOWER, 13)]


def test_a_tower_that_is_not_in_the_bucket_fails_the_night_before_the_job(cloud, embed, day, asked):
    cloud.put("towers", "current.json", {"tower_id": "f" * 12})
    ended = cloud.run(embed, {"date": DATE})
    assert ended["status"] == "FAILED"
    assert ended["cause"].startswith("TowerError")
    assert asked[0] == []


def test_a_folder_is_given_to_the_job_as_a_folder(cloud, embed, asked):
    indexed(cloud)
    cloud.put("new-items", f"{DATE}/part-00000.parquet", "rows")
    assert cloud.run(embed, {"date": DATE})["status"] == "SUCCEEDED"
    assert asked[0][0]["ProcessingInputs"][0]["S3Input"]["S3Uri"] == f"s3://new-items/{DATE}/"


@pytest.mark.parametrize(
    ("keys", "cause"),
    [([], "NoItems: "), ([f"{DATE}.parquet", f"{DATE}/part-0.parquet"], "TwoKinds: "), ([f"{DATE}0.parquet"], "NoItems: ")],
)
def test_a_day_that_is_neither_one_file_nor_one_folder_fails_before_the_job(cloud, embed, asked, keys, cause):
    for key in keys:
        cloud.put("new-items", key, "rows")
    assert cloud.run(embed, {"date": DATE})["cause"].startswith(cause)
    assert asked[0] == []
