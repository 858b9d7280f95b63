"""Make short queries, as shoppers type them, from listings only, without judgments or clicks.

Product types are learned from the listings. A noun is a word that occurs in the singular and in the plural. A product's head noun
is the last of a run of nouns ("camera case" is a case, not a camera).
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from retrieval.contracts.items import query_text

TYPE, PLURAL, BRAND_TYPE, ATTRIBUTE_TYPE, FAMILY, MODEL = "type", "plural", "brand+type", "attribute+type", "family", "model"
CATEGORY, TITLE = "category", "title"
KINDS = (TYPE, PLURAL, BRAND_TYPE, ATTRIBUTE_TYPE, FAMILY, MODEL, CATEGORY, TITLE)

MIN_LISTINGS = 3  # minimum number of listings of a type or a family
MIN_BRANDS = 2  # minimum number of brands of a type; a phrase of one brand is a family
MIN_NUMBER = 2  # minimum number of occurrences of a noun in the singular, and in the plural
FAMILY_SHARE = 0.9  # required share of the brand among a family's listings
MAX_INSIDE = 0.6  # largest share of a noun's occurrences that may stand before another noun
MAX_TYPE_WORDS = 3
MAX_VALUE_WORDS = 2  # largest number of words in an attribute's value
MAX_MODEL_WORDS = 3
MAX_CATEGORY_WORDS = 4
MIN_TYPED = 0.4  # smallest share of listings with a known type with which titles are not needed
MAX_TITLE_WORDS = 3  # largest number of words of a title in one query

_WORD = re.compile(r"[a-z]{3,}")
_SEGMENT_END = re.compile(r"\([^()]*\)|[,;:|()\[\]]|\s[-–]\s")
_PATH = re.compile(r"\s*[>/|»]\s*")  # between the levels of a category
_EDGES = "\"'“”‘’.*®™!?+"
_TURN = frozenset(
    ["for", "with", "to", "from", "of", "in", "on", "by", "and", "or", "w/", "incl", "including", "compatible", "without"]
)
_NO_NOUNS = frozenset(
    ["original", "black", "series", "type", "colour", "color", "plus", "pro", "model", "pixel", "pixels", "piece", "pieces"]
)


@dataclass(frozen=True, slots=True)
class Listing:
    """The texts of an item from which pseudo-queries are made.

    Attributes:
        item_id: id of the item.
        title: title as listed.
        description: description, used only to count singular and plural forms.
        brand: name of the maker; may be empty.
        model: the maker's name for the product; may be empty.
        attributes: name -> value, for attributes that shoppers search by.
        category: path of categories, such as "Home > Vases", of which the last one is searched by; may be empty.
    """

    item_id: str
    title: str
    description: str = ""
    brand: str = ""
    model: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    category: str = ""


@dataclass(frozen=True, slots=True)
class PseudoQuery:
    """A query with an item that answers it.

    Attributes:
        query: text of the query, in lower case.
        item_id: id of the item that the query was made from.
        kind: kind of the query, one of KINDS.
    """

    query: str
    item_id: str
    kind: str


@dataclass(frozen=True)
class Lexicon:
    """Nouns and phrases that are learned from listings.

    Attributes:
        nouns: words that occur in singular and plural.
        types: phrases of one to three words, ending in a noun, that name a product type.
        families: pairs (brand, phrase), both folded, where one brand uses the phrase as a name for several products.
    """

    nouns: frozenset[str]
    types: frozenset[str]
    families: frozenset[tuple[str, str]]

    @classmethod
    def learn(cls, listings: Sequence[Listing]) -> "Lexicon":
        """Learn nouns, types and families from listings, in three passes."""
        nouns = _learn_nouns(listings)
        return cls(nouns, _learn_types(listings, nouns), _learn_families(listings))


def make_pseudo_queries(
    listings: Iterable[Listing], *, seed: int = 7, per_item: int = 4, per_query: int = 40, from_titles: bool = False
) -> list[PseudoQuery]:
    """Make queries that the listings answer.

    Args:
        listings: the whole catalogue; more listings give a better lexicon.
        seed: seed that selects among the possible queries.
        per_item: largest number of queries per item; different kinds are drawn first.
        per_query: largest number of items per query, so that "cable" does not dominate.
        from_titles: True takes words of the title where most listings have no known type, such as in other languages than English.

    Returns:
        Queries in the order of the listings, every (query, item) once; the same for the same listings and seed.
    """
    rows = list(listings)
    lexicon = Lexicon.learn(rows)
    from_titles = from_titles and sum(bool(_types(row, lexicon)) for row in rows) < MIN_TYPED * len(rows)
    candidates = [query for listing in rows for query in _draw(listing, lexicon, seed, per_item, from_titles)]
    by_text: dict[str, list[PseudoQuery]] = defaultdict(list)
    for query in candidates:
        by_text[query.query].append(query)
    selected = {
        query
        for queries in by_text.values()
        for query in sorted(queries, key=lambda q: _random_key(seed, q.item_id, q.query))[:per_query]
    }
    return [query for query in candidates if query in selected]


def possible_queries(listing: Listing, lexicon: Lexicon, *, from_titles: bool = False) -> dict[str, list[str]]:
    """Return all queries that can be made from one listing; with `from_titles`, words of its title if it has no known type.

    Returns:
        kind -> distinct texts in lower case; kinds without text are left out.
    """
    brand = fold(listing.brand)
    types = _types(listing, lexicon)
    values = [fold(value) for value in listing.attributes.values()]
    values = [v for v in values if len(v.split()) <= MAX_VALUE_WORDS and re.fullmatch(r"[a-z][a-z \-]{2,}", v)]
    families = [phrase for phrase in _openings(listing) if (brand, phrase) in lexicon.families]
    texts_of = {
        TYPE: types,
        PLURAL: [other for phrase in types if (other := plural(phrase)) != phrase],
        BRAND_TYPE: [f"{brand} {phrase}" for phrase in types if brand],
        ATTRIBUTE_TYPE: [f"{value} {p}" for value in values for p in types if not set(value.split()) & set(p.split())],
        FAMILY: [*families, *(f"{brand} {phrase}" for phrase in families)],
        MODEL: _model_queries(listing, brand),
        CATEGORY: _category_queries(listing, brand),
        TITLE: _title_queries(listing) if from_titles and not types else [],
    }
    return {kind: list(dict.fromkeys(texts)) for kind, texts in texts_of.items() if texts}


def _types(listing: Listing, lexicon: Lexicon) -> list[str]:
    return [phrase for phrase in head_phrases(listing, lexicon.nouns) if phrase in lexicon.types]


def head_phrases(listing: Listing, nouns: frozenset[str]) -> list[str]:
    """Return the phrases of a title that end in its head noun: "fiber patch cable", "patch cable", "cable".

    Args:
        listing: listing whose title is read without the brand, up to the end of the first noun phrase. Words in brackets, after a
            comma or after "for" or "with" do not name the product.
        nouns: words that can be head nouns, see Lexicon.nouns.

        Returns:
            The phrases, the shortest first; empty if the title names no product type.
    """
    for words in _segments(listing):
        for end in range(len(words), 0, -1):
            word, before = words[end - 1], words[end - 2] if end > 1 else ""
            if word not in nouns or before[:1].isdigit():  # "480 pixels", "10 sheets"
                continue
            starts = range(end - 1, max(0, end - MAX_TYPE_WORDS) - 1, -1)
            phrases = []
            for start in starts:
                if not _plain(words[start]):
                    break
                phrases.append(" ".join(words[start:end]))
            return phrases
    return []


def plural(phrase: str) -> str:
    """Return the plural of an English phrase by the common rules; a phrase that ends in s is unchanged."""
    if phrase.endswith("s"):
        return phrase
    if re.search(r"(x|z|ch|sh)$", phrase):
        return f"{phrase}es"
    if re.search(r"[^aeiou]y$", phrase):
        return f"{phrase[:-1]}ies"
    return f"{phrase}s"


def fold(text: str) -> str:
    """Return a text normalised for comparison: cleaned, in lower case, spaces folded."""
    simple = text.isascii() and text.isprintable()  # such a text needs no Unicode normalisation, which is ten times slower
    return (" ".join(text.split()) if simple else query_text(text)).lower()


def _learn_nouns(listings: Sequence[Listing]) -> frozenset[str]:
    words = Counter(word for each in listings for word in _WORD.findall(f"{each.title} {each.description}".lower()))
    numbers = ((word, plural(word)) for word, count in words.items() if count >= MIN_NUMBER and plural(word) != word)
    nouns = {form for one, many in numbers if words[many] >= MIN_NUMBER for form in (one, many)} - _NO_NOUNS
    inside, total = Counter[str](), Counter[str]()  # "laser printer", "laser toner": laser is hardly ever the head
    for each in listings:
        for run in _segments(each):
            total.update(run)
            inside.update(word for word, behind in pairwise(run) if behind in nouns and behind != word)
    return frozenset(word for word in nouns if inside[word] <= MAX_INSIDE * total[word])


def _learn_types(listings: Sequence[Listing], nouns: frozenset[str]) -> frozenset[str]:
    count: Counter[str] = Counter()
    brands: dict[str, set[str]] = defaultdict(set)
    branded = any(each.brand for each in listings)
    for each in listings:
        for phrase in head_phrases(each, nouns):
            count[phrase] += 1
            brands[phrase].add(fold(each.brand))
    min_brands = MIN_BRANDS if branded else 1
    return frozenset(p for p, n in count.items() if n >= MIN_LISTINGS and len(brands[p]) >= min_brands)


def _learn_families(listings: Sequence[Listing]) -> frozenset[tuple[str, str]]:
    of_brand = Counter((fold(each.brand), phrase) for each in listings if each.brand for phrase in _openings(each))
    of_all = Counter(phrase for each in listings for phrase in _openings(each))
    return frozenset(key for key, count in of_brand.items() if count >= MIN_LISTINGS and count >= FAMILY_SHARE * of_all[key[1]])


def _draw(listing: Listing, lexicon: Lexicon, seed: int, per_item: int, from_titles: bool) -> Iterator[PseudoQuery]:
    """Yield up to `per_item` queries: first one of every kind, in random order of kinds, then a second of every kind, and so on."""
    possible = possible_queries(listing, lexicon, from_titles=from_titles)
    ranked = [
        (place, _random_key(seed, listing.item_id, kind), text, kind)
        for kind, texts in possible.items()
        for place, text in enumerate(sorted(texts, key=lambda text: _random_key(seed, listing.item_id, text)))
    ]
    used: set[str] = set()
    for _, _, text, kind in sorted(ranked):
        if len(used) == per_item:
            return
        if text not in used:
            used.add(text)
            yield PseudoQuery(text, listing.item_id, kind)


def _segments(listing: Listing) -> Iterator[list[str]]:
    """Yield the words of a title's parts, without a leading brand and without words after a preposition."""
    title, brand = fold(listing.title), fold(listing.brand)
    for part in _SEGMENT_END.split(title.removeprefix(brand)):
        words = [word.strip(_EDGES) for word in part.split()]
        turn = next((n for n, word in enumerate(words) if word in _TURN), len(words))
        if words[:turn]:
            yield words[:turn]


def _openings(listing: Listing) -> list[str]:
    """Return the first word and the first two words after the brand."""
    words = next(_segments(listing), [])
    usable = [word for word in words[:2] if re.fullmatch(r"[a-z0-9]+", word)]
    if usable != words[:2] or not words or not _WORD.fullmatch(words[0]):
        return []
    return [" ".join(words[:n]) for n in range(1, len(words[:2]) + 1)]


def _model_queries(listing: Listing, brand: str) -> list[str]:
    model = fold(listing.model)
    usable = len(model) >= 3 and len(model.split()) <= MAX_MODEL_WORDS and any(c.isdigit() for c in model)
    return ([model, f"{brand} {model}"] if brand and brand not in model else [model]) if usable else []


def _category_queries(listing: Listing, brand: str) -> list[str]:
    leaf = _PATH.split(fold(listing.category))[-1]
    usable = 0 < len(leaf.split()) <= MAX_CATEGORY_WORDS and any(c.isalpha() for c in leaf)
    return ([leaf, f"{brand} {leaf}"] if brand and brand not in leaf else [leaf]) if usable else []


def _title_queries(listing: Listing) -> list[str]:
    """Return up to three words of the title that stand side by side, without numbers and codes."""
    words = next(_segments(listing), [])
    usable = [word for word in words if len(word) > 1 and any(c.isalpha() for c in word) and not any(c.isdigit() for c in word)]
    sizes = range(min(2, len(usable)), min(MAX_TITLE_WORDS, len(usable)) + 1) if usable else ()
    return [" ".join(usable[start : start + size]) for size in sizes for start in range(len(usable) - size + 1)]


def _plain(word: str) -> bool:
    """Return True if a word may be part of a type: "cat5e" may, "tbc302p" is a model."""
    return re.fullmatch(r"(?!.*\d{3})[a-z][a-z0-9\-]*", word) is not None and word not in _TURN


def _random_key(seed: int, *parts: str) -> bytes:
    return hashlib.sha256("\x00".join([str(seed), *parts]).encode()).digest()
