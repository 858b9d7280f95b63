"""The bulk-index Lambda: parts that land in the bucket become searchable, and a manifest makes its release live.

It takes SQS messages and direct calls. Either tells of objects in any of these forms, inside one another as services wrap them:
S3 events, EventBridge's "Object Created", SNS notifications, and {"s3_key": …} with an optional "bucket", to send an object
again by hand. A message that fails comes again by itself: the answer names it (ReportBatchItemFailures), and writing a part
twice changes nothing. A message that is none of these fails, too.
The state machines call it directly too, before a job: {"ensure_index": {"tower_id": …}}. A schedule asks it for the recall
of the live index, {"probe": {}}, because the engine merges its segments at any hour.
"""

from functools import cache
from pathlib import PurePosixPath
from time import time
from typing import Any

import boto3
from aws_lambda_powertools import Logger

from lambdas.bulk_indexer.messages import PART_SUFFIX, is_manifest, objects_of
from lambdas.bulk_indexer.publishing import Bucket, publish
from lambdas.bulk_indexer.tower_index import make_index
from retrieval.config.settings import Settings
from retrieval.index.opensearch.store import open_store
from retrieval.index.port import IndexStore
from retrieval.ingestion import probe_index, take_in_part

logger = Logger(service="bulk-indexer")


def handler(event: Any, context: object) -> dict[str, Any]:
    """Take in every object that the event names; report the messages that must come again."""
    match event:
        case {"ensure_index": {"tower_id": str(tower_id)}}:
            return make_index(tower_id, store())
        case {"probe": {}}:
            return _probe()
        case {"Records": [{"eventSource": "aws:sqs"}, *_] as messages}:
            return {"batchItemFailures": [{"itemIdentifier": m["messageId"]} for m in messages if not _succeeds(m)]}
    _take_in(event)
    return {"batchItemFailures": []}


def _probe() -> dict[str, Any]:
    """Log the recall of the live index, of other lots each time; an alarm watches it."""
    index = store().live()
    told = {"index": index.name, "lots": index.count(), "recall": probe_index(index, seed=int(time()))}
    logger.info("index probed", **told)
    return told


def _succeeds(message: dict[str, Any]) -> bool:
    try:
        _take_in(message)
    except Exception:  # the entry of the process: one bad message must not hold back the others
        logger.exception("message failed", message_id=message["messageId"])
        return False
    return True


def _take_in(message: Any) -> None:
    for bucket, key in objects_of(message):
        take_in_object(bucket, key)


def take_in_object(bucket: str, key: str) -> None:
    """Index a part, publish the release of a manifest, pass over anything else."""
    releases = Bucket(bucket, s3())
    name = PurePosixPath(key).name
    folder = key.removesuffix(name)
    if name.endswith(PART_SUFFIX):
        receipt = take_in_part(name, releases.body(key), store())
        releases.put(folder + receipt.key, receipt.to_json())
        logger.info("part indexed", key=key, **receipt.counts)
        publish(releases, folder, store(), receipt=receipt)
    elif is_manifest(name):
        publish(releases, folder, store(), manifest_key=key)
    else:
        logger.info("object passed over", key=key)


@cache
def s3() -> Any:
    """The S3 client of this process."""
    return boto3.client("s3")


@cache
def store() -> IndexStore:
    """The index of this process, wired from its environment."""
    return open_store(Settings.from_env())
