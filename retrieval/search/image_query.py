"""Photos as questions: the image branch of the live tower, loaded when the first photo comes, and photo and words as one vector."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Protocol

from retrieval.buyers.vector import unit_vector
from retrieval.config.settings import scoring_parameters
from retrieval.contracts.documents import Vector
from retrieval.contracts.tower_card import split_tower_id
from retrieval.encoders.tower_store import image_tower_folder
from retrieval.errors import NoImageBranch, TowerMismatch
from retrieval.search.cache import CacheUse, LruCache

CACHED_PHOTOS = 1_000  # vectors, so that a later page of an answer does not decode the photo again
CACHED_PHOTOS_S = 3_600.0


class PhotoEncoder(Protocol):
    """What a search by photo needs of a tower's image branch."""

    @property
    def tower_id(self) -> str:
        """The tower it belongs to."""

    def encode(self, photo: bytes) -> Vector:
        """(dimensions,) float32 of unit length.

        Raises:
            InvalidPhoto: these are not the bytes of a still JPEG, PNG or WebP.
            TowerError: it cannot be encoded with.
        """


def load_image_branch(towers: str, cache: Path, tower_id: str) -> PhotoEncoder:
    """The image branch of a tower.

    Args:
        towers: folder, or s3://bucket/prefix, that holds one sub-folder a tower.
        cache: folder into which it is fetched from S3.
        tower_id: which one.

    Raises:
        NoImageBranch: the tower has none; the message names the remedy.
        TowerError: there is no such tower, or its files are missing or damaged.
    """
    from retrieval.encoders.image_encoder import ImageEncoder  # brings Pillow: who never sees a photo pays nothing

    return ImageEncoder.load(image_tower_folder(towers, tower_id, cache), split_tower_id(tower_id)[1])


def no_image_branch(tower_id: str) -> PhotoEncoder:
    """Stands where a service was wired without a way to load image branches.

    Raises:
        NoImageBranch: always.
    """
    raise NoImageBranch(f"this search was set up without photos, so tower {tower_id} takes words alone; search by words")


class PhotoQueries:
    """Encodes photos with the image branch of whichever tower is live. Threads may share it.

    Args:
        load: tower_id -> the image branch of that tower.
        cached_bytes: that the encoded photos may take.
    """

    def __init__(self, load: Callable[[str], PhotoEncoder], cached_bytes: float) -> None:
        self._load = load
        self._known: PhotoEncoder | None = None
        self._turn = Lock()
        self._vectors: LruCache[Vector] = LruCache(CACHED_PHOTOS, CACHED_PHOTOS_S, cached_bytes)

    def encoder(self, tower_id: str) -> PhotoEncoder:
        """The image branch of a tower.

        Raises:
            NoImageBranch: the tower has none.
            TowerMismatch: another tower lies in its place.
            TowerError: it cannot be loaded.
        """
        with self._turn:
            if self._known is None or self._known.tower_id != tower_id:
                loaded = self._load(tower_id)
                if loaded.tower_id != tower_id:
                    raise TowerMismatch(f"tower {loaded.tower_id} lies in the place of {tower_id}; copy each to its own folder")
                self._known = loaded
            return self._known

    def use(self) -> CacheUse:
        """Return the use of the cache of encoded photos."""
        return self._vectors.use()

    def vector(self, encoder: PhotoEncoder, photo: bytes) -> Vector:
        """(D,) float32 of unit length for the bytes of a photo; raises what the encoder does."""
        key = encoder.tower_id, hashlib.sha256(photo).digest()
        vector = self._vectors.get(key)
        if vector is None:
            vector = encoder.encode(photo)
            self._vectors.put(key, vector)
        return vector


def with_words(photo: Vector, words: Vector | None) -> Vector:
    """One vector of a photo and of the words beside it.

    Args:
        photo: (D,) of unit length.
        words: (D,) of unit length, as the query tower encodes them; None when there are none.

    Returns:
        (D,) float32 of unit length: photo and words by the photo_words_share, scaled.
    """
    share = scoring_parameters().photo_words_share
    return photo if words is None else unit_vector((1 - share) * photo + share * words)
