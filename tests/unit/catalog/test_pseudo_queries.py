import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.markup import plain_text
from catalog.pseudo_queries import KINDS, Lexicon, Listing, fold, head_phrases, make_pseudo_queries, plural, possible_queries

NOUNS = frozenset(["cable", "case", "camera", "lamp", "projector", "cartridge", "toner", "hub", "keyboard"])


def listing(title: str, brand: str = "", **fields) -> Listing:
    return Listing("1", title, brand=brand, **fields)


@pytest.mark.parametrize(
    ("title", "phrases"),
    [
        ("Acme TBC302P camera case Pink", ["case", "camera case"]),
        ("Acme Lamp for TDP-T9U projector", ["lamp"]),
        ("Acme 12 cases", []),
        ("Acme X-1 fiber patch cable, toner, hub", ["cable", "patch cable", "fiber patch cable"]),
        ("Acme Keyboard/Mouse Cable (projector)", ["cable"]),
        ("Acme T65", []),
    ],
)
def test_the_head_noun_says_what_a_product_is(title, phrases):
    assert head_phrases(listing(title, "Acme"), NOUNS) == phrases


def shop() -> list[Listing]:
    """Cables and bags of two brands, in the singular and the plural."""
    listings = []
    for number in range(24):
        brand, kind = ("Acme", "Bolt")[number % 2], ("patch cable", "laptop bag")[number // 2 % 2]
        title = f"{brand} {'Orion' if brand == 'Acme' else 'Vega'} {kind} Black"
        about = "bags and bag, cable and cables"
        listings.append(Listing(str(number), title, about, brand, f"XT-{number}00", {"colour": "Black", "code": "12"}))
    return listings


def test_a_listing_is_asked_for_by_type_plural_brand_attribute_family_and_model():
    found = possible_queries(shop()[0], Lexicon.learn(shop()))
    assert found == {
        "type": ["cable", "patch cable"],
        "plural": ["cables", "patch cables"],
        "brand+type": ["acme cable", "acme patch cable"],
        "attribute+type": ["black cable", "black patch cable"],
        "family": ["orion", "orion patch", "acme orion", "acme orion patch"],
        "model": ["xt-000", "acme xt-000"],
    }


def test_a_name_of_one_brand_is_a_family_and_no_type():
    listings = [Listing(str(n), "Acme Gizmos", "gizmo gizmo gizmos", "Acme") for n in range(5)] + shop()
    lexicon = Lexicon.learn(listings)
    assert "gizmos" in lexicon.nouns
    assert "gizmos" not in lexicon.types
    assert ("acme", "gizmos") in lexicon.families


def test_a_lot_gets_no_more_queries_and_a_query_no_more_lots_than_allowed():
    queries = make_pseudo_queries(shop(), per_item=3, per_query=5)
    lots = {query.item_id: [q for q in queries if q.item_id == query.item_id] for query in queries}
    texts = {query.query: [q for q in queries if q.query == query.query] for query in queries}
    assert max(map(len, lots.values())) <= 3
    assert max(map(len, texts.values())) <= 5


def test_same_seed_same_queries_another_seed_others():
    assert make_pseudo_queries(shop(), seed=1) == make_pseudo_queries(shop(), seed=1)
    assert make_pseudo_queries(shop(), seed=1) != make_pseudo_queries(shop(), seed=2)


LISTINGS = st.lists(
    st.builds(
        Listing, st.uuids().map(str), st.text("abs ,(-1", max_size=20), st.text("abs ", max_size=20), st.text("ab", max_size=2)
    ),
    max_size=20,
    unique_by=lambda each: each.item_id,
)


@given(LISTINGS)
def test_queries_are_folded_name_their_lot_once_and_are_of_a_known_kind(listings):
    queries = make_pseudo_queries(listings)
    assert len({(query.query, query.item_id) for query in queries}) == len(queries)
    for query in queries:
        assert query.query == fold(query.query) != ""
        assert query.kind in KINDS
        assert query.item_id in {each.item_id for each in listings}


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("cable", "cables"),
        ("battery", "batteries"),
        ("key", "keys"),
        ("switch", "switches"),
        ("box", "boxes"),
        ("headphones", "headphones"),
    ],
)
def test_plurals_follow_the_common_rules(one, many):
    assert plural(one) == many


@given(st.text(alphabet="aB \t\u00a0\u0627é\x00", max_size=20))
def test_folding_is_done_once_and_for_all(text):
    assert fold(fold(text)) == fold(text)
    assert fold(f"  {text.upper()} ") == fold(text.upper())


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("Processor<br />(2M Cache)", "Processor (2M Cache)"),
        ("a < b and 5 <6 ms", "a < b and 5 <6 ms"),
        ("<p class='x'>oak &amp; ash</p><!-- <b> -->", "oak & ash"),
        ("plain  text\n", "plain text"),
        ("&lt;b&gt;", "<b>"),
    ],
)
def test_tags_and_entities_are_read_and_comparisons_stay(markup, text):
    assert plain_text(markup) == text
