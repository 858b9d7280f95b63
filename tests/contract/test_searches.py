"""What every index promises of searches: scores, order, filters, and that an ended auction never comes back."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from index_lots import DIMENSIONS, EVERYTHING, NOW, TOWER_ID, axis, clustered, lot, unit

from retrieval.contracts.documents import Deletion, IndexedItem
from retrieval.index.filters import BlockList, Filter
from retrieval.index.fusion import FUSION_KINDS, Fusion, FusionKind, fuse
from retrieval.index.port import Candidate, IndexStore, VectorIndex

Fill = Callable[[Iterable[IndexedItem | Deletion]], VectorIndex]

SEARCHES: dict[str, Callable[[VectorIndex, int, Filter], list[Candidate]]] = {
    "semantic": lambda index, k, filters: index.semantic(axis(0), k, filters),
    "exact": lambda index, k, filters: index.semantic(axis(0), k, filters, exact=True),
    "keyword": lambda index, k, filters: index.keyword("watch", k, filters),
    "hybrid": lambda index, k, filters: index.hybrid("watch", axis(0), k, filters),
    "top": lambda index, k, filters: index.top("bid_count", k, filters),
}
every_search = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES.keys())
Search = Callable[[VectorIndex, int, Filter], list[Candidate]]


def ids(found: list[Candidate]) -> list[str]:
    """The ids in the order of the answer."""
    return [candidate.item_id for candidate in found]


@every_search
def test_an_empty_index_answers_with_nothing(index: VectorIndex, search: Search) -> None:
    index.refresh()
    assert search(index, 10, EVERYTHING) == []


@every_search
def test_fewer_lots_than_k_is_a_normal_answer(filled: Fill, search: Search) -> None:
    index = filled([lot(f"lot-{i}", axis(i), title="watch") for i in range(3)])
    assert sorted(ids(search(index, 100, EVERYTHING))) == ["lot-0", "lot-1", "lot-2"]


@every_search
def test_k_bounds_the_answer(filled: Fill, search: Search) -> None:
    index = filled([lot(f"lot-{i:02}", axis(i, tilt=0.2), title="watch " * (1 + i % 3)) for i in range(40)])
    assert len(search(index, 40, EVERYTHING)) == 40
    assert len(search(index, 7, EVERYTHING)) == 7
    assert len(search(index, 1, EVERYTHING)) == 1


@pytest.mark.parametrize("exact", [False, True])
def test_scores_are_cosines_down_to_minus_one(filled: Fill, exact: bool) -> None:
    vectors = {"same": axis(0), "near": unit([1, 1] + [0] * 14), "right angle": axis(5), "opposite": -axis(0)}
    index = filled([lot(item_id, vector) for item_id, vector in vectors.items()])
    found = index.semantic(axis(0), 10, EVERYTHING, exact=exact)
    assert ids(found) == ["same", "near", "right angle", "opposite"]
    assert [c.score for c in found] == pytest.approx([1.0, np.sqrt(0.5), 0.0, -1.0], abs=2e-6)


@pytest.mark.parametrize("exact", [False, True])
def test_the_length_of_the_query_vector_does_not_matter(filled: Fill, exact: bool) -> None:
    index = filled([lot(f"lot-{i}", axis(i, tilt=0.3)) for i in range(8)])
    once = index.semantic(axis(2), 8, EVERYTHING, exact=exact)
    tenfold = index.semantic(10 * axis(2), 8, EVERYTHING, exact=exact)
    assert [(c.item_id, c.score) for c in once] == [(c.item_id, c.score) for c in tenfold]


@every_search
def test_equal_scores_come_in_the_order_of_their_ids(filled: Fill, search: Search) -> None:
    names = ["lot-b", "lot-10", "Lot-a", "lot-9", "été", "zebra", "🏺"]
    index = filled([lot(name, title="watch") for name in names])
    assert ids(search(index, 10, EVERYTHING)) == sorted(names)


@every_search
def test_a_tie_at_the_cut_goes_to_the_smaller_id(filled: Fill, search: Search) -> None:
    index = filled([lot(f"lot-{i}", title="watch") for i in (5, 3, 8, 1, 9, 2)])
    assert ids(search(index, 3, EVERYTHING)) == ["lot-1", "lot-2", "lot-3"]


@every_search
def test_an_ended_auction_never_comes_back(filled: Fill, search: Search) -> None:
    second = timedelta(seconds=1)
    index = filled(
        [
            lot("ended", title="watch", ends_at=NOW - second),
            lot("ends now", title="watch", ends_at=NOW),
            lot("open", title="watch", ends_at=NOW + second),
            lot("never ends", title="watch", ends_at=None),
            lot("ended long ago", title="watch", ends_at=NOW - timedelta(days=40_000)),
        ]
    )
    assert sorted(ids(search(index, 10, EVERYTHING))) == ["never ends", "open"]
    assert ids(search(index, 10, Filter(now=NOW + second))) == ["never ends"]
    assert (index.count(), index.count(EVERYTHING), index.count(Filter(now=NOW + second))) == (5, 2, 1)
    assert ids(index.fetch(["ended"])) == ["ended"]


ROLEX = {"category": "Watches", "brand": "Rolex", "current_price": 900.0, "seller_rating": 4.5}
LOTS = {
    "rolex": ROLEX,
    "cheap": {**ROLEX, "current_price": 5.0},
    "swatch": {**ROLEX, "brand": "Swatch"},
    "jewel": {**ROLEX, "category": "Jewellery"},
    "ill-famed": {**ROLEX, "seller_rating": 2.0},
    "ended": {**ROLEX, "ends_at": NOW - timedelta(hours=1)},
    "bare": {},
}


@every_search
@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filter(categories=("watches",)), "cheap ill-famed rolex swatch"),
        (Filter(categories=("JEWELLERY",)), "jewel"),
        (Filter(categories=("watch",)), ""),
        (Filter(brands=("ROLEX",)), "cheap ill-famed jewel rolex"),
        (Filter(min_price=900.0), "ill-famed jewel rolex swatch"),
        (Filter(min_price=900.01), ""),
        (Filter(max_price=5.0), "cheap"),
        (Filter(max_price=0.0), ""),
        (Filter(min_price=0.0), "cheap ill-famed jewel rolex swatch"),
        (Filter(min_seller_rating=4.5), "cheap jewel rolex swatch"),
        (Filter(min_seller_rating=0.0), "cheap ill-famed jewel rolex swatch"),
        (Filter(), "bare cheap ill-famed jewel rolex swatch"),
        (Filter(categories=("Watches",), brands=("rolex",), min_price=10, max_price=1000, min_seller_rating=4), "rolex"),
    ],
)
def test_filters_let_exactly_their_lots_through(filled: Fill, search: Search, filters: Filter, expected: str) -> None:
    index = filled([lot(item_id, title="watch", **fields) for item_id, fields in LOTS.items()])
    assert sorted(ids(search(index, 10, replace(filters, now=NOW)))) == expected.split()


@every_search
@pytest.mark.parametrize(
    ("blocked", "expected"),
    [
        (BlockList(), "a b c d"),
        (BlockList(items=frozenset({"a", "d", "gone"})), "b c"),
        (BlockList(sellers=frozenset({"Ann", "nobody"})), "b c d"),
        (BlockList(sellers=frozenset({"ann"})), "a b c d"),
        (BlockList(categories=frozenset({"  WATCHES", "carts"})), "c d"),
        (BlockList(brands=frozenset({"rolex"})), "b c d"),
        (BlockList(frozenset({"c"}), frozenset({"Ann"}), frozenset({"rings"})), "b d"),
    ],
)
def test_a_blocked_item_never_comes_back(filled: Fill, search: Search, blocked: BlockList, expected: str) -> None:
    index = filled(
        [
            lot("a", title="watch", bid_count=1, seller="Ann", category="Watches", brand="Rolex"),
            lot("b", title="watch", bid_count=1, seller="Bob", category="watches"),
            lot("c", title="watch", bid_count=1, category="Rings"),
            lot("d", title="watch", bid_count=1),
        ]
    )
    assert sorted(ids(search(index, 10, Filter(now=NOW, blocked=blocked)))) == expected.split()
    assert index.count(Filter(now=NOW, blocked=blocked)) == len(expected.split())


def test_a_blocked_item_leaves_its_place_to_the_next(filled: Fill) -> None:
    index = filled([lot(f"lot-{n:03}", axis(0, tilt=n / 100), seller="near" if n < 60 else "far") for n in range(70)])
    assert ids(index.semantic(axis(0), 3, Filter(now=NOW, blocked=BlockList(sellers=frozenset({"near"}))))) == [
        "lot-060",
        "lot-061",
        "lot-062",
    ]


def test_a_price_limit_includes_a_price_that_is_no_binary_fraction(filled: Fill) -> None:
    index = filled([lot("a", current_price=19.99), lot("b", current_price=20.01)])
    assert ids(index.semantic(axis(0), 5, Filter(max_price=19.99, now=NOW))) == ["a"]
    assert ids(index.semantic(axis(0), 5, Filter(min_price=20.01, now=NOW))) == ["b"]


def test_categories_match_without_regard_to_case_in_any_script(filled: Fill) -> None:
    index = filled([lot("a", category="ÉTAGÈRES"), lot("b", category="İstanbul"), lot("c", category="ΣΊΣΥΦΟΣ")])
    for item_id, category in (("a", "étagères"), ("b", "istanbul"), ("c", "σίσυφοσ")):
        assert ids(index.semantic(axis(0), 5, Filter(categories=(category,), now=NOW))) == [item_id]


def test_a_filter_that_leaves_few_lots_still_fills_k(filled: Fill) -> None:
    vectors = clustered(400, DIMENSIONS, seed=3)
    index = filled([lot(f"lot-{i:03}", v, brand="rare" if i % 20 == 0 else "common") for i, v in enumerate(vectors)])
    rare = {f"lot-{i:03}" for i in range(0, 400, 20)}
    for query in clustered(5, DIMENSIONS, seed=4):
        assert set(ids(index.semantic(query, 20, Filter(brands=("rare",), now=NOW)))) == rare


@pytest.mark.parametrize("seed", range(3))
def test_exact_search_equals_brute_force(filled: Fill, seed: int) -> None:
    vectors = clustered(300, DIMENSIONS, seed=seed)
    index = filled([lot(f"lot-{i:03}", v, current_price=float(i)) for i, v in enumerate(vectors)])
    matrix = np.stack(vectors).astype(np.float64)
    for query in clustered(10, DIMENSIONS, seed=100 + seed):
        cosines = np.round(matrix @ query.astype(np.float64) / np.linalg.norm(matrix, axis=1) / np.linalg.norm(query), 6)
        expected = sorted(range(100, 300), key=lambda i: (-cosines[i], i))[:25]
        found = index.semantic(query, 25, Filter(min_price=100.0, now=NOW), exact=True)
        assert ids(found) == [f"lot-{i:03}" for i in expected]
        assert [c.score for c in found] == pytest.approx(cosines[expected], abs=1.1e-6)


def test_hnsw_finds_nearly_all_that_exact_search_finds(store: IndexStore) -> None:
    index = store.create(TOWER_ID, 32)
    index.upsert(lot(f"lot-{i:04}", vector) for i, vector in enumerate(clustered(3_000, 32, seed=5)))
    index.refresh()
    queries = clustered(50, 32, seed=6)
    hits = sum(
        len(set(ids(index.semantic(q, 50, EVERYTHING))) & set(ids(index.semantic(q, 50, EVERYTHING, exact=True)))) for q in queries
    )
    assert hits / (50 * len(queries)) >= 0.95


def test_keyword_search_ranks_by_frequency_rarity_and_length(filled: Fill) -> None:
    index = filled(
        [
            lot("twice", title="watch watch strap"),
            lot("once", title="watch strap box"),
            lot("long", title="watch strap box and a great many other things that nobody asked for"),
            lot("rare", title="enamel dial box"),
            lot("other", title="porcelain vase"),
        ]
    )
    assert ids(index.keyword("watch", 10, EVERYTHING)) == ["twice", "once", "long"]
    assert ids(index.keyword("watch enamel", 10, EVERYTHING))[0] == "rare"
    found = index.keyword("watch", 10, EVERYTHING)
    assert all(c.score > 0 for c in found)
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)


def test_keyword_scores_are_those_of_bm25_up_to_the_constant_factor_of_older_lucenes(filled: Fill) -> None:
    index = filled([lot("a", title="red watch"), lot("b", title="red red vase box"), lot("c", title="lamp")])
    average = 7 / 3
    idf = np.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    expected = {
        "b": idf * 2 / (2 + 1.2 * (0.25 + 0.75 * 4 / average)),
        "a": idf * 1 / (1 + 1.2 * (0.25 + 0.75 * 2 / average)),
    }
    found = {c.item_id: c.score for c in index.keyword("red", 10, EVERYTHING)}
    factor = 1.0 if found["a"] < 2 * expected["a"] else 2.2  # k1 + 1, which Lucene 8 dropped and OpenSearch 2 still puts in
    assert found == pytest.approx({item_id: factor * score for item_id, score in expected.items()}, rel=1e-5)


def test_words_meet_across_case_and_inflection(filled: Fill) -> None:
    index = filled([lot("a", title="Vintage WATCHES, polished"), lot("b", title="vases")])
    for text in ("watch", "Watching", "POLISH", "vintage"):
        assert ids(index.keyword(text, 10, EVERYTHING)) == ["a"]


def test_stems_are_those_of_the_snowball_in_lucene(filled: Fill) -> None:
    groups = ["organic organization", "added ads", "emergency emerge", "university universal", "lateral later", "evening even"]
    index = filled([lot(word, title=word) for group in groups for word in group.split()])
    for first, second in (group.split() for group in groups):
        assert sorted(ids(index.keyword(first, 10, EVERYTHING))) == sorted([first, second])


def test_the_description_is_searched_like_the_title(filled: Fill) -> None:
    index = filled([lot("a", title="lot 7", description="an enamel dial"), lot("b", title="enamel")])
    assert set(ids(index.keyword("enamel", 10, EVERYTHING))) == {"a", "b"}


@pytest.mark.parametrize("text", ["", "  ", "!?—🏺", "nobodyhasthisword"])
def test_a_text_that_no_lot_shares_a_word_with_finds_nothing_by_keyword(filled: Fill, text: str) -> None:
    index = filled([lot("a", title="watch"), lot("🏺", title="🏺 !?")])
    assert index.keyword(text, 10, EVERYTHING) == []
    assert set(ids(index.hybrid(text, axis(0), 10, EVERYTHING))) == {"a", "🏺"}


def test_syntax_in_a_query_is_only_text(filled: Fill) -> None:
    index = filled([lot("a", title="watch"), lot("b", title="vase")])
    assert ids(index.keyword('title:watch AND NOT "vase" (', 10, EVERYTHING)) == ["a", "b"]


FUSIONS = [
    Fusion(),
    Fusion("rrf", (0.7, 0.3), rank_constant=20),
    Fusion("min_max", (0.3, 0.7)),
    Fusion("min_max", (1, 0)),
    Fusion("l2"),
]


@pytest.mark.parametrize("fusion", FUSIONS, ids=str)
def test_hybrid_is_the_fusion_of_both_lists(filled: Fill, fusion: Fusion) -> None:
    words = ["gold", "silver", "watch", "vase", "lamp", "clock"]
    vectors = clustered(120, DIMENSIONS, seed=8)
    index = filled([lot(f"lot-{i:03}", v, title=" ".join(words[j] for j in {i % 6, i % 5, i % 4})) for i, v in enumerate(vectors)])
    for k in (1, 5, 20, 200):
        query = vectors[k % 120]
        lists = (index.keyword("silver vase", k, EVERYTHING), index.semantic(query, k, EVERYTHING))
        keyword, semantic = ([(c.item_id, c.score) for c in found] for found in lists)
        expected = fuse(keyword, semantic, fusion)[:k]
        found = index.hybrid("silver vase", query, k, EVERYTHING, fusion)
        assert ids(found) == [item_id for item_id, _ in expected]
        assert [c.score for c in found] == pytest.approx([score for _, score in expected], rel=1e-5)


@pytest.mark.parametrize("kind", FUSION_KINDS)
def test_all_the_weight_on_one_list_puts_it_first_in_its_own_order(filled: Fill, kind: FusionKind) -> None:
    index = filled([lot(f"lot-{i}", axis(i, tilt=0.1), title="watch " * (i % 3)) for i in range(6)])
    keyword = ids(index.keyword("watch", 4, EVERYTHING))
    semantic = ids(index.semantic(axis(1), 4, EVERYTHING))
    for weights, first in (((1, 0), keyword), ((0, 1), semantic)):
        assert ids(index.hybrid("watch", axis(1), 4, EVERYTHING, Fusion(kind, weights)))[: len(first)] == first


def test_every_candidate_tells_its_places_in_the_lists_that_it_comes_from(filled: Fill) -> None:
    vectors = clustered(60, DIMENSIONS, seed=9)
    index = filled([lot(f"lot-{i:02}", v, title="silver vase" if i % 3 else "lamp") for i, v in enumerate(vectors)])
    semantic, keyword = (index.semantic(vectors[0], 20, EVERYTHING), index.keyword("vase", 20, EVERYTHING))
    assert [c.semantic_rank for c in semantic] == [c.keyword_rank for c in keyword] == list(range(1, 21))
    assert {c.keyword_rank for c in semantic} == {c.bm25 for c in semantic} == {c.semantic_rank for c in keyword} == {None}
    assert [c.bm25 for c in keyword] == [c.score for c in keyword]
    places = {c.item_id: c.semantic_rank for c in semantic}, {c.item_id: (c.keyword_rank, c.bm25) for c in keyword}
    for found in index.hybrid("vase", vectors[0], 20, EVERYTHING):
        assert found.semantic_rank == places[0].get(found.item_id)
        rank, bm25 = places[1].get(found.item_id, (None, None))
        assert found.keyword_rank == rank
        assert found.bm25 == (None if bm25 is None else pytest.approx(bm25, rel=1e-5))
