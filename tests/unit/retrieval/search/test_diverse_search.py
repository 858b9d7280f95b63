"""Diversity of a search: after re-ranking, over the whole window, so that pages fit together."""

from collections import Counter

import numpy as np
import pytest
from lots import TOWER_ID, WORDS, WordEncoder, lot

from retrieval.contracts.documents import IndexedItem
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.fusion import Fusion
from retrieval.search.diversification import Diversity
from retrieval.search.service import Mode, SearchAnswer, SearchLimits, SearchModels, SearchRequest, SearchService

BRANDS = ("Acme", "Bolt", "Cog")
CANDIDATES = 12


def lots() -> list[IndexedItem]:
    """Thirty vases; the nearer a lot is to the query, the more they are Acme's, and in pairs alike."""
    rng = np.random.default_rng(3)
    made = []
    for number in range(30):
        entry = lot(f"v{number:02}", "red vase", brand=BRANDS[min(number // 10, 2)])
        vector = WordEncoder().encode(["red vase"])[0] + 0.03 * number * rng.standard_normal(len(WORDS) + 1)
        made.append(IndexedItem(entry.item_id, 1, entry.document, (vector / np.linalg.norm(vector)).astype(np.float32)))
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    store = EmbeddedStore(tmp_path_factory.mktemp("index"))
    index = store.create(TOWER_ID, len(WORDS) + 1)
    index.upsert(lots())
    index.refresh()
    store.publish(index.name)
    return store


class PriceyRanker:
    """Prefers what the first stage put last."""

    def score(self, features: np.ndarray) -> np.ndarray:
        return np.arange(len(features), dtype=np.float32)


def search(store: EmbeddedStore, wanted: Diversity, *, reranked: bool = False, **asked: object) -> SearchAnswer:
    service = SearchService(
        store,
        SearchModels(WordEncoder, lambda tower_id: PriceyRanker() if reranked else None),
        SearchLimits(rerank_candidates=CANDIDATES),
    )
    return service.search(SearchRequest(**{"query": "red vase", "mode": "semantic", "diversity": wanted, **asked}))  # type: ignore[arg-type]


def ids(answer: SearchAnswer) -> list[str]:
    return [result.item_id for result in answer.results]


@pytest.mark.parametrize("mode", ["semantic", "hybrid", "keyword"])
@pytest.mark.parametrize("reranked", [False, True])
def test_pages_of_a_diverse_search_repeat_and_lose_nothing(store: EmbeddedStore, mode: Mode, reranked: bool) -> None:
    wanted = Diversity(0.6, most_per_brand=2)
    whole = ids(search(store, wanted, mode=mode, k=30, reranked=reranked))
    assert sorted(whole) == [f"v{number:02}" for number in range(30)]
    for size in (5, 7, 12):
        pages = [search(store, wanted, mode=mode, k=size, offset=offset, reranked=reranked) for offset in range(0, 30, size)]
        assert [item_id for page in pages for item_id in ids(page)] == whole


def test_a_cap_lets_other_brands_among_the_first(store: EmbeddedStore) -> None:
    def brands(wanted: Diversity, k: int = 4) -> Counter[str]:
        return Counter(result.fields["brand"] for result in search(store, wanted, k=k).results)

    assert brands(Diversity())["Acme"] == 4
    assert brands(Diversity(most_per_brand=2))["Acme"] == 2
    assert brands(Diversity(most_per_brand=2), k=CANDIDATES) == brands(Diversity(), k=CANDIDATES), "the window is the same"


def test_stronger_diversity_shows_less_alike_lots(store: EmbeddedStore) -> None:
    vectors = {entry.item_id: entry.vector for entry in lots()}

    def likeness(strength: float) -> float:
        shown = np.stack([vectors[item_id] for item_id in ids(search(store, Diversity(strength), k=5))])
        return float((shown @ shown.T).mean())

    assert likeness(1.0) < likeness(0.5) <= likeness(0.0)


def test_diversity_moves_what_the_reranker_ordered_and_leaves_its_scores(store: EmbeddedStore) -> None:
    plain = search(store, Diversity(), reranked=True, k=CANDIDATES)
    spread = search(store, Diversity(0.9), reranked=True, k=CANDIDATES)
    assert spread.reranked
    assert ids(spread)[0] == ids(plain)[0]
    assert ids(spread) != ids(plain)
    assert {r.item_id: r.score for r in spread.results} == {r.item_id: r.score for r in plain.results}


def test_an_explanation_tells_where_a_lot_stood_before_diversity(store: EmbeddedStore) -> None:
    plain = ids(search(store, Diversity(), k=CANDIDATES))
    spread = search(store, Diversity(0.8, most_per_brand=3), k=14, explain=True)
    told = [result.explanation.relevance_rank for result in spread.results if result.explanation]
    assert [plain[rank - 1] for rank in told if rank is not None] == ids(spread)[:CANDIDATES]
    assert told[CANDIDATES:] == [None, None], "they lie behind the candidates, where diversity does not look"
    unmoved = search(store, Diversity(), k=3, explain=True).results[0].explanation
    assert unmoved is not None
    assert unmoved.relevance_rank is None


def test_the_time_of_diversity_is_told_when_it_is_asked_for(store: EmbeddedStore) -> None:
    assert "diversify" in search(store, Diversity(0.5)).timings_ms
    assert "diversify" not in search(store, Diversity(), fusion=Fusion()).timings_ms
