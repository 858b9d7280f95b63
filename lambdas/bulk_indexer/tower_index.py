"""Create the index of a tower before its first part; the state machines call this before a job."""

from pathlib import Path
from tempfile import gettempdir
from typing import Any

from retrieval.config.settings import Settings
from retrieval.contracts.tower_card import TowerCard
from retrieval.encoders.tower_store import tower_card
from retrieval.index.port import IndexStore
from retrieval.ingestion import ensure_index

CARD_CACHE = Path(gettempdir()) / "cards"  # /tmp, the only folder that a Lambda function may write to


def make_index(tower_id: str, store: IndexStore) -> dict[str, Any]:
    """Find the index of a tower, or create one with the vector length in the tower's card.

    Returns:
        {"index": physical name of the index}.

    Raises:
        TowerError: the tower is not in the store of towers.
        IndexUnavailable: the index does not answer.
    """
    return {"index": ensure_index(tower_id, read_card(tower_id).dimensions, store).name}


def read_card(tower_id: str) -> TowerCard:
    """Read the card of a tower from the stage's store of towers.

    Raises:
        TowerError: the tower is not there.
    """
    return tower_card(Settings.from_env().towers, tower_id, CARD_CACHE)
