"""Query expansion: words of the best keyword matches widen a keyword search, and the answer says which."""

from pathlib import Path

import pytest
from lots import WordEncoder, lot, publish

from retrieval.errors import IndexUnavailable
from retrieval.index.embedded.store import EmbeddedIndex, EmbeddedStore
from retrieval.search.expansion import EXPANSION_TERMS, WORDS_IN_TEXT, weigh_words
from retrieval.search.service import SearchAnswer, SearchLimits, SearchModels, SearchRequest, SearchService

LOTS = [
    lot("c1", "sofa with velvet couch cover"),
    lot("c2", "sofa couch for the guests"),
    lot("c3", "velvet couch"),  # does not say sofa
    lot("r1", "gold ring"),
]


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    store = EmbeddedStore(tmp_path / "index")
    publish(store, LOTS)
    return store


def search(store: EmbeddedStore, expansion: str, query: str = "sofa", mode: str = "keyword", explain: bool = True) -> SearchAnswer:
    limits = SearchLimits(query_expansion=expansion)  # type: ignore[arg-type]
    service = SearchService(store, SearchModels(lambda tower_id: WordEncoder()), limits)
    return service.search(SearchRequest(query, mode=mode, explain=explain))  # type: ignore[arg-type]


def test_a_lot_without_the_word_as_typed_is_found_by_its_neighbours_words(store: EmbeddedStore) -> None:
    assert {r.item_id for r in search(store, "none").results} == {"c1", "c2"}
    expanded = search(store, "rm3")
    assert [r.item_id for r in expanded.results][2:] == ["c3"]
    assert expanded.expansion_terms[0] == "couch"
    assert expanded.failed_components == []


def test_words_that_say_nothing_expand_nothing(store: EmbeddedStore) -> None:
    assert set(search(store, "rm3").expansion_terms) == {"couch", "velvet", "cover", "guests"}


def test_only_an_explained_answer_names_the_words(store: EmbeddedStore) -> None:
    assert search(store, "rm3", explain=False).expansion_terms == ()
    assert search(store, "none").expansion_terms == ()


@pytest.mark.parametrize("query", ["unheard", "gold ring"])
def test_a_query_without_new_words_stays_as_it_is(query: str, store: EmbeddedStore) -> None:
    plain, expanded = search(store, "none", query), search(store, "rm3", query)
    assert [(r.item_id, r.score) for r in expanded.results] == [(r.item_id, r.score) for r in plain.results]


def test_a_search_by_vectors_alone_is_not_expanded(store: EmbeddedStore) -> None:
    assert search(store, "rm3", mode="semantic").expansion_terms == ()
    assert "expand" in search(store, "rm3", mode="hybrid").timings_ms


def test_words_are_repeated_by_their_weights_in_rm3() -> None:
    expanded = weigh_words("old sofa", [("sofa couch", 3.0), ("couch", 1.0)])
    # as typed: .25 each; titles: sofa 3/2, couch 3/2 + 1, of 4, half of which counts
    counts = {word: expanded.text.split().count(word) for word in ("old", "sofa", "couch")}
    assert counts == {
        "old": round(0.25 * WORDS_IN_TEXT),
        "sofa": round((0.25 + 0.5 * 1.5 / 4) * WORDS_IN_TEXT),
        "couch": round(0.5 * 2.5 / 4 * WORDS_IN_TEXT),
    }
    assert expanded.terms == ("couch",)


def test_a_long_query_stays_short_enough_for_a_cluster() -> None:
    longest = " ".join(f"w{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(128))
    expanded = weigh_words(longest, [("a title with many other words in it indeed, more than ten of them really", 1.0)])
    assert len(expanded.terms) <= EXPANSION_TERMS
    assert len(expanded.text.split()) < 1_024


def test_expansion_that_fails_leaves_the_query_and_says_so(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = EmbeddedIndex.keyword, []

    def first_call_fails(index: EmbeddedIndex, *arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            raise IndexUnavailable("no answer")
        return whole(index, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(EmbeddedIndex, "keyword", first_call_fails)
    answer = search(store, "rm3")
    assert {r.item_id for r in answer.results} == {"c1", "c2"}
    assert answer.failed_components == ["expansion"]
