"""Photos as queries: encode them with the active tower, and combine a photo and words in one vector."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Protocol

from retrieval.buyers.vector import unit_vector
from retrieval.config.settings import scoring_parameters
from retrieval.contracts.documents import Vector
from retrieval.contracts.tower_card import IMAGE_TOWER_FILE, split_tower_id
from retrieval.encoders.tower_store import folder_with
from retrieval.errors import NoImageBranch, TowerMismatch
from retrieval.search.cache import CacheUse, LruCache

CACHED_PHOTOS = 1_000  # so that a later page of an answer does not decode the photo again
CACHED_PHOTOS_S = 3_600.0


class PhotoEncoder(Protocol):
    """An image encoder, as a search by photo uses it."""

    @property
    def tower_id(self) -> str:
        """Return the id of the encoder's tower."""

    def encode(self, photo: bytes) -> Vector:
        """Return the vector of a photo, (D,) float32 of unit length.

        Raises:
            InvalidPhoto: `photo` is not the bytes of a still JPEG, PNG or WebP.
            TowerError: the encoder cannot be used.
        """


def load_image_branch(towers: str, cache: Path, tower_id: str) -> PhotoEncoder:
    """Load the image encoder of a tower.

    Args:
        towers: folder or s3://bucket/prefix with one sub-folder per tower.
        cache: folder for files from S3.
        tower_id: id of the tower; it may name a shorter length of vectors.

    Raises:
        NoImageBranch: the tower has no image encoder; the message names the remedy.
        TowerError: there is no such tower, or its files are missing or damaged.
    """
    from retrieval.encoders.image_encoder import ImageEncoder  # imports Pillow, only for the first photo

    return ImageEncoder.load(folder_with(towers, tower_id, cache, [IMAGE_TOWER_FILE]), split_tower_id(tower_id)[1])


def no_image_branch(tower_id: str) -> PhotoEncoder:
    """Refuse to load an image encoder, in services that are wired without one.

    Raises:
        NoImageBranch: always.
    """
    raise NoImageBranch(f"this search was set up without photos, so tower {tower_id} takes words alone; search by words")


class PhotoQueries:
    """The image encoder of the active tower, loaded for the first photo, with a cache of vectors. Threads may share it.

    Args:
        load: tower_id -> image encoder of that tower.
        cached_bytes: maximum size of the cached vectors, in bytes.
    """

    def __init__(self, load: Callable[[str], PhotoEncoder], cached_bytes: float) -> None:
        self._load = load
        self._encoder: PhotoEncoder | None = None
        self._lock = Lock()
        self._vectors: LruCache[Vector] = LruCache(CACHED_PHOTOS, CACHED_PHOTOS_S, cached_bytes)

    def encoder(self, tower_id: str) -> PhotoEncoder:
        """Return the image encoder of a tower.

        Raises:
            NoImageBranch: the tower has no image encoder.
            TowerMismatch: another tower is in the folder of this tower.
            TowerError: the encoder cannot be loaded.
        """
        with self._lock:
            if self._encoder is None or self._encoder.tower_id != tower_id:
                loaded = self._load(tower_id)
                if loaded.tower_id != tower_id:
                    raise TowerMismatch(f"tower {loaded.tower_id} lies in the place of {tower_id}; copy each to its own folder")
                self._encoder = loaded
            return self._encoder

    def use(self) -> CacheUse:
        """Return the counts of the cache of photo vectors."""
        return self._vectors.use()

    def vector(self, encoder: PhotoEncoder, photo: bytes) -> Vector:
        """Return the vector of a photo, (D,) float32 of unit length; the errors are those of PhotoEncoder.encode()."""
        key = encoder.tower_id, hashlib.sha256(photo).digest()
        vector = self._vectors.get(key)
        if vector is None:
            vector = encoder.encode(photo)
            self._vectors.put(key, vector)
        return vector


def with_words(photo: Vector, words: Vector | None) -> Vector:
    """Return one vector of a photo and its words.

    Args:
        photo: (D,) vector of the photo, of unit length.
        words: (D,) vector of the words, of unit length; None without words.

    Returns:
        (D,) float32 of unit length: the weighted mean, in which words have the weight photo_words_share.
    """
    share = scoring_parameters().photo_words_share
    return photo if words is None else unit_vector((1 - share) * photo + share * words)
