"""Where the state machines of a test find things."""

from typing import Any

from infra.embedding_job import Places

BUCKETS = {name: name.replace("_", "-") for name in ("new_items", "embeddings", "towers", "releases")}


def places(**changes: Any) -> Places:
    """Places by plain names, changed as given."""
    given = {
        **BUCKETS,
        "code_uri": "s3://assets/code.zip",
        "packages_uri": "s3://assets/packages.zip",
        "job_role_arn": "arn:aws:iam::111111111111:role/job",
        "image": "image",
        "isolated": True,
        "indexer_arn": "indexer",
        "snapshot_arn": "snapshot",
        "notices_arn": "topic",
        "partition": "aws",
    }
    return Places(**{**given, **changes})
