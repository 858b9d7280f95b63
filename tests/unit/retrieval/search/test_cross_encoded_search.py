"""A cross-encoder orders the best lots of a search; without it, or without time, the order is the former one."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from lots import WordEncoder, lot, publish
from numpy.typing import NDArray

from retrieval.errors import RankerUnavailable
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.ranker.port import CrossEncoder
from retrieval.search.diversification import Diversity
from retrieval.search.service import SearchAnswer, SearchLimits, SearchModels, SearchRequest, SearchService

LOTS = [lot(f"v{n}", f"{'red ' * (5 - n)}vase {'old ' * n}") for n in range(5)]


class OldFirst:
    """Prefers what is old, whatever was asked."""

    def score_pairs(self, query: str, texts: Sequence[str], timeout_s: float) -> NDArray[np.float32]:
        return np.array([text.split().count("old") - 9 for text in texts], dtype=np.float32)


class Failing:
    def score_pairs(self, query: str, texts: Sequence[str], timeout_s: float) -> NDArray[np.float32]:
        raise RankerUnavailable("took more than 0.5 s")


class Slow:
    """Looks at the clock, as the port asks."""

    def score_pairs(self, query: str, texts: Sequence[str], timeout_s: float) -> NDArray[np.float32]:
        time.sleep(timeout_s)
        raise RankerUnavailable(f"took more than {timeout_s} s")


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    store = EmbeddedStore(tmp_path / "index")
    publish(store, LOTS)
    return store


def search(store: EmbeddedStore, model: CrossEncoder | None, candidates: int = 3, **request: object) -> SearchAnswer:
    def load() -> CrossEncoder | None:
        return model

    models = SearchModels(lambda tower_id: WordEncoder(), load_cross_encoder=load)
    limits = SearchLimits(cross_encoder_candidates=candidates, cross_encoder_timeout_s=0.05)
    return SearchService(store, models, limits).search(SearchRequest("red vase", **request))  # type: ignore[arg-type]


def ids(answer: SearchAnswer) -> list[str]:
    return [result.item_id for result in answer.results]


def test_it_orders_the_best_and_leaves_the_others(store: EmbeddedStore) -> None:
    former = ids(search(store, None))
    answer = search(store, OldFirst())
    assert ids(answer) == [*sorted(former[:3], reverse=True), *former[3:]]
    assert answer.reranked
    assert "cross_encode" in answer.timings_ms
    assert answer.results[0].score == -9 + int(answer.results[0].item_id[1])


def test_an_explanation_has_its_score(store: EmbeddedStore) -> None:
    explained = [result.explanation for result in search(store, OldFirst(), explain=True).results]
    assert [one.cross_encoder_score is not None for one in explained if one] == [True] * 3 + [False] * 2


def test_a_request_can_do_without_it(store: EmbeddedStore) -> None:
    assert ids(search(store, OldFirst(), rerank=False)) == ids(search(store, None))


@pytest.mark.parametrize("model", [Failing(), Slow()])
def test_without_its_scores_the_former_order_stays_and_the_answer_says_so(model: CrossEncoder, store: EmbeddedStore) -> None:
    answer = search(store, model)
    assert ids(answer) == ids(search(store, None))
    assert (answer.reranked, answer.failed_components) == (False, ["cross_encoder"])


def test_one_that_cannot_be_loaded_is_done_without_as_well(store: EmbeddedStore) -> None:
    def load() -> CrossEncoder:
        raise RankerUnavailable("there is no such model")

    service = SearchService(store, SearchModels(lambda tower_id: WordEncoder(), load_cross_encoder=load))
    answer = service.search(SearchRequest("red vase"))
    assert (len(answer.results), answer.failed_components) == (5, ["cross_encoder"])


def test_diversity_starts_from_its_order_although_its_scores_are_below_the_others(store: EmbeddedStore) -> None:
    plain = ids(search(store, OldFirst()))
    assert ids(search(store, OldFirst(), diversity=Diversity(0.0, most_per_brand=50))) == plain
