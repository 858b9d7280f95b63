"""The item tower's image branch at serving time: Pillow, ONNX Runtime and numpy, nothing else."""

from pathlib import Path
from threading import Lock

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from retrieval.contracts.tower_card import COPY, IMAGE_TOWER_FILE, TowerCard
from retrieval.encoders.photos import read_query_photo
from retrieval.encoders.query_encoder import UNRUNNABLE, load_session, to_unit_length
from retrieval.errors import NoImageBranch, TowerError

PIXELS, PHOTO_VECTOR = "pixels", "photo_vector"  # input and output of the graph


class ImageEncoder:
    """Turns photos that buyers search by into unit vectors of the space that the lots live in. Threads may share it.

    Attributes:
        card: the tower that it is.
    """

    def __init__(self, card: TowerCard, session: onnxruntime.InferenceSession) -> None:
        self.card = card
        self._session = session
        self._turn = Lock()  # one at a time: the largest photo that is taken fills 400 MB while it is decoded

    @classmethod
    def load(cls, folder: Path, dimensions: int | None = None) -> "ImageEncoder":
        """Load the image branch of an artefact.

        Args:
            folder: `towers/<tower_id>`.
            dimensions: length of the vectors, one that the card says is served; None is the tower's own.

        Raises:
            NoImageBranch: the tower reads no photos, or was saved by a version that kept no image branch.
            TowerError: a file is missing or damaged; or vectors of `dimensions` are not served.
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
            photo: the bytes of a still JPEG, PNG or WebP.

        Returns:
            (dimensions,) float32 of unit length.

        Raises:
            InvalidPhoto: it is no such picture; the message names the reason.
            NoImageBranch: the tower's image branch was never trained, and its vectors are nothing.
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
    """Refuse a tower that cannot be searched by photo.

    Raises:
        NoImageBranch: the message names the remedy.
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
