"""Build a catalogue from emoji: pictures, texts and queries in English and Arabic, for multilingual towers.

Pictures of Noto Emoji; names and keywords of the Unicode CLDR, translated by its contributors.
"""

import csv
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from catalog.folder import (
    ITEMS_FOLDER,
    SPLITS,
    CatalogFolder,
    Qrels,
    SplitData,
    TrainingPair,
    replace_folder,
    write_catalog,
    write_items,
)
from catalog.pseudo_queries import fold
from catalog.query_splits import deal
from retrieval.contracts.items import Item, item_text
from retrieval.errors import InvalidInput

logger = logging.getLogger(__name__)

EXAMPLE_QUERIES = ("grinning face", "birthday cake", "وجه بابتسامة عريضة", "قطة")
TABLE = "emoji_en_ar.csv"
PICTURES = "png72"
LAYOUT = f"{TABLE} and the folder {PICTURES}/"
TRAIN_FILE, HELD_OUT_FILE = "emoji-train.parquet", "emoji-held-out.parquet"
LANGUAGES = ("en", "ar")
EITHER = "either"
LISTED_IN = (*LANGUAGES, EITHER)
SHARES: Mapping[str, float] = {"train": 0.7, "val": 0.1, "test": 0.2}  # split -> share of the emoji
NAME_GRADE, KEYWORD_GRADE = 3, 2
NAME_WEIGHT, KEYWORD_WEIGHT = 1.0, 0.5
LIST_COMMA = {"en": ", ", "ar": "، "}
_COLUMNS = ("file", "name_en", "keywords_en", "name_ar", "keywords_ar")


@dataclass(frozen=True, slots=True)
class Emoji:
    """One emoji.

    Attributes:
        item_id: the picture's name without suffix, such as "emoji_u1f600".
        picture: absolute path of the picture.
        names: language -> name.
        keywords: language -> keywords; the name may be among them.
    """

    item_id: str
    picture: Path
    names: Mapping[str, str]
    keywords: Mapping[str, Sequence[str]]

    def grade(self, language: str, text: str) -> int:
        """Return 3 if a folded text is the emoji's name in this language, 2 if it is a keyword, otherwise 0."""
        if fold(self.names[language]) == text:
            return NAME_GRADE
        return KEYWORD_GRADE if text in map(fold, self.keywords[language]) else 0


def prepare(data: Path, folder: Path, *, seed: int = 7, listed_in: str = "en") -> CatalogFolder:
    """Build a catalogue from the emoji; the pictures stay in their folder.

    Args:
        data: the folder of the table and the pictures.
        folder: folder of the catalogue: new, empty, or with an older catalogue, which is replaced.
        seed: seed that assigns the emoji to train, val and test, and items to languages.
        listed_in: language of titles and descriptions, one of LISTED_IN. EITHER makes a shop of two languages: each item is listed
            in one language, and training pairs every query with its items in both languages.

        Returns:
            The catalogue. Val and test search all emoji, train searches only train emoji. A text is a query in the split of its
            emoji. A text that emoji of several splits share ("face") is a query only in the first of train, test, val; in train it
            is paired and judged only with train emoji. Query ids begin with the language: "en/…", "ar/…".

    Raises:
        InvalidInput: the data set is missing or damaged, or the language is unknown. Missing pictures are logged and their emoji
            left out.
    """
    if listed_in not in LISTED_IN:
        raise InvalidInput(f"emoji are listed in {', '.join(LISTED_IN)}, not in {listed_in!r}")
    emoji = read_emoji(Path(data).absolute())
    split_of = deal((each.item_id for each in emoji), SHARES, seed)
    split_of_text = split_texts(emoji, split_of)
    language_of = _languages(emoji, listed_in, seed)
    with replace_folder(folder) as building:
        train = [each for each in emoji if split_of[each.item_id] == "train"]
        held_out = [each for each in emoji if split_of[each.item_id] != "train"]
        for file, part in ((TRAIN_FILE, train), (HELD_OUT_FILE, held_out)):
            write_items(building / ITEMS_FOLDER / file, (listing(each, language_of[each.item_id]) for each in part))
        splits = {
            split: SplitData(
                item_files=[TRAIN_FILE] if split == "train" else [TRAIN_FILE, HELD_OUT_FILE],
                pairs=_pairs(train, split_of_text, listed_in) if split == "train" else (),
                qrels=_qrels(train if split == "train" else emoji, {text for text, own in split_of_text.items() if own == split}),
            )
            for split in SPLITS
        }
        write_catalog(building, name="emoji", seed=seed, splits=splits, example_queries=EXAMPLE_QUERIES, photo_folders=[Path(data)])
    return CatalogFolder(folder)


def read_emoji(data: Path) -> list[Emoji]:
    """Read the table; an emoji without its picture is left out and logged.

    Raises:
        InvalidInput: the table is missing or damaged, or there is no picture.
    """
    path = data / TABLE
    if not path.is_file() or not (data / PICTURES).is_dir():
        raise InvalidInput(f"{data} is not the emoji data set: expected {LAYOUT}")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for line, row in enumerate(rows, 2):
        if any(not row.get(column) for column in _COLUMNS):
            raise InvalidInput(f"{path}, row {line}: expected a value in each of the columns {', '.join(_COLUMNS)}, not {row}")
    emoji = [_emoji(data / PICTURES, row) for row in rows]
    present = [each for each in emoji if each.picture.is_file()]
    if len(present) < len(emoji):
        logger.warning("%d of %d pictures are missing in %s; their emoji are left out", len(emoji) - len(present), len(emoji), data)
    if not present:
        raise InvalidInput(f"none of the {len(emoji)} pictures that {path} names is there: expected {LAYOUT}")
    return present


def split_texts(emoji: Iterable[Emoji], split_of: Mapping[str, str]) -> dict[str, str]:
    """Assign every text to the split of its emoji; if its emoji are in several splits, to the first of train, test, val.

    Args:
        emoji: all emoji.
        split_of: item_id -> split.

    Returns:
        folded text -> split; a text that occurs in both languages has one split.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for each in emoji:
        for language in LANGUAGES:
            for text in _texts(each, language):
                splits[text].add(split_of[each.item_id])
    return {text: next(split for split in ("train", "test", "val") if split in own) for text, own in splits.items()}


def _emoji(pictures: Path, row: Mapping[str, str]) -> Emoji:
    names = {language: row[f"name_{language}"] for language in LANGUAGES}
    keywords = {language: row[f"keywords_{language}"].split("|") for language in LANGUAGES}
    return Emoji(Path(row["file"]).stem, pictures / row["file"], names, keywords)


def _texts(emoji: Emoji, language: str) -> list[str]:
    """Return the folded name and keywords in one language, each once."""
    return list(dict.fromkeys(fold(text) for text in (emoji.names[language], *emoji.keywords[language]) if text.strip()))


def listing(emoji: Emoji, language: str) -> Item:
    """Return the emoji as an item in one language: the name is the title, the other keywords are the description."""
    name = emoji.names[language]
    keywords = [word for word in emoji.keywords[language] if fold(word) != fold(name)]
    return Item(emoji.item_id, name, LIST_COMMA[language].join(keywords), image=str(emoji.picture))


def _languages(emoji: Iterable[Emoji], listed_in: str, seed: int) -> dict[str, str]:
    """Return item_id -> language of the item."""
    if listed_in in LANGUAGES:
        return {each.item_id: listed_in for each in emoji}
    return deal((each.item_id for each in emoji), dict.fromkeys(LANGUAGES, 1 / len(LANGUAGES)), seed + 1)


def _pairs(emoji: Iterable[Emoji], split_of_text: Mapping[str, str], listed_in: str) -> Iterator[TrainingPair]:
    """Yield a pair for each train text and its emoji; with EITHER, one pair for each language of the item."""
    for each in emoji:
        item_texts: list[str | None] = [None]
        if listed_in == EITHER:
            item_texts = [item_text(item.title, item.description) for item in (listing(each, lang) for lang in LANGUAGES)]
        for language in LANGUAGES:
            for text in _texts(each, language):
                if split_of_text[text] == "train":
                    weight = NAME_WEIGHT if each.grade(language, text) == NAME_GRADE else KEYWORD_WEIGHT
                    yield from (TrainingPair(text, each.item_id, weight, lot_text) for lot_text in item_texts)


def _qrels(emoji: Iterable[Emoji], texts: set[str]) -> Qrels:
    """Judge all emoji for the texts of one split."""
    queries: dict[str, str] = {}
    grades: dict[str, dict[str, int]] = defaultdict(dict)
    for each in emoji:
        for language in LANGUAGES:
            for text in _texts(each, language):
                if text in texts:
                    queries[f"{language}/{text}"] = text
                    grades[f"{language}/{text}"][each.item_id] = each.grade(language, text)
    return Qrels(queries, grades)
