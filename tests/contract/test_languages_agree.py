"""Words of several languages are cut, folded and stemmed alike by OpenSearch and by the embedded index."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from index_lots import DIMENSIONS, EVERYTHING, TOWER_ID, axis, lot
from opensearchpy import OpenSearch

from catalog.emoji import read_emoji
from retrieval.errors import InvalidInput
from retrieval.index.base import IndexStore
from retrieval.index.faiss import FaissStore
from retrieval.index.opensearch import OpenSearchStore
from retrieval.index.stemming import SNOWBALL, stem
from retrieval.schema import STEMMERS, index_body
from retrieval.settings import IndexLanguage
from retrieval.text import words

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


def test_every_language_has_a_stemmer_on_either_side() -> None:
    assert SNOWBALL.keys() == STEMMERS.keys() == set(get_args(IndexLanguage))


def test_an_unknown_language_is_refused_with_those_that_are_known(tmp_path) -> None:
    for make in (lambda: FaissStore(tmp_path, language="xx"), lambda: OpenSearchStore("http://127.0.0.1:1", language="xx")):
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
        yield FaissStore(tmp_path / "index", language="de")
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
    if isinstance(german, FaissStore):  # opened again by a process that knows nothing of it
        index.close()
        again = FaissStore(tmp_path / "index").find(TOWER_ID)
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
