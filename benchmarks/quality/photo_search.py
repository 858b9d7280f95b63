"""Quality of searches by photo over the lots of a catalogue's split.

python -m benchmarks.quality.photo_search .gavel            a home where a tower was trained on a catalogue with photos

Every photo of a lot is a query over the same split. One metric is how often the lot itself is in the top ten. The others leave the
lot itself out, and count how often another lot of its class is in the top ten, or first. A lot's class is a judged query for which
the lot is relevant, such as "Granny Smith"; of several queries the one with the fewest relevant lots. The words beside a photo are
the words of that query.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from benchmarks.machine import describe_machine
from benchmarks.measurement import QualityResult
from catalog.folder import CatalogFolder, Qrels
from gavel.workspace import pipeline
from gavel.workspace.console import progress, show_metrics
from gavel.workspace.folders import Workspace
from gavel.workspace.wiring import load_encoder, load_image_encoder
from processing.evaluation.corpus import build_corpus
from retrieval.config.settings import Settings
from retrieval.contracts.item_files import read_items
from retrieval.contracts.items import Item
from retrieval.encoders.photos import read_photo
from retrieval.errors import InvalidInput
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.search.context import UNHURRIED
from retrieval.search.service import SearchModels, SearchRequest, SearchService

DEPTH = 10
RIGHT = 2  # lowest grade of a lot that shows the class of the query
OWN, CLASS_HIT, CLASS_FIRST = f"own lot in {DEPTH}", f"class in {DEPTH}", "class first"


@dataclass(frozen=True)
class Question:
    """A photo to search by.

    Attributes:
        item_id: id of the lot on the photo.
        photo: content of the photo's file.
        words: query that names the class of the lot.
        others: ids of the other lots of the class; may be empty.
    """

    item_id: str
    photo: bytes
    words: str
    others: frozenset[str]


def read_questions(catalog: CatalogFolder, split: str) -> list[Question]:
    """Return a question for every lot of a split that has a photo and a class.

    Raises:
        InvalidInput: no lot of the split has both.
    """
    qrels, questions = catalog.qrels(split), []
    classes = _classes(qrels)
    for file in catalog.item_files(split):
        for lot in read_items(file):
            if not isinstance(lot, Item) or not lot.image or lot.item_id not in classes:
                continue
            path = file.parent / lot.image
            if read_photo(path, 8) is None:
                continue
            query = classes[lot.item_id]
            others = frozenset(i for i, grade in qrels.grades[query].items() if grade >= RIGHT and i != lot.item_id)
            questions.append(Question(lot.item_id, path.read_bytes(), qrels.queries[query], others))
    if not questions:
        raise InvalidInput(f"no lot of the split {split} of {catalog.path} has a photo and a judgment; take another catalogue")
    return questions


def _classes(qrels: Qrels) -> dict[str, str]:
    """Return item_id -> id of the query with the fewest relevant lots among those that the item is relevant for, ties by id."""
    right = {name: {i for i, grade in graded.items() if grade >= RIGHT} for name, graded in qrels.grades.items()}
    classes: dict[str, str] = {}
    for name in sorted(
        right, key=lambda name: (-len(right[name]), name)
    ):  # the smallest class comes last and overwrites larger classes
        classes.update(dict.fromkeys(right[name], name))
    return classes


def measure(service: SearchService, questions: Sequence[Question], inputs: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return input (photo, photo + words, or words) -> metric -> mean over the questions."""
    values: dict[str, dict[str, list[float]]] = {kind: {OWN: [], CLASS_HIT: [], CLASS_FIRST: []} for kind in inputs}
    with progress("search by photo") as step:
        for done, question in enumerate(questions, 1):
            for kind in inputs:
                answer = _search(service, question, kind)
                values[kind][OWN].append(float(question.item_id in answer[:DEPTH]))
                if question.others:
                    others = [item_id for item_id in answer if item_id != question.item_id][:DEPTH]
                    values[kind][CLASS_HIT].append(float(bool(question.others & set(others))))
                    values[kind][CLASS_FIRST].append(float(others[0] in question.others))
            step(done, len(questions))
    return {kind: {name: fmean(of_metric) for name, of_metric in metrics.items()} for kind, metrics in values.items()}


PHOTO, BOTH, WORDS = "photo", "photo + words", "words (vectors alone)"


def _search(service: SearchService, question: Question, kind: str) -> list[str]:
    request = SearchRequest("" if kind == PHOTO else question.words, k=DEPTH + 1, mode="semantic", rerank=False)
    answer = service.search(request) if kind == WORDS else service.search_image(question.photo, request)
    return [result.item_id for result in answer.results]


def main(
    home: Annotated[Path, typer.Argument(help="GAVEL_HOME of a trained tower.")],
    split: Annotated[str, typer.Option(help="Split to measure: val or test.")] = "test",
    tower: Annotated[str | None, typer.Option(help="tower_id; the newest tower by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
) -> None:
    """Print how often a photo finds its own lot, and other lots of the same class."""
    machine, workspace = describe_machine(), Workspace(Settings(home=home))
    catalog, folder = CatalogFolder.load(workspace.catalog(None)), workspace.tower(tower)
    lots = catalog.item_files(split)
    release = pipeline.find_release(workspace, lots, folder, release_id=None)
    if release is None:
        with progress("embed lots") as step:
            release = pipeline.embed(workspace, lots, folder, release_id=None, workers=0, progress=step)
    with tempfile.TemporaryDirectory(prefix="gavel-photos-") as scratch:
        store = EmbeddedStore(Path(scratch))
        build_corpus(catalog, split, release, store)
        encoders = partial(load_encoder, workspace.settings), partial(load_image_encoder, workspace.settings)
        service = SearchService(store, SearchModels(encoders[0], load_image_encoder=encoders[1]), UNHURRIED)
        questions = read_questions(catalog, split)
        quality = measure(service, questions, (PHOTO, BOTH, WORDS))
    title = f"{catalog.name}, {split}: {len(questions)} photos among {service.live().index.count()} lots, tower {folder.name}"
    result = QualityResult(machine=machine, values={"tower_id": folder.name, "photos": len(questions), "quality": quality})
    result.report(as_json, lambda: show_metrics(title, quality))


if __name__ == "__main__":
    typer.run(main)
