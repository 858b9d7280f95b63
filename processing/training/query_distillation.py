"""Distil a static query encoder from a tower, and save it if it is good enough on the validation queries."""

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from catalog.folder import CatalogFolder
from catalog.short_texts import short_texts
from models.artefacts.model_card import SMALL_QUERY_RECORD_FILE, write_model_card
from models.artefacts.run_record import data_hash, git_commit, hardware, steps_record, versions
from models.artefacts.tower_files import load_towers
from models.config.distillation import StaticQueryConfig
from models.data.encoding_cache import encode_text_table
from models.data.tables import TokenTable
from models.towers.two_towers import TextEncodings
from models.training.checkpoints import CHECKPOINT_FOLDER, CHECKPOINT_SECONDS, Checkpoints
from models.training.static_query import StaticQueryReport, train_static_query_encoder
from models.training.two_towers import CACHE_FOLDER
from processing.evaluation.corpus import build_corpus
from processing.evaluation.runs import System, measure
from retrieval.contracts.release import load_release
from retrieval.contracts.tower_card import TowerCard, split_tower_id
from retrieval.encoders.query_encoder import QueryEncoder, load_tokenizer
from retrieval.encoders.static_query_encoder import SmallQueryEncoder
from retrieval.errors import InvalidInput
from retrieval.files import replace_file
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.progress import PhaseProgress, Progress, ignore_phases
from retrieval.search.context import UNHURRIED
from retrieval.search.service import Encoder, SearchModels, SearchService

MIN_SHARE = 0.98  # required share of the full query tower's Recall@50
SPLIT = "val"
MEASURES_SHOWN = ("recall@50", "ndcg@10")
FULL, SMALL = "full", "small"

Metrics = Mapping[str, Mapping[str, float]]  # query encoder -> measure -> mean over the queries


@dataclass(frozen=True)
class QueryDistillation:
    """The result of a distillation.

    Attributes:
        tower_id: id of the tower.
        texts: number of training texts.
        pairs: number of token pairs with their own vector.
        losses: mean of 1 - cosine of the first and of the last epoch.
        quality: metrics of both query encoders on the validation queries.
        least: required share of the full encoder's Recall@50.
        file: file of the static encoder; None if its share is below `least`.
        file_bytes: size of the file; 0 without a file.
        seconds: seconds from reading the catalogue to the end of the measurement.
        steps: length of the training, see steps_record(). A cut run is resumed by the next one with the same settings.
    """

    tower_id: str
    texts: int
    pairs: int
    losses: tuple[float, float]
    quality: Metrics
    least: float
    file: Path | None
    file_bytes: int
    seconds: float
    steps: Mapping[str, Any]

    @property
    def share(self) -> float:
        """Recall@50 of the static encoder as a share of the full encoder's; 1 if the full encoder's is 0."""
        full, small = (self.quality[name]["recall@50"] for name in (FULL, SMALL))
        return small / full if full else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {**asdict(self), "file": str(self.file) if self.file else None, "share": self.share}


def distil_query(
    catalog: CatalogFolder,
    tower: Path,
    release: Path,
    config: StaticQueryConfig,
    *,
    least: float = MIN_SHARE,
    phases: PhaseProgress = ignore_phases,
) -> QueryDistillation:
    """Distil a static query encoder from a tower and a catalogue's texts, and measure it on the val queries.

    Training uses no judgments and no queries of splits other than train. Encoded texts are cached beside the towers, so that a call
    after an interruption need not encode them again. The file is written at the end or not at all.

    Args:
        catalog: catalogue with splits train and val.
        tower: folder of the artefact, which gets the file, its record and a section in its model card.
        release: folder of the release of val's items, embedded by the tower.
        config: settings of the training.
        least: required share of the full encoder's Recall@50, below which nothing is written; 0 writes any result.
        phases: function from the label of a phase to its progress callback.

        Raises:
            InvalidInput: there is no val split, the train split has fewer than 2 texts, or the release is of another tower.
        TowerError: the tower cannot be read.
        ReleaseError: the release lacks items of val.
    """
    started, began = time.monotonic(), datetime.now(UTC)
    dimensions = _check(catalog, tower, release)
    checkpoints = Checkpoints(tower / CHECKPOINT_FOLDER / "query_tower_small", CHECKPOINT_SECONDS)
    learnt, texts = _learn(catalog, tower, config, checkpoints, phases)
    small, losses = learnt.tower, learnt.losses
    card = TowerCard.load(tower)
    tokenizer = load_tokenizer(tower, card)
    encoders: dict[str, Encoder] = {
        FULL: QueryEncoder.load(tower, dimensions),
        SMALL: SmallQueryEncoder(card.at(dimensions), tokenizer, small),
    }
    quality = measure_query_towers(catalog, SPLIT, release, encoders, phases("search"))
    result = QueryDistillation(
        tower_id=card.tower_id,
        texts=texts,
        pairs=len(small.pairs),
        losses=(losses[0], losses[-1]),
        quality=quality,
        least=least,
        file=None,
        file_bytes=0,
        seconds=time.monotonic() - started,
        steps=steps_record(learnt.steps, learnt.planned_steps, learnt.cut_by_clock),
    )
    if result.share >= least:
        file = small.save(tower)
        result = replace(result, file=file, file_bytes=file.stat().st_size)
        _write_record(result, tower, catalog, config, began)
    if not learnt.cut_by_clock:
        checkpoints.remove()
    return result


def measure_query_towers(
    catalog: CatalogFolder, split: str, release: Path, encoders: Mapping[str, Encoder], progress: Progress | None = None
) -> dict[str, dict[str, float]]:
    """Measure several query encoders of one space on a split, by vector search through the search service.

    Args:
        catalog: source of the judgments.
        split: split of the queries and items.
        release: folder of the release of the items.
        encoders: name -> query encoder.
        progress: called with (searches done, searches).

    Returns:
        name -> measure -> mean over the judged queries.
    """
    with tempfile.TemporaryDirectory(prefix="gavel-distill-") as folder:
        store = EmbeddedStore(Path(folder))
        build_corpus(catalog, split, release, store)
        systems = [System(name, _service(store, encoder), "semantic") for name, encoder in encoders.items()]
        metrics = measure(catalog, split, systems, progress)
        for system in systems:
            system.service.live().index.close()
    return {name: {key: values[key] for key in MEASURES_SHOWN} for name, values in metrics.items()}


def _service(store: EmbeddedStore, encoder: Encoder) -> SearchService:
    return SearchService(store, SearchModels(lambda tower_id: encoder), UNHURRIED)


def _check(catalog: CatalogFolder, tower: Path, release: Path) -> int | None:
    """Check that catalogue, tower and release match; return the length of the release's vectors if it is not the tower's own."""
    if not catalog.has_queries(SPLIT):
        raise InvalidInput(f"catalogue {catalog.path} has no {SPLIT} queries to measure on; prepare it with judgments or clicks")
    tower_id, dimensions = split_tower_id(load_release(release).tower_id)
    if tower_id != TowerCard.load(tower).tower_id:
        raise InvalidInput(f"release {release} is of tower {tower_id}, not of {tower}; embed the lots with `gavel embed --tower`")
    return dimensions


def _learn(
    catalog: CatalogFolder, tower: Path, config: StaticQueryConfig, checkpoints: Checkpoints, phases: PhaseProgress
) -> tuple[StaticQueryReport, int]:
    texts = short_texts(catalog, config.texts, config.seed)
    if len(texts) < 2:
        raise InvalidInput(f"catalogue {catalog.path} has too few texts in its train split to learn from")
    towers, card = load_towers(tower)
    tokenizer = load_tokenizer(tower, card)
    cache, encoder, progress = tower.parent / CACHE_FOLDER, towers.query_tower.text_encoder, phases("encode texts")
    table = TokenTable.build(tokenizer, texts, card.max_length)
    encodings = np.array(encode_text_table(encoder, table, cache, torch.device("cpu"), progress).vectors)
    with torch.inference_mode():
        targets = towers.query_tower.encode(TextEncodings(torch.from_numpy(encodings))).numpy()
    transformer: Any = encoder.transformer
    embeddings = transformer.get_input_embeddings().weight.detach().numpy()
    learnt = train_static_query_encoder(
        card.tower_id, tokenizer, card.max_length, texts, targets, embeddings, config, phases("learn vectors"), checkpoints
    )
    return learnt, len(texts)


def _write_record(
    result: QueryDistillation, tower: Path, catalog: CatalogFolder, config: StaticQueryConfig, began: datetime
) -> None:
    record = {
        **result.to_dict(),
        "split": SPLIT,
        "file": result.file.name if result.file else None,
        "started": began.isoformat(timespec="seconds"),
        "settings": asdict(config),
        "data": {"catalog": catalog.name, "sha256": data_hash(catalog)},
        "git_commit": git_commit(),
        "hardware": hardware(),
        "versions": versions(),
    }
    path = tower / SMALL_QUERY_RECORD_FILE
    replace_file(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    write_model_card(tower)
