"""The indices of a stage, through its function in the network of the domain: list, publish, roll back, drop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gavel.aws.account import DeployedStage
from gavel.aws.buckets import Bucket
from gavel.aws.functions import call_function
from gavel.aws.towers import CURRENT, current_tower, tower_in_bucket
from retrieval.errors import GavelError, InvalidInput

REBUILDS = "rebuild-"  # begins the names of the records of rebuilds: infra/rebuild_states.py
NONE = "none"  # the tower before the first one


@dataclass(frozen=True, slots=True)
class PublishedIndex:
    """An index that was published by hand.

    Attributes:
        index: physical name of the index, which is live now.
        tower_id: its tower, which nights use now.
        previous: physical name of the index that was live before; None if none was.
        moved: False if the index was live already.
        live_version: version of the query function with the new snapshot; None if it was not renewed.
        warning: reason why the snapshot was not renewed; empty otherwise.
        embed_again: dates whose lots only the index before has; `gavel aws night --date D --again` embeds each again.
    """

    index: str
    tower_id: str
    previous: str | None
    moved: bool
    live_version: str | None
    warning: str
    embed_again: Sequence[str] = ()


def list_indices(stage: DeployedStage) -> list[dict[str, Any]]:
    """Return the indices of a stage, each with the fields of retrieval.index.port.IndexSummary.

    Raises:
        GavelError: the caller may not list, or the domain does not answer.
    """
    return list(call_function(stage.output("IndexReader"), {"operation": "list"})["indices"])


def publish_index(stage: DeployedStage, name: str, *, force: bool = False) -> PublishedIndex:
    """Make an index live, let nights use its tower, and renew the snapshot of the query function.

    Each step can be repeated: if one fails, the same call again does what is left.

    Args:
        stage: deployed stage.
        name: physical name of the index.
        force: True publishes an index with fewer than half of the live index's open items, too.

    Raises:
        InvalidInput: there is no such index, or its tower is not in the towers bucket.
        ReleaseError: the index has too few open items.
        GavelError: a step is not allowed, or failed.
    """
    tower_id = next((index["tower_id"] for index in list_indices(stage) if index["name"] == name), None)
    if tower_id is not None:
        tower_in_bucket(stage, tower_id)
    answer = call_function(stage.output("IndexOperator"), {"operation": "publish", "index": name, "force": force})
    tower_id = str(tower_id)
    if current_tower(stage) != tower_id:
        Bucket(stage.output("TowersBucket")).write_json(CURRENT, {"tower_id": tower_id})
    version, warning = None, ""
    try:
        version = renew_snapshot(stage)["version"]
    except GavelError as error:
        warning = f"the snapshot of the query function was not renewed, `gavel aws renew-snapshot` does it: {error}"
    return PublishedIndex(name, tower_id, answer["previous"], answer["moved"], version, warning)


def roll_back(stage: DeployedStage) -> PublishedIndex:
    """Make the index live that the last rebuild replaced; see publish_index() for the steps and errors.

    Raises:
        InvalidInput: no rebuild brought the live index, or the index before it was dropped.
    """
    indices = list_indices(stage)
    live = next((index for index in indices if index["is_live"]), None)
    if live is None:
        raise InvalidInput("no index is live, so there is nothing to go back from; `gavel aws indices` lists those that there are")
    rebuild = _rebuild_of(stage, live["tower_id"])
    if rebuild is None or rebuild["tower_before"] == NONE:
        raise InvalidInput(
            f"no rebuild brought the live index {live['name']}, so the one before is not known; `gavel aws indices` lists them, "
            "`gavel aws publish-index NAME` makes one live"
        )
    tower_before = str(rebuild["tower_before"])
    target = next((index["name"] for index in indices if index["tower_id"] == tower_before), None)  # the newest of the tower
    if target is None:
        raise InvalidInput(
            f"the index of tower {tower_before}, which was live before, was dropped; `gavel aws rebuild {tower_before}` embeds all "
            "lots with it again"
        )
    published = publish_index(stage, target)
    days = _nights_with(stage, live["tower_id"])
    return PublishedIndex(
        published.index,
        published.tower_id,
        published.previous,
        published.moved,
        published.live_version,
        published.warning,
        days,
    )


def drop_index(stage: DeployedStage, name: str) -> dict[str, Any]:
    """Delete an index that is not live; return {"index": its name, "items": number of its items}.

    Raises:
        InvalidInput: the index is live, or there is no such index.
        GavelError: the caller may not drop, or the domain does not answer.
    """
    return call_function(stage.output("IndexOperator"), {"operation": "drop", "index": name})


def renew_snapshot(stage: DeployedStage) -> dict[str, Any]:
    """Renew the snapshot that new instances of the query function start from, which takes minutes.

    Returns:
        {"version": the version that is live now, "previous": the version that was live before}.

    Raises:
        GavelError: the snapshot was not renewed; the version before is live.
    """
    return call_function(stage.output("SnapshotFunction"), {})


def _rebuild_of(stage: DeployedStage, tower_id: str) -> dict[str, Any] | None:
    """Return the record of the last rebuild that brought a tower; names of records begin with the date."""
    bucket = Bucket(stage.output("ReleasesBucket"))
    keys = [key for key in bucket.list_keys(REBUILDS) if key.endswith(f"-{tower_id}.json")]
    return dict(bucket.read_json(max(keys))) if keys else None


def _nights_with(stage: DeployedStage, tower_id: str) -> list[str]:
    """Return the dates of the nights that were embedded with a tower."""
    bucket = Bucket(stage.output("ReleasesBucket"))
    keys = [key for key in bucket.list_keys("2") if "/" not in key and key.endswith(".json")]
    records = {key.removesuffix(".json"): bucket.read_json(key) for key in keys}
    return [date for date, record in records.items() if record["release_id"] == f"{date}-{tower_id}"]
