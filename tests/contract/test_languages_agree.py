"""Words of several languages are cut, folded and stemmed alike by OpenSearch and by the embedded index."""

import os
import unicodedata
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_lots import DIMENSIONS, EVERYTHING, NOW, TOWER_ID, axis, lot
from opensearchpy import OpenSearch

from catalog.emoji import read_emoji
from retrieval.contracts.items import parse_item, query_text
from retrieval.errors import InvalidInput
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter
from retrieval.index.opensearch.mapping import STEMMERS, index_body
from retrieval.index.opensearch.store import OpenSearchStore
from retrieval.index.port import IndexStore
from retrieval.text.analysis import words
from retrieval.text.languages import IndexLanguage
from retrieval.text.stemming import SNOWBALL, stem

# names from the CLDR's annotations, every ending and article of the stemmer, and letters that are folded
ARABIC = """
وجه بابتسامة عريضة والسيارات للسيارة قطة مبتسمة بعيون قلوب الخاتم الذهبي قلادة ذهبية ساعات يد قديمة كالقمر فالشمس بالعربية
لاعبون لاعبين جمهورية جمهوريه سعوديّة مهندسان كتابها وردة ورد ولد و من في آلة أحمر إطار ٱلله مَكْتَبَةٌ مـكـتـبـة علی کتاب مئذنة
سؤال شيء ماء على ذو ١٢٣ ۱۲۳ ٣٫٥ ي‌م ع‍ل ‏عربي‎ رحلة٢٠٢٦ abcعربي عربيabc هاها اتات وووو الال يةية ةةة
"""
LATIN = {
    "en": "rings watches running jewellery engines oil's cities generously necklaces",
    "de": "Häuser Uhren goldene Ringe schönsten Möbel Straße Fußbälle vergoldeter Armbänder müde Ärzte",
    "fr": "bagues anciennes montres dorées chevaux œuvres élégamment bijoux françaises réparations où",
    "es": "anillos antiguas relojes dorados canciones pequeñitos rápidamente vendiéndoselo años joyería",
}


@pytest.fixture
def client(opensearch_url: str) -> Iterator[OpenSearch]:
    """A plain client whose indices begin with words-."""
    client = OpenSearch(opensearch_url)
    yield client
    client.indices.delete(index="words-*")
    client.close()


@pytest.mark.parametrize("language", STEMMERS)
def test_the_same_words_come_out_of_both_analyses(client: OpenSearch, language: str) -> None:
    name = f"words-{uuid.uuid4().hex[:8]}"
    client.indices.create(index=name, body=index_body(TOWER_ID, DIMENSIONS, language=language))
    for text in (ARABIC, LATIN[language], f"{LATIN['en']} {ARABIC} हिन्दी 👩‍🚀 שלום"):
        for analyzer, ours in (("spelling", words(text)), ("item_text", [stem(word, language) for word in words(text)])):
            answer = client.indices.analyze(index=name, body={"analyzer": analyzer, "text": text})
            assert [token["token"] for token in answer["tokens"]] == ours


# blocks of Unicode 13, which every Python and Java knows: Latin to Tibetan, marks, punctuation, symbols, kana, Han, Hangul, emoji
BLOCKS = [(0x09, 0x377), (0x384, 0x61C), (0x61E, 0x86F), (0x900, 0xC5A), (0xC60, 0xCDC), (0xCE0, 0xFC0), (0x1E00, 0x2BFF)]
BLOCKS += [(0x3000, 0x30FF), (0x4E00, 0x4FFF), (0xA720, 0xA7BF), (0xAC00, 0xACFF)]
BLOCKS += [(0xF900, 0xFAD9), (0xFE00, 0xFFFD), (0x1D400, 0x1D7FF), (0x1F300, 0x1F6D7)]
UNSEEN = "\u00ad\u034f\u061c\u115f\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u2060\u2066\u3164\ufe0f\ufeff\U000e0061\U000e0101"
LETTERS = [st.characters(min_codepoint=a, max_codepoint=b, exclude_categories=("Cs", "Cn", "Cc")) for a, b in BLOCKS]
OFTEN = st.sampled_from(f"aeiIİßẞΣςk ._-'\u0301\u0308\u093c\u094d\u0e34{UNSEEN}")
TEXTS = st.lists(st.text(st.one_of(OFTEN, *LETTERS), max_size=40), min_size=1, max_size=20)


def test_words_of_every_script_are_cut_alike(client: OpenSearch) -> None:
    name = f"words-{uuid.uuid4().hex[:8]}"
    client.indices.create(index=name, body=index_body(TOWER_ID, DIMENSIONS))

    @settings(max_examples=100, deadline=None)
    @given(TEXTS)
    def cut_alike(texts: list[str]) -> None:
        texts += [query_text(text) for text in texts]
        composed = [unicodedata.normalize("NFC", text) for text in texts]  # as the fields of a lot are
        answer = client.indices.analyze(index=name, body={"analyzer": "spelling", "text": composed})
        assert [token["token"] for token in answer["tokens"]] == [word for text in texts for word in words(text)]

    cut_alike()


WRITTEN = {
    "hindi": ("विंटेज कलाई घड़ी", ["घड़ी", "घड\u093cी"]),  # the second with the letter and its dot apart
    "thai": ("นาฬิกา วินเทจ", ["นาฬิกา"]),
    "apart": ("Cafe\u0301 racer", ["café", "CAFE\u0301"]),
    "soft": ("Sub\u00admariner", ["submariner", "sub\u200bmariner"]),
    "zero": ("Ro\u200blex\ufeff", ["rolex", "ro\u200dlex", "ROLEX\u200e"]),
    "persian": ("می\u200cخواهم", ["میخواهم", "می\u200cخواهم"]),
    "sinhala": ("ශ්\u200dරී ලංකා", ["ශ්\u200dරී", "ශ්රී"]),
    "wide": ("ＣＡＮＯＮ ＡＥ－１", ["canon", "ＣＡＮＯＮ"]),
}


def test_a_lot_is_found_by_its_words_however_they_are_written(filled) -> None:
    items = {name: parse_item({"id": name, "title": title}) for name, (title, _) in WRITTEN.items()}
    index = filled([lot(name, axis(n), title=items[name].title) for n, name in enumerate(items)])
    for name, (_, queries) in WRITTEN.items():
        for query in queries:
            assert [hit.item_id for hit in index.keyword(query_text(query), 10, EVERYTHING)] == [name], query


@pytest.mark.parametrize(
    ("listed", "asked", "other"),
    [
        ("Cafe\u0301", ["Café", "cafe\u0301", " CAFÉ\u00a0"], "cafe"),
        ("Ro\u00adlex", ["rolex", "Ro\u200blex", "ROLEX\ufeff"], "ro lex"),
        ("İpek", ["ipek", "I\u0307PEK", "İPEK"], "ıpek"),
        ("Straße", ["straße", "STRAẞE"], "STRASSE"),
        ("क्\u200dष", ["क्ष"], "कष"),
        ("Va\0se", ["va se"], "vase"),
    ],
)
def test_a_brand_and_a_category_are_asked_for_however_they_are_written(filled, listed: str, asked: list[str], other: str) -> None:
    item = parse_item({"id": "lot", "title": "a lot", "brand": listed, "category": listed})
    index = filled([lot("lot", brand=item.brand, category=item.category), lot("other", brand="Other", category="Other")])
    for name in ("brands", "categories"):
        for text in asked:
            assert [hit.item_id for hit in index.keyword("lot", 5, Filter(**{name: (text,)}, now=NOW))] == ["lot"], text
        assert index.keyword("lot", 5, Filter(**{name: (other,)}, now=NOW)) == []


def test_every_language_has_a_stemmer_on_either_side() -> None:
    assert SNOWBALL.keys() == STEMMERS.keys() == set(get_args(IndexLanguage))


def test_an_unknown_language_is_refused_with_those_that_are_known(tmp_path) -> None:
    for make in (lambda: EmbeddedStore(tmp_path, language="xx"), lambda: OpenSearchStore("http://127.0.0.1:1", language="xx")):
        with pytest.raises(InvalidInput, match=r"'xx'.*en, de, fr, es"):
            make()


LOTS = {
    "ring": "خَاتَم ذهبيّ قديم",
    "rings": "الخواتم الذهبية",
    "watch": "ســاعة يد قديمة من ١٩٥٠",
    "watches": "ساعات وقلادات",
    "english": "Gold watches and a ring",
}


def test_arabic_words_are_found_in_every_spelling_and_ending(filled) -> None:
    index = filled([lot(name, axis(n), title=title) for n, (name, title) in enumerate(LOTS.items())])

    def found(text: str) -> set[str]:
        return {hit.item_id for hit in index.keyword(text, 10, EVERYTHING)}

    assert found("ساعه") == found("الساعات") == found("ساعة") == {"watch", "watches"}
    assert found("ذهبي") == found("الذهبيه") == {"ring", "rings"}
    assert found("1950") == {"watch"}
    assert found("watch") == {"english"}


def test_a_misspelt_arabic_word_is_put_right_from_titles_as_their_seller_wrote_them(filled) -> None:
    index = filled([lot(name, axis(n), title=title) for n, (name, title) in enumerate(LOTS.items())])
    assert index.corrections(["الخواتن", "قديمة", "الذهبية"]) == {"الخواتن": "الخواتم"}


@pytest.fixture(params=["faiss", "opensearch"])
def german(request: pytest.FixtureRequest, tmp_path) -> Iterator[IndexStore]:
    """A store of either kind whose indices are German."""
    if request.param == "faiss":
        yield EmbeddedStore(tmp_path / "index", language="de")
        return
    url, alias = request.getfixturevalue("opensearch_url"), f"lots-{uuid.uuid4().hex[:8]}"
    yield OpenSearchStore(url, alias, language="de")
    client = OpenSearch(url)
    client.indices.delete(index=f"{alias}-*")
    client.close()


def test_an_index_keeps_its_language(german: IndexStore, tmp_path) -> None:
    index = german.create(TOWER_ID, DIMENSIONS)
    index.upsert([lot("a", axis(0), title="Goldene Armbanden"), lot("b", axis(1), title="Armband aus Gold")])
    index.refresh()
    if isinstance(german, EmbeddedStore):  # opened again by a process that knows nothing of it
        index.close()
        again = EmbeddedStore(tmp_path / "index").find(TOWER_ID)
        assert again is not None
        index = again
    found = index.keyword("goldenes armband", 10, EVERYTHING)  # which English endings would not find
    assert [hit.item_id for hit in found] == ["a", "b"]


def test_all_arabic_names_and_keywords_of_the_cldr_are_stemmed_alike(client: OpenSearch) -> None:
    default = Path(__file__).parents[3] / "shared" / "data"
    data = Path(os.environ.get("GAVEL_DATA", default)) / "emoji-noto-cldr"
    if not data.is_dir() and os.environ.get("CI") != "true":
        pytest.skip("the emoji are not here (GAVEL_DATA names the folder of data sets)")
    texts = [", ".join([each.names["ar"], *each.keywords["ar"]]) for each in read_emoji(data)]
    name = f"words-{uuid.uuid4().hex[:8]}"
    client.indices.create(index=name, body=index_body(TOWER_ID, DIMENSIONS))
    for start in range(0, len(texts), 200):
        text = " | ".join(texts[start : start + 200])
        answer = client.indices.analyze(index=name, body={"analyzer": "item_text", "text": text})
        assert [token["token"] for token in answer["tokens"]] == [stem(word, "en") for word in words(text)]
