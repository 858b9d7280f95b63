"""The index of a tower before the first of its parts: the state machines ask for it before a job."""

from pathlib import Path
from typing import Any

from retrieval.config.settings import Settings
from retrieval.encoders.tower_store import tower_card
from retrieval.index.port import IndexStore
from retrieval.ingestion import ensure_index

CARD_CACHE = Path("/tmp/cards")  # the one folder that Lambda lets a function write to


def make_index(tower_id: str, store: IndexStore) -> dict[str, Any]:
    """Make the index of a tower, or find the one that is there; the length of its vectors stands in the tower's card.

    Returns:
        {"index": its physical name}.

    Raises:
        TowerError: the tower is not where towers lie.
        IndexUnavailable: the index does not answer.
    """
    card = tower_card(Settings.from_env().towers, tower_id, CARD_CACHE)
    return {"index": ensure_index(tower_id, card.dimensions, store).name}
