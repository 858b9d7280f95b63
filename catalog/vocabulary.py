"""The words of the synthetic auction house's sellers and buyers, also for traits that only a photo shows."""

from collections.abc import Mapping
from dataclasses import dataclass

from catalog.photos import COLOURS, CONDITIONS
from catalog.silhouettes import SILHOUETTES

WRITTEN = ("maker", "era", "material", "style")  # colour, shape and condition are visible in the photo

Words = Mapping[str, tuple[str, ...]]  # value -> wordings of the value, the plain one first


@dataclass(frozen=True, slots=True)
class Kind:
    """A category of lots.

    Attributes:
        nouns: words of sellers and buyers for such a lot, in the singular, the plain word first.
        plurals: the same words in the plural.
        materials: materials that such a lot may be made of.
        median_price: price that about half of the lots stay below.
    """

    nouns: tuple[str, ...]
    plurals: tuple[str, ...]
    materials: tuple[str, ...]
    median_price: float


KINDS: Mapping[str, Kind] = {
    "watch": Kind(
        ("watch", "wristwatch", "timepiece"), ("watches", "wristwatches", "timepieces"), ("steel", "titanium", "gold-plated"), 420
    ),
    "vase": Kind(("vase", "urn", "flower vessel"), ("vases", "urns", "flower vessels"), ("porcelain", "stoneware", "crystal"), 85),
    "ring": Kind(("ring", "finger band"), ("rings", "finger bands"), ("silver", "gold", "platinum"), 310),
    "guitar": Kind(("guitar", "six-string"), ("guitars", "six-strings"), ("mahogany", "maple", "rosewood"), 560),
    "camera": Kind(("camera", "film camera"), ("cameras", "film cameras"), ("aluminium", "brass", "bakelite"), 190),
    "handbag": Kind(("handbag", "purse", "ladies bag"), ("handbags", "purses", "ladies bags"), ("leather", "suede", "canvas"), 160),
    "chair": Kind(("chair", "seat"), ("chairs", "seats"), ("oak", "walnut", "rattan"), 140),
    "coin": Kind(("coin", "token"), ("coins", "tokens"), ("copper", "silver", "nickel"), 60),
    "lamp": Kind(("lamp", "light"), ("lamps", "lights"), ("brass", "glass", "iron"), 95),
    "painting": Kind(("painting", "picture"), ("paintings", "pictures"), ("oil", "watercolour", "acrylic"), 240),
    "teapot": Kind(("teapot", "tea pot"), ("teapots", "tea pots"), ("porcelain", "stoneware", "silver"), 70),
    "clock": Kind(("clock", "timekeeper"), ("clocks", "timekeepers"), ("oak", "brass", "marble"), 180),
    "toy car": Kind(("toy car", "model car"), ("toy cars", "model cars"), ("tin", "die-cast", "wooden"), 45),
    "mirror": Kind(("mirror", "looking glass"), ("mirrors", "looking glasses"), ("gilt", "pewter", "teak"), 130),
}

MAKERS = (
    "Halvorsen", "Beaumont", "Castellani", "Okada", "Lindqvist", "Marchetti", "Ashworth", "Dubrovsky", "Petrakis", "Vandermeer",
    "Kowalczyk", "Fairbairn", "Rosenthaler", "Moreau", "Takahara", "Albrecht", "Santangelo", "Whitcombe", "Novotny", "Esterhazy",
)  # fmt: skip
MAKERS_PER_CATEGORY = 5

ERAS: Words = {
    "antique": ("antique", "1870s", "1890s", "19th century"),
    "vintage": ("vintage", "1950s", "1960s", "1970s"),
    "retro": ("retro", "1980s", "1990s"),
    "modern": ("modern", "contemporary", "2010s"),
}
STYLES: Words = {
    "luxury": ("luxury", "high-end", "prestige"),
    "art deco": ("art deco", "deco", "jazz age"),
    "rustic": ("rustic", "farmhouse", "country"),
    "minimalist": ("minimalist", "understated", "pared-back"),
    "baroque": ("baroque", "ornate", "rococo"),
    "industrial": ("industrial", "workshop", "factory"),
}

COLOUR_WORDS: Words = {
    "red": ("red", "crimson"),
    "yellow": ("yellow", "lemon-coloured"),
    "green": ("green", "emerald"),
    "blue": ("blue", "cobalt"),
    "purple": ("purple", "violet"),
    "black": ("black", "jet black"),
    "white": ("white", "off-white"),
    "brown": ("brown", "chestnut"),
}
CONDITION_WORDS: Words = {
    "pristine": ("pristine", "flawless", "undamaged"),
    "scratched": ("scratched", "scuffed", "with scratches"),
    "cracked": ("cracked", "with cracks", "with a crack"),
}
assert COLOUR_WORDS.keys() == COLOURS.keys()
assert CONDITION_WORDS.keys() == set(CONDITIONS)
assert KINDS.keys() == SILHOUETTES.keys()

REMARKS = (
    "From a private collection.",
    "Bought at an estate sale.",
    "Ships within two days, fully insured.",
    "Comes with its original paperwork.",
    "A fine addition to any collection.",
    "Smoke-free home.",
    "Please ask for more details before bidding.",
    "Inherited from my grandparents.",
    "Collection in person is welcome.",
    "No reserve.",
    "See the photo for what you get.",
    "Maker's mark on the underside.",
)


def makers_of(category: str) -> tuple[str, ...]:
    """Return the makers of a category; neighbouring categories share some of their makers."""
    first = 3 * list(KINDS).index(category)
    return tuple(MAKERS[(first + i) % len(MAKERS)] for i in range(MAKERS_PER_CATEGORY))


def wordings(trait: str, value: str) -> tuple[str, ...]:
    """Return the wordings of a trait's value, the plain one first."""
    words = {"era": ERAS, "style": STYLES, "colour": COLOUR_WORDS, "condition": CONDITION_WORDS}.get(trait, {})
    return words.get(value, (value,))
