"""The nightly run in Amazon States Language: two small state machines as plain data.

The first machine finds the day's items and starts the second machine under the day's name. So a day is embedded once, however
often a schedule, an arriving file, a rebuild or a person starts the first machine.
"""

from infra.embedding_job import JobSize, Places, State
from infra.release_states import FIRST, longest_s, release_states
from infra.snapshot_states import ALIAS_MOVED, snapshot_states
from infra.task_states import failure, failure_states, on_failure, read_json, s3_call, start_machine, tell

CURRENT_TOWER = "current.json"  # in the towers bucket: {"tower_id": …}
EMPTY = "States.Format('Gavel: no new items for {}. Put {}.parquet into the bucket: it is embedded then.', $.date, $.date)"
LATE = (
    "States.Format('Gavel: {} came after the night of {} had begun, and nothing was done with it. "
    "To embed that day again: gavel aws night --date {} --again', $.key, $.date, $.date)"
)
DONE = "States.Format('Gavel: the lots of {} can be found, release {}: {}', $.date, $.release_id, States.JsonToString($.counts))"
MARKER = "_SUCCESS"  # name of the file that is written below `<date>/` after the last of several files of a day


def find_day(places: Places, embed_day_arn: str) -> State:
    """Define the machine that looks for the day's items.

    Args:
        places: names and ARNs of the stage's resources.
        embed_day_arn: ARN of the machine that embeds the items.

    Returns:
        A definition. Its input is {"scheduled_time": "2026-11-21T02:00:00Z"}, of which only the date counts. An optional "night"
        replaces night-<date> as the name of the second machine's execution. For a file that arrived, the input is
        {"key": "2026-11-21.parquet", "time": "2026-11-21T09:30:00Z"}.
    """
    has_items = {"Variable": "$.found.files", "NumericGreaterThan": 0, "Next": "StartEmbedding"}
    before = [{"ErrorEquals": ["StepFunctions.ExecutionAlreadyExistsException"], "ResultPath": "$.before", "Next": "StartedBefore"}]
    states = {
        **_read_input(),
        "FindItems": s3_call(
            places,
            "listObjectsV2",
            {"Bucket": places.new_items, "Prefix.$": "$.date", "MaxKeys": 1},
            {"ResultSelector": {"files.$": "$.KeyCount"}, "ResultPath": "$.found", "Next": "AnyItems"},
        ),
        "AnyItems": {"Type": "Choice", "Choices": [has_items], "Default": "TellEmpty"},
        "TellEmpty": {**tell(places, EMPTY), "End": True},
        "StartEmbedding": start_machine(
            places, embed_day_arn, {"date.$": "$.date"}, {"Catch": before, "ResultPath": None, "End": True}, name="$.night"
        ),
        "StartedBefore": {
            "Type": "Choice",
            "Comment": "One execution a date; `gavel aws night --again` names another",
            "Choices": [{"Variable": "$.key", "IsPresent": True, "Next": "TellLate"}],
            "Default": "Done",
        },
        "TellLate": {**tell(places, LATE), "End": True},
        "Done": {"Type": "Succeed"},
    }
    return {"StartAt": "HowAsked", "TimeoutSeconds": 300, "States": states}


def _read_input() -> dict[str, State]:
    """Read the day and the name of the night from the input. A file counts if it completes a day that has begun."""
    scheduled = "States.ArrayGetItem(States.StringSplit($.scheduled_time, 'T'), 0)"
    day = "States.ArrayGetItem(States.StringSplit($.key, './'), 0)"
    complete = [{"Variable": "$.key", "StringEqualsPath": path} for path in ("$.file", "$.marker")]
    begun = {"Variable": "$.date", "StringLessThanEqualsPath": "$.today"}
    return {
        "HowAsked": {
            "Type": "Choice",
            "Choices": [
                {"Variable": "$.key", "IsPresent": True, "Next": "ReadKey"},
                {"Variable": "$.night", "IsPresent": True, "Next": "ReadNight"},
            ],
            "Default": "ReadDate",
        },
        "ReadDate": _pass({"date.$": scheduled, "night.$": f"States.Format('night-{{}}', {scheduled})"}, "FindItems"),
        "ReadNight": _pass({"date.$": scheduled, "night.$": "$.night"}, "FindItems"),
        "ReadKey": _pass(
            {
                "key.$": "$.key",
                "date.$": day,
                "night.$": f"States.Format('night-{{}}', {day})",
                "file.$": f"States.Format('{{}}.parquet', {day})",
                "marker.$": f"States.Format('{{}}/{MARKER}', {day})",
                "midnight.$": f"States.Format('{{}}T00:00:00Z', {day})",
                "today.$": "States.ArrayGetItem(States.StringSplit($.time, 'T'), 0)",
            },
            "IsDay",
        ),
        "IsDay": {
            "Type": "Choice",
            "Comment": "The file of a day that has not begun waits for its schedule",
            "Choices": [{"And": [{"Variable": "$.midnight", "IsTimestamp": True}, {"Or": complete}, begun], "Next": "FindItems"}],
            "Default": "Done",
        },
    }


def embed_day(places: Places, size: JobSize) -> State:
    """Define the machine that embeds a day's items and waits until the items are in the index.

    Args:
        places: names and ARNs of the stage's resources.
        size: size of the job.

    Returns:
        A definition; its input is {"date": "2026-11-21"}.
    """
    night = {"date.$": "$.date", "release_id.$": "$.release_id", "counts.$": "$.counts", "indexed.$": "$.indexed.json"}
    states = {
        **_which_items(places),
        "ReadTower": read_json(places, {"Bucket": places.towers, "Key": CURRENT_TOWER}, "$.current", "NameRelease"),
        "NameRelease": _pass(
            {
                "date.$": "$.date",
                "items.$": "$.items",
                "tower_id.$": "$.current.json.tower_id",
                "release_id.$": "States.Format('{}-{}', $.date, $.current.json.tower_id)",
            },
            FIRST,
        ),
        **release_states(places, size, "RecordNight"),
        "RecordNight": s3_call(
            places,
            "putObject",
            {"Bucket": places.releases, "Key.$": "States.Format('{}.json', $.date)", "Body": night},
            {"ResultPath": None, "Next": ALIAS_MOVED, **on_failure()},
        ),
        **snapshot_states(places, "TellDone"),
        "TellDone": {**tell(places, DONE), "ResultPath": None, "End": True},
        **failure_states(places, "NightFailed", "States.Format('the night of {}', $.date)"),
    }
    return {"StartAt": "LookForFile", "TimeoutSeconds": longest_s(size), "States": states}


def _which_items(places: Places) -> dict[str, State]:
    """Find the file or folder of a day by its complete name, because SageMaker does not document other prefixes."""
    states = {}
    for what, ending, following in (("File", ".parquet", "LookForFolder"), ("Folder", "/", "WhichItems")):
        where = {"Bucket": places.new_items, "Prefix.$": f"States.Format('{{}}{ending}', $.date)", "MaxKeys": 1}
        result = {"ResultSelector": {"there.$": "$.KeyCount"}, "ResultPath": f"$.{what.lower()}", "Next": following}
        states[f"LookFor{what}"] = s3_call(places, "listObjectsV2", where, {**result, **on_failure()})
        states[f"Take{what}"] = _pass({"date.$": "$.date", "items.$": where["Prefix.$"]}, "ReadTower")
    file, folder = ({"Variable": f"$.{name}.there", "NumericGreaterThan": 0} for name in ("file", "folder"))
    return {
        **states,
        "WhichItems": {
            "Type": "Choice",
            "Choices": [
                {"And": [file, folder], "Next": "TwoKinds"},
                {**file, "Next": "TakeFile"},
                {**folder, "Next": "TakeFolder"},
            ],
            "Default": "NoItems",
        },
        "TwoKinds": failure("TwoKinds", "the day has a file <date>.parquet and a folder <date>/; put the file into the folder"),
        "NoItems": failure("NoItems", "the day has no file <date>.parquet and no folder <date>/"),
    }


def _pass(parameters: State, following: str) -> State:
    return {"Type": "Pass", "Parameters": parameters, "Next": following}
