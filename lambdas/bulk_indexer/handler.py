"""The bulk-index Lambda: it indexes the parts that arrive in the bucket, and publishes the release of a manifest.

It takes SQS messages and direct calls. Both name objects in any of these forms, nested as services wrap them: S3 events,
EventBridge's "Object Created", SNS notifications, and {"s3_key": …} with an optional "bucket", to send an object again by hand.
A message that fails, such as one of another form, is delivered again, because the response names it (ReportBatchItemFailures).
Writing a part twice changes nothing. A direct call with {"s3_key": …} answers with the counts of that object (by_hand.py).

State machines call the function directly before a job: {"ensure_index": {"tower_id": …}}. A schedule sends {"probe": {}} to
measure the recall of the live index, because the engine merges its segments at any hour.
"""

from functools import cache
from pathlib import PurePosixPath
from time import time
from typing import Any

import boto3
from aws_lambda_powertools import Logger

from lambdas.bulk_indexer.by_hand import ProcessedObject, check_object, result_of
from lambdas.bulk_indexer.messages import PART_SUFFIX, is_manifest, objects_of
from lambdas.bulk_indexer.publishing import Bucket, publish
from lambdas.bulk_indexer.tower_index import make_index
from retrieval.config.settings import Settings
from retrieval.index.opensearch.store import open_store
from retrieval.index.port import IndexStore
from retrieval.ingestion import ingest_part, probe_index

logger = Logger(service="bulk-indexer")


def handler(event: Any, context: object) -> dict[str, Any]:
    """Process every object that the event names, and return the messages to deliver again."""
    match event:
        case {"ensure_index": {"tower_id": str(tower_id)}}:
            return make_index(tower_id, store())
        case {"probe": {}}:
            return _probe()
        case {"s3_key": _} if event.keys() <= {"s3_key", "bucket"}:
            ((bucket, key),) = objects_of(event)
            releases = Bucket(bucket, s3())
            check_object(releases, key, store())
            return result_of(bucket, key, process_object(bucket, key))
        case {"Records": [{"eventSource": "aws:sqs"}, *_] as messages}:
            return {"batchItemFailures": [{"itemIdentifier": m["messageId"]} for m in messages if not _succeeds(m)]}
    _process(event)
    return {"batchItemFailures": []}


def _probe() -> dict[str, Any]:
    """Measure, log and return the recall of the live index, on a new sample of items each time. An alarm watches the log line."""
    index = store().live()
    result = {"index": index.name, "lots": index.count(), "recall": probe_index(index, seed=int(time()))}
    logger.info("index probed", extra=result)
    return result


def _succeeds(message: dict[str, Any]) -> bool:
    try:
        _process(message)
    except Exception:  # entry point of the process: one bad message must not block the others
        logger.exception("message failed", message_id=message["messageId"])
        return False
    return True


def _process(message: Any) -> None:
    for bucket, key in objects_of(message):
        process_object(bucket, key)


def process_object(bucket: str, key: str) -> ProcessedObject:
    """Index a part, or publish the release of a manifest; skip any other object."""
    releases = Bucket(bucket, s3())
    name = PurePosixPath(key).name
    folder = key.removesuffix(name)
    if name.endswith(PART_SUFFIX):
        indexed = ingest_part(name, releases.body(key), store())
        releases.put(folder + indexed.key, indexed.to_json())
        logger.info("part indexed", extra={"key": key, **indexed.counts})
        return ProcessedObject(indexed, publish(releases, folder, store(), indexed=indexed))
    if is_manifest(name):
        return ProcessedObject(None, publish(releases, folder, store(), manifest_key=key))
    logger.info("object passed over", key=key)
    return ProcessedObject()


@cache
def s3() -> Any:
    """Return the S3 client of this process."""
    return boto3.client("s3")


@cache
def store() -> IndexStore:
    """Open the index store that the environment configures, once per process."""
    return open_store(Settings.from_env())
