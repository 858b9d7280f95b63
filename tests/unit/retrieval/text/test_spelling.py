"""Misspelt words of a query: which are in doubt, and what a search says of them."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from lots import WordEncoder, lot, publish

from retrieval.contracts.items import query_text
from retrieval.errors import IndexUnavailable
from retrieval.index.embedded.index import EmbeddedIndex
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.embedded.title_terms import PREFIX, TitleTerms
from retrieval.search.service import Mode, SearchModels, SearchRequest, SearchService
from retrieval.text.spelling import MAX_WORDS, corrected, doubtful_words

LOTS = [
    lot("v1", "Red vase", brand="Meissen", category="vases"),
    lot("w1", "Gold watch with a round dial"),
    lot("w2", "Old watch", description="guilloche"),
    lot("vaze", "Blue ring"),
]


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    store = EmbeddedStore(tmp_path / "index")
    publish(store, LOTS)
    return store


def meant(store: EmbeddedStore, query: str, **asked: object) -> str | None:
    return SearchService(store, SearchModels(WordEncoder)).search(SearchRequest(query, **asked)).did_you_mean  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["hybrid", "semantic", "keyword"])
def test_a_misspelt_query_is_put_right_in_every_mode_and_the_search_is_left_as_typed(store: EmbeddedStore, mode: Mode) -> None:
    assert meant(store, "Round? gold  WACTH!", mode=mode) == "Round? gold watch!"
    found = SearchService(store, SearchModels(WordEncoder)).search(SearchRequest("wacth", mode="keyword"))
    assert (found.did_you_mean, list(found.results)) == ("watch", [])


@pytest.mark.parametrize(
    "query",
    [
        "red vase",
        "watches",
        "meisen",  # near to a brand, but no word of a title is
        "Meissen",
        "guilloche",
        "vaze",  # the item_id of a lot
        "rde",  # too short to tell
        "watc2h",
        "zeppelin",
        "!?",
    ],
)
def test_known_words_ids_numbers_and_words_far_from_all_are_not_put_right(store: EmbeddedStore, query: str) -> None:
    assert meant(store, query) is None


def test_a_later_page_does_not_ask_again(store: EmbeddedStore) -> None:
    assert meant(store, "gold wacth", offset=1, k=1) is None


def test_the_time_of_it_is_told_when_the_index_was_asked(store: EmbeddedStore) -> None:
    service = SearchService(store, SearchModels(WordEncoder))
    assert "spelling" in service.search(SearchRequest("gold wacth")).timings_ms
    assert "spelling" not in service.search(SearchRequest("gold watch")).timings_ms


def test_an_index_that_cannot_say_leaves_the_search_whole(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: EmbeddedIndex, words: list[str]) -> dict[str, str]:
        raise IndexUnavailable("no answer")

    monkeypatch.setattr(EmbeddedIndex, "corrections", fail)
    answer = SearchService(store, SearchModels(WordEncoder)).search(SearchRequest("gold wacth"))
    assert (answer.did_you_mean, answer.failed_components) == (None, [])
    assert answer.results[0].item_id == "w1"


def test_words_are_in_doubt_that_no_found_lot_says() -> None:
    documents = [{"title": "Red vase", "brand": "Meissen", "text": "red vase. with guilloche"}, {"category": "Étagères"}]
    assert doubtful_words("Red vasse by MEISSEN, guilloche étagères 2024 eos550d", documents) == ["vasse"]
    assert doubtful_words(" ".join(f"{letter}xyz" for letter in "abcdefghi"), []) == []
    assert MAX_WORDS == 8


def test_words_of_every_script_are_whole_words_in_doubt_and_in_the_correction() -> None:
    lots = [{"title": "विंटेज घड़ी"}, {"title": "นาฬิกา"}, {"brand": "Cafe\u0301teria"}]
    assert doubtful_words(query_text("घड\u093cी นาฬิกา caf\u00e9teria"), lots) == []
    assert doubtful_words(query_text("विंटेजा"), lots) == ["विंटेजा"]
    assert corrected("विंटेजा, 👩\u200d🚀 ro\u200dlexx!", {"विंटेजा": "विंटेज", "rolexx": "rolex"}) == "विंटेज, 👩\u200d🚀 rolex!"


def test_what_is_not_corrected_stays_as_it_was_typed() -> None:
    assert corrected("A  Wacth, (blak)", {"wacth": "watch"}) == "A  watch, (blak)"
    assert corrected("a watch", {}) is None


def test_the_words_of_titles_are_kept_beside_the_index_and_counted_again_where_they_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "index"
    folder = root / publish(EmbeddedStore(root), LOTS).name
    (kept,) = folder.glob(f"{PREFIX}*")

    def refuse(self: TitleTerms, titles: Iterable[str]) -> None:
        assert list(titles) == [], "counted although they were kept"

    with monkeypatch.context() as patched:
        patched.setattr(TitleTerms, "add", refuse)
        assert EmbeddedStore(root).live().corrections(["wacth"]) == {"wacth": "watch"}
    kept.write_text("{")
    assert EmbeddedStore(root).live().corrections(["wacth"]) == {"wacth": "watch"}
    index = EmbeddedStore(root).live()
    index.upsert([lot("s1", "Brass sextant")])
    assert index.corrections(["sextent"]) == {"sextent": "sextant"}
    index.close()
    assert [path.name for path in folder.glob(f"{PREFIX}*")] != [kept.name]
