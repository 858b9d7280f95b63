"""New lots beside searches: how soon a lot that is put with its photo is in an answer, with a tower of DistilBERT and ResNet50."""

import base64
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import describe_machine
from benchmarks.measurement import Measurement
from gavel.workspace.wiring import item_writer, open_store, search_service
from models.artefacts.tower_files import add_item_encoder, save_towers
from models.towers.config import preset
from models.towers.tokenizer import train_wordpiece
from models.towers.two_towers import TwoTowers
from processing.evaluation.runs import Latency, summarise_ms
from retrieval.config.settings import Settings
from retrieval.contracts.documents import IndexedItem, document_of
from retrieval.contracts.item_puts import read_put
from retrieval.contracts.items import Item
from retrieval.encoders.query_encoder import to_unit_length
from retrieval.errors import GavelError
from retrieval.search.service import SearchRequest

PRESET = "distilbert-resnet50"
WORDS_PER_LOT = 60  # about 120 tokens, as a title and a short description have
PHOTO_SIDE = 640
PAUSE_S = 1.0


@dataclass(frozen=True)
class LiveItemsResult(Measurement):
    """Measurements of new lots.

    Attributes:
        lots: number of items in the index before.
        put: number of new lots, one a second.
        preset: architecture of the tower, whose weights are random.
        visible: time from the row to the answer of a hybrid search that has the lot.
        photo: decoding of its photo.
        encode: encoding of text and photo.
        index: writing to the index.
    """

    lots: int
    put: int
    preset: str
    visible: Latency
    photo: Latency
    encode: Latency
    index: Latency


def run_benchmark(
    settings: Settings, put: int, lots: int = 10_000, seed: int = 7, on_phase: Callable[[str], None] = lambda phase: None
) -> LiveItemsResult:
    """Measure in a workspace that is empty and that may be deleted afterwards.

    Args:
        settings: settings whose home is this workspace.
        put: number of new lots, one a second.
        lots: number of items in the index before, with random vectors.
        seed: seed of weights, words, photos and vectors.
        on_phase: called with the name of each phase as it begins.

    Raises:
        GavelError: a lot that was written is not in the answer.
    """
    machine = describe_machine()
    rng = np.random.default_rng(seed)
    words = ["".join(chr(97 + letter) for letter in rng.integers(0, 26, 6)) for _ in range(2_000)]
    on_phase("save the tower")
    tower = _save_tower(Path(settings.towers), words, seed)
    add_item_encoder(tower)
    on_phase("index lots")
    store, dimensions = open_store(settings), preset(PRESET).dimensions
    index = store.create(tower.name, dimensions)
    vectors = to_unit_length(rng.standard_normal((lots, dimensions)).astype(np.float32))
    items = (Item(f"lot-{number}", " ".join(rng.choice(words, 8))) for number in range(lots))
    index.upsert(
        IndexedItem(item.item_id, 1, document_of(item, has_image=False, tower_id=tower.name, release_id="bench"), vector)
        for item, vector in zip(items, vectors, strict=True)
    )
    store.publish(index.name)
    service = search_service(settings)
    writer = item_writer(settings, service, photo_hosts=None)
    on_phase("put new lots")
    visible: list[float] = []
    steps: dict[str, list[float]] = {"photo": [], "encode": [], "index": []}
    for number in range(-2, put):  # two to warm up
        word = f"elephant{number + 2}"
        row = {"item_id": f"new-{number}", "title": " ".join([word, *rng.choice(words, WORDS_PER_LOT)]), "photo": _photo(rng)}
        since = time.perf_counter()
        (result,) = writer.put([read_put(row)])
        answer = service.search(SearchRequest(word))
        milliseconds = (time.perf_counter() - since) * 1_000
        if answer.results[0].item_id != result.item_id:
            raise GavelError(f"{result.item_id} was {result.outcome}, but a search by its word does not answer it")
        if number >= 0:
            visible.append(milliseconds)
            for name, values in steps.items():
                values.append(result.timings_ms[name])
        time.sleep(max(0.0, PAUSE_S - milliseconds / 1_000))
    photo, encode, write = (summarise_ms(steps[name]) for name in ("photo", "encode", "index"))
    return LiveItemsResult(
        machine=machine, lots=lots, put=put, preset=PRESET, visible=summarise_ms(visible), photo=photo, encode=encode, index=write
    )


def _save_tower(out: Path, words: list[str], seed: int) -> Path:
    """Save towers of DistilBERT and ResNet50 with random weights, and return their folder."""
    torch.manual_seed(seed)
    config = preset(PRESET).fresh()
    config = replace(config, text=replace(config.text, config={"model_type": "distilbert"}))
    return save_towers(TwoTowers(config), train_wordpiece(words, config.vocabulary), out)


def _photo(rng: np.random.Generator) -> str:
    """Return a random JPEG in Base64."""
    small = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    out = io.BytesIO()
    small.resize((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.BILINEAR).save(out, "JPEG")
    return base64.b64encode(out.getvalue()).decode()
