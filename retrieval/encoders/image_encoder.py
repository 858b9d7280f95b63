"""The image encoder of a tower for serving, with only Pillow, ONNX Runtime and numpy."""

from pathlib import Path
from threading import Lock

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from retrieval.contracts.tower_card import COPY, IMAGE_TOWER_FILE, TowerCard
from retrieval.encoders.photos import read_query_photo
from retrieval.encoders.query_encoder import UNRUNNABLE, load_session, to_unit_length
from retrieval.errors import NoImageBranch, TowerError

PIXELS, PHOTO_VECTOR = "pixels", "photo_vector"  # names of input and output of the ONNX graph


class ImageEncoder:
    """An encoder of buyers' photos as unit vectors in the space of the items. Threads may share it.

    Attributes:
        card: card of the tower.
    """

    def __init__(self, card: TowerCard, session: onnxruntime.InferenceSession) -> None:
        self.card = card
        self._session = session
        self._turn = Lock()  # one photo at a time, because decoding the largest allowed photo takes 400 MB

    @classmethod
    def load(cls, folder: Path, dimensions: int | None = None) -> "ImageEncoder":
        """Load the image encoder of an artefact.

        Args:
            folder: folder of the artefact, `towers/<tower_id>`.
            dimensions: length of the vectors, one of card.served; None is the tower's own.

        Raises:
            NoImageBranch: the tower reads no photos, or was saved by a version that saved no image encoder.
            TowerError: a file is missing or damaged, or the tower does not serve vectors of this length.
        """
        card = TowerCard.load(folder)
        check_image_branch(card)
        session = load_session(folder, IMAGE_TOWER_FILE, card)
        have = (session.get_inputs()[0].shape[1:], session.get_outputs()[0].shape[-1])
        side = card.image_size
        if have != ([side, side, 3], card.dimensions):
            raise TowerError(f"{folder / IMAGE_TOWER_FILE} is not the one of its card; {COPY}")
        return cls(card.at(dimensions), session)

    @property
    def tower_id(self) -> str:
        """Return the id of the tower that encodes these vectors."""
        return self.card.tower_id

    def encode(self, photo: bytes) -> NDArray[np.float32]:
        """Encode one photo.

        Args:
            photo: bytes of a still JPEG, PNG or WebP.

        Returns:
            (dimensions,) float32 of unit length.

        Raises:
            InvalidPhoto: `photo` is not such bytes, or is too large; the message names the reason.
            NoImageBranch: the image encoder was never trained, so that it returns only zeros.
            TowerError: the model cannot be run.
        """
        with self._turn:
            pixels = read_query_photo(photo, self.card.image_size)  # (S, S, 3)
            try:
                whole = self._session.run([PHOTO_VECTOR], {PIXELS: pixels[np.newaxis]})[0]  # (1, D)
            except UNRUNNABLE as error:
                raise TowerError(f"the image branch of tower {self.tower_id} cannot be run: {error}; {COPY}") from error
        vector: NDArray[np.float32] = to_unit_length(whole[:, : self.card.dimensions])[0]
        if not vector.any():
            raise NoImageBranch(f"tower {self.tower_id} makes nothing of photos: its image branch was never trained; train it")
        return vector


def check_image_branch(card: TowerCard) -> None:
    """Check that a tower can be searched by photo.

    Raises:
        NoImageBranch: the tower reads no photos, or has no image encoder; the message names the remedy.
    """
    if not card.image_size:
        raise NoImageBranch(
            f"tower {card.tower_id} reads text alone, so its lots cannot be searched by photo; train one without --text-only "
            "on lots with photos, then embed and index with it"
        )
    if not card.has_image_encoder:
        raise NoImageBranch(
            f"tower {card.tower_id} was saved without the image branch that a search by photo needs; "
            f"`gavel export image {card.tower_id}` adds it, lots stay as they are"
        )
