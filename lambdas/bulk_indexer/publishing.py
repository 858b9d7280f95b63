"""Publish a release once the manifests of all its instances and the records of all its indexed parts are in the bucket."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from json import loads
from typing import Any, TypeVar

from aws_lambda_powertools import Logger

from lambdas.bulk_indexer.messages import is_manifest
from retrieval.contracts.release import (
    INDEX_REJECTS_FILE,
    PART_RECEIPTS,
    RECEIPT_FILE,
    IndexedPart,
    Manifest,
    merge_manifests,
    rejects_of,
    unproved_parts,
)
from retrieval.errors import ReleaseError
from retrieval.index.port import IndexStore
from retrieval.ingestion import ReleaseReport, publish_release

logger = Logger(service="bulk-indexer")
T = TypeVar("T")
READERS = 8  # threads that fetch records of indexed parts; a rebuild has thousands of parts


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of releases.

    Attributes:
        name: name of the bucket.
        s3: boto3 client of S3.
    """

    name: str
    s3: Any

    def objects(self, prefix: str) -> list[dict[str, Any]]:
        """Return the objects below a prefix, from all pages of the listing."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [entry for page in pages for entry in page.get("Contents", [])]

    def body(self, key: str) -> Any:
        """Open an object as a stream."""
        return self.s3.get_object(Bucket=self.name, Key=key)["Body"]

    def text(self, key: str) -> str:
        """Read an object as text. Bytes that are not UTF-8 become U+FFFD."""
        return str(self.body(key).read().decode(errors="replace"))

    def put(self, key: str, text: str) -> None:
        """Write an object."""
        self.s3.put_object(Bucket=self.name, Key=key, Body=text.encode())


def publish(
    bucket: Bucket, folder: str, store: IndexStore, *, manifest_key: str = "", indexed: IndexedPart | None = None
) -> ReleaseReport | str:
    """Publish a release if the manifests of all its instances and the records of all its parts are there.

    Args:
        bucket: bucket of releases.
        folder: key prefix of the release, with a slash at the end.
        store: store of the indices.
        manifest_key: key of the manifest that arrived. A missing part is then an error, so that the manifest is delivered again.
        indexed: record of the part that arrived. If that part is completely indexed, faults of other parts raise no error here;
            they fail only the manifest's message.

    Returns:
        The report of the release, or the reason why it is not published yet.
    """
    objects = bucket.objects(f"{folder}manifest")
    manifests = {entry["Key"]: entry["LastModified"] for entry in objects if is_manifest(entry["Key"].removeprefix(folder))}
    if not manifests:
        return f"{folder}manifest.json is not there yet"
    by_key = {key: _parse(bucket, key, Manifest.from_json, "embed its lots again with `gavel embed`") for key in manifests}
    instances = by_key[manifest_key or max(manifests, key=lambda key: manifests[key])].instances
    shards = [shard for shard in by_key.values() if shard.instances == instances]  # other manifests belong to an earlier run
    if len(shards) < instances:
        logger.info("release waits for other instances", folder=folder, there=len(shards), instances=instances)
        return f"{len(shards)} of {instances} manifests are there"
    manifest = merge_manifests(shards)
    written = {entry["Key"] for entry in bucket.objects(f"{folder}{PART_RECEIPTS}/")}
    keys = [key for part in manifest.parts if (key := folder + IndexedPart(part=part.name).key) in written]
    is_complete = indexed is not None and indexed.part not in unproved_parts(manifest, [indexed], indexed.index)
    if is_complete and len(keys) < len(manifest.parts):
        logger.info("release waits for parts", folder=folder, there=len(keys), parts=len(manifest.parts))
        return f"{len(keys)} of {len(manifest.parts)} parts are indexed"
    with ThreadPoolExecutor(READERS) as readers:
        parts = list(readers.map(lambda key: _parse(bucket, key, IndexedPart.from_json, "index its part again"), keys))
    bucket.put(folder + INDEX_REJECTS_FILE, rejects_of(parts))
    try:
        report = publish_release(manifest, store, parts)
    except ReleaseError as error:
        if not is_complete:
            raise
        logger.warning("release not published", folder=folder, reason=str(error))  # another part is at fault
        return str(error)
    published_before = _published_before(bucket, folder + RECEIPT_FILE, report.index)  # by the last part, before its manifest
    bucket.put(folder + RECEIPT_FILE, replace(report, published=report.published or published_before).to_json())
    logger.info("release checked", index=report.index, lots=report.lots, recall=report.recall_at_10, published=report.published)
    return report


def _published_before(bucket: Bucket, key: str, index: str) -> bool:
    """True if the record of the release can be read and says that the release made this index live."""
    if key not in {entry["Key"] for entry in bucket.objects(key)}:
        return False
    try:
        record = loads(bucket.text(key))
        return bool(record["index"] == index and record["published"] is True)
    except (ValueError, TypeError, KeyError):
        return False


def _parse(bucket: Bucket, key: str, parse: Callable[[str], T], remedy: str) -> T:
    try:
        return parse(bucket.text(key))
    except ReleaseError as error:
        raise ReleaseError(f"s3://{bucket.name}/{key} is damaged ({error}); {remedy}") from error
