"""Load the query encoder that the settings choose: the full one, or the small one that was distilled from it."""

from pathlib import Path

from retrieval.config.settings import Settings
from retrieval.contracts.tower_card import split_tower_id
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.encoders.static_query_encoder import SmallQueryEncoder
from retrieval.encoders.tower_store import SERVING_FILES, SMALL_SERVING_FILES, tower_folder
from retrieval.encoders.words_only import TOWER_ID, WordsOnly


def load_query_tower(settings: Settings, tower_id: str, cache: Path) -> QueryEncoder | SmallQueryEncoder | WordsOnly:
    """Load the full or the small query encoder of a tower, or the stand-in of an index that is searched by words alone.

    Args:
        settings: settings of the process; `towers` and `query_tower` are read.
        tower_id: id of the tower; it may name a shorter length of vectors.
        cache: folder for files that are fetched from S3.

    Raises:
        TowerError: there is no such tower, the small encoder is requested and missing, or a file is damaged.
    """
    if tower_id == TOWER_ID:
        return WordsOnly()
    small = settings.query_tower == "small"
    folder = tower_folder(settings.towers, tower_id, cache, SMALL_SERVING_FILES if small else SERVING_FILES)
    dimensions = split_tower_id(tower_id)[1]
    return SmallQueryEncoder.load(folder, dimensions) if small else QueryEncoder.load(folder, dimensions)
