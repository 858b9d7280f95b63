"""One spelling for Arabic words, and every other script as it was."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.pseudo_queries import fold
from retrieval.contracts.items import MAX_TITLE_CHARS, item_text, parse_item, query_text
from retrieval.search.request import MAX_QUERY_CHARS
from retrieval.text.analysis import clean_text
from retrieval.text.arabic import fold_arabic, fold_letters, has_arabic
from retrieval.text.spelling import doubtful_words

ARABIC_LETTERS = st.characters(min_codepoint=0x0600, max_codepoint=0x06FF)
PRESENTATION = st.one_of(
    st.characters(min_codepoint=0xFB50, max_codepoint=0xFDFF), st.characters(min_codepoint=0xFE70, max_codepoint=0xFEFF)
)
UNSEEN = st.sampled_from("\u061c\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u2066\u2069\ufeff \u0301\u0654")
MIXED = st.text(st.one_of(ARABIC_LETTERS, PRESENTATION, UNSEEN, st.sampled_from("aé👩🏽नש٣7.\n")), max_size=30)
OTHER_SCRIPTS = (
    "Café crème à l'Œuvre, Ångström, Straße",
    "שעון זהב עתיק בְּרֵאשִׁית \u200fישן",
    "हिन्दी क्‍ष नमस्‍ते",
    "👩‍🚀 👨‍👩‍👧 🏳️‍🌈 ❤️",
    "東京タワー — Ωμέγα — Часы",
)


@pytest.mark.parametrize(
    ("written", "folded"),
    [
        ("خاتـــم", "خاتم"),  # tatweel
        ("ذَهَبِيٌّ", "ذهبي"),  # vowel signs
        ("هٰذا", "هذا"),  # superscript alef
        ("أحمر إطار آلة ٱلله", "احمر اطار الة الله"),  # forms of alef
        ("مستشفى موسی", "مستشفي موسي"),  # forms of yeh
        ("کتاب", "كتاب"),  # Persian kaf
        ("ﺧﺎﺗﻢ ﻻﻣﻊ", "خاتم لامع"),  # presentation forms
        ("١٨ قيراط ۲۴ ٣٫٥ ١٬٠٠٠", "18 قيراط 24 3.5 1,000"),  # digits
        ("\u200fساعة \u200eRolex\u200f\u202c", "ساعة Rolex"),  # marks of direction, at Latin words, too
        ("می\u200cخواهم", "ميخواهم"),  # joiners
        ("قطة سؤال مئذنة شيء", "قطة سؤال مئذنة شيء"),  # what Lucene's normalizer, or the stemmer behind it, tells apart
        ("هدية 👨‍👩‍👧", "هدية 👨‍👩‍👧"),
        ("خاتم ـ ذهب", "خاتم ذهب"),
    ],
)
def test_an_arabic_text_has_one_spelling(written, folded):
    assert query_text(written) == item_text(written, "") == folded


@pytest.mark.parametrize("text", OTHER_SCRIPTS)
def test_other_scripts_stay_byte_for_byte(text):
    assert not has_arabic(text)
    assert fold_arabic(text) == fold_letters(text) == text
    assert query_text(text) == clean_text(text)
    assert query_text(f"{text} خاتم") == f"{clean_text(text)} خاتم".replace("\u200f", "")  # a mark of direction alone goes


@given(st.text(st.characters(exclude_categories=("Cs",))).filter(lambda text: not has_arabic(clean_text(text))))
def test_a_text_without_arabic_is_only_cleaned(text):
    assert query_text(text) == clean_text(text)
    assert fold_letters(text) == text or has_arabic(text)


@given(MIXED)
def test_folding_twice_changes_nothing(text):
    once = query_text(text)
    assert query_text(once) == once
    assert unicodedata.is_normalized("NFKC", once)
    assert fold(fold(text)) == fold(text)


@given(MIXED)
def test_folding_makes_no_text_longer(text):
    assert len(query_text(text)) <= len(clean_text(text))


def test_a_title_keeps_its_spelling_and_its_limit():
    title = "خَاتَم " * (MAX_TITLE_CHARS // 7)
    item = parse_item({"item_id": "أ١", "title": title, "category": "مجوهرات ذهبيّة"})
    assert (item.item_id, item.title, item.category) == ("أ١", title.strip(), "مجوهرات ذهبيّة")
    assert len(query_text("ﷺ" * 4)) < MAX_QUERY_CHARS


def test_a_word_that_a_lot_says_in_another_spelling_is_not_misspelt():
    lots = [{"title": "خَاتَم", "brand": "مجوهرات ألـماس"}]
    assert doubtful_words(query_text("خاتم ألماس"), lots) == []
    assert doubtful_words(query_text("خاتن"), lots) == ["خاتن"]
