"""Towers in a stage's bucket: which are there, which one the nights take, and how a new one gets there."""

import json
from collections.abc import Callable
from pathlib import Path

from gavel.aws.account import DeployedStage
from gavel.aws.buckets import Bucket
from retrieval.contracts.release import RECEIPT_FILE
from retrieval.contracts.tower_card import CARD_FILE, TowerCard
from retrieval.errors import InvalidInput, TowerError
from retrieval.index.hybrid_tuning import TUNING_FILE

CURRENT = "current.json"  # what the nightly machine reads: infra/nightly_states.py


def current_tower(stage: DeployedStage) -> str | None:
    """The tower of the nights; None before the first one is named."""
    said = Bucket(stage.output("TowersBucket")).read_json(CURRENT)
    return str(said["tower_id"]) if said else None


def tower_in_bucket(stage: DeployedStage, tower_id: str | None) -> str:
    """The tower that was given, or the current one, checked to be there.

    Raises:
        InvalidInput: there is no such tower, or none is current.
    """
    bucket = Bucket(stage.output("TowersBucket"))
    tower_id = tower_id or current_tower(stage)
    if tower_id is None:
        raise InvalidInput(f"{bucket}/{CURRENT} is missing: no tower is current; `gavel aws publish TOWER --current` names one")
    if not bucket.holds(f"{tower_id}/{CARD_FILE}"):
        known = ", ".join(name for name in bucket.folders() if bucket.holds(f"{name}/{CARD_FILE}")) or "none"
        raise InvalidInput(
            f"there is no tower {tower_id!r} in {bucket} (there are: {known}); `gavel aws publish {tower_id}` puts it there"
        )
    return tower_id


def upload_tower(stage: DeployedStage, folder: Path, progress: Callable[[int, int], None] | None = None) -> int:
    """Put a tower's folder into the bucket, the card last; files that its card names are checked first.

    Of a tower that is there already, files that came later go up, and a tuning that has changed: the others never change.

    Returns:
        How many files went up; 0 when all was there already.

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
    there = {key.removeprefix(prefix) for key in bucket.listed(prefix)}
    if TUNING_FILE in there and (folder / TUNING_FILE).is_file():
        said = json.loads((folder / TUNING_FILE).read_text(encoding="utf-8"))
        there -= {TUNING_FILE} if bucket.read_json(prefix + TUNING_FILE) != said else set()
    return bucket.upload(folder, card.tower_id, progress=progress, wanted=lambda name: name not in there)


def make_current(stage: DeployedStage, tower_id: str) -> bool:
    """Have the nights take a tower, where the index holds no lot of another one.

    Returns:
        False when it was current already.

    Raises:
        InvalidInput: lots of another tower are live; their vectors and the tower's do not meet.
    """
    if current_tower(stage) == tower_in_bucket(stage, tower_id):
        return False
    other = _indexed_with_another(stage, tower_id)
    if other is not None:
        release, had = other
        raise InvalidInput(
            f"release {release} was indexed with tower {had}, whose vectors tower {tower_id} does not meet: all lots must be "
            f"embedded anew; `gavel aws rebuild {tower_id} --stage {stage.name}` does that and then makes it current"
        )
    Bucket(stage.output("TowersBucket")).write_json(CURRENT, {"tower_id": tower_id})
    return True


def _indexed_with_another(stage: DeployedStage, tower_id: str) -> tuple[str, str] | None:
    """(release_id, tower_id) of a release that went into the index with another tower; None where there is none."""
    bucket = Bucket(stage.output("EmbeddingsBucket"))
    for release in bucket.folders():
        manifest = next(bucket.listed(f"{release}/manifest"), None)
        if manifest and bucket.holds(f"{release}/{RECEIPT_FILE}"):
            had = str(bucket.read_json(manifest)["tower_id"])
            if had != tower_id:
                return release, had
    return None
