"""Locate tower artefacts in a folder, or fetch them once from a prefix of a bucket."""

import logging
from collections.abc import Sequence
from pathlib import Path

from retrieval.buyers.attention import BUYER_TOWER_FILE, load_buyer_tower
from retrieval.buyers.vector import AVERAGE, BuyerTower
from retrieval.contracts.tower_card import (
    CARD_FILE,
    QUERY_TOWER_FILE,
    SMALL_QUERY_TOWER_FILE,
    TOKENIZER_FILE,
    TowerCard,
    split_tower_id,
)
from retrieval.errors import TowerError
from retrieval.index.hybrid_tuning import TUNING_FILE, Tuning

logger = logging.getLogger(__name__)

# the card is last, because a card marks the folder as complete
SERVING_FILES = (QUERY_TOWER_FILE, TOKENIZER_FILE, CARD_FILE)
SMALL_SERVING_FILES = (SMALL_QUERY_TOWER_FILE, TOKENIZER_FILE, CARD_FILE)


def tower_folder(towers: str, tower_id: str, cache: Path, files: Sequence[str] = SERVING_FILES) -> Path:
    """Return the folder of a tower's artefact on this machine.

    Args:
        towers: folder or s3://bucket/prefix with one sub-folder per tower.
        tower_id: id of the tower; a shorter length of vectors in it is ignored.
        cache: folder for files that are fetched from S3.
        files: names of the files that are fetched from S3, the card last.

    Raises:
        TowerError: there is no such tower, or another tower is in its folder.
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


def folder_with(towers: str, tower_id: str, cache: Path, names: Sequence[str]) -> Path:
    """Return tower_folder() with those of some files that the tower has, such as its image encoder; only here S3 is asked for them.

    Raises:
        TowerError: there is no such tower, or one of its files cannot be fetched.
    """
    folder = tower_folder(towers, tower_id, cache)
    artefact, _ = split_tower_id(tower_id)
    if towers.startswith("s3://"):
        for name in _card_in(folder, artefact).files.keys() & set(names):
            if not _is_whole(folder, artefact, [name]):
                _download(towers, artefact, name, folder)
    return folder


def tower_card(towers: str, tower_id: str, cache: Path) -> TowerCard:
    """Return the card of a tower for the length of vectors that the tower_id names. Only the card is fetched from S3.

    Args:
        towers: folder or s3://bucket/prefix with one sub-folder per tower.
        tower_id: id of the tower; it may name a shorter length of vectors.
        cache: folder for cards from S3; not that of tower_folder(), because a card marks a folder as complete.

    Raises:
        TowerError: there is no such tower, another tower is in its folder, or it does not serve vectors of this length.
    """
    artefact, dimensions = split_tower_id(tower_id)
    folder = _fetch(towers, artefact, cache, [CARD_FILE]) if towers.startswith("s3://") else Path(towers) / artefact
    return _card_in(folder, artefact).at(dimensions)


def tower_tuning(towers: str, tower_id: str, cache: Path) -> Tuning:
    """Return the tuning of a tower's searches; the default if there is none, or if it cannot be fetched from S3.

    Args:
        towers: folder or s3://bucket/prefix with one sub-folder per tower.
        tower_id: id of the tower.
        cache: folder for files that are fetched from S3.

    Raises:
        TowerError: the file is damaged.
    """
    folder = _with_addition(towers, tower_id, cache, TUNING_FILE)
    return Tuning() if folder is None else Tuning.load(folder)


def tower_buyers(towers: str, tower_id: str, cache: Path) -> BuyerTower:
    """Return the buyer tower of a tower; the weighted average if there is none, or if it cannot be fetched from S3.

    Args:
        towers: folder or s3://bucket/prefix with one sub-folder per tower.
        tower_id: id of the tower; it may name a shorter length of vectors.
        cache: folder for files that are fetched from S3.

    Raises:
        TowerError: the file is damaged.
    """
    folder = _with_addition(towers, tower_id, cache, BUYER_TOWER_FILE)
    return AVERAGE if folder is None else load_buyer_tower(folder, tower_id)


def _with_addition(towers: str, tower_id: str, cache: Path, name: str) -> Path | None:
    """Return the folder of a tower after fetching an optional file from S3; None if the file cannot be fetched."""
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
    except (BotoCoreError, ClientError) as error:  # a missing file may look like a denied one, if the bucket may not be listed
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
    """Return the card in a folder.

    Raises:
        TowerError: there is no readable card, or it is of another tower.
    """
    card = TowerCard.load(folder)
    if card.tower_id != tower_id:
        raise TowerError(f"{folder} holds tower {card.tower_id}; copy each tower to the folder of its own id")
    return card


def _is_whole(folder: Path, tower_id: str, names: Sequence[str]) -> bool:
    """True if a folder has the card of this tower and all of these files, with the checksums in the card."""
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
