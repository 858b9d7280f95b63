"""The card of a tower artefact: which model made the vectors, and how its inputs are prepared."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from retrieval.errors import TowerError
from retrieval.files import replace_file, sha256_of, shortage

logger = logging.getLogger(__name__)

CARD_FILE = "tower.json"
QUERY_TOWER_FILE = "query_tower.onnx"
SMALL_QUERY_TOWER_FILE = "query_tower_small.npz"  # made from the others, later or never: no part of the tower's identity
TOKENIZER_FILE = "tokenizer.json"
ITEM_TOWER_FILE = "item_tower.safetensors"
HASHED_FILES = (QUERY_TOWER_FILE, TOKENIZER_FILE, ITEM_TOWER_FILE)
IMAGE_TOWER_FILE = "image_tower.onnx"  # made of the item tower's weights: no part of the id, so that older towers can be given it
TOWER_ID_CHARS = 12
COPY = "copy it again, with the whole tower folder, or train a tower with `gavel train`, embed and index with it"
LENGTH_MARK = "."  # between the id of an artefact and a shorter length of its vectors


@dataclass(frozen=True)
class TowerCard:
    """The content of `tower.json` beside a tower's weights.

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
    def has_image_encoder(self) -> bool:
        """True if the artefact has the image encoder of searches by photo."""
        return IMAGE_TOWER_FILE in self.files

    @property
    def served(self) -> tuple[int, ...]:
        """Return the lengths of vectors that the tower serves, its own first."""
        return (self.dimensions, *self.matryoshka)

    def at(self, dimensions: int | None) -> "TowerCard":
        """Return the card of the same tower for vectors of another length, with its own tower_id.

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
        files = {name: _sha256_of(folder / name) for name in HASHED_FILES}
        card = cls("", preset, dimensions, max_length, image_size, image_mean, image_std, architecture, files, matryoshka)
        card = replace(card, tower_id=_id_of(asdict(card)))
        return card.with_files(folder, IMAGE_TOWER_FILE) if (folder / IMAGE_TOWER_FILE).is_file() else card

    def with_files(self, folder: Path, *names: str) -> "TowerCard":
        """Return the same card with the checksums of some files of the folder; the caller saves it.

        Raises:
            TowerError: a file is missing.
        """
        return replace(self, files={**self.files, **{name: _sha256_of(folder / name) for name in names}})

    def save(self, folder: Path) -> None:
        """Write the card; do it last: its presence says that the artefact is whole."""
        replace_file(folder / CARD_FILE, json.dumps(asdict(self), indent=2) + "\n")

    def save_again(self, folder: Path) -> None:
        """Write the card in place of an older one and keep its time, by which the newest tower is found."""
        saved_at = (folder / CARD_FILE).stat().st_mtime_ns
        self.save(folder)
        os.utime(folder / CARD_FILE, ns=(saved_at, saved_at))

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
            values = json.loads(path.read_bytes())
            values["image_mean"], values["image_std"] = tuple(values["image_mean"]), tuple(values["image_std"])
            card = cls(**{**values, "matryoshka": tuple(values.get("matryoshka", ()))})  # older cards have none
            card._check_id(aged="matryoshka" not in values)
        except FileNotFoundError:
            raise TowerError(f"{folder} holds no {CARD_FILE}; train a tower with `gavel train`") from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise TowerError(shortage(path, error) or f"{path} is not a tower card: {error}; {COPY}") from error
        for name in card.files if verify else ():
            card.check_file(folder, name)
        return card

    def _check_id(self, *, aged: bool) -> None:
        """Compare the id with what it is a hash of; a card without the hashes of all weights is taken as it is.

        Args:
            aged: the card was written by a version that knew no shorter lengths.

        Raises:
            ValueError: the id is of another card.
        """
        if not self.files.keys() >= set(HASHED_FILES):
            return
        fields = {**asdict(self), "tower_id": "", "files": {name: self.files[name] for name in HASHED_FILES}}
        ids = {_id_of(fields)} | ({_id_of({k: v for k, v in fields.items() if k != "matryoshka"})} if aged else set())
        if self.tower_id not in ids:
            raise ValueError(f"its fields are not those that {self.tower_id} is the hash of")

    def check_file(self, folder: Path, name: str) -> None:
        """Compare a file's bytes with the checksum in the card.

        Raises:
            TowerError: the file is missing, or not the one that the tower was saved with.
        """
        self._check(folder / name, _sha256_of(folder / name))

    def read_file(self, folder: Path, name: str) -> bytes:
        """Read a file of the artefact; its bytes are compared with the checksum in the card.

        Raises:
            TowerError: the file is missing, or not the one that the tower was saved with.
        """
        path = folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _unreadable(path, error) from error
        self._check(path, hashlib.sha256(content).hexdigest())
        return content

    def _check(self, path: Path, digest: str) -> None:
        if path.name not in self.files:
            _tell_unchecked(self.tower_id, path.name)
        elif digest != self.files[path.name]:
            raise TowerError(f"{path} is not the file that tower {self.tower_id} was saved with; {COPY}")


def split_tower_id(tower_id: str) -> tuple[str, int | None]:
    """Take a tower_id apart: the artefact's, and the length of its vectors where that is not the tower's own."""
    artefact, mark, length = tower_id.partition(LENGTH_MARK)
    return (artefact, int(length)) if mark and length.isdecimal() else (tower_id, None)


def _id_of(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:TOWER_ID_CHARS]


def _sha256_of(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> TowerError:
    if isinstance(error, FileNotFoundError):
        return TowerError(f"{path} is missing; {COPY}")
    return TowerError(f"{path} cannot be read ({error.strerror}); mend its permissions, or {COPY}")


@cache
def _tell_unchecked(tower_id: str, name: str) -> None:
    """Log, once a process, that a card of an older version has no checksum of a file."""
    logger.warning(
        "the card of tower %s has no checksum of %s, which is loaded unchecked; `gavel export checksums %s` adds it",
        tower_id,
        name,
        tower_id,
    )
