"""Photos behind s3:// URIs: what is wrong with one object costs that photo, what is wrong with S3 stops the job."""

import io
from types import SimpleNamespace

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from PIL import Image

from gavel.opensearch.node import free_port
from processing.embedding import photos as item_photos
from processing.embedding.photos import PhotoPlace, PhotoState, load_photo
from retrieval.errors import InvalidInput


@pytest.fixture
def credentials(monkeypatch):
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    client = item_photos._s3
    client.cache_clear()
    yield monkeypatch
    client.cache_clear()


@pytest.fixture
def bucket(credentials):
    with mock_aws():
        made = boto3.resource("s3").create_bucket(Bucket="photos")
        picture = io.BytesIO()
        Image.new("RGB", (40, 30), "red").save(picture, "PNG")
        made.put_object(Key="a folder/red.png", Body=picture.getvalue())
        made.put_object(Key="broken.png", Body=picture.getvalue()[:40])
        yield made


def load(uri, folder):
    return load_photo(PhotoPlace(uri, folder), 16)[:2]


@pytest.mark.parametrize("uri", ["s3://photos/a folder/red.png", "S3://photos/a folder/red.png"])
def test_a_photo_in_a_bucket_is_read(bucket, tmp_path, uri):
    photo, state = load(uri, tmp_path)
    assert state == PhotoState.READ
    assert photo.shape == (16, 16, 3)
    assert photo[8, 8].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "uri",
    [
        "s3://photos/missing.png",
        "s3://photos/broken.png",
        "s3://no-such-bucket/a.png",
        "s3://photos",
        "s3:///a.png",
        "s3://A B/c.png",
        "s3://Photos_1/c.png",
        "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/photos/c.png",
    ],
)
def test_a_uri_behind_which_there_is_no_picture_costs_that_photo_alone(bucket, tmp_path, uri):
    assert load(uri, tmp_path) == (None, PhotoState.UNREADABLE)


@pytest.mark.parametrize(
    ("status", "code", "stops"),
    [
        (301, "PermanentRedirect", False),
        (400, "KeyTooLongError", False),
        (400, "InvalidBucketName", False),
        (403, "AccessDenied", False),
        (403, "InvalidObjectState", False),
        (400, "ExpiredToken", True),
        (403, "InvalidAccessKeyId", True),
        (403, "SignatureDoesNotMatch", True),
        (400, "RequestTimeout", True),
        (429, "TooManyRequests", True),
        (503, "SlowDown", True),
        (500, "InternalError", True),
    ],
)
def test_only_an_error_that_is_not_of_one_object_stops_the_job(credentials, tmp_path, status, code, stops):
    def get_object(**_):
        raise ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")

    credentials.setattr(item_photos, "_s3", lambda: SimpleNamespace(get_object=get_object))
    if stops:
        with pytest.raises(InvalidInput, match=f"cannot be fetched: .*{code}"):
            load("s3://photos/red.png", tmp_path)
    else:
        assert load("s3://photos/red.png", tmp_path) == (None, PhotoState.UNREADABLE)


def test_a_bucket_that_does_not_answer_stops_the_job_with_the_uri_and_the_remedy(credentials, tmp_path):
    credentials.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    credentials.setattr(item_photos, "S3_ATTEMPTS", 1)
    with pytest.raises(InvalidInput, match=r"s3://photos/red\.png cannot be fetched: .*check AWS credentials, region"):
        load("s3://photos/red.png", tmp_path)
