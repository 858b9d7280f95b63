"""The first stage of a search: candidates from the index, from one of its two lists alone when the other one fails."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from retrieval.buyers.vector import BuyerTower, BuyerVector, buyer_vector
from retrieval.contracts.documents import Vector
from retrieval.contracts.events import Interaction
from retrieval.contracts.items import query_text
from retrieval.deadline import Deadline
from retrieval.errors import GavelError, IndexMissing, IndexUnavailable, InvalidInput, TowerError
from retrieval.index.fusion import Fusion
from retrieval.index.port import Candidate, Filter, TopField, VectorIndex
from retrieval.index.ranking import fuse_candidates
from retrieval.resilience import Circuit
from retrieval.search.request import SearchRequest

logger = logging.getLogger(__name__)

Found = TypeVar("Found")
WAYS = ("hybrid", "semantic", "keyword", "fetch", "spelling", "top")


def retrieve(index: VectorIndex, request: SearchRequest, vector: Vector, k: int) -> list[Candidate]:
    """k candidates by the request's mode, from an index that is well."""
    text = query_text(request.query)
    match request.mode:
        case "semantic":
            return index.semantic(vector, k, request.filters)
        case "keyword":
            return index.keyword(text, k, request.filters)
        case _:
            return index.hybrid(text, vector, k, request.filters, request.fusion)


class FirstStage:
    """Asks an index within a time, and leaves alone for a while what keeps failing.

    Every way of asking has a circuit of its own, so that a k-NN search which hangs costs keyword search nothing.

    Args:
        timeout_s: seconds until one request to the index is given up.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.circuits = {way: Circuit(f"{way} on the index", IndexUnavailable) for way in WAYS}

    def candidates(
        self, index: VectorIndex, request: SearchRequest, vector: Vector | None, k: int, deadline: Deadline, degraded: list[str]
    ) -> list[Candidate]:
        """k candidates by the request's mode.

        Args:
            index: the live one.
            request: what is asked.
            vector: (dimensions,) float32, the encoded query; None when it could not be encoded, and words are left.
            k: how many.
            deadline: of the whole search.
            degraded: takes the name of the list, "semantic" or "keyword", that hybrid search was done without.

        Raises:
            IndexUnavailable: nothing that was asked answers.
            TowerError: semantic search without a vector.
        """
        if vector is None and request.mode == "semantic":
            raise TowerError("the query could not be encoded; the log says why, and mode=keyword does without")
        if vector is None or request.mode == "keyword":
            return self.ask("keyword", index, deadline, lambda i: i.keyword(query_text(request.query), k, request.filters))
        if request.mode == "semantic":
            return self.nearest(index, vector, k, request.filters, deadline)
        try:
            return self.ask("hybrid", index, deadline, lambda i: retrieve(i, request, vector, k))
        except IndexMissing:
            raise
        except (IndexUnavailable, InvalidInput) as error:
            logger.warning("hybrid search failed, its two lists are asked one by one: %s", error)
        return self._one_by_one(index, request, vector, k, deadline, degraded)

    def both_lists(
        self, index: VectorIndex, request: SearchRequest, vector: Vector | None, k: int, deadline: Deadline
    ) -> dict[str, list[Candidate]]:
        """What vectors find alone, and words; a list that cannot be had is empty."""
        lists: dict[str, list[Candidate]] = {"semantic": [], "keyword": []}
        for way, question in _ways(request, vector, k).items():
            try:
                lists[way] = self.ask(way, index, deadline, question)
            except (IndexUnavailable, InvalidInput) as error:
                logger.warning("explained without the %s list: %s", way, error)
        return lists

    def nearest(self, index: VectorIndex, vector: Vector, k: int, filters: Filter, deadline: Deadline) -> list[Candidate]:
        """The k lots whose vectors are nearest."""
        return self.ask("semantic", index, deadline, lambda i: i.semantic(vector, k, filters))

    def top(self, index: VectorIndex, field: TopField, k: int, filters: Filter, deadline: Deadline) -> list[Candidate]:
        """The k lots with the highest of one of their numbers."""
        return self.ask("top", index, deadline, lambda i: i.top(field, k, filters))

    def fetch(self, index: VectorIndex, item_ids: Sequence[str], deadline: Deadline) -> list[Candidate]:
        """The stored lots of these ids; unknown ones are left out."""
        return self.ask("fetch", index, deadline, lambda i: i.fetch(item_ids))

    def corrections(self, index: VectorIndex, words: Sequence[str], deadline: Deadline) -> dict[str, str]:
        """What words that no lot has were meant to be; nothing where that cannot be had, for a search is one without it."""
        try:
            return self.ask("spelling", index, deadline, lambda i: i.corrections(words))
        except (IndexUnavailable, InvalidInput) as error:
            logger.warning("searching without a look at the spelling: %s", error)
            return {}

    def buyer(self, index: VectorIndex, acts: Sequence[Interaction], tower: BuyerTower, deadline: Deadline) -> BuyerVector:
        """Where a buyer stands, by the stored lots of what they did (buyers.buyer_vector)."""
        return buyer_vector(acts, lambda item_ids: self.fetch(index, item_ids, deadline), tower)

    def ask(self, way: str, index: VectorIndex, deadline: Deadline, question: Callable[[VectorIndex], Found]) -> Found:
        """Ask an index within the time that is left.

        Raises:
            IndexUnavailable: it does not answer in time, or failed so often that it is not asked.
        """
        within = index.within(deadline.limit(self._timeout_s))
        with self.circuits[way].guard():
            return question(within)

    def _one_by_one(
        self, index: VectorIndex, request: SearchRequest, vector: Vector, k: int, deadline: Deadline, degraded: list[str]
    ) -> list[Candidate]:
        """Both lists, fused here; the one that answers when the other does not."""
        lists: dict[str, list[Candidate]] = {"keyword": [], "semantic": []}
        failures: list[GavelError] = []
        for way, question in _ways(request, vector, k).items():
            try:
                lists[way] = self.ask(way, index, deadline, question)
            except IndexMissing:
                raise
            except (IndexUnavailable, InvalidInput) as error:
                logger.warning("searching without the %s list: %s", way, error)
                degraded.append(way)
                failures.append(error)
        if len(failures) == len(lists):
            raise IndexUnavailable(str(failures[0])) from failures[0]
        return fuse_candidates(lists["keyword"], lists["semantic"], request.fusion or Fusion(), k)


def _ways(request: SearchRequest, vector: Vector | None, k: int) -> dict[str, Callable[[VectorIndex], list[Candidate]]]:
    """The two lists of a hybrid search, each by its name; words first, for they take less."""
    ways: dict[str, Callable[[VectorIndex], list[Candidate]]] = {}
    if query_text(request.query):  # a photo may come without words
        ways["keyword"] = lambda index: index.keyword(query_text(request.query), k, request.filters)
    if vector is not None:
        ways["semantic"] = lambda index: index.semantic(vector, k, request.filters)
    return ways
