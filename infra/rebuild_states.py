"""The rebuild for a new tower, in Amazon States Language: every stored item is embedded into a new index, which then goes live.

Queries follow the alias; nights follow current.json. The alias moves first, once the bulk indexer has checked the whole release.
Then current.json names the tower, so that no night can fill an index that is not live. Last, the days whose files may meanwhile
have been embedded with the old tower are embedded again (docs/adr/0006).
"""

from infra.embedding_job import JobSize, Places, State
from infra.nightly_states import CURRENT_TOWER
from infra.release_states import FIRST, longest_s, release_states
from infra.snapshot_states import ALIAS_MOVED, snapshot_states
from infra.task_states import NO_SUCH_KEY, failure, failure_states, on_failure, read_json, s3_call, start_machine, tell

TODAY = "States.ArrayGetItem(States.StringSplit($$.State.EnteredTime, 'T'), 0)"  # UTC


def rebuild(places: Places, size: JobSize, find_day_arn: str) -> State:
    """Define the machine that embeds all items with a new tower.

    Args:
        places: names and ARNs of the stage's resources.
        size: size of the job.
        find_day_arn: ARN of the machine that starts a night.

    Returns:
        A definition; its input is {"tower_id": "1a2b3c4d5e6f"}.
    """
    done = (
        "States.Format('Gavel: tower {} is live, release {}: {}. The index of tower {} stays for rollback.', "
        "$.tower_id, $.release_id, States.JsonToString($.counts), $.current.json.tower_id)"
    )
    states = {
        **_check(places),
        "NameRelease": _name_release(),
        **release_states(places, size, "NameTower"),
        "NameTower": s3_call(
            places,
            "putObject",
            {"Bucket": places.towers, "Key": CURRENT_TOWER, "Body": {"tower_id.$": "$.tower_id"}},
            {"ResultPath": None, "Next": "NameDays", **on_failure()},
        ),
        **_catch_up(places, find_day_arn),
        "RecordRebuild": _record(places),
        **snapshot_states(places, "TellDone"),
        "TellDone": {**tell(places, done), "ResultPath": None, "End": True},
        **failure_states(places, "RebuildFailed", "States.Format('the rebuild {}', States.JsonToString($$.Execution.Input))"),
    }
    return {"StartAt": "TowerNamed", "TimeoutSeconds": longest_s(size), "States": states}


def _check(places: Places) -> dict[str, State]:
    """Check that the input names a tower other than the current one. Creating the index later checks that the tower exists."""
    current = read_json(places, {"Bucket": places.towers, "Key": CURRENT_TOWER}, "$.current", "IsCurrent")
    first = {"ErrorEquals": NO_SUCH_KEY, "ResultPath": "$.missing", "Next": "NoCurrent"}
    same = {"Variable": "$.current.json.tower_id", "StringEqualsPath": "$.tower_id", "Next": "SameTower"}
    there, text = ({"Variable": "$.tower_id", test: True} for test in ("IsPresent", "IsString"))  # a missing value has no type
    return {
        "TowerNamed": {"Type": "Choice", "Choices": [{"And": [there, text], "Next": "ReadCurrent"}], "Default": "NoTower"},
        "NoTower": failure("NoTower", 'the input names no tower; start the rebuild with {"tower_id": "..."}'),
        "ReadCurrent": {**current, "Catch": [first, *current["Catch"]]},
        "NoCurrent": {"Type": "Pass", "Result": {"json": {"tower_id": "none"}}, "ResultPath": "$.current", "Next": "NameRelease"},
        "IsCurrent": {"Type": "Choice", "Choices": [same], "Default": "NameRelease"},
        "SameTower": failure("SameTower", f"{CURRENT_TOWER} names this tower already; nights embed with it, there is no need"),
    }


def _name_release() -> State:
    """Define the state that names the release after the present day and the tower."""
    parameters = {
        "date.$": TODAY,
        "items": "",  # the whole bucket
        "tower_id.$": "$.tower_id",
        "current.$": "$.current",
        "release_id.$": f"States.Format('rebuild-{{}}-{{}}', {TODAY}, $.tower_id)",
    }
    return {"Type": "Pass", "Parameters": parameters, "Next": FIRST}


def _catch_up(places: Places, find_day_arn: str) -> dict[str, State]:
    """Define the states that embed the day on which the rebuild began, and the present day, with the new tower.

    The nights of these days may have run with the old tower after the job had read the bucket. A night is named by its date, and
    that name is taken. So these nights have the tower in their names, and each day is embedded once per tower.
    """
    given = {
        "scheduled_time.$": "States.Format('{}T00:00:00Z', $.day)",
        "night.$": "States.Format('night-{}-{}', $.day, $.tower_id)",
    }
    start = start_machine(places, find_day_arn, given, {"ResultPath": None, "End": True})
    return {
        "NameDays": {
            "Type": "Pass",
            "Parameters": {"days.$": f"States.ArrayUnique(States.Array($.date, {TODAY}))"},
            "ResultPath": "$.caught_up",
            "Next": "CatchUp",
        },
        "CatchUp": {
            "Type": "Map",
            "ItemsPath": "$.caught_up.days",
            "ItemSelector": {"day.$": "$$.Map.Item.Value", "tower_id.$": "$.tower_id"},
            "ItemProcessor": {"ProcessorConfig": {"Mode": "INLINE"}, "StartAt": "StartNight", "States": {"StartNight": start}},
            "ResultPath": None,
            "Next": "RecordRebuild",
            **on_failure(),
        },
    }


def _record(places: Places) -> State:
    body = {
        "date.$": "$.date",
        "tower_id.$": "$.tower_id",
        "tower_before.$": "$.current.json.tower_id",
        "release_id.$": "$.release_id",
        "counts.$": "$.counts",
        "indexed.$": "$.indexed.json",
        "caught_up.$": "$.caught_up.days",
    }
    where = {"Bucket": places.releases, "Key.$": "States.Format('{}.json', $.release_id)", "Body": body}
    return s3_call(places, "putObject", where, {"ResultPath": None, "Next": ALIAS_MOVED, **on_failure()})
