"""Which query tower a process encodes with: the full one, or the small one that was made of it."""

from pathlib import Path

from retrieval.config.settings import Settings
from retrieval.contracts.tower_card import split_tower_id
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.encoders.static_query_encoder import SmallQueryEncoder
from retrieval.encoders.tower_store import SERVING_FILES, SMALL_SERVING_FILES, tower_folder


def load_query_tower(settings: Settings, tower_id: str, cache: Path) -> QueryEncoder | SmallQueryEncoder:
    """Load the query tower of a tower_id that the settings choose.

    Args:
        settings: say where towers lie, and which of the two.
        tower_id: which tower, and with a length behind it, vectors of which length.
        cache: folder into which its files are fetched from S3.

    Raises:
        TowerError: there is no such tower, it has no small query tower, or a file is damaged.
    """
    small = settings.query_tower == "small"
    folder = tower_folder(settings.towers, tower_id, cache, SMALL_SERVING_FILES if small else SERVING_FILES)
    dimensions = split_tower_id(tower_id)[1]
    return SmallQueryEncoder.load(folder, dimensions) if small else QueryEncoder.load(folder, dimensions)
