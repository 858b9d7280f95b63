"""The bulk-index Lambda: parts that land in the bucket become searchable, and a manifest makes its release live.

It takes S3 events wrapped in SQS messages, one or several a message, and bare S3 events from the console. A message that
fails comes again by itself: the answer names it (ReportBatchItemFailures), and writing a part twice changes nothing.
The state machines call it directly too, before a job: {"ensure_index": {"tower_id": …}}. A schedule asks it for the recall of the
live index, {"probe": {}}, because the engine merges its segments at any hour.
"""

from functools import cache
from json import loads
from pathlib import PurePosixPath
from time import time
from typing import Any
from urllib.parse import unquote_plus

import boto3
from aws_lambda_powertools import Logger

from lambdas.bulk_indexer.tower_index import make_index
from retrieval.index.base import IndexStore
from retrieval.index.opensearch_client import open_store
from retrieval.indexing import index_part, probe_index, publish_release, read_part
from retrieval.release import RECEIPT_FILE, Manifest, merge_manifests
from retrieval.settings import Settings

logger = Logger(service="bulk-indexer")
LEAST_SHARE = 0.5  # a rebuild may take the alias to an index of another tower, a night with its day's lots may not


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Take in every object that the event names; report the messages that must come again."""
    if "ensure_index" in event:
        return make_index(event["ensure_index"]["tower_id"], store())
    if "probe" in event:
        return _probe()
    records = event.get("Records", [])
    if not any(record.get("eventSource") == "aws:sqs" for record in records):
        _take_in(event)
        return {"batchItemFailures": []}
    failed = []
    for message in records:
        try:
            _take_in(loads(message["body"] or "{}"))
        except Exception:  # the entry of the process: one bad message must not hold back the others
            logger.exception("message failed", message_id=message["messageId"])
            failed.append({"itemIdentifier": message["messageId"]})
    return {"batchItemFailures": failed}


def _probe() -> dict[str, Any]:
    """Log the recall of the live index, of other lots each time; an alarm watches it."""
    index = store().live()
    told = {"index": index.name, "lots": index.count(), "recall": probe_index(index, seed=int(time()))}
    logger.info("index probed", **told)
    return told


def _take_in(event: dict[str, Any]) -> None:
    """One S3 event; `s3:TestEvent`, which S3 sends when notifications are switched on, names no record."""
    for record in event.get("Records", []):
        if record.get("eventName", "ObjectCreated").startswith("ObjectCreated"):
            take_in_object(record["s3"]["bucket"]["name"], unquote_plus(record["s3"]["object"]["key"]))


def take_in_object(bucket: str, key: str) -> None:
    """Index a part, publish the release of a manifest, pass over anything else."""
    name = PurePosixPath(key).name
    if name.endswith(".ndjson.gz"):
        report = index_part(read_part(_body(bucket, key)), store())
        logger.info("part indexed", key=key, indexed=report.indexed, stale=report.stale, rejected=len(report.rejected))
    elif name.startswith("manifest") and name.endswith(".json"):
        _publish(bucket, key, key.removesuffix(name))
    else:
        logger.info("object passed over", key=key)


def _publish(bucket: str, key: str, folder: str) -> None:
    """Publish a release once the manifests of all its instances are there: the last one to come finds them all."""
    listed = s3().list_objects_v2(Bucket=bucket, Prefix=f"{folder}manifest").get("Contents", [])
    there = {entry["Key"]: Manifest.from_json(_body(bucket, entry["Key"]).read().decode()) for entry in listed}
    instances = there[key].instances
    shards = [shard for shard in there.values() if shard.instances == instances]  # others are of an earlier run
    if len(shards) < instances:
        logger.info("release waits for other instances", folder=folder, there=len(shards), instances=instances)
        return
    manifest = merge_manifests(shards)
    report = publish_release(manifest, store(), least_share=LEAST_SHARE)
    s3().put_object(Bucket=bucket, Key=folder + RECEIPT_FILE, Body=report.to_json().encode())
    logger.info("release checked", index=report.index, lots=report.lots, recall=report.recall_at_10, published=report.published)


def _body(bucket: str, key: str) -> Any:
    return s3().get_object(Bucket=bucket, Key=key)["Body"]


@cache
def s3() -> Any:
    """The S3 client of this process."""
    return boto3.client("s3")


@cache
def store() -> IndexStore:
    """The index of this process, wired from its environment."""
    return open_store(Settings.from_env())
