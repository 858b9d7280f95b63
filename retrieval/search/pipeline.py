"""One query over the two stages: candidates from the index, the best of them put in order by the re-ranker."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from retrieval.buyers.vector import personalise
from retrieval.contracts.documents import Vector, listed_fields
from retrieval.contracts.items import query_text
from retrieval.deadline import Deadline
from retrieval.errors import IndexUnavailable, InvalidQuery, RankerUnavailable
from retrieval.index.filters import matches
from retrieval.index.port import Candidate
from retrieval.index.ranking import cosines
from retrieval.ranker.features import feature_matrix
from retrieval.ranker.port import Ranker
from retrieval.resilience import Circuit
from retrieval.search.candidates import FirstStage
from retrieval.search.diversification import Diversity, diversify
from retrieval.search.explanation import explanations
from retrieval.search.live_index import ActiveIndex
from retrieval.search.request import MAX_OFFSET, MAX_REACH, SearchRequest
from retrieval.search.response import SearchAnswer, SearchResult
from retrieval.text.spelling import corrected, doubtful_words

logger = logging.getLogger(__name__)

Scored = tuple[Candidate, float]


@dataclass(frozen=True, slots=True)
class _Question:
    """A request with what is known of it before the index is asked.

    Attributes:
        request: as asked.
        vector: (D,) the encoded query; None when it could not be encoded.
        searched: (D,) what is searched with: the same, or drawn towards the buyer.
        buyer: (D,) where the buyer stands; None when nothing is known of what they did.
        deadline: of the whole search.
        degraded: takes what is done without.
        unknown_items: ids of the buyer's acts that no lot has.
    """

    request: SearchRequest
    vector: Vector | None
    searched: Vector | None
    deadline: Deadline
    degraded: list[str]
    buyer: Vector | None = None
    unknown_items: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Found:
    """What the first stage found.

    Attributes:
        window: the candidates that are re-ranked.
        named: item_id -> the lot whose id the query is; it goes first.
        deeper: the lots behind the window, where a page reaches that far.
        may_go_on: whether there may be more than these.
    """

    window: Sequence[Candidate]
    named: Mapping[str, Candidate]
    deeper: Sequence[Candidate]
    may_go_on: bool


class TwoStages:
    """Answers one query at a time; threads may share it.

    Pages fit together because every one of them is cut from the same list: the `candidates` best of the first stage in the
    re-ranker's order, spread if diversity is asked for, then the others among the MAX_REACH best as the first stage has them.

    Args:
        first_stage: how the index is asked.
        candidates: how many candidates are re-ranked.
    """

    def __init__(self, first_stage: FirstStage, candidates: int) -> None:
        self._first_stage = first_stage
        self._candidates = candidates
        self.ranker_circuit = Circuit("the re-ranker", RankerUnavailable)

    def answer(
        self, live: ActiveIndex, request: SearchRequest, vector: Vector | None, before: Mapping[str, float], deadline: Deadline
    ) -> SearchAnswer:
        """Answer a checked request.

        Args:
            live: what is searched.
            request: what is asked.
            vector: (D,) float32, the encoded query; None when it could not be encoded.
            before: the timings of what was done before; its total goes into the total of the answer.
            deadline: of the search.

        Raises:
            TowerError: there is no vector, and words are not to be searched by.
            IndexUnavailable: the index does not answer.
        """
        timings: dict[str, float] = {}
        end = request.offset + request.k
        with timed(timings, "total"):
            with timed(timings, "retrieve"):
                question = self._question(live, request, vector, deadline)
                found = self._found(live, question)
            scores = None
            if live.ranker is not None and request.rerank and found.window:
                with timed(timings, "rerank"):
                    scores = self._scores(live.ranker, question, found.window)
            first = by_relevance = _by_score(found.window, scores)
            if request.diversity.wanted:
                with timed(timings, "diversify"):
                    first = _diversified(by_relevance, request.diversity)
            whole = _whole_list(found, first)
            page = whole[request.offset : end]
            results = ranked(page, vector, request.offset)
            meant = self._meant(live, question, found, timings)
            if request.explain:
                results = self._explained(live, question, found, results, page, by_relevance)
        return SearchAnswer(
            results=results,
            tower_id=live.index.tower_id,
            mode=request.mode,
            reranked=scores is not None,
            degraded=question.degraded,
            timings_ms={**before, **timings, "total": round(before["total"] + timings["total"], 3)},
            next_offset=end if end <= MAX_OFFSET and (len(whole) > end or found.may_go_on) else None,
            unknown_items=question.unknown_items,
            did_you_mean=meant,
        )

    def _meant(self, live: ActiveIndex, question: _Question, found: _Found, timings: dict[str, float]) -> str | None:
        """The query with its misspelt words put right; the index is asked on the first page, of words that no found lot says."""
        text = query_text(question.request.query)
        lots = [candidate.document for candidate in (*found.named.values(), *found.window)]
        words = [] if found.named or question.request.offset else doubtful_words(text, lots)
        if not words:
            return None
        with timed(timings, "spelling"):
            return corrected(text, self._first_stage.corrections(live.index, words, question.deadline))

    def _question(self, live: ActiveIndex, request: SearchRequest, vector: Vector | None, deadline: Deadline) -> _Question:
        """Draw the query's vector towards the lots that the buyer acted on, and remember where the buyer stands."""
        question = _Question(request, vector, vector, deadline, [])
        if vector is None:
            question.degraded.extend(["semantic"] if request.mode == "hybrid" else [])
            return question
        if not request.recent:
            return question
        try:
            buyer = self._first_stage.buyer(live.index, request.recent, live.buyer_tower, deadline)
        except InvalidQuery:  # of lots that are all gone there is nothing to learn, and the words are still a question
            return replace(question, unknown_items=list(dict.fromkeys(act.item_id for act in request.recent)))
        except IndexUnavailable as error:
            logger.warning("searching without the buyer's acts: %s", error)
            question.degraded.append("buyer")
            return question
        drawn = personalise(vector, buyer.vector)
        return replace(question, searched=drawn, buyer=buyer.vector, unknown_items=buyer.unknown_items)

    def _found(self, live: ActiveIndex, question: _Question) -> _Found:
        request = question.request
        window = self._ask(live, question, self._candidates)
        named = self._named(live, question)
        known = {candidate.item_id for candidate in window} | set(named)
        full = len(window) >= self._candidates
        if not full or request.offset + request.k <= len(known):
            return _Found(window, named, [], may_go_on=full)
        deeper = [c for c in self._ask(live, question, MAX_REACH) if c.item_id not in known]
        return _Found(window, named, deeper, may_go_on=False)

    def _ask(self, live: ActiveIndex, question: _Question, k: int) -> list[Candidate]:
        failed: list[str] = []
        found = self._first_stage.candidates(live.index, question.request, question.searched, k, question.deadline, failed)
        question.degraded.extend(name for name in failed if name not in question.degraded)
        return found

    def _named(self, live: ActiveIndex, question: _Question) -> dict[str, Candidate]:
        """The lot whose item_id the query is, if it passes the filters."""
        item_id = question.request.exact_id
        if not item_id:
            return {}
        try:
            lots = self._first_stage.fetch(live.index, [item_id], question.deadline)
        except IndexUnavailable as error:
            logger.warning("searching without a look for the lot of that id: %s", error)
            return {}
        return {lot.item_id: lot for lot in lots if matches(question.request.filters, lot.document)}

    def _scores(self, ranker: Ranker, question: _Question, window: Sequence[Candidate]) -> NDArray[np.float32] | None:
        """The re-ranker's scores, or None with a word in `degraded` when it fails or there is no time left."""
        try:
            if question.deadline.left() <= 0:
                raise RankerUnavailable("the time of this search was used up")
            with self.ranker_circuit.guard():
                return ranker.score(_features(question, window))
        except RankerUnavailable as error:
            logger.warning("answered without the re-ranker: %s", error)
            question.degraded.append("rerank")
            return None

    def _explained(
        self,
        live: ActiveIndex,
        question: _Question,
        found: _Found,
        results: Sequence[SearchResult],
        page: Sequence[Scored],
        by_relevance: Sequence[Scored],
    ) -> list[SearchResult]:
        lists = self._first_stage.both_lists(live.index, question.request, question.searched, self._candidates, question.deadline)
        told = explanations(
            [candidate for candidate, _ in page],
            found.window,
            _features(question, found.window),
            lists,
            named=found.named,
            searched=question.searched,
            ranker=live.ranker if question.request.rerank else None,
            by_relevance=[c.item_id for c, _ in by_relevance] if question.request.diversity.wanted else [],
        )
        return [replace(result, explanation=explanation) for result, explanation in zip(results, told, strict=True)]


def _features(question: _Question, window: Sequence[Candidate]) -> NDArray[np.float32]:
    """(N, F); the similarity to a query that could not be encoded is missing, as any other value may be."""
    vector = question.vector
    if vector is None:
        vector = np.full(window[0].vector.shape if window else (0,), np.nan, dtype=np.float32)
    return feature_matrix(question.request.query, vector, window, question.request.filters.now, question.buyer)


def _by_score(window: Sequence[Candidate], scores: NDArray[np.float32] | None) -> list[Scored]:
    """The window in the re-ranker's order, its equal scores in the first stage's; in the first stage's without scores."""
    if scores is None:
        return [(c, c.score) for c in window]
    return [(window[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")]


def _diversified(window: Sequence[Scored], wanted: Diversity) -> list[Scored]:
    """The window with its lots spread; all of it, so that every page is cut from the same list."""
    scores = np.array([score for _, score in window], dtype=np.float32)  # (N,)
    return [window[place] for place in diversify([c for c, _ in window], scores, wanted)]


def _whole_list(found: _Found, window: Sequence[Scored]) -> list[Scored]:
    """The list that pages are cut from: lots that the query names, the window, and what lies deeper."""
    first = [(c, next((score for w, score in window if w.item_id == c.item_id), c.score)) for c in found.named.values()]
    rest = [(c, score) for c, score in window if c.item_id not in found.named]
    return first + rest + [(c, c.score) for c in found.deeper]


def ranked(page: Sequence[Scored], vector: Vector | None, offset: int = 0) -> list[SearchResult]:
    """The lots of a page as they are answered.

    Args:
        page: candidates with what they were ordered by, best first.
        vector: (D,) float32, the encoded query; None leaves the similarity open.
        offset: how many lots stand before them.
    """
    similarities = [None] * len(page) if vector is None else cosines(vector, [c for c, _ in page])
    return [
        SearchResult(rank, c.item_id, score, similarity, listed_fields(c.document))
        for rank, ((c, score), similarity) in enumerate(zip(page, similarities, strict=True), offset + 1)
    ]


@contextmanager
def timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    """Note in `timings` how many milliseconds the block took."""
    start = time.perf_counter()
    try:
        yield
    finally:
        timings[stage] = round((time.perf_counter() - start) * 1000, 3)
