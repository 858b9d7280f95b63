"""Towers in a stage's bucket: look up, upload, make current."""

import json
from collections.abc import Callable
from pathlib import Path

from gavel.aws.account import DeployedStage
from gavel.aws.buckets import Bucket
from retrieval.contracts.release import RECEIPT_FILE
from retrieval.contracts.tower_card import CARD_FILE, TowerCard
from retrieval.errors import InvalidInput, TowerError
from retrieval.index.hybrid_tuning import TUNING_FILE

CURRENT = "current.json"  # read by the nightly machine: infra/nightly_states.py


def current_tower(stage: DeployedStage) -> str | None:
    """Return the tower_id of the nightly runs, or None before a tower is made current."""
    current = Bucket(stage.output("TowersBucket")).read_json(CURRENT)
    return str(current["tower_id"]) if current else None


def tower_in_bucket(stage: DeployedStage, tower_id: str | None) -> str:
    """Return `tower_id`, or the current tower's id if None, after a check that the tower is in the bucket.

    Raises:
        InvalidInput: the tower does not exist, or None was given and no tower is current.
    """
    bucket = Bucket(stage.output("TowersBucket"))
    tower_id = tower_id or current_tower(stage)
    if tower_id is None:
        raise InvalidInput(f"{bucket}/{CURRENT} is missing: no tower is current; `gavel aws publish TOWER --current` names one")
    if not bucket.holds(f"{tower_id}/{CARD_FILE}"):
        tower_ids = ", ".join(name for name in bucket.folders() if bucket.holds(f"{name}/{CARD_FILE}")) or "none"
        raise InvalidInput(
            f"there is no tower {tower_id!r} in {bucket} (there are: {tower_ids}); `gavel aws publish {tower_id}` puts it there"
        )
    return tower_id


def upload_tower(stage: DeployedStage, folder: Path, progress: Callable[[int, int], None] | None = None) -> int:
    """Check the files that a tower's card names, and upload the tower's folder, the card last.

    If the tower is already in the bucket, only new files and a changed tuning are uploaded, because the others never change.

    Returns:
        The number of files uploaded.

    Raises:
        TowerError: the folder holds no tower, or a damaged one.
    """
    card = TowerCard.load(folder, verify=True)
    if card.tower_id != folder.resolve().name:
        raise TowerError(f"{folder} holds tower {card.tower_id}; the folder must have its name")
    bucket = Bucket(stage.output("TowersBucket"))
    prefix = f"{card.tower_id}/"
    if not bucket.holds(prefix + CARD_FILE):
        return bucket.upload(folder, card.tower_id, CARD_FILE, progress)
    uploaded = {key.removeprefix(prefix) for key in bucket.list_keys(prefix)}
    if TUNING_FILE in uploaded and (folder / TUNING_FILE).is_file():
        tuning = json.loads((folder / TUNING_FILE).read_text(encoding="utf-8"))
        uploaded -= {TUNING_FILE} if bucket.read_json(prefix + TUNING_FILE) != tuning else set()
    return bucket.upload(folder, card.tower_id, progress=progress, select=lambda name: name not in uploaded)


def make_current(stage: DeployedStage, tower_id: str) -> bool:
    """Let the nightly runs use a tower, if no items of another tower are indexed.

    Returns:
        False if the tower was already current, otherwise True.

    Raises:
        InvalidInput: the tower does not exist, or a release of another tower was indexed. Vectors of two towers are not
            comparable.
    """
    if current_tower(stage) == tower_in_bucket(stage, tower_id):
        return False
    other = _indexed_with_other(stage, tower_id)
    if other is not None:
        release, other_id = other
        raise InvalidInput(
            f"release {release} was indexed with tower {other_id}, whose vectors tower {tower_id} does not meet: all lots must be "
            f"embedded anew; `gavel aws rebuild {tower_id} --stage {stage.name}` does that and then makes it current"
        )
    Bucket(stage.output("TowersBucket")).write_json(CURRENT, {"tower_id": tower_id})
    return True


def _indexed_with_other(stage: DeployedStage, tower_id: str) -> tuple[str, str] | None:
    """Return (release_id, tower_id) of a release that was indexed with another tower, or None."""
    bucket = Bucket(stage.output("EmbeddingsBucket"))
    for release in bucket.folders():
        manifest = next(bucket.list_keys(f"{release}/manifest"), None)
        if manifest and bucket.holds(f"{release}/{RECEIPT_FILE}"):
            other = str(bucket.read_json(manifest)["tower_id"])
            if other != tower_id:
                return release, other
    return None
