"""Locate tower artefacts in a folder, or fetch them once from a prefix of a bucket."""

import logging
from collections.abc import Sequence
from pathlib import Path

from retrieval.buyers.attention import BUYER_TOWER_FILE, load_buyer_tower
from retrieval.buyers.vector import AVERAGE, BuyerTower
from retrieval.contracts.tower_card import (
    CARD_FILE,
    IMAGE_TOWER_FILE,
    QUERY_TOWER_FILE,
    SMALL_QUERY_TOWER_FILE,
    TOKENIZER_FILE,
    TowerCard,
    split_tower_id,
)
from retrieval.errors import TowerError
from retrieval.index.hybrid_tuning import TUNING_FILE, Tuning

logger = logging.getLogger(__name__)

# the card last: its presence says that the rest is there
SERVING_FILES = (QUERY_TOWER_FILE, TOKENIZER_FILE, CARD_FILE)
SMALL_SERVING_FILES = (SMALL_QUERY_TOWER_FILE, TOKENIZER_FILE, CARD_FILE)


def tower_folder(towers: str, tower_id: str, cache: Path, files: Sequence[str] = SERVING_FILES) -> Path:
    """Return the folder of a tower's artefact on this machine.

    Args:
        towers: folder, or s3://bucket/prefix, that holds one sub-folder a tower.
        tower_id: which one; an id that names a shorter length of vectors has the folder of the artefact.
        cache: folder into which files are fetched from S3.
        files: those that are needed of it, the card last.

    Raises:
        TowerError: there is no such tower.
    """
    tower_id, _ = split_tower_id(tower_id)
    if towers.startswith("s3://"):
        return _fetch(towers, tower_id, cache, files)
    folder = Path(towers) / tower_id
    if not (folder / CARD_FILE).is_file():
        raise TowerError(
            f"tower {tower_id} is not in {towers}; copy its folder there, or embed and index again with a tower that is"
        )
    _card_in(folder, tower_id)
    return folder


def image_tower_folder(towers: str, tower_id: str, cache: Path) -> Path:
    """Return tower_folder() with the tower's image branch, if it has one; from S3 that is fetched for the first photo.

    Raises:
        TowerError: there is no such tower, or its image branch cannot be fetched.
    """
    folder = tower_folder(towers, tower_id, cache)
    artefact, _ = split_tower_id(tower_id)
    if (
        towers.startswith("s3://")
        and _card_in(folder, artefact).has_image_encoder
        and not _is_whole(folder, artefact, [IMAGE_TOWER_FILE])
    ):
        _download(towers, artefact, IMAGE_TOWER_FILE, folder)
    return folder


def tower_card(towers: str, tower_id: str, cache: Path) -> TowerCard:
    """Read the card of a tower, for the length of vectors that the id names; only the card is fetched from S3.

    Args:
        towers: as tower_folder()'s.
        tower_id: which one.
        cache: folder for cards, another one than tower_folder()'s.

    Raises:
        TowerError: there is no such tower, or another one lies under its id.
    """
    artefact, dimensions = split_tower_id(tower_id)
    folder = _fetch(towers, artefact, cache, [CARD_FILE]) if towers.startswith("s3://") else Path(towers) / artefact
    return _card_in(folder, artefact).at(dimensions)


def tower_tuning(towers: str, tower_id: str, cache: Path) -> Tuning:
    """Read the tuning of a tower's searches; return the untuned one if the file cannot be read, for any reason.

    Args:
        towers: as tower_folder()'s.
        tower_id: which one.
        cache: as tower_folder()'s.

    Raises:
        TowerError: the file is damaged.
    """
    folder = _with_addition(towers, tower_id, cache, TUNING_FILE)
    return Tuning() if folder is None else Tuning.load(folder)


def tower_buyers(towers: str, tower_id: str, cache: Path) -> BuyerTower:
    """Load the trained buyer tower of a tower, or the weighted average if there is none.

    Args:
        towers: as tower_folder()'s.
        tower_id: which one.
        cache: as tower_folder()'s.

    Raises:
        TowerError: the file is damaged.
    """
    folder = _with_addition(towers, tower_id, cache, BUYER_TOWER_FILE)
    return AVERAGE if folder is None else load_buyer_tower(folder, tower_id)


def _with_addition(towers: str, tower_id: str, cache: Path, name: str) -> Path | None:
    """Return the folder of a tower with an optional file; None if it cannot be fetched from S3, for any reason."""
    artefact, _ = split_tower_id(tower_id)
    if not towers.startswith("s3://"):
        return Path(towers) / artefact
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = towers.removeprefix("s3://").partition("/")
    folder = cache / artefact
    folder.mkdir(parents=True, exist_ok=True)
    try:
        boto3.client("s3").download_file(bucket, _key(prefix, artefact, name), str(folder / name))
    except (BotoCoreError, ClientError) as error:  # who may not list a bucket is not told that a file is missing, but denied
        logger.info("tower %s goes without %s: %s", artefact, name, error)
        return None
    return folder


def _key(prefix: str, tower_id: str, name: str) -> str:
    return "/".join(part for part in (prefix.strip("/"), tower_id, name) if part)


def _fetch(towers: str, tower_id: str, cache: Path, names: Sequence[str]) -> Path:
    folder = cache / tower_id
    if _is_whole(folder, tower_id, names):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        _download(towers, tower_id, name, folder)
    _card_in(folder, tower_id)
    return folder


def _card_in(folder: Path, tower_id: str) -> TowerCard:
    """Read the card of the tower that is expected in a folder."""
    card = TowerCard.load(folder)
    if card.tower_id != tower_id:
        raise TowerError(f"{folder} holds tower {card.tower_id}; copy each tower to the folder of its own id")
    return card


def _is_whole(folder: Path, tower_id: str, names: Sequence[str]) -> bool:
    """True if these files were fetched before and are those of the card; else they are fetched again."""
    try:
        card = _card_in(folder, tower_id)
        for name in names:
            if name in card.files:
                card.check_file(folder, name)
    except TowerError:
        return False
    return all((folder / name).is_file() for name in names)


def _download(towers: str, tower_id: str, name: str, folder: Path) -> None:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = towers.removeprefix("s3://").partition("/")
    key = _key(prefix, tower_id, name)
    try:
        boto3.client("s3").download_file(bucket, key, str(folder / name))
    except (BotoCoreError, ClientError) as error:
        raise TowerError(f"s3://{bucket}/{key} cannot be fetched: {error}; put the folder of the tower there") from error
