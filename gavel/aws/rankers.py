"""Re-rankers in a stage's bucket, packed as the endpoint's container unpacks them."""

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
    from processing.reranker_endpoint.packing import pack_model

    if not booster.is_file():
        raise InvalidInput(f"there is no re-ranker {booster}; train one with `gavel train reranker` over an index of that tower")
    bucket = Bucket(stage.output("TowersBucket"))
    with TemporaryDirectory(prefix="gavel-ranker-") as folder:
        archive = pack_model(booster, Path(folder) / ARCHIVE)
        prefix = f"{RANKERS}/{tower_id}-{sha256_of(archive)[:12]}"
        if bucket.holds(f"{prefix}/{ARCHIVE}"):
            return f"{prefix}/{ARCHIVE}", False
        bucket.upload(Path(folder), prefix)
    return f"{prefix}/{ARCHIVE}", True
