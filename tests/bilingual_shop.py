"""A shop of jewellery, car parts and food, half of its lots listed in English and half in Arabic, and pairs to train on."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from catalog.folder import CatalogFolder, Qrels, SplitData, TrainingPair, write_catalog, write_items
from retrieval.contracts.items import Item

LANGUAGES = ("en", "ar")
# group -> its name, kinds and variants, each in English and Arabic
SHOP = {
    "jewellery": (
        ("jewellery", "مجوهرات"),
        [
            ("ring", "خاتم"),
            ("necklace", "قلادة"),
            ("bracelet", "سوار"),
            ("earrings", "أقراط"),
            ("brooch", "بروش"),
            ("anklet", "خلخال"),
        ],
        [
            ("gold", "من الذهب"),
            ("silver", "من الفضة"),
            ("pearl", "من اللؤلؤ"),
            ("diamond", "من الألماس"),
            ("platinum", "من البلاتين"),
        ],
    ),
    "cars": (
        ("car parts", "قطع سيارات"),
        [
            ("engine oil", "زيت محرك"),
            ("tyre", "إطار سيارة"),
            ("brake pads", "فحمات فرامل"),
            ("car battery", "بطارية سيارة"),
            ("spark plugs", "شمعات احتراق"),
            ("air filter", "مرشح هواء"),
        ],
        [("Toyota", "تويوتا"), ("Nissan", "نيسان"), ("Mercedes", "مرسيدس"), ("synthetic", "صناعي"), ("winter", "شتوي")],
    ),
    "food": (
        ("food", "طعام"),
        [
            ("dates", "تمر"),
            ("honey", "عسل"),
            ("coffee beans", "حبوب قهوة"),
            ("rice", "أرز"),
            ("olive oil", "زيت زيتون"),
            ("chocolate", "شوكولاتة"),
        ],
        [("organic", "عضوي"), ("Yemeni", "يمني"), ("Egyptian", "مصري"), ("fresh", "طازج"), ("sweet", "حلو")],
    ),
}
HELD_OUT = frozenset({("ring", "gold"), ("necklace", "gold"), ("engine oil", "synthetic")})  # lots of the shop that train nothing


def title(kind: tuple[str, str], variant: tuple[str, str], language: str) -> str:
    """ "gold ring", or "خاتم من الذهب"."""
    return f"{variant[0]} {kind[0]}" if language == "en" else f"{kind[1]} {variant[1]}"


def lots() -> Iterator[tuple[Item, tuple[str, str], tuple[str, str]]]:
    """Every lot with its kind and variant; languages take turns."""
    for group, (_, kinds, variants) in SHOP.items():
        for number, (kind, variant) in enumerate(product(kinds, variants)):
            language = LANGUAGES[number % 2]
            yield Item(f"{group}-{number:02}", title(kind, variant, language), category=group), kind, variant


def write_bilingual_catalog(folder: Path) -> CatalogFolder:
    """Train and val on the lots that are not HELD_OUT.

    Queries are the names of groups, alone and with a variant ("silver jewellery"), and of kinds ("ring"), in both languages; each
    is shown its lots in both languages. No pair has two kinds in it.
    """
    items, pairs = [], []
    for item, kind, variant in lots():
        if (kind[0], variant[0]) in HELD_OUT:
            continue
        items.append(item)
        name = SHOP[item.category][0]
        for language in LANGUAGES:
            shown = title(kind, variant, language)
            for asked in LANGUAGES:
                pairs.append(TrainingPair(title(name, variant, asked), item.item_id, 1.0, shown))
                pairs.append(TrainingPair(name[LANGUAGES.index(asked)], item.item_id, 1.0, shown))
                pairs.append(TrainingPair(kind[LANGUAGES.index(asked)], item.item_id, 1.0, shown))
    write_items(folder / "items" / "lots.parquet", items)
    graded: dict[str, dict[str, int]] = {}
    for pair in pairs:
        graded.setdefault(pair.query, {})[pair.item_id] = 3
    judged = Qrels({query: query for query in graded}, graded)
    # to whoever asks for a ring a bracelet is not wrong as a tyre is; to whoever asks for silver, gold is
    kinds = {word: group for group, (_, kinds, _) in SHOP.items() for kind in kinds for word in kind}
    near = {
        query: {item.item_id: 1 for item in items if item.category == kinds.get(query)} | answers
        for query, answers in graded.items()
    }
    splits = {
        "train": SplitData(["lots.parquet"], pairs, qrels=Qrels(judged.queries, near)),
        "val": SplitData(["lots.parquet"], qrels=judged),
    }
    write_catalog(folder, name="bilingual", seed=0, splits=splits, example_queries=["gold ring", "خاتم من الذهب"])
    return CatalogFolder(folder)
