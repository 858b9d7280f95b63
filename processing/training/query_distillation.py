"""Makes the small query tower of a tower, holds it against the full one on validation queries, and keeps it if it finds enough."""

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from catalog.folder import CatalogFolder
from catalog.short_texts import short_texts
from models.artefacts.model_card import SMALL_QUERY_RECORD_FILE, write_model_card
from models.artefacts.run_record import data_hash, git_commit, hardware, versions
from models.artefacts.tower_files import load_towers
from models.data.encoding_cache import encode_text_table
from models.data.tables import TokenTable
from models.towers.two_towers import TextEncodings
from models.training.static_query import StaticQueryConfig, train_static_query_encoder
from models.training.two_towers import CACHE_FOLDER
from processing.evaluation.corpus import build_corpus
from processing.evaluation.runs import Progress, Variant, measure
from retrieval.contracts.release import load_release
from retrieval.contracts.tower_card import TowerCard, split_tower_id
from retrieval.encoders.query_encoder import QueryEncoder, load_tokenizer
from retrieval.encoders.static_query_encoder import SmallQueryEncoder, SmallQueryTower
from retrieval.errors import InvalidInput
from retrieval.files import replace_file
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.search.service import Encoder, SearchService

LEAST_SHARE = 0.98  # of the full query tower's Recall@50
SPLIT = "val"
AIMS = ("recall@50", "ndcg@10")
FULL, SMALL = "full", "small"
TEXTS_AT_ONCE = 4_096  # that are encoded between two marks of progress on disk

Quality = Mapping[str, Mapping[str, float]]  # query tower -> measure -> mean over the queries
Stages = Callable[[str], Progress]  # label of a stage -> a function of (done, total)


@dataclass(frozen=True)
class QueryDistillation:
    """What came out.

    Attributes:
        tower_id: the tower.
        texts: that the small query tower learnt from.
        pairs: of tokens with a vector of their own.
        losses: mean of 1 - cosine of the first and of the last epoch.
        quality: of both query towers on the validation queries.
        least: share of the full one's Recall@50 that the small one had to find.
        file: where it was written; None when it found less.
        file_bytes: size of the file; 0 without one.
        seconds: from reading the catalogue to the file.
    """

    tower_id: str
    texts: int
    pairs: int
    losses: tuple[float, float]
    quality: Quality
    least: float
    file: Path | None
    file_bytes: int
    seconds: float

    @property
    def share(self) -> float:
        """The small one's Recall@50 as a share of the full one's; 1 where neither finds anything."""
        full, small = (self.quality[name]["recall@50"] for name in (FULL, SMALL))
        return small / full if full else 1.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON can write it."""
        return {**asdict(self), "file": str(self.file) if self.file else None, "share": self.share}


def distil_query(
    catalog: CatalogFolder,
    tower: Path,
    release: Path,
    config: StaticQueryConfig,
    *,
    least: float = LEAST_SHARE,
    stages: Stages = lambda label: lambda done, total: None,
) -> QueryDistillation:
    """Make the small query tower of a tower from a catalogue's texts, and measure it on the val queries.

    No judgment is learnt from, and no query of another split. The encoded texts are kept beside the towers, so that a second call
    goes on where the first was cut short; the file appears at the end or not at all.

    Args:
        catalog: with train and val.
        tower: the artefact, which gets the file, its record and a line in its model card.
        release: lots of val, embedded by the tower.
        config: how it learns.
        least: share of the full query tower's Recall@50 below which nothing is written; 0 writes whatever comes out.
        stages: shows progress: given a stage's label, a function of (done, total).

    Raises:
        InvalidInput: there is no val split, or the release is of another tower.
        TowerError: the tower cannot be read.
        ReleaseError: the release lacks lots of val.
    """
    started, began = time.monotonic(), datetime.now(UTC)
    dimensions = _check(catalog, tower, release)
    small, texts, losses = _learn(catalog, tower, config, stages)
    card = TowerCard.load(tower)
    tokenizer = load_tokenizer(tower, card)
    encoders = {
        FULL: QueryEncoder.load(tower, dimensions),
        SMALL: SmallQueryEncoder(card.at(dimensions), tokenizer, small),
    }
    quality = measure_query_towers(catalog, SPLIT, release, encoders, stages("search"))
    made = QueryDistillation(
        card.tower_id, texts, len(small.pairs), (losses[0], losses[-1]), quality, least, None, 0, time.monotonic() - started
    )
    if made.share < least:
        return made
    file = small.save(tower)
    made = replace(made, file=file, file_bytes=file.stat().st_size)
    _record(made, tower, catalog, config, began)
    return made


def measure_query_towers(
    catalog: CatalogFolder, split: str, release: Path, encoders: Mapping[str, Encoder], progress: Progress | None = None
) -> dict[str, dict[str, float]]:
    """Search a split's lots by vectors alone, as it is served, with several query towers of one space.

    Args:
        catalog: its judgments are measured against.
        split: whose queries and lots.
        release: holds the lots.
        encoders: name -> query tower.
        progress: called with (searches done, searches in all).

    Returns:
        name -> measure -> mean over the judged queries.
    """
    with tempfile.TemporaryDirectory(prefix="gavel-distill-") as folder:
        store = EmbeddedStore(Path(folder))
        build_corpus(catalog, split, release, store)
        variants = [Variant(name, _service(store, encoder), "semantic") for name, encoder in encoders.items()]
        found = measure(catalog, split, variants, progress)
        for variant in variants:
            variant.service.live().index.close()
    return {name: {aim: values[aim] for aim in AIMS} for name, values in found.items()}


def _service(store: EmbeddedStore, encoder: Encoder) -> SearchService:
    return SearchService(store, lambda tower_id: encoder)


def _check(catalog: CatalogFolder, tower: Path, release: Path) -> int | None:
    """See that all belongs together; returns the length of the release's vectors where it is not the tower's own."""
    if SPLIT not in catalog.splits:
        raise InvalidInput(f"catalogue {catalog.path} has no split {SPLIT!r} to measure on; prepare it with one")
    tower_id, dimensions = split_tower_id(load_release(release).tower_id)
    if tower_id != TowerCard.load(tower).tower_id:
        raise InvalidInput(f"release {release} is of tower {tower_id}, not of {tower}; embed the lots with `gavel embed --tower`")
    return dimensions


def _learn(
    catalog: CatalogFolder, tower: Path, config: StaticQueryConfig, stages: Stages
) -> tuple[SmallQueryTower, int, list[float]]:
    texts = short_texts(catalog, config.texts, config.seed)
    if len(texts) < 2:
        raise InvalidInput(f"catalogue {catalog.path} has too few texts in its train split to learn from")
    towers, card = load_towers(tower)
    tokenizer = load_tokenizer(tower, card)
    cache, encoder, progress = tower.parent / CACHE_FOLDER, towers.query_tower.text_encoder, stages("encode texts")
    parts: list[NDArray[np.float32]] = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        table = TokenTable.build(tokenizer, texts[start : start + TEXTS_AT_ONCE], card.max_length)
        kept = encode_text_table(encoder, table, cache, torch.device("cpu")).vectors
        with torch.inference_mode():
            parts.append(towers.query_tower.encode(TextEncodings(torch.from_numpy(np.array(kept)))).numpy())
        progress(min(start + TEXTS_AT_ONCE, len(texts)), len(texts))
    wanted, looked_up = np.concatenate(parts), encoder.transformer.get_input_embeddings().weight.detach().numpy()
    small, losses = train_static_query_encoder(
        card.tower_id, tokenizer, card.max_length, texts, wanted, looked_up, config, stages("learn vectors")
    )
    return small, len(texts), losses


def _record(made: QueryDistillation, tower: Path, catalog: CatalogFolder, config: StaticQueryConfig, began: datetime) -> None:
    record = {
        **made.to_dict(),
        "split": SPLIT,
        "file": made.file.name if made.file else None,
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
