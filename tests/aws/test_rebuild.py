"""A new tower takes over: the rebuild, run by moto's interpreter, with the bulk indexer and an embedded index behind it."""

import pytest
from cloud import LADDER, TOWER, cloud_of, jobs_asked, release_of

from infra.embedding_job import JobSize
from infra.nightly_states import embed_day, find_day
from infra.rebuild_states import rebuild
from retrieval.index.filters import utc_now

NEW = "fedcba987654"
DAYS = ("2026-11-19", "2026-11-20")
KEPT = [f"lot-{n}" for n in range(6)]


def today():
    return f"{utc_now():%Y-%m-%d}"


@pytest.fixture
def cloud(monkeypatch, tmp_path):
    """Two days of lots, live with the old tower; the new one lies in the bucket."""
    with cloud_of(monkeypatch, tmp_path) as made:
        made.put("towers", "current.json", {"tower_id": TOWER})
        made.put_tower(NEW)
        for day, ids in zip(DAYS, (KEPT[:3], KEPT[3:]), strict=True):
            made.put("new-items", f"{day}.parquet", "rows")
            made.lay_down_release(f"{day}-{TOWER}", TOWER, ids)
        yield made


@pytest.fixture
def jobs(cloud, monkeypatch):
    """A job embeds the kept lots when it is given the whole bucket, and one new lot when it is given a day."""

    def run(job):
        release_id = release_of(job)
        ids = KEPT if release_id.startswith("rebuild-") else ["lot-of-today"]
        cloud.lay_down_release(release_id, release_id.rpartition("-")[2], ids)

    return jobs_asked(monkeypatch, run)


@pytest.fixture
def machines(cloud):
    """The machines that rebuild and that embed a day, by name."""
    nightly = JobSize(LADDER, 1, 2)
    embed = cloud.machine("embed", embed_day(cloud.places, nightly))
    find = cloud.machine("find", find_day(cloud.places, embed))
    return {
        "embed": embed,
        "rebuild": cloud.machine("rebuild", rebuild(cloud.places, JobSize(LADDER, 1, 12, 200), find)),
        "find": find,
    }


def test_the_old_tower_is_live_before(cloud):
    assert (cloud.store.live().tower_id, cloud.store.live().count()) == (TOWER, 6)


def test_a_rebuild_puts_every_kept_lot_behind_the_new_tower(cloud, jobs, machines):
    assert cloud.run(machines["rebuild"], {"tower_id": NEW})["status"] == "SUCCEEDED"
    live = cloud.store.live()
    assert (live.tower_id, live.count()) == (NEW, 6)
    assert cloud.read("towers", "current.json") == {"tower_id": NEW}
    assert cloud.store.find(TOWER).count() == 6  # for rollback


def test_the_job_is_given_the_whole_bucket_and_the_new_tower(cloud, jobs, machines):
    cloud.run(machines["rebuild"], {"tower_id": NEW})
    uris = {given["InputName"]: given["S3Input"]["S3Uri"] for given in jobs[0]["ProcessingInputs"]}
    assert (uris["items"], uris["tower"]) == ("s3://new-items/", f"s3://towers/{NEW}/")
    assert release_of(jobs[0]) == f"rebuild-{today()}-{NEW}"
    assert jobs[0]["ProcessingResources"]["ClusterConfig"]["VolumeSizeInGB"] == 200


def test_a_rebuild_ends_with_a_record_and_a_notice(cloud, jobs, machines):
    cloud.run(machines["rebuild"], {"tower_id": NEW})
    record = cloud.read("releases", f"rebuild-{today()}-{NEW}.json")
    assert (record["tower_id"], record["tower_before"], record["caught_up"]) == (NEW, TOWER, [today()])
    assert (record["indexed"]["lots"], record["indexed"]["published"]) == (6, True)
    assert any(f"tower {NEW} is live" in notice and f"tower {TOWER} stays" in notice for notice in cloud.notices())


def test_the_day_of_the_rebuild_is_embedded_again_with_the_new_tower(cloud, jobs, machines):
    """Its night had run with the old tower; its lots came after the job had read the bucket."""
    cloud.put("new-items", f"{today()}.parquet", "rows")
    cloud.run(machines["find"], {"scheduled_time": f"{today()}T02:00:00Z"})
    assert cloud.started(machines["embed"]) == [f"night-{today()}"]
    cloud.run(machines["rebuild"], {"tower_id": NEW})
    cloud.started(machines["find"])
    assert sorted(cloud.started(machines["embed"])) == [f"night-{today()}", f"night-{today()}-{NEW}"]
    assert [release_of(job).rpartition("-")[2] for job in jobs] == [TOWER, NEW, NEW]
    assert cloud.store.live().tower_id == NEW
    assert [lot.item_id for lot in cloud.store.live().fetch(["lot-of-today"])] == ["lot-of-today"]


def test_a_day_without_items_is_caught_up_without_a_job(cloud, jobs, machines):
    cloud.run(machines["rebuild"], {"tower_id": NEW})
    cloud.started(machines["find"])
    assert cloud.started(machines["embed"]) == []
    assert len(jobs) == 1


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"tower_id": TOWER}, "SameTower: current.json names this tower already"),
        ({}, "NoTower: the input names no tower"),
        ({"tower_id": 7}, "NoTower: the input names no tower"),
        ({"tower_id": "0" * 12}, "TowerError"),
    ],
)
def test_a_tower_that_cannot_take_over_starts_no_job(cloud, jobs, machines, given, cause):
    ended = cloud.run(machines["rebuild"], given)
    assert (ended["status"], ended["error"]) == ("FAILED", "RebuildFailed")
    assert ended["cause"].startswith(cause)
    assert jobs == []
    assert [cause.split(":")[0] in notice for notice in cloud.notices()] == [True]


def test_a_rebuild_that_fails_changes_nothing_for_queries_or_nights(cloud, machines, monkeypatch):
    jobs_asked(monkeypatch, lambda job: cloud.lay_down_manifest(release_of(job), items_in=6))
    assert cloud.run(machines["rebuild"], {"tower_id": NEW})["cause"].startswith("RowsLost")
    assert cloud.store.live().tower_id == TOWER
    assert cloud.read("towers", "current.json") == {"tower_id": TOWER}


def test_the_first_tower_of_all_may_be_brought_by_a_rebuild(cloud, jobs, machines):
    cloud.s3.delete_object(Bucket="towers", Key="current.json")
    assert cloud.run(machines["rebuild"], {"tower_id": NEW})["status"] == "SUCCEEDED"
    assert cloud.read("towers", "current.json") == {"tower_id": NEW}


def test_a_night_with_a_tower_that_was_named_by_hand_does_not_take_the_alias(cloud, machines, monkeypatch):
    cloud.put("towers", "current.json", {"tower_id": NEW})
    refused = []

    def run(job):
        with pytest.raises(Exception, match=r"has 1 lots, the live index .* has 6; below 50% of them the alias stays: rebuild"):
            cloud.lay_down_release(release_of(job), NEW, ["lot-of-today"])
        refused.append(release_of(job))

    jobs_asked(monkeypatch, run)
    ended = cloud.run(machines["embed"], {"date": DAYS[1]})
    assert refused == [f"{DAYS[1]}-{NEW}"]
    assert (ended["status"], cloud.store.live().tower_id) == ("FAILED", TOWER)
