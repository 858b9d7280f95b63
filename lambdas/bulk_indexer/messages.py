"""Find the objects that a message names, however services have wrapped the message."""

import re
from collections.abc import Iterator, Mapping
from json import loads
from typing import Any
from urllib.parse import unquote_plus

from retrieval.config.settings import Settings
from retrieval.errors import InvalidInput

PART_SUFFIX = ".ndjson.gz"
is_manifest = re.compile(r"manifest(-\d{5}-of-\d{5})?\.json").fullmatch  # matches an object's file name
CREATED, REMOVED = "ObjectCreated", ("ObjectRemoved", "LifecycleExpiration")


def objects_of(message: Any) -> Iterator[tuple[str, str]]:
    """Yield (bucket, key) of each object that a message names, except removed objects.

    Raises:
        InvalidInput: the message has no known form; it must not count as processed.
    """
    match message:
        case {"Records": [_, *_] as records}:
            for record in records:
                yield from objects_of(record)
        case {"eventSource": "aws:sqs", "body": str(inner)} | {"Type": "Notification", "Message": str(inner)}:
            yield from objects_of(_parsed(inner))
        case {"Sns": {"Message": str(inner)}}:
            yield from objects_of(_parsed(inner))
        case {"s3": {"bucket": {"name": str(bucket)}, "object": {"key": str(key)}}}:
            name = str(message.get("eventName") or CREATED).removeprefix("s3:")  # without an event name, the object was created
            if name.startswith(CREATED):
                yield bucket, unquote_plus(key)
            elif not name.startswith(REMOVED):
                raise InvalidInput(f"the bulk indexer does not know the S3 event {name!r}; have the bucket tell of {CREATED} alone")
        case {
            "source": "aws.s3",
            "detail-type": "Object Created",
            "detail": {"bucket": {"name": str(bucket)}, "object": {"key": str(key)}},
        }:
            yield bucket, key  # EventBridge, unlike S3, does not quote keys
        case {"source": "aws.s3", "detail-type": "Object Deleted"} | {"Service": "Amazon S3", "Event": "s3:TestEvent"}:
            return
        case {"s3_key": str(key), **others} if _is_release_object(key) and _only_bucket(others):
            yield _bucket_by_hand(str(others.get("bucket", ""))), key
        case _:
            raise InvalidInput(
                f"the bulk indexer does not know this message: {str(message)[:200]!r}; send an S3 event, bare or wrapped by SNS, "
                'SQS or EventBridge, or {"s3_key": "<key of a part or manifest>"}'
            )


def _is_release_object(key: str) -> bool:
    """True if a key names a part or a manifest."""
    return key.endswith(PART_SUFFIX) or is_manifest(key.rpartition("/")[2]) is not None


def _only_bucket(others: Mapping[Any, Any]) -> bool:
    """True if a message by hand has no other value than a bucket's name."""
    return others.keys() <= {"bucket"} and isinstance(others.get("bucket", ""), str)


def _parsed(text: str) -> Any:
    try:
        return loads(text)
    except ValueError as error:
        raise InvalidInput(f'the message is no JSON ({error}): {text[:200]!r}; send an S3 event or {{"s3_key": …}}') from error


def _bucket_by_hand(named: str) -> str:
    """Return the bucket of an object that is sent by hand: the stage's own, which a message may name."""
    own = Settings.from_env().embeddings_bucket
    if not named and not own:
        raise InvalidInput('the message names no bucket: add "bucket", or set GAVEL_EMBEDDINGS_BUCKET')
    if named and own and named != own:
        raise InvalidInput(
            f"the bulk indexer of this stage reads the bucket {own} alone, not {named!r}; copy the release there "
            f"(`aws s3 cp --recursive`), or call the indexer of the stage that owns {named!r}"
        )
    return named or own
