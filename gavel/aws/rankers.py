"""Re-rankers in a stage's bucket, packed as the endpoint's container unpacks them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from gavel.aws.account import DeployedStage
from gavel.aws.buckets import Bucket
from retrieval.errors import InvalidInput
from retrieval.files import sha256_of

RANKERS = "rerankers"  # in the towers bucket
ARCHIVE = "model.tar.gz"


def upload_ranker(stage: DeployedStage, booster: Path, tower_id: str) -> tuple[str, bool]:
    """Pack a booster with the script of its endpoint, and upload the archive to the towers bucket.

    Args:
        stage: deployed stage.
        booster: file of the booster.
        tower_id: tower of the candidates that the booster was trained on; part of the key.

    Returns:
        The archive's key, and True if the archive was uploaded, False if it existed. The key contains a hash of the archive,
        because CloudFormation notices a new key, but not a new object.

    Raises:
        InvalidInput: the booster's file does not exist.
        RankerUnavailable: the file is not a booster.
        FeatureMismatch: the booster was trained on other features than search computes.
    """
    bucket = Bucket(stage.output("TowersBucket"))
    with _packed(booster, tower_id) as (archive, key):
        if bucket.holds(key):
            return key, False
        bucket.upload(archive.parent, key.removesuffix(f"/{ARCHIVE}"))
    return key, True


def key_of(booster: Path, tower_id: str) -> str:
    """Return the key under which upload_ranker() uploads a booster.

    Raises:
        InvalidInput: see upload_ranker(), as for the other errors.
    """
    with _packed(booster, tower_id) as (_, key):
        return key


@contextmanager
def _packed(booster: Path, tower_id: str) -> Iterator[tuple[Path, str]]:
    """Yield the packed archive, alone in a folder that exists during the block, and its key."""
    from processing.reranker_endpoint.packing import pack_model

    if not booster.is_file():
        raise InvalidInput(f"there is no re-ranker {booster}; train one with `gavel train reranker` over an index of that tower")
    with TemporaryDirectory(prefix="gavel-ranker-") as folder:
        archive = pack_model(booster, Path(folder) / ARCHIVE)
        yield archive, f"{RANKERS}/{tower_id}-{sha256_of(archive)[:12]}/{ARCHIVE}"
