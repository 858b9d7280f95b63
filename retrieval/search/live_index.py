"""The active index with the models of its tower; the alias is read again every few seconds."""

import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.buyers.vector import AVERAGE, BuyerTower
from retrieval.errors import IndexMissing, IndexUnavailable, RankerUnavailable, TowerError, TowerMismatch
from retrieval.index.port import IndexStore, VectorIndex
from retrieval.ranker.port import CrossEncoder, Ranker
from retrieval.resilience import Circuit
from retrieval.search.image_query import PhotoEncoder, no_image_branch

logger = logging.getLogger(__name__)

LIVE_CHECK_S = 5.0  # maximum delay until a swapped alias is noticed


class Encoder(Protocol):
    """A query encoder, as search uses it."""

    @property
    def tower_id(self) -> str:
        """Return the id of the encoder's tower."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of N texts, (N, D) float32 of unit length.

        Raises:
            TowerError: the encoder cannot be used.
        """


@dataclass(frozen=True, slots=True)
class SearchModels:
    """Loaders of the models of a tower; nothing is loaded before the first search.

    Attributes:
        load_encoder: tower_id -> query encoder of the tower.
        load_ranker: tower_id -> re-ranker that was trained on candidates of the tower; None if there is none.
        load_image_encoder: tower_id -> image encoder of the tower; called for the first photo.
        load_buyer_tower: tower_id -> buyer tower of the tower, or the weighted average if it has none.
        tower_id: id of the only tower to accept; empty accepts the tower of the active index.
        query_tower: kind of query encoder that load_encoder returns, `full` or `small`; /health shows it.
        load_cross_encoder: returns the cross-encoder, which is of no tower; None if there is none.
        ranker_stamp: tower_id -> a value that changes when load_ranker would load another re-ranker, so that it is loaded again.
    """

    load_encoder: Callable[[str], Encoder]
    load_ranker: Callable[[str], Ranker | None] = lambda tower_id: None
    load_image_encoder: Callable[[str], PhotoEncoder] = no_image_branch
    load_buyer_tower: Callable[[str], BuyerTower] = lambda tower_id: AVERAGE
    tower_id: str = ""
    query_tower: str = "full"
    load_cross_encoder: Callable[[], CrossEncoder | None] = lambda: None
    ranker_stamp: Callable[[str], Hashable] = lambda tower_id: None


@dataclass(frozen=True, slots=True)
class ActiveIndex:
    """The index behind the alias, with the models of its tower.

    Attributes:
        index: index to search.
        encoder: query encoder of the tower.
        ranker: re-ranker of the tower; None if there is none.
        buyer_tower: encoder of buyers.
        checked_at: time.monotonic() in seconds when the alias was last read.
        complete: True if all models could be loaded. A model that could not is a stand-in that raises at each use.
        cross_encoder: cross-encoder for the best candidates; None if there is none.
        ranker_stamp: stamp of the re-ranker when it was loaded.
    """

    index: VectorIndex
    encoder: Encoder
    ranker: Ranker | None
    buyer_tower: BuyerTower
    checked_at: float
    complete: bool = True
    cross_encoder: CrossEncoder | None = None
    ranker_stamp: Hashable = None


class _UnusableEncoder:
    """A stand-in for an encoder that could not be loaded, so that search continues by keywords and says so."""

    def __init__(self, tower_id: str, reason: str) -> None:
        self.tower_id, self._reason = tower_id, reason

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        raise TowerError(self._reason)


class _UnusableRanker:
    """A stand-in for a re-ranker that could not be loaded, so that every answer names it as a failed component."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        raise RankerUnavailable(self._reason)

    def score_pairs(self, query: str, texts: Sequence[str], timeout_s: float) -> NDArray[np.float32]:
        raise RankerUnavailable(self._reason)


class ActiveIndexCache:
    """The active index of a store, which is renewed when the alias moves.

    Threads may share it. While one thread reads the alias, the others use the previous state.

    Args:
        store: store of the indices.
        models: loaders of the models of a tower.
    """

    def __init__(self, store: IndexStore, models: SearchModels) -> None:
        self._store, self._models = store, models
        self._circuit = Circuit("the alias of the index", IndexUnavailable)
        self._active: ActiveIndex | None = None
        self._lock = threading.Lock()

    def get(self) -> ActiveIndex:
        """Return the active index and its models.

        Raises:
            TowerMismatch: the active index is not of the tower to accept.
            FeatureMismatch: the re-ranker was trained on other features.
            IndexUnavailable: the store does not answer, and there is no previous state. IndexMissing: nothing is published.
        """
        active = self._active
        if active is not None and (_is_fresh(active) or not self._lock.acquire(blocking=False)):
            return active
        if active is None:
            self._lock.acquire()
        try:
            active = self._active  # another thread may have read the alias while this one waited
            if active is None or not _is_fresh(active):
                self._active = active = self._check_alias(active)
            return active
        finally:
            self._lock.release()

    def _check_alias(self, active: ActiveIndex | None) -> ActiveIndex:
        try:
            with self._circuit.guard():
                index = self._store.live()
        except IndexMissing:
            raise
        except IndexUnavailable as error:
            if active is None:
                raise
            logger.warning("searching on in %s, because the alias cannot be read: %s", active.index.name, error)
            return replace(active, checked_at=time.monotonic())
        if active is not None and active.complete and active.index.name == index.name:
            active = replace(active, index=index, checked_at=time.monotonic())
            stamp = self._models.ranker_stamp(index.tower_id)
            if stamp != active.ranker_stamp:
                ranker, complete = self._load_ranker(index.tower_id)
                active = replace(active, ranker=ranker, ranker_stamp=stamp, complete=complete)
            return active
        return self._load_models(index)

    def _load_models(self, index: VectorIndex) -> ActiveIndex:
        encoder, complete = self._load_encoder(self._models.tower_id or index.tower_id)
        if encoder.tower_id != index.tower_id:
            raise TowerMismatch(
                f"index {index.name!r} was built with tower {index.tower_id}, the query with {encoder.tower_id}; "
                f"load tower {index.tower_id} or rebuild the index with `gavel embed` and `gavel index`"
            )
        buyer_tower = self._models.load_buyer_tower(index.tower_id)
        stamp = self._models.ranker_stamp(index.tower_id)  # before it is loaded: a later change has another
        ranker, ranker_loaded = self._load_ranker(index.tower_id)
        complete = complete and ranker_loaded
        cross_encoder: CrossEncoder | None
        try:
            cross_encoder = self._models.load_cross_encoder()
        except RankerUnavailable as error:
            cross_encoder, complete = _UnusableRanker(str(error)), False
        return ActiveIndex(index, encoder, ranker, buyer_tower, time.monotonic(), complete, cross_encoder, stamp)

    def _load_ranker(self, tower_id: str) -> tuple[Ranker | None, bool]:
        try:
            return self._models.load_ranker(tower_id), True
        except RankerUnavailable as error:
            return _UnusableRanker(str(error)), False

    def _load_encoder(self, tower_id: str) -> tuple[Encoder, bool]:
        try:
            return self._models.load_encoder(tower_id), True
        except TowerMismatch:
            raise
        except TowerError as error:
            logger.error("searching by words alone: %s", error)
            return _UnusableEncoder(tower_id, str(error)), False


def _is_fresh(active: ActiveIndex) -> bool:
    return time.monotonic() - active.checked_at <= LIVE_CHECK_S
