"""The card of a tower artefact: which model made the vectors, and how its inputs are prepared."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from retrieval.errors import TowerError

CARD_FILE = "tower.json"
QUERY_TOWER_FILE = "query_tower.onnx"
TOKENIZER_FILE = "tokenizer.json"
ITEM_TOWER_FILE = "item_tower.safetensors"
HASHED_FILES = (QUERY_TOWER_FILE, TOKENIZER_FILE, ITEM_TOWER_FILE)
TOWER_ID_CHARS = 12


@dataclass(frozen=True)
class TowerCard:
    """What stands in `tower.json` beside a tower's weights.

    Attributes:
        tower_id: 12 hexadecimal digits, a hash of weights and preprocessing.
        preset: name of the architecture, such as "compact".
        dimensions: length of the vectors, 128.
        max_length: tokens of a text that are read; the rest is cut.
        image_size: side of the square photo in pixels; 0 for a tower that reads text alone.
        image_mean: RGB means subtracted from pixels in [0, 1].
        image_std: RGB deviations that the difference is divided by.
        architecture: all that is needed to build the torch modules again, without any hub.
        files: file name -> sha256 of the artefact's files.
    """

    tower_id: str
    preset: str
    dimensions: int
    max_length: int
    image_size: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    architecture: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        preset: str,
        dimensions: int,
        max_length: int,
        image_size: int,
        image_mean: tuple[float, float, float],
        image_std: tuple[float, float, float],
        architecture: Mapping[str, Any],
    ) -> "TowerCard":
        """Hash the artefact's files and its preprocessing into a card; the caller saves it.

        Args:
            folder: holds query_tower.onnx, tokenizer.json and item_tower.safetensors; further arguments as the attributes.

        Raises:
            TowerError: a file is missing.
        """
        files = {name: sha256_of(folder / name) for name in HASHED_FILES}
        card = cls("", preset, dimensions, max_length, image_size, image_mean, image_std, architecture, files)
        identity = hashlib.sha256(json.dumps(asdict(card), sort_keys=True).encode()).hexdigest()
        return cls(**{**asdict(card), "tower_id": identity[:TOWER_ID_CHARS]})

    def save(self, folder: Path) -> None:
        """Write the card; do it last: its presence says that the artefact is whole."""
        partial = folder / f"{CARD_FILE}.partial"
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n")
        partial.replace(folder / CARD_FILE)

    @classmethod
    def load(cls, folder: Path, *, verify: bool = False) -> "TowerCard":
        """Read the card of a tower artefact.

        Args:
            folder: `towers/<tower_id>`.
            verify: also hash the files and compare (reads every byte).

        Raises:
            TowerError: no card, an unreadable card, or a file that is not the one that the card names.
        """
        path = folder / CARD_FILE
        try:
            values = json.loads(path.read_text())
            values["image_mean"], values["image_std"] = tuple(values["image_mean"]), tuple(values["image_std"])
            card = cls(**values)
        except FileNotFoundError:
            raise TowerError(f"{folder} holds no {CARD_FILE}; train a tower with `gavel train`") from None
        except (ValueError, TypeError, KeyError) as error:
            raise TowerError(f"{path} is not a tower card: {error}") from error
        for name, digest in card.files.items() if verify else ():
            if sha256_of(folder / name) != digest:
                raise TowerError(f"{folder / name} is not the file that tower {card.tower_id} was saved with; copy it again")
        return card


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes.

    Raises:
        TowerError: the file is missing.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise TowerError(f"{path} is missing; copy the whole tower folder") from None
