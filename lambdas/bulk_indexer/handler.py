"""The bulk-index Lambda: parts that land in the bucket become searchable, and a manifest makes its release live.

It takes SQS messages and direct calls. Either tells of objects in any of these forms, inside one another as services wrap them:
S3 events, EventBridge's "Object Created", SNS notifications, and {"s3_key": …} with an optional "bucket", to send an object
again by hand. A message that fails comes again by itself: the answer names it (ReportBatchItemFailures), and writing a part
twice changes nothing. A message that is none of these fails, too.
The state machines call it directly too, before a job: {"ensure_index": {"tower_id": …}}. A schedule asks it for the recall
of the live index, {"probe": {}}, because the engine merges its segments at any hour.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from json import loads
from pathlib import PurePosixPath
from time import time
from typing import Any
from urllib.parse import unquote_plus

import boto3
from aws_lambda_powertools import Logger

from lambdas.bulk_indexer.tower_index import make_index
from retrieval.errors import InvalidInput, ReleaseError
from retrieval.index.base import IndexStore
from retrieval.index.opensearch_client import open_store
from retrieval.indexing import probe_index, publish_release, take_in_part
from retrieval.release import (
    INDEX_REJECTS_FILE,
    PART_RECEIPTS,
    RECEIPT_FILE,
    Manifest,
    PartReceipt,
    merge_manifests,
    rejects_of,
    unproved_parts,
)
from retrieval.settings import Settings

logger = Logger(service="bulk-indexer")
PART_SUFFIX = ".ndjson.gz"
READERS = 8  # threads that fetch receipts; a rebuild has thousands of parts
is_manifest = re.compile(r"manifest(-\d{5}-of-\d{5})?\.json").fullmatch
CREATED, REMOVED = "ObjectCreated", ("ObjectRemoved", "LifecycleExpiration")


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
    for bucket, key in _objects(message):
        take_in_object(bucket, key)


def _objects(message: Any) -> Iterator[tuple[str, str]]:
    """(bucket, key) of the objects that a message tells of, however it is wrapped; none of one that was removed.

    Raises:
        InvalidInput: the message is of no known form, so that it must not count as done.
    """
    match message:
        case {"Records": [_, *_] as records}:
            for record in records:
                yield from _objects(record)
        case {"eventSource": "aws:sqs", "body": str(inner)} | {"Type": "Notification", "Message": str(inner)}:
            yield from _objects(_parsed(inner))
        case {"Sns": {"Message": str(inner)}}:
            yield from _objects(_parsed(inner))
        case {"s3": {"bucket": {"name": str(bucket)}, "object": {"key": str(key)}}}:
            name = str(message.get("eventName") or CREATED).removeprefix("s3:")  # who names an object and no event means it
            if name.startswith(CREATED):
                yield bucket, unquote_plus(key)
            elif not name.startswith(REMOVED):
                raise InvalidInput(f"the bulk indexer does not know the S3 event {name!r}; have the bucket tell of {CREATED} alone")
        case {
            "source": "aws.s3",
            "detail-type": "Object Created",
            "detail": {"bucket": {"name": str(bucket)}, "object": {"key": str(key)}},
        }:
            yield bucket, key  # EventBridge, unlike S3, tells keys as they are
        case {"source": "aws.s3", "detail-type": "Object Deleted"} | {"Service": "Amazon S3", "Event": "s3:TestEvent"}:
            return
        case {"s3_key": str(key)} if key.endswith((PART_SUFFIX, ".json")):
            yield message.get("bucket") or _own_bucket(), key
        case _:
            raise InvalidInput(
                f"the bulk indexer does not know this message: {str(message)[:200]!r}; send an S3 event, bare or wrapped by SNS, "
                'SQS or EventBridge, or {"s3_key": "<key of a part or manifest>"}'
            )


def _parsed(text: str) -> Any:
    try:
        return loads(text)
    except ValueError as error:
        raise InvalidInput(f'the message is no JSON ({error}): {text[:200]!r}; send an S3 event or {{"s3_key": …}}') from error


def _own_bucket() -> str:
    bucket = Settings.from_env().embeddings_bucket
    if not bucket:
        raise InvalidInput('the message names no bucket: add "bucket", or set GAVEL_EMBEDDINGS_BUCKET')
    return bucket


def take_in_object(bucket: str, key: str) -> None:
    """Index a part, publish the release of a manifest, pass over anything else."""
    name = PurePosixPath(key).name
    folder = key.removesuffix(name)
    if name.endswith(PART_SUFFIX):
        receipt = take_in_part(name, _body(bucket, key), store())
        _put(bucket, folder + receipt.key, receipt.to_json())
        logger.info("part indexed", key=key, **receipt.counts)
        _publish(bucket, folder, receipt=receipt)
    elif is_manifest(name):
        _publish(bucket, folder, manifest_key=key)
    else:
        logger.info("object passed over", key=key)


def _publish(bucket: str, folder: str, *, manifest_key: str = "", receipt: PartReceipt | None = None) -> None:
    """Publish a release once the manifests of all its instances and all its parts are there, whichever comes last.

    Args:
        bucket: of releases.
        folder: of the release.
        manifest_key: the manifest that came. A missing part is an error then, so that the manifest comes again.
        receipt: of the part that came. If the part is sound it waits for no other, and what is amiss fails the manifest alone.
    """
    listed = _listed(bucket, f"{folder}manifest")
    manifests = {entry["Key"]: entry["LastModified"] for entry in listed if is_manifest(entry["Key"].removeprefix(folder))}
    if not manifests:
        return
    read = {key: Manifest.from_json(_text(bucket, key)) for key in manifests}
    instances = read[manifest_key or max(manifests, key=lambda key: manifests[key])].instances
    shards = [shard for shard in read.values() if shard.instances == instances]  # others are of an earlier run
    if len(shards) < instances:
        logger.info("release waits for other instances", folder=folder, there=len(shards), instances=instances)
        return
    manifest = merge_manifests(shards)
    written = {entry["Key"] for entry in _listed(bucket, f"{folder}{PART_RECEIPTS}/")}
    keys = [key for part in manifest.parts if (key := folder + PartReceipt(part=part.name).key) in written]
    sound = receipt is not None and receipt.part not in unproved_parts(manifest, [receipt], receipt.index)
    if sound and len(keys) < len(manifest.parts):
        logger.info("release waits for parts", folder=folder, there=len(keys), parts=len(manifest.parts))
        return
    with ThreadPoolExecutor(READERS) as readers:
        receipts = list(map(PartReceipt.from_json, readers.map(partial(_text, bucket), keys)))
    _put(bucket, folder + INDEX_REJECTS_FILE, rejects_of(receipts))
    try:
        report = publish_release(manifest, store(), receipts)
    except ReleaseError as error:
        if not sound:
            raise
        logger.warning("release not published", folder=folder, reason=str(error))  # what is amiss is not this part's doing
        return
    before = [loads(_text(bucket, entry["Key"])) for entry in _listed(bucket, folder + RECEIPT_FILE)]
    moved = any(told["index"] == report.index and told["published"] for told in before)  # by the last part, before its manifest
    _put(bucket, folder + RECEIPT_FILE, replace(report, published=report.published or moved).to_json())
    logger.info("release checked", index=report.index, lots=report.lots, recall=report.recall_at_10, published=report.published)


def _listed(bucket: str, prefix: str) -> list[dict[str, Any]]:
    pages = s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [entry for page in pages for entry in page.get("Contents", [])]


def _text(bucket: str, key: str) -> str:
    return str(_body(bucket, key).read().decode())


def _put(bucket: str, key: str, text: str) -> None:
    s3().put_object(Bucket=bucket, Key=key, Body=text.encode())


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
