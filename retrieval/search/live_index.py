"""The live index with the models of its tower, looked at again every few seconds."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.buyers.vector import BuyerTower
from retrieval.errors import IndexMissing, IndexUnavailable, RankerUnavailable, TowerError, TowerMismatch
from retrieval.index.port import IndexStore, VectorIndex
from retrieval.ranker.port import Ranker
from retrieval.resilience import Circuit

logger = logging.getLogger(__name__)

LIVE_CHECK_S = 5.0  # how long a swapped alias may go unseen


class Encoder(Protocol):
    """What a search needs of a query tower."""

    @property
    def tower_id(self) -> str:
        """The tower it belongs to."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, dimensions) float32 of unit length for N texts.

        Raises:
            TowerError: it cannot be encoded with.
        """


@dataclass(frozen=True, slots=True)
class ActiveIndex:
    """The live index with the models that belong to its tower.

    Attributes:
        index: what is searched.
        encoder: its query tower.
        ranker: its re-ranker, if there is one.
        buyer_tower: what encodes buyers among its lots.
        checked_at: when the alias was looked at, by time.monotonic().
        whole: whether all models could be loaded; those that could not raise whenever they are used.
    """

    index: VectorIndex
    encoder: Encoder
    ranker: Ranker | None
    buyer_tower: BuyerTower
    checked_at: float
    whole: bool = True


class _UnusableEncoder:
    """Stands for a tower that could not be loaded, so that search goes on by words and says so."""

    def __init__(self, tower_id: str, reason: str) -> None:
        self.tower_id, self._reason = tower_id, reason

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        raise TowerError(self._reason)


class _UnusableRanker:
    """Stands for a re-ranker that is there but could not be loaded, so that every answer says that it was done without."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        raise RankerUnavailable(self._reason)


class ActiveIndexCache:
    """Follows the alias of a store. Threads may share it: one looks, the others go on with what was known.

    Args:
        store: where the live index stands.
        load_encoder: tower_id -> the query tower of that id.
        load_ranker: tower_id -> the re-ranker trained on that tower's candidates, or None.
        load_buyer_tower: tower_id -> what encodes buyers with the lots of that tower.
        tower_id: the only tower to accept; empty accepts the one that the live index names.
    """

    def __init__(
        self,
        store: IndexStore,
        load_encoder: Callable[[str], Encoder],
        load_ranker: Callable[[str], Ranker | None],
        load_buyer_tower: Callable[[str], BuyerTower],
        tower_id: str,
    ) -> None:
        self._store, self._load_encoder, self._load_ranker, self._pinned_tower = store, load_encoder, load_ranker, tower_id
        self._load_buyer_tower = load_buyer_tower
        self._circuit = Circuit("the alias of the index", IndexUnavailable)
        self._known: ActiveIndex | None = None
        self._turn = threading.Lock()

    def get(self) -> ActiveIndex:
        """The live index and its models.

        Raises:
            TowerMismatch: it is of another tower than the one to accept.
            FeatureMismatch: the re-ranker was trained on other features.
            IndexUnavailable: no index was known yet, and the store does not answer; IndexMissing when nothing is published.
        """
        known = self._known
        if known is not None and (_is_fresh(known) or not self._turn.acquire(blocking=False)):
            return known
        if known is None:
            self._turn.acquire()
        try:
            known = self._known  # another thread may have looked while this one waited
            if known is None or not _is_fresh(known):
                self._known = known = self._look(known)
            return known
        finally:
            self._turn.release()

    def _look(self, known: ActiveIndex | None) -> ActiveIndex:
        try:
            with self._circuit.guard():
                index = self._store.live()
        except IndexMissing:
            raise
        except IndexUnavailable as error:
            if known is None:
                raise
            logger.warning("searching on in %s, for the alias cannot be looked at: %s", known.index.name, error)
            return replace(known, checked_at=time.monotonic())
        if known is not None and known.whole and known.index.name == index.name:
            return replace(known, index=index, checked_at=time.monotonic())
        return self._open(index)

    def _open(self, index: VectorIndex) -> ActiveIndex:
        encoder, encodes = self._encoder(self._pinned_tower or index.tower_id)
        if encoder.tower_id != index.tower_id:
            raise TowerMismatch(
                f"index {index.name!r} was built with tower {index.tower_id}, the query with {encoder.tower_id}; "
                f"load tower {index.tower_id} or rebuild the index with `gavel embed` and `gavel index`"
            )
        buyer_tower = self._load_buyer_tower(index.tower_id)
        try:
            return ActiveIndex(index, encoder, self._load_ranker(index.tower_id), buyer_tower, time.monotonic(), encodes)
        except RankerUnavailable as error:
            return ActiveIndex(index, encoder, _UnusableRanker(str(error)), buyer_tower, time.monotonic(), whole=False)

    def _encoder(self, tower_id: str) -> tuple[Encoder, bool]:
        try:
            return self._load_encoder(tower_id), True
        except TowerMismatch:
            raise
        except TowerError as error:
            logger.error("searching by words alone: %s", error)
            return _UnusableEncoder(tower_id, str(error)), False


def _is_fresh(known: ActiveIndex) -> bool:
    return time.monotonic() - known.checked_at <= LIVE_CHECK_S
