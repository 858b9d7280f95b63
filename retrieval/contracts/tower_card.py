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
from retrieval.files import reason_of, replace_file, sha256_of, shortage

logger = logging.getLogger(__name__)

CARD_FILE = "tower.json"
QUERY_TOWER_FILE = "query_tower.onnx"
SMALL_QUERY_TOWER_FILE = "query_tower_small.npz"  # made from the others, later or never, so the tower_id does not depend on it
TOKENIZER_FILE = "tokenizer.json"
ITEM_TOWER_FILE = "item_tower.safetensors"
HASHED_FILES = (QUERY_TOWER_FILE, TOKENIZER_FILE, ITEM_TOWER_FILE)
IMAGE_TOWER_FILE = "image_tower.onnx"  # made of the item tower's weights; not part of the id, so older towers can get it later
ITEM_TEXT_FILE, ITEM_PHOTO_FILE, ITEM_FUSION_FILE = "item_text.onnx", "item_photo.onnx", "item_fusion.onnx"
ITEM_ENCODER_FILES = (ITEM_TEXT_FILE, ITEM_PHOTO_FILE, ITEM_FUSION_FILE)  # likewise; a tower of texts has no ITEM_PHOTO_FILE
TOWER_ID_CHARS = 12
COPY = "copy it again, with the whole tower folder, or train a tower with `gavel train`, embed and index with it"
LENGTH_MARK = "."  # separates the id of an artefact and a shorter length of its vectors in a tower_id


@dataclass(frozen=True)
class TowerCard:
    """The content of `tower.json` beside a tower's weights.

    Attributes:
        tower_id: hash of weights and preprocessing, 12 hexadecimal digits; card.at() appends a shorter length.
        preset: name of the architecture, such as "compact".
        dimensions: length of the vectors.
        max_length: maximum number of tokens of a text; the rest is cut.
        image_size: side of the square photo in pixels; 0 for a tower that reads only text.
        image_mean: RGB means, which are subtracted from pixels in [0, 1].
        image_std: RGB standard deviations, by which the differences are divided.
        architecture: configuration from which the torch modules can be built again, without any hub.
        files: file name -> hexadecimal sha256 of the artefact's files.
        matryoshka: shorter lengths of vectors. The first numbers of a vector, scaled to unit length, are a vector of that length.
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
        """True if the artefact has an image encoder, so that it can be searched by photo."""
        return IMAGE_TOWER_FILE in self.files

    @property
    def has_item_encoder(self) -> bool:
        """True if the artefact has the item tower as ONNX, so that single items can be encoded without torch."""
        return ITEM_FUSION_FILE in self.files

    @property
    def served(self) -> tuple[int, ...]:
        """Return the lengths of vectors that the tower serves, its own first."""
        return (self.dimensions, *self.matryoshka)

    def at(self, dimensions: int | None) -> "TowerCard":
        """Return the card of the same tower for vectors of another length, under another tower_id.

        The tower_id "1a2b3c4d5e6f.64" means the first 64 numbers of that tower's vectors. Because the ids differ, vectors of two
        lengths are never compared.

        Args:
            dimensions: one of `served`; None is the tower's own length.

        Raises:
            TowerError: the tower does not serve this length.
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
        """Return a new card, whose tower_id is a hash of the artefact's files and preprocessing; the caller saves it.

        The other arguments are the attributes of the same name.

        Args:
            folder: folder with query_tower.onnx, tokenizer.json, item_tower.safetensors, and image_tower.onnx if the tower has an
                image encoder.

        Raises:
            TowerError: a file is missing.
        """
        files = {name: _sha256_of(folder / name) for name in HASHED_FILES}
        card = cls("", preset, dimensions, max_length, image_size, image_mean, image_std, architecture, files, matryoshka)
        card = replace(card, tower_id=_id_of(asdict(card)))
        return card.with_files(folder, IMAGE_TOWER_FILE) if (folder / IMAGE_TOWER_FILE).is_file() else card

    def with_files(self, folder: Path, *names: str) -> "TowerCard":
        """Return the card with the checksums of these files of the folder added or renewed; the caller saves it.

        Raises:
            TowerError: a file is missing.
        """
        return replace(self, files={**self.files, **{name: _sha256_of(folder / name) for name in names}})

    def save(self, folder: Path) -> None:
        """Write the card. Call it after all other files are written, because a card marks the artefact as complete."""
        replace_file(folder / CARD_FILE, json.dumps(asdict(self), indent=2) + "\n")

    def save_again(self, folder: Path) -> None:
        """Write the card in place of an older one, and keep that one's time, because the newest tower is found by it."""
        saved_at = (folder / CARD_FILE).stat().st_mtime_ns
        self.save(folder)
        os.utime(folder / CARD_FILE, ns=(saved_at, saved_at))

    @classmethod
    def load(cls, folder: Path, *, verify: bool = False) -> "TowerCard":
        """Read the card of a tower artefact.

        Args:
            folder: folder of the artefact, `towers/<tower_id>`.
            verify: True also compares the files with their checksums, which reads every byte.

        Raises:
            TowerError: there is no card, it cannot be read, or a file does not match its checksum.
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
            raise TowerError(shortage(path, error) or f"{path} is not a tower card: {reason_of(error)}; {COPY}") from error
        for name in card.files if verify else ():
            card.check_file(folder, name)
        return card

    def _check_id(self, *, aged: bool) -> None:
        """Check that the tower_id is the hash of the card's fields. A card that lacks hashes of weights is not checked.

        Args:
            aged: True if the card was written by a version without shorter lengths.

        Raises:
            ValueError: the tower_id is not the hash of these fields.
        """
        if not self.files.keys() >= set(HASHED_FILES):
            return
        fields = {**asdict(self), "tower_id": "", "files": {name: self.files[name] for name in HASHED_FILES}}
        ids = {_id_of(fields)} | ({_id_of({k: v for k, v in fields.items() if k != "matryoshka"})} if aged else set())
        if self.tower_id not in ids:
            raise ValueError(f"its fields are not those that {self.tower_id} is the hash of")

    def check_file(self, folder: Path, name: str) -> None:
        """Compare a file's bytes with the checksum in the card; only warn if the card has none.

        Raises:
            TowerError: the file is missing, or not the one that the tower was saved with.
        """
        self._check(folder / name, _sha256_of(folder / name))

    def read_file(self, folder: Path, name: str) -> bytes:
        """Return the bytes of a file of the artefact, after a comparison with the checksum in the card.

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
    """Split a tower_id into the id of the artefact and the shorter length of its vectors; None for the tower's own length."""
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
    """Warn, once per process and file, that the card of an older version has no checksum of a file."""
    logger.warning(
        "the card of tower %s has no checksum of %s, which is loaded unchecked; `gavel export checksums %s` adds it",
        tower_id,
        name,
        tower_id,
    )
