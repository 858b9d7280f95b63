"""Follow one item and one query through the real system: docs/architecture.md names every file that they pass."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from call_paths import CallPath
from fastapi.testclient import TestClient
from moto import mock_aws
from small_tower import save_spread_tower
from trained_booster import trained_booster

from lambdas.bulk_indexer import handler as bulk_indexer
from lambdas.query_api.app import create_app
from processing.embedding.job import embed
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.search.service import SearchModels, SearchService

ROOT = Path(__file__).resolve().parents[2]
BUCKET, FOLDER = "embeddings", "embeddings/night/"
TITLES = [f"{colour} {what} {n}" for n in range(20) for colour in ("red", "gold") for what in ("vase", "watch")]
SEARCH, EMBEDDING, BULK_INDEXER = "One `GET /search`", "An item through the embedding job", "A part through the bulk indexer"


def documented_files(title: str) -> set[str]:
    """Paths in backticks below a heading of docs/architecture.md."""
    document = (ROOT / "docs/architecture.md").read_text()
    assert f"### {title}\n" in document, f"docs/architecture.md has no section {title!r}"
    section = document.split(f"### {title}\n")[1]
    return set(re.findall(r"`([\w/]+\.py)`", re.split(r"\n##+ ", section)[0]))


def check_path(path: CallPath, title: str) -> None:
    missing = sorted(set(path.files) - documented_files(title))
    assert not missing, f"docs/architecture.md does not name under {title!r}: {', '.join(missing)}\n{title}: {path.report()}"
    print(f"{title}: {path.report()}")  # shown by `pytest -rP`


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_spread_tower(TITLES, tmp_path_factory.mktemp("towers"))


@pytest.fixture(scope="module")
def embedding(tower: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[CallPath, Path]:
    """The path of a run of the embedding job, and the folder of its release."""
    folder = tmp_path_factory.mktemp("night")
    items = folder / "items.ndjson"
    items.write_text("".join(json.dumps({"item_id": f"lot-{n}", "title": title}) + "\n" for n, title in enumerate(TITLES)))
    with CallPath() as path:
        embed([items], tower, folder / "embeddings", release_id="night", batch_size=40, workers=0)
    return path, folder / "embeddings" / "night"


@pytest.fixture(scope="module")
def indexing(
    embedding: tuple[CallPath, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[CallPath, EmbeddedStore]]:
    """The path of the objects of a release through the bulk indexer, and the store in which the release is live."""
    store = EmbeddedStore(tmp_path_factory.mktemp("index"))
    release = embedding[1]
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "eu-west-1"}.items():
            patch.setenv(name, value)
        patch.setattr(bulk_indexer, "store", lambda: store)
        bulk_indexer.s3.cache_clear()
        bucket = boto3.resource("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        for file in release.iterdir():
            if file.is_file():
                bucket.upload_file(str(file), FOLDER + file.name)
        names = [*sorted(file.name for file in release.glob("part-*.ndjson.gz")), "manifest.json"]
        messages = [
            {"eventSource": "aws:sqs", "messageId": name, "body": json.dumps({"s3_key": FOLDER + name, "bucket": BUCKET})}
            for name in names
        ]
        with CallPath() as path:
            answer = bulk_indexer.handler({"Records": messages}, None)
        bulk_indexer.s3.cache_clear()
    assert answer == {"batchItemFailures": []}
    yield path, store
    store.live().close()


def test_the_document_names_every_file_that_an_item_passes_in_the_embedding_job(embedding: tuple[CallPath, Path]) -> None:
    check_path(embedding[0], EMBEDDING)


def test_the_document_names_every_file_that_a_part_passes_in_the_bulk_indexer(indexing: tuple[CallPath, EmbeddedStore]) -> None:
    assert indexing[1].live().count() == len(TITLES)
    check_path(indexing[0], BULK_INDEXER)


def test_the_document_names_every_file_that_a_search_passes(indexing: tuple[CallPath, EmbeddedStore], tower: Path) -> None:
    encoder, ranker = QueryEncoder.load(tower), trained_booster()
    service = SearchService(indexing[1], SearchModels(lambda tower_id: encoder, lambda tower_id: ranker))
    client = TestClient(create_app(lambda: service))
    assert client.get("/search", params={"q": "red watch"}).status_code == 200  # the first search opens the index
    with CallPath() as path:
        answer = client.get("/search", params={"q": "gold vase"}).json()
    assert (answer["mode"], answer["reranked"], answer["degraded"], len(answer["results"])) == ("hybrid", True, [], 10)
    check_path(path, SEARCH)


def test_every_file_of_the_paths_is_there() -> None:
    named = documented_files(SEARCH) | documented_files(EMBEDDING) | documented_files(BULK_INDEXER)
    assert [file for file in sorted(named) if not (ROOT / file).is_file()] == []
