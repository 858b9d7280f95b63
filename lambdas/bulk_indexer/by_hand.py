"""A direct call with {"s3_key": …}: check the object before it is processed, and answer with its counts."""

from dataclasses import dataclass
from json import loads
from typing import Any

from botocore.exceptions import ClientError

from lambdas.bulk_indexer.messages import PART_SUFFIX
from lambdas.bulk_indexer.publishing import Bucket
from lambdas.bulk_indexer.tower_index import read_card
from retrieval.contracts.documents import IndexedItem
from retrieval.contracts.parts import PartReader
from retrieval.contracts.release import IndexedPart
from retrieval.errors import InvalidInput, TowerError
from retrieval.index.port import IndexStore
from retrieval.ingestion import ReleaseReport

MISSING = ("404", "NoSuchKey", "NoSuchBucket", "NotFound")


@dataclass(frozen=True, slots=True)
class ProcessedObject:
    """The result of one object.

    Attributes:
        indexed: record of an indexed part; None for a manifest.
        release: report of the published release, or the reason why it is not published yet.
    """

    indexed: IndexedPart | None = None
    release: ReleaseReport | str = ""


def check_object(bucket: Bucket, key: str, store: IndexStore) -> None:
    """Check that an object exists and, for a part of a tower without an index, that its tower is in the towers bucket.

    Raises:
        InvalidInput: the object does not exist, or may not be read.
        TowerError: the tower does not exist, so that no query could be encoded for the index of the part.
    """
    try:
        body = bucket.body(key)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        reason = "does not exist" if code in MISSING else f"may not be read ({code})"
        folder = key.rpartition("/")[0]
        raise InvalidInput(
            f"s3://{bucket.name}/{key} {reason}; `aws s3 ls s3://{bucket.name}/` lists the releases, and "
            f"`aws s3 ls s3://{bucket.name}/{folder}/` the parts of this one: a key is <release_id>/part-00000{PART_SUFFIX}"
        ) from error
    if key.endswith(PART_SUFFIX):
        _check_tower(body, key, store)


def _check_tower(body: Any, key: str, store: IndexStore) -> None:
    """Check the tower of the part's first item; ingest_part() checks everything else."""
    item = next((op for op in PartReader(body, key) if isinstance(op, IndexedItem)), None)
    tower_id = item.document.get("tower_id") if item else None
    if isinstance(tower_id, str) and tower_id and store.find(tower_id) is None:
        try:
            read_card(tower_id)
        except TowerError as error:
            raise TowerError(
                f"{key} has vectors of tower {tower_id}, which no index and no tower of this stage is of ({error}); upload it, "
                f"`gavel aws publish {tower_id}`, or embed the lots with a tower that is there"
            ) from error


def result_of(bucket: str, key: str, processed: ProcessedObject) -> dict[str, Any]:
    """Return the answer to a call by hand.

    Returns:
        {"bucket", "s3_key", "release": the report of the release, or {"published": False, "reason"}}; for a part also "part":
        {"index", "tower_id", "receipt": key of the record with each refused item, "indexed", "stale", "refused", "withdrawn"}.
    """
    release, indexed = processed.release, processed.indexed
    answer: dict[str, Any] = {"bucket": bucket, "s3_key": key}
    if indexed is not None:
        receipt = f"{key.rpartition('/')[0]}/{indexed.key}".lstrip("/")
        answer["part"] = {"index": indexed.index, "tower_id": indexed.tower_id, "receipt": receipt, **indexed.counts}
    answer["release"] = {"published": False, "reason": release} if isinstance(release, str) else loads(release.to_json())
    return answer
