"""The real chain, end to end: parquet and photos in a bucket, the embedding job as a process, parts, S3 notifications, SQS,
the bulk-index Lambda, a real OpenSearch node, the query Lambda.

S3 and SQS are moto's server on this machine; everything else is what runs in production.
"""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from gzip import compress
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from opensearchpy import OpenSearch
from painted_lots import names, paint, write_painted_catalog
from small_tower import small_config

from catalog.folder import write_items
from lambdas.bulk_indexer import handler as bulk_indexer
from lambdas.query_api import handler as query_api
from lambdas.query_api import wiring
from models.config.training import TrainingConfig
from models.data.images import Augmentation
from models.training.two_towers import train_towers
from retrieval.contracts.documents import Deletion, IndexedItem, bulk_lines
from retrieval.contracts.items import Item
from retrieval.contracts.parts import read_part
from retrieval.contracts.release import load_release
from retrieval.index.opensearch.store import OpenSearchStore

NOW = datetime.now(UTC)
LISTED = NOW - timedelta(days=2)
LOTS, EMBEDDINGS = "lots", "embeddings"
ROUNDS = 5  # of the queue: a message that fails comes again


@dataclass
class Chain:
    """The two buckets, the queue between them, and the node at the end."""

    s3: Any
    sqs: Any
    queue: str
    store: OpenSearchStore
    release: Path

    def upload(self, path: Path) -> None:
        """Put a file of the release where SageMaker would; S3 tells the queue."""
        self.s3.upload_file(str(path), EMBEDDINGS, f"{self.release.name}/{path.name}")

    def deliver(self) -> list[str]:
        """Hand the queue's messages to the Lambda, as its event source does, until none is left; return those that stay."""
        left: list[str] = []
        for _ in range(ROUNDS):
            messages = self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages", [])
            if not messages:
                break
            records = [{"eventSource": "aws:sqs", "messageId": m["MessageId"], "body": m["Body"]} for m in messages]
            answer = bulk_indexer.handler({"Records": records}, None)
            left = [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]
            for message in messages:
                handle = {"QueueUrl": self.queue, "ReceiptHandle": message["ReceiptHandle"]}
                if message["MessageId"] in left:
                    self.sqs.change_message_visibility(**handle, VisibilityTimeout=0)
                else:
                    self.sqs.delete_message(**handle)
        return left

    def search(self, **params: Any) -> dict[str, Any]:
        """GET /search through API Gateway's proxy event."""
        texts = {name: str(value) for name, value in params.items()}
        event = {
            "resource": "/search",
            "path": "/search",
            "httpMethod": "GET",
            "headers": {"Accept": "application/json", "Host": "api"},
            "multiValueHeaders": {"Accept": ["application/json"], "Host": ["api"]},
            "queryStringParameters": texts,
            "multiValueQueryStringParameters": {name: [value] for name, value in texts.items()},
            "requestContext": {"resourcePath": "/search", "httpMethod": "GET", "path": "/search", "stage": "test"},
            "body": None,
            "isBase64Encoded": False,
        }
        answer = query_api.handler(event, None)
        assert answer["statusCode"] == 200, answer["body"]
        return json.loads(answer["body"])

    def ids(self, **params: Any) -> list[str]:
        """Ids of the lots that a search answers with, best first."""
        return [result["item_id"] for result in self.search(**params)["results"]]


@pytest.fixture(scope="module")
def tower(tmp_path_factory) -> Path:
    """A small tower that has learnt colours from photos."""
    folder = tmp_path_factory.mktemp("training")
    config = TrainingConfig(
        tower=small_config(),
        photos="always",
        epochs=15,
        batch_size=16,
        learning_rate=3e-3,
        validate_every=5,
        augmentation=Augmentation(light=0.0, crop=0.9),
    )
    return train_towers(write_painted_catalog(folder / "catalog"), config, folder / "towers").tower_folder


@pytest.fixture(scope="module")
def aws(tmp_path_factory) -> Iterator[pytest.MonkeyPatch]:
    """S3 and SQS on this machine, found by every process through its environment."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        environment = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in (environment | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}).items():
            patch.setenv(name, value)
        patch.setattr(boto3, "DEFAULT_SESSION", None)
        yield patch
    server.stop()


@pytest.fixture(scope="module")
def chain(aws, tower, opensearch_url, tmp_path_factory) -> Iterator[Chain]:
    """One night: new lots in the bucket, embedded by the job, indexed by the Lambda."""
    folder = tmp_path_factory.mktemp("night")
    alias = f"night-{uuid.uuid4().hex[:8]}"
    for name, value in {"INDEX": "opensearch", "OPENSEARCH_URL": opensearch_url, "INDEX_ALIAS": alias}.items():
        aws.setenv(f"GAVEL_{name}", value)
    aws.setenv("GAVEL_TOWERS_URI", f"s3://{LOTS}/towers")
    aws.setenv("GAVEL_CACHED_ANSWERS_S", "0")  # what was just written is asked for at once
    aws.setattr(wiring, "TOWER_CACHE", folder / "tower-cache")
    for cached in (bulk_indexer.s3, bulk_indexer.store, query_api.service):
        cached.cache_clear()
    s3, sqs = boto3.client("s3"), boto3.client("sqs")
    put_lots(s3, folder, tower)
    made = Chain(s3, sqs, connect(s3, sqs), OpenSearchStore(opensearch_url, alias), embed(s3, folder, tower))
    for path in sorted(made.release.iterdir(), key=lambda path: path.suffix == ".gz"):  # the manifest is quicker than the parts
        made.upload(path)
    assert made.deliver() == []
    yield made
    with OpenSearch(opensearch_url) as client:
        client.indices.delete(index=f"{alias}-*")
    for cached in (bulk_indexer.s3, bulk_indexer.store, query_api.service):
        cached.cache_clear()


def put_lots(s3: Any, folder: Path, tower: Path) -> None:
    """The new lots of the night, their photos and the tower, in the bucket."""
    s3.create_bucket(Bucket=LOTS)
    items = []
    for number, (colour, kind) in enumerate(names()):
        item_id = f"{colour}-{kind}"
        photo = paint(folder / "photos" / f"{item_id}.png", colour, 1_000 + number)
        s3.upload_file(str(photo), LOTS, f"photos/{photo.name}")
        uri = f"s3://{LOTS}/photos/{photo.name}"
        items.append(Item(item_id, kind.title(), image=uri, current_price=10.0, ends_at=NOW + timedelta(days=3), updated_at=LISTED))
    red_vase = next(item for item in items if item.item_id == "red-vase")
    items += [
        replace(red_vase, item_id="ended-red-vase", ends_at=NOW - timedelta(minutes=1)),
        replace(red_vase, item_id="lost-photo", title="Bronze sextant", image=f"s3://{LOTS}/photos/lost.png"),
        replace(red_vase, item_id="", title="no id"),
    ]
    write_items(folder / "2026-11-21.parquet", items)
    s3.upload_file(str(folder / "2026-11-21.parquet"), LOTS, "new-items/2026-11-21.parquet")
    for path in tower.iterdir():
        s3.upload_file(str(path), LOTS, f"towers/{tower.name}/{path.name}")


def connect(s3: Any, sqs: Any) -> str:
    """A bucket for embeddings that tells a queue what lands in it."""
    s3.create_bucket(Bucket=EMBEDDINGS)
    queue: str = sqs.create_queue(QueueName="parts")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    told = {"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]}
    s3.put_bucket_notification_configuration(Bucket=EMBEDDINGS, NotificationConfiguration=told)
    return queue


def embed(s3: Any, folder: Path, tower: Path) -> Path:
    """Run the job as SageMaker does: input fetched into a folder, one process, output in a folder."""
    items = folder / "input" / "items"
    items.mkdir(parents=True)
    s3.download_file(LOTS, "new-items/2026-11-21.parquet", str(items / "2026-11-21.parquet"))
    flags = {"--input": items, "--tower": tower, "--output": folder / "output", "--release-id": "2026-11-21", "--workers": 1}
    command = [sys.executable, "-m", "processing.embed_items", *(str(word) for pair in flags.items() for word in pair)]
    done = subprocess.run([*command, "--part-items", "8"], capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.returncode == 0, done.stderr
    return folder / "output" / "2026-11-21"


def put_part(chain: Chain, *entries: IndexedItem | Deletion) -> None:
    """A part of its own, such as a change to a few lots during the day."""
    lines = "".join(line + "\n" for entry in entries for line in bulk_lines(entry))
    chain.s3.put_object(Bucket=EMBEDDINGS, Key=f"day/part-{uuid.uuid4().hex}.ndjson.gz", Body=compress(lines.encode()))


def entry(chain: Chain, item_id: str) -> IndexedItem:
    """A lot as the night's release holds it."""
    parts = [chain.release / part.name for part in load_release(chain.release).parts]
    return next(e for part in parts for e in read_part(part) if isinstance(e, IndexedItem) and e.item_id == item_id)


def test_every_row_of_the_night_is_embedded_or_rejected_and_every_lot_is_live(chain, tower):
    manifest = load_release(chain.release)
    assert (manifest.items_in, manifest.items_embedded, manifest.items_rejected) == (19, 18, 1)
    assert manifest.items_without_image == 1
    assert len(manifest.parts) == 3
    assert chain.store.live().tower_id == tower.name
    assert chain.store.live().count() == 18


@pytest.mark.parametrize(("colour", "kind"), [("red", "vase"), ("blue", "watch"), ("green", "lamp"), ("yellow", "chair")])
def test_the_lot_whose_photo_shows_the_colour_comes_first(chain, colour, kind):
    answer = chain.search(q=f"{colour} {kind}", mode="semantic")
    assert answer["results"][0]["item_id"] == f"{colour}-{kind}"
    assert answer["tower_id"] == load_release(chain.release).tower_id
    assert answer["reranked"] is False
    assert len(answer["results"]) == 10


def test_a_lot_whose_photo_was_lost_is_found_by_its_words(chain):
    assert chain.ids(q="bronze sextants")[0] == "lost-photo"
    assert chain.store.live().fetch(["lost-photo"])[0].document["has_image"] is False


def test_an_ended_auction_never_comes_back(chain):
    assert [c.item_id for c in chain.store.live().fetch(["ended-red-vase"])] == ["ended-red-vase"]
    for mode in ("semantic", "keyword", "hybrid"):
        found = chain.ids(q="red vase", mode=mode, k=100)
        assert "red-vase" in found
        assert "ended-red-vase" not in found


def test_a_replay_of_an_older_part_changes_nothing(chain):
    night = entry(chain, "red-vase")
    later = {**night.document, "current_price": 99.0}
    put_part(chain, replace(night, version=night.version + 1, document=later))
    assert chain.deliver() == []
    put_part(chain, night)
    for part in load_release(chain.release).parts:
        chain.upload(chain.release / part.name)
    assert chain.deliver() == []
    assert chain.store.live().count() == 18
    assert chain.store.live().fetch(["red-vase"])[0].document["current_price"] == 99.0
    assert chain.ids(q="red vase", mode="semantic")[0] == "red-vase"


def test_a_withdrawn_lot_is_gone_and_a_late_older_part_does_not_bring_it_back(chain):
    night = entry(chain, "blue-chair")
    put_part(chain, Deletion("blue-chair", night.version + 1))
    assert chain.deliver() == []
    put_part(chain, night)
    assert chain.deliver() == []
    assert "blue-chair" not in chain.ids(q="blue chair", k=100)


def test_vectors_of_another_tower_never_reach_the_live_index(chain):
    stranger = entry(chain, "red-lamp")
    live = chain.store.live()
    put_part(chain, replace(stranger, item_id="stranger", document={**stranger.document, "tower_id": "f" * 12}))
    assert chain.deliver() == []
    assert chain.store.live().name == live.name
    assert chain.store.live().fetch(["stranger"]) == []
    other = chain.store.find("f" * 12)
    assert other is not None
    assert other.count() == 1
    chain.store.drop(other.name)
