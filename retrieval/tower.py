"""The card of a tower artefact: which model made the vectors, and how its inputs are prepared."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from retrieval.errors import TowerError

CARD_FILE = "tower.json"
QUERY_TOWER_FILE = "query_tower.onnx"
SMALL_QUERY_TOWER_FILE = "query_tower_small.npz"  # made from the others, later or never: no part of the tower's identity
TOKENIZER_FILE = "tokenizer.json"
ITEM_TOWER_FILE = "item_tower.safetensors"
HASHED_FILES = (QUERY_TOWER_FILE, TOKENIZER_FILE, ITEM_TOWER_FILE)
IMAGE_TOWER_FILE = "image_tower.onnx"  # made of the item tower's weights: no part of the id, so that older towers can be given it
TOWER_ID_CHARS = 12
LENGTH_MARK = "."  # between the id of an artefact and a shorter length of its vectors


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
        matryoshka: shorter lengths at which the first numbers of a vector, scaled to unit length, serve alone.
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
    matryoshka: tuple[int, ...] = ()

    @property
    def sees_photos(self) -> bool:
        """Whether the artefact has the image branch that a search by photo encodes with."""
        return IMAGE_TOWER_FILE in self.files

    @property
    def served(self) -> tuple[int, ...]:
        """The lengths of vectors that the tower serves, its own first."""
        return (self.dimensions, *self.matryoshka)

    def at(self, dimensions: int | None) -> "TowerCard":
        """The card of the same tower that serves vectors of another length, under a tower_id of its own.

        Vectors of two lengths never meet, as those of two towers: "1a2b3c4d5e6f.64" names the 64 first numbers of a tower's.

        Args:
            dimensions: one of `served`; None is the tower's own.

        Raises:
            TowerError: the tower was not trained to serve it.
        """
        if dimensions is None or dimensions == self.dimensions:
            return self
        if dimensions not in self.matryoshka:
            lengths = ", ".join(map(str, self.served))
            raise TowerError(
                f"tower {self.tower_id} serves vectors of {lengths}, not of {dimensions}; train one with {dimensions} in its "
                "matryoshka lengths"
            )
        return replace(self, tower_id=f"{self.tower_id}{LENGTH_MARK}{dimensions}", dimensions=dimensions, matryoshka=())

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
        matryoshka: tuple[int, ...] = (),
    ) -> "TowerCard":
        """Hash the artefact's files and its preprocessing into a card; the caller saves it.

        Args:
            folder: holds query_tower.onnx, tokenizer.json and item_tower.safetensors, and where the tower has eyes
                image_tower.onnx; further arguments as the attributes.

        Raises:
            TowerError: a file is missing.
        """
        files = {name: sha256_of(folder / name) for name in HASHED_FILES}
        card = cls("", preset, dimensions, max_length, image_size, image_mean, image_std, architecture, files, matryoshka)
        identity = hashlib.sha256(json.dumps(asdict(card), sort_keys=True).encode()).hexdigest()
        card = cls(**{**asdict(card), "tower_id": identity[:TOWER_ID_CHARS]})
        return card.with_image_tower(folder) if (folder / IMAGE_TOWER_FILE).is_file() else card

    def with_image_tower(self, folder: Path) -> "TowerCard":
        """The same card that also names the image branch lying in a folder; the caller saves it.

        Raises:
            TowerError: the file is missing.
        """
        return replace(self, files={**self.files, IMAGE_TOWER_FILE: sha256_of(folder / IMAGE_TOWER_FILE)})

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
            values["matryoshka"] = tuple(values.get("matryoshka", ()))  # older cards have none
            card = cls(**values)
        except FileNotFoundError:
            raise TowerError(f"{folder} holds no {CARD_FILE}; train a tower with `gavel train`") from None
        except (ValueError, TypeError, KeyError) as error:
            raise TowerError(f"{path} is not a tower card: {error}") from error
        for name, digest in card.files.items() if verify else ():
            if sha256_of(folder / name) != digest:
                raise TowerError(f"{folder / name} is not the file that tower {card.tower_id} was saved with; copy it again")
        return card


def split_tower_id(tower_id: str) -> tuple[str, int | None]:
    """Take a tower_id apart: the artefact's, and the length of its vectors where that is not the tower's own."""
    artefact, mark, length = tower_id.partition(LENGTH_MARK)
    return (artefact, int(length)) if mark and length.isdecimal() else (tower_id, None)


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
