"""Build a catalogue of poor listings from the Grocery Store Dataset: real photos, vague titles, precise queries.

Klasson, Zhang and Kjellström, "A Hierarchical Grocery Store Image Dataset with Visual and Semantic Labels", WACV 2019.
"""

import csv
import hashlib
import logging
from collections.abc import Iterable, Sequence
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
from catalog.phrases import distinctive_words, phrases_of
from retrieval.contracts.items import Item
from retrieval.errors import InvalidInput
from retrieval.evaluation.metrics import RELEVANT_GRADE

logger = logging.getLogger(__name__)

EXAMPLE_QUERIES = ("Granny Smith", "Royal Gala", "Oatly Natural", "green apple with white firm pulp")
LAYOUT = "dataset/classes.csv, dataset/{train,val,test}.txt and the photos that these name"
_COLUMNS = ("Class Name (str)", "Class ID (int)", "Coarse Class Name (str)", "Product Description Path (str)")


@dataclass(frozen=True, slots=True)
class GroceryClass:
    """One of the fine classes.

    Attributes:
        label: number of the class in the split lists.
        name: name of the class, such as "Granny-Smith".
        coarse: name of the coarse class, such as "Apple".
        department: "Fruit", "Packages" or "Vegetables".
        description: description of the class; may be empty.
    """

    label: int
    name: str
    coarse: str
    department: str
    description: str


@dataclass(frozen=True, slots=True)
class Photo:
    """An existing photo of a split list.

    Attributes:
        name: path in the list, such as "test/Fruit/Apple/Granny-Smith/Granny-Smith_001.jpg".
        path: absolute path of the photo.
        label: number of the fine class.
    """

    name: str
    path: Path
    label: int

    @property
    def item_id(self) -> str:
        """Id of the item. It begins with a hash: ties between equal titles are broken by item_id and must favour no class."""
        return f"{hashlib.sha256(self.name.encode()).hexdigest()[:8]}-{self.path.stem}"


@dataclass(frozen=True, slots=True)
class ClassQuery:
    """A query for the photos of one class, or of several classes whose names or descriptions coincide.

    Attributes:
        query_id: id of the query, "name/…" or "phrase/…".
        text: query as typed.
        labels: numbers of the fine classes that answer the query.
    """

    query_id: str
    text: str
    labels: frozenset[int]


def prepare(data: Path, folder: Path, *, seed: int = 7) -> CatalogFolder:
    """Build a catalogue from the dataset; its photos stay in their folders.

    Args:
        data: the dataset's root (the folder that holds `dataset/`), or `dataset/` itself.
        folder: folder of the catalogue: new, empty, or with an older catalogue, which is replaced.
        seed: seed that decides for each photo whether the title is the coarse class or the department.

    Returns:
        The catalogue; every split searches its own photos.

    Raises:
        InvalidInput: the dataset is missing, or one of its files is damaged. Missing photos are logged and left out.
    """
    root = _dataset_root(Path(data).absolute())
    classes = _read_classes(root)
    photos = {split: _read_photos(root, split, classes) for split in SPLITS}
    queries = class_queries(classes.values())
    with replace_folder(folder) as building:
        for split in SPLITS:
            items = (_listing(photo, classes[photo.label], seed) for photo in photos[split])
            write_items(building / ITEMS_FOLDER / f"{split}.parquet", items)
        splits = {
            split: SplitData(
                item_files=[f"{split}.parquet"],
                pairs=_pairs(queries, photos[split]) if split == "train" else (),
                qrels=_qrels(queries, photos[split]),
            )
            for split in SPLITS
        }
        write_catalog(building, name="grocery", seed=seed, splits=splits, example_queries=EXAMPLE_QUERIES, photo_folders=[root])
    return CatalogFolder(folder)


def class_queries(classes: Iterable[GroceryClass]) -> list[ClassQuery]:
    """Make queries from each class's name without the words of its coarse class, and from the phrases of its description.

    Returns:
        Queries with distinct texts, in the order of the classes; a class without a distinctive word has no name query.
    """
    queries: dict[str, tuple[str, str, set[int]]] = {}  # text, folded -> query_id, text, labels
    for fine in classes:
        name = " ".join(distinctive_words(fine.name, fine.coarse))
        texts = [(f"name/{fine.name}", name)] if name else []
        texts += [
            (f"phrase/{fine.name}/{n}", text) for n, text in enumerate(phrases_of(fine.description, fine.name, fine.coarse), 1)
        ]
        for query_id, text in texts:
            queries.setdefault(text.lower(), (query_id, text, set()))[2].add(fine.label)
    return [ClassQuery(query_id, text, frozenset(labels)) for query_id, text, labels in queries.values()]


def _dataset_root(data: Path) -> Path:
    for root in (data / "dataset", data):
        if (root / "classes.csv").is_file():
            return root
    raise InvalidInput(f"{data} is not the Grocery Store Dataset: expected {LAYOUT}")


def _read_classes(root: Path) -> dict[int, GroceryClass]:
    path = root / "classes.csv"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [tuple(row[column] for column in _COLUMNS) for row in csv.DictReader(file)]
        classes = [_class(root, name, int(label), coarse, where) for name, label, coarse, where in rows]
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise InvalidInput(f"{path} is damaged ({error!r}): expected the columns {', '.join(_COLUMNS)}") from error
    return {fine.label: fine for fine in classes}


def _class(root: Path, name: str, label: int, coarse: str, where: str) -> GroceryClass:
    path = root / where.lstrip("/")  # iconic-images-and-descriptions/<department>/…
    if not path.is_file():
        logger.warning("class %s has no description at %s: it gets no phrase queries", name, path)
    description = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    return GroceryClass(label, name, coarse, where.strip("/").split("/")[1], description)


def _read_photos(root: Path, split: str, classes: dict[int, GroceryClass]) -> list[Photo]:
    """Return the existing photos of a split list, in order, each once."""
    path = root / f"{split}.txt"
    if not path.is_file():
        raise InvalidInput(f"{path} is missing: expected {LAYOUT}")
    listed: dict[str, Photo] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            name, label, _ = (cell.strip() for cell in line.rsplit(",", 2))
            listed[name] = Photo(name, root / name, classes[int(label)].label)
        except (ValueError, KeyError):
            raise InvalidInput(f"{path}, line {number}: {line!r} is not `photo, fine class id, coarse class id`") from None
    photos = [photo for photo in listed.values() if photo.path.is_file()]
    missing = [photo.name for photo in listed.values() if not photo.path.is_file()]
    if missing:
        logger.warning("%d of the %d photos in %s are missing and left out, first %s", len(missing), len(listed), path, missing[0])
    if not photos:
        raise InvalidInput(f"none of the {len(listed)} photos that {path} lists is there: expected {LAYOUT}")
    return photos


def _listing(photo: Photo, fine: GroceryClass, seed: int) -> Item:
    """Return a poor listing, whose texts do not contain the fine class."""
    digest = hashlib.sha256(f"{seed}:{photo.name}".encode()).digest()
    title = fine.coarse.replace("-", " ") if digest[0] % 2 else fine.department
    return Item(item_id=photo.item_id, title=title, image=str(photo.path), category=fine.department)


def _qrels(queries: Sequence[ClassQuery], photos: Sequence[Photo]) -> Qrels:
    """Judge the photos of one split; queries without an answer in the split are left out."""
    grades = {
        query.query_id: {photo.item_id: RELEVANT_GRADE for photo in photos if photo.label in query.labels} for query in queries
    }
    answered = {query.query_id: query.text for query in queries if grades[query.query_id]}
    return Qrels(answered, {query_id: grades[query_id] for query_id in answered})


def _pairs(queries: Sequence[ClassQuery], photos: Sequence[Photo]) -> list[TrainingPair]:
    return [TrainingPair(query.text, photo.item_id) for photo in photos for query in queries if photo.label in query.labels]
