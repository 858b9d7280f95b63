"""Short queries as shoppers type them, made from the listings alone: no judgment, no click goes in.

Which words name a kind of product is learned from the listings: a noun is a word that occurs in the singular and in the
plural, and a product's head noun is the last of a run of nouns ("camera case" is a case, not a camera).
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from retrieval.contracts.items import query_text

TYPE, PLURAL, BRAND_TYPE, ATTRIBUTE_TYPE, FAMILY, MODEL = "type", "plural", "brand+type", "attribute+type", "family", "model"
KINDS = (TYPE, PLURAL, BRAND_TYPE, ATTRIBUTE_TYPE, FAMILY, MODEL)

MIN_LISTINGS = 3  # that a type or a family is named in
MIN_BRANDS = 2  # that a type is named by; a phrase of one brand is a family
MIN_NUMBER = 2  # times that a noun occurs in either number
FAMILY_SHARE = 0.9  # of a family's listings, those of its brand
MAX_INSIDE = 0.6  # of a head noun's places in titles, those before another noun
MAX_TYPE_WORDS = 3
MAX_VALUE_WORDS = 2  # of an attribute's value
MAX_MODEL_WORDS = 3

_WORD = re.compile(r"[a-z]{3,}")
_SEGMENT_END = re.compile(r"\([^()]*\)|[,;:|()\[\]]|\s[-–]\s")
_EDGES = "\"'“”‘’.*®™!?+"
_TURN = frozenset(
    ["for", "with", "to", "from", "of", "in", "on", "by", "and", "or", "w/", "incl", "including", "compatible", "without"]
)
_NO_NOUNS = frozenset(
    ["original", "black", "series", "type", "colour", "color", "plus", "pro", "model", "pixel", "pixels", "piece", "pieces"]
)


@dataclass(frozen=True, slots=True)
class Listing:
    """What pseudo-queries are made from.

    Attributes:
        item_id: the lot.
        title: as listed.
        description: only its words' numbers (singular, plural) are looked at.
        brand: maker, may be empty.
        model: the maker's name for the product, may be empty.
        attributes: name -> value, those that a shopper would ask for.
    """

    item_id: str
    title: str
    description: str = ""
    brand: str = ""
    model: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PseudoQuery:
    """A query with a lot that answers it.

    Attributes:
        query: in small letters.
        item_id: the lot that it was made from.
        kind: one of KINDS.
    """

    query: str
    item_id: str
    kind: str


@dataclass(frozen=True)
class Lexicon:
    """What the listings say about their words.

    Attributes:
        nouns: words that occur in singular and plural.
        types: phrases of one to three words, ending in a noun, that name a kind of product.
        families: (brand, phrase), both folded, of the names that one brand gives to several products.
    """

    nouns: frozenset[str]
    types: frozenset[str]
    families: frozenset[tuple[str, str]]

    @classmethod
    def learn(cls, listings: Sequence[Listing]) -> "Lexicon":
        """Learn nouns, types and families from listings, which are read three times."""
        nouns = _learn_nouns(listings)
        return cls(nouns, _learn_types(listings, nouns), _learn_families(listings))


def make_pseudo_queries(listings: Iterable[Listing], *, seed: int = 7, per_item: int = 4, per_query: int = 40) -> list[PseudoQuery]:
    """Make queries that the listings answer.

    Args:
        listings: the whole catalogue; the more, the better the words are known.
        seed: decides which of the possible queries are taken.
        per_item: queries that a lot gets at most, of different kinds first.
        per_query: lots that a query keeps at most, so that "cable" does not drown all else.

    Returns:
        Queries in the order of the listings, every (query, lot) once; the same for the same listings and seed.
    """
    known = list(listings)
    lexicon = Lexicon.learn(known)
    drawn = [query for listing in known for query in _draw(listing, lexicon, seed, per_item)]
    by_text: dict[str, list[PseudoQuery]] = defaultdict(list)
    for query in drawn:
        by_text[query.query].append(query)
    kept = {
        query
        for queries in by_text.values()
        for query in sorted(queries, key=lambda q: _chance(seed, q.item_id, q.query))[:per_query]
    }
    return [query for query in drawn if query in kept]


def possible_queries(listing: Listing, lexicon: Lexicon) -> dict[str, list[str]]:
    """All queries that can be made from one listing.

    Returns:
        kind -> texts, in small letters and without repeats; a kind that the listing does not serve is left out.
    """
    brand = fold(listing.brand)
    types = [phrase for phrase in head_phrases(listing, lexicon.nouns) if phrase in lexicon.types]
    values = [fold(value) for value in listing.attributes.values()]
    values = [v for v in values if len(v.split()) <= MAX_VALUE_WORDS and re.fullmatch(r"[a-z][a-z \-]{2,}", v)]
    families = [phrase for phrase in _openings(listing) if (brand, phrase) in lexicon.families]
    found = {
        TYPE: types,
        PLURAL: [other for phrase in types if (other := plural(phrase)) != phrase],
        BRAND_TYPE: [f"{brand} {phrase}" for phrase in types if brand],
        ATTRIBUTE_TYPE: [f"{value} {p}" for value in values for p in types if not set(value.split()) & set(p.split())],
        FAMILY: [*families, *(f"{brand} {phrase}" for phrase in families)],
        MODEL: _model_queries(listing, brand),
    }
    return {kind: list(dict.fromkeys(texts)) for kind, texts in found.items() if texts}


def head_phrases(listing: Listing, nouns: frozenset[str]) -> list[str]:
    """The phrases of a title that end in its head noun: "fiber patch cable", "patch cable", "cable".

    Args:
        listing: its title is read without the brand, up to the first noun phrase's end; what stands in brackets, behind a
            comma or behind "for" or "with" says something else than what the product is.
        nouns: as Lexicon.nouns.

    Returns:
        The shortest first; empty when the title names no kind of product.
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
    """The plural of an English phrase by the common rules; one that ends in s stays."""
    if phrase.endswith("s"):
        return phrase
    if re.search(r"(x|z|ch|sh)$", phrase):
        return f"{phrase}es"
    if re.search(r"[^aeiou]y$", phrase):
        return f"{phrase[:-1]}ies"
    return f"{phrase}s"


def fold(text: str) -> str:
    """A query's text as two queries are compared: cleaned, in small letters, spaces folded."""
    simple = text.isascii() and text.isprintable()  # nothing to normalise: a tenth of the time
    return (" ".join(text.split()) if simple else query_text(text)).lower()


def _learn_nouns(listings: Sequence[Listing]) -> frozenset[str]:
    words = Counter(word for each in listings for word in _WORD.findall(f"{each.title} {each.description}".lower()))
    numbers = ((word, plural(word)) for word, count in words.items() if count >= MIN_NUMBER and plural(word) != word)
    nouns = {form for one, many in numbers if words[many] >= MIN_NUMBER for form in (one, many)} - _NO_NOUNS
    inside, found = Counter[str](), Counter[str]()  # "laser printer", "laser toner": laser is hardly ever the head
    for each in listings:
        for run in _segments(each):
            found.update(run)
            inside.update(word for word, behind in pairwise(run) if behind in nouns and behind != word)
    return frozenset(word for word in nouns if inside[word] <= MAX_INSIDE * found[word])


def _learn_types(listings: Sequence[Listing], nouns: frozenset[str]) -> frozenset[str]:
    count: Counter[str] = Counter()
    brands: dict[str, set[str]] = defaultdict(set)
    branded = any(each.brand for each in listings)
    for each in listings:
        for phrase in head_phrases(each, nouns):
            count[phrase] += 1
            brands[phrase].add(fold(each.brand))
    least = MIN_BRANDS if branded else 1
    return frozenset(p for p, n in count.items() if n >= MIN_LISTINGS and len(brands[p]) >= least)


def _learn_families(listings: Sequence[Listing]) -> frozenset[tuple[str, str]]:
    of_brand = Counter((fold(each.brand), phrase) for each in listings if each.brand for phrase in _openings(each))
    of_all = Counter(phrase for each in listings for phrase in _openings(each))
    return frozenset(key for key, count in of_brand.items() if count >= MIN_LISTINGS and count >= FAMILY_SHARE * of_all[key[1]])


def _draw(listing: Listing, lexicon: Lexicon, seed: int, per_item: int) -> Iterator[PseudoQuery]:
    """One query of every kind, the kinds in an order of chance, then a second one of each, and so on."""
    possible = possible_queries(listing, lexicon)
    ranked = [
        (place, _chance(seed, listing.item_id, kind), text, kind)
        for kind, texts in possible.items()
        for place, text in enumerate(sorted(texts, key=lambda text: _chance(seed, listing.item_id, text)))
    ]
    taken: set[str] = set()
    for _, _, text, kind in sorted(ranked):
        if len(taken) == per_item:
            return
        if text not in taken:
            taken.add(text)
            yield PseudoQuery(text, listing.item_id, kind)


def _segments(listing: Listing) -> Iterator[list[str]]:
    """The words of a title's parts, without the brand before and without what follows a preposition."""
    title, brand = fold(listing.title), fold(listing.brand)
    for part in _SEGMENT_END.split(title.removeprefix(brand)):
        words = [word.strip(_EDGES) for word in part.split()]
        turn = next((n for n, word in enumerate(words) if word in _TURN), len(words))
        if words[:turn]:
            yield words[:turn]


def _openings(listing: Listing) -> list[str]:
    """The first one and two words behind the brand."""
    words = next(_segments(listing), [])
    usable = [word for word in words[:2] if re.fullmatch(r"[a-z0-9]+", word)]
    if usable != words[:2] or not words or not _WORD.fullmatch(words[0]):
        return []
    return [" ".join(words[:n]) for n in range(1, len(words[:2]) + 1)]


def _model_queries(listing: Listing, brand: str) -> list[str]:
    model = fold(listing.model)
    usable = len(model) >= 3 and len(model.split()) <= MAX_MODEL_WORDS and any(c.isdigit() for c in model)
    return ([model, f"{brand} {model}"] if brand and brand not in model else [model]) if usable else []


def _plain(word: str) -> bool:
    """Whether a word may stand in a type: "cat5e" may, "tbc302p" is a model."""
    return re.fullmatch(r"(?!.*\d{3})[a-z][a-z0-9\-]*", word) is not None and word not in _TURN


def _chance(seed: int, *parts: str) -> bytes:
    return hashlib.sha256("\x00".join([str(seed), *parts]).encode()).digest()
