"""Hyperparameters reach the code that they are about; each is seen by what it does."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trained_booster import ranking_data

from catalog.click_log import click_pairs
from catalog.folder import Click
from processing.ranking.labels import clicked_gains
from retrieval.buyers.vector import AVERAGE, buyer_vector, personalise
from retrieval.config.index_spec import IndexSpec
from retrieval.config.settings import EventWeights, ScoringParameters, scoring_parameters
from retrieval.contracts.events import Interaction
from retrieval.errors import InvalidSettings
from retrieval.index.ann.vector_index import AnnIndex
from retrieval.index.embedded.bm25 import Bm25Index
from retrieval.index.embedded.segments import embedded_spec
from retrieval.index.filters import Filter
from retrieval.index.opensearch.mapping import index_body
from retrieval.index.opensearch.queries import filter_query, semantic_body
from retrieval.index.port import Candidate
from retrieval.ranker.parameters import BoosterParameters, FewQueries
from retrieval.ranker.xgboost_ranker import fit_booster, fit_few_queries
from retrieval.search.image_query import with_words

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
EAST, NORTH = np.array([1, 0], np.float32), np.array([0, 1], np.float32)


@pytest.fixture
def having(monkeypatch) -> Iterator[Callable[..., None]]:
    """Sets variables of this process, as if it had been started with them."""

    def have(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"GAVEL_{name.upper()}", value)
        scoring_parameters.cache_clear()

    yield have
    monkeypatch.undo()
    scoring_parameters.cache_clear()


def act(item_id: str, event_type: str, days_ago: float = 0.0) -> Interaction:
    return Interaction("ann", item_id, event_type, NOON - timedelta(days=days_ago))


def fetch(item_ids) -> list[Candidate]:
    return [Candidate(item_id, 1.0, {}, EAST if item_id == "east" else NORTH) for item_id in item_ids]


positive = st.floats(1e-3, 1e6)


@given(
    st.builds(
        ScoringParameters,
        event_weights=st.builds(EventWeights, positive, positive, positive),
        buyer_share=st.floats(0, 1),
        buyer_half_life_days=st.none() | positive,
        hnsw_m=st.integers(2, 512),
        bm25_k1=positive,
    )
)
def test_what_is_written_to_the_environment_reads_back_equal(numbers):
    assert ScoringParameters.from_env(numbers.to_env()) == numbers


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("GAVEL_EVENT_WEIGHTS", "look=1", "GAVEL_EVENT_WEIGHTS has no 'look'; allowed are view=<number>, add_to_cart=<number>"),
        ("GAVEL_EVENT_WEIGHTS", "view=0", "view in GAVEL_EVENT_WEIGHTS is 0; allowed are numbers above 0"),
        ("GAVEL_EVENT_WEIGHTS", "view", "view in GAVEL_EVENT_WEIGHTS is '', not a number"),
        ("GAVEL_BUYER_SHARE", "1.1", "GAVEL_BUYER_SHARE is 1.1; allowed are numbers from 0 to 1"),
        ("GAVEL_BUYER_HALF_LIFE_DAYS", "0", "GAVEL_BUYER_HALF_LIFE_DAYS is 0; allowed are numbers above 0 or none"),
        ("GAVEL_HNSW_M", "1", "GAVEL_HNSW_M is 1; allowed are whole numbers from 2 to 512"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_its_variable(name, value, told):
    with pytest.raises(InvalidSettings) as refused:
        ScoringParameters.from_env({name: value})
    assert str(refused.value).startswith(told)


def test_event_weights_count_in_the_vector_of_a_buyer_and_in_training_alike(having):
    acts = [act("east", "view"), act("north", "purchase")]
    click = [Click("vase", "v", 1, "view", "ann", NOON), Click("vase", "w", 1, "purchase", "ann", NOON)]
    east, north = buyer_vector(acts, fetch).vector
    assert north == pytest.approx(10 * east)
    assert [pair.weight for pair in click_pairs(click)] == [0.1, 1.0]
    having(event_weights="view=4,bid=4,purchase=4")
    east, north = buyer_vector(acts, fetch).vector
    assert north == pytest.approx(east)
    assert [pair.weight for pair in click_pairs(click)] == [0.8, 0.8]  # add_to_cart, the heaviest now, still weighs 5
    assert clicked_gains(click) == {"vase": {"v": 4.0, "w": 4.0}}


def test_the_buyer_share_says_how_far_a_query_is_drawn(having):
    having(buyer_share="0")
    np.testing.assert_allclose(personalise(EAST, NORTH), EAST)
    having(buyer_share="0.5")
    np.testing.assert_allclose(personalise(EAST, NORTH), [0.5**0.5, 0.5**0.5], rtol=1e-6)


def test_the_half_life_makes_old_acts_count_less(having):
    acts = [act("east", "view", days_ago=10), act("north", "view")]
    assert buyer_vector(acts, fetch).vector[0] == pytest.approx(buyer_vector(acts, fetch).vector[1])
    having(buyer_half_life_days="10")
    east, north = buyer_vector(acts, fetch, AVERAGE).vector
    assert north == pytest.approx(2 * east)


def test_the_share_of_words_beside_a_photo_is_a_setting(having):
    having(photo_words_share="0")
    np.testing.assert_allclose(with_words(EAST, NORTH), EAST)


def test_the_graph_of_both_indices_is_built_and_searched_by_the_settings(having, monkeypatch):
    having(hnsw_m="8", hnsw_ef_construction="40", hnsw_ef_search="77")
    graph = AnnIndex(2, embedded_spec())
    assert graph._index.hnsw.nb_neighbors(1) == 8
    assert graph._index.hnsw.efConstruction == 40
    asked: list[int] = []
    real = faiss.SearchParametersHNSW
    monkeypatch.setattr(
        "retrieval.index.ann.vector_index._faiss.SearchParametersHNSW",
        lambda efSearch, sel: asked.append(efSearch) or real(efSearch=efSearch),
    )
    graph.add(np.repeat(EAST[None], 500, axis=0))
    graph.nearest(EAST, 3, np.ones(500, dtype=bool), exact_below=0)
    assert asked == [77]
    method = index_body("tower", 2)["mappings"]["properties"]["embedding"]["method"]
    assert method["parameters"] == {"m": 8, "ef_construction": 40}
    assert '"ef_search": 77' in str(semantic_body(EAST, 3, filter_query(Filter()))).replace("'", '"')


def test_a_graph_that_the_setting_names_wins_over_the_hyperparameters(having):
    having(hnsw_m="8", hnsw_ef_search="77")
    assert embedded_spec("hnsw_sq8:m=32") == IndexSpec("hnsw_sq8", m=32, ef_search=77)
    assert embedded_spec("flat") == IndexSpec("flat")


def test_opensearch_looks_at_a_hundred_vectors_where_nothing_says_how_many():
    assert "'ef_search': 100" in str(semantic_body(EAST, 3, filter_query(Filter())))


def test_bm25_weighs_by_the_settings_and_a_snapshot_of_others_is_not_used(having, tmp_path):
    texts = [(0, "red vase"), (1, "red vase and many other words of no use here")]
    built = Bm25Index.build(texts)
    built.save(tmp_path / "kept")
    assert built.scores("vase")[0] > built.scores("vase")[1]
    having(bm25_b="0")
    flat = Bm25Index.build(texts)
    assert flat.scores("vase")[0] == pytest.approx(flat.scores("vase")[1])
    assert index_body("tower", 2)["settings"]["index"]["similarity"]["default"]["b"] == 0.0
    with pytest.raises(ValueError, match=r"was written with k1 1\.2 and b 0\.75"):
        Bm25Index.load(tmp_path / "kept")


def test_the_re_ranker_learns_by_its_parameters():
    train, validation = ranking_data(0), ranking_data(1)
    booster = fit_booster(train, validation, parameters=BoosterParameters(rounds=2, max_depth=1))
    assert booster._booster.num_boosted_rounds() <= 2
    assert all(tree.count("leaf") <= 2 for tree in booster._booster.get_dump())
    few = BoosterParameters(few_queries=FewQueries(depths=(1,), most_steps=20, num_parallel_tree=1))
    _, choice = fit_few_queries(train, parameters=few)
    assert (choice.max_depth, choice.rounds) == (1, 20)
