"""Adapt a sentence encoder to a catalogue without judgments: its towers learn to rank like BM25 and the encoder together.

The teacher scores every item for a query by the cosine of the untrained encoder plus a share of BM25. BM25 is scaled so that
a query's best score is 1, as in the convex combination of Bruch et al. (TOIS 2023, arXiv 2210.11934). The student has linear
heads that start as the identity. They learn the teacher's distribution over the items (ListNet's loss, Cao et al., ICML
2007). The encoder stays as published and encodes every text only once, so the rest of the training takes seconds.

The student learns the teacher's whole distribution. Training only on the teacher's best items, as if they were judged
relevant, made the tower worse.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from catalog.folder import CatalogFolder
from models.artefacts.model_card import write_model_card
from models.artefacts.run_record import data_hash, hash_of, steps_record, write_record
from models.artefacts.tower_files import save_towers
from models.config.distillation import DistillationConfig
from models.data.encoding_cache import encode_photo_table, encode_text_table
from models.data.tables import ItemTable, PhotoTable, Queries, TokenTable, read_training_items
from models.towers.config import JOINT, TowerConfig
from models.towers.tokenizer import make_tokenizer
from models.towers.two_towers import Photos, TextEncodings, TwoTowers
from models.training.checkpoints import CHECKPOINT_FOLDER, CHECKPOINT_SECONDS, Checkpoints
from models.training.choices import TEXT, TEXT_PHOTO, SearchChoice, choose_search, gains_by_photos
from models.training.loop import LoopSettings, StepMetrics, TrainingLoop, TrainingTask
from models.training.two_towers import CACHE_FOLDER
from models.training.validation import QueryMetrics, Validation, ValidationMetrics
from retrieval.encoders.query_encoder import prepare_tokenizer
from retrieval.errors import InvalidInput
from retrieval.index.embedded.bm25 import Bm25Index
from retrieval.progress import PhaseProgress, ignore_phases

CPU = torch.device("cpu")
SELECTION_METRIC = "quality"  # as of trainings


@dataclass(frozen=True)
class DistillationReport:
    """Result of an adaptation.

    Attributes:
        tower_folder: folder of the artefact.
        items: number of items that were ranked.
        queries: number of distinct queries that were learnt from.
        losses: cross-entropy of the first and of the last step.
        before: metrics of the untrained encoder on the val split; None without a val split.
        after: metrics of the adapted towers on the val split; None without a val split.
        choice: comparison with keyword and hybrid search on the val split, and of towers without and with photos; None without a
            val split. Where both were adapted, steps and planned_steps count both.
        seconds: seconds from reading the catalogue to the artefact.
        steps: number of steps that were run.
        planned_steps: number of steps in the schedule.
        cut_by_clock: True if max_seconds ended the run. The next adaptation with the same settings resumes there.
    """

    tower_folder: Path
    items: int
    queries: int
    losses: tuple[float, float]
    before: ValidationMetrics | None
    after: ValidationMetrics | None
    choice: SearchChoice | None
    seconds: float
    steps: int
    planned_steps: int
    cut_by_clock: bool


class Teacher:
    """The teacher of the distillation, which scores every item for a query."""

    def __init__(
        self, items: ItemTable, queries: Queries, item_vectors: Tensor, query_vectors: Tensor, keyword_share: float
    ) -> None:
        """Index the items' texts. The vectors (N, D) and (Q, D) are the untrained encoder's, with any norm."""
        self._texts, self._share = queries.texts, keyword_share
        self._lots, self._queries = F.normalize(item_vectors, dim=1), F.normalize(query_vectors, dim=1)
        self._keywords = Bm25Index.build(enumerate(items.texts))

    def scores(self, rows: NDArray[np.int64]) -> Tensor:
        """Return scores (B, N) for the queries in B rows: cosine + keyword_share * BM25 / the query's best BM25."""
        keyword = torch.zeros(len(rows), len(self._lots))
        for place, row in enumerate(rows):
            keyword[place, torch.from_numpy(self._keywords.row_ids)] = torch.from_numpy(self._keywords.scores(self._texts[row]))
        best = keyword.amax(dim=1, keepdim=True)
        keyword = torch.where(best > 0, keyword / best, 0.0)
        return self._queries[torch.from_numpy(rows)] @ self._lots.T + self._share * keyword


def listwise_distillation(student: Tensor, teacher: Tensor, *, temperature: float, teacher_temperature: float) -> Tensor:
    """Return the cross-entropy of the student's distribution over a query's items against the teacher's (Cao et al. 2007).

    Args:
        student: (B, N) scores.
        teacher: (B, N) scores.
        temperature: divisor of the student's scores.
        teacher_temperature: divisor of the teacher's scores.

    Returns:
        Scalar, the mean over the queries.
    """
    return F.cross_entropy(student / temperature, (teacher / teacher_temperature).softmax(dim=1))


def distil_towers(
    catalog: CatalogFolder,
    tower: TowerConfig,
    config: DistillationConfig,
    out: Path,
    progress_for: PhaseProgress = ignore_phases,
) -> DistillationReport:
    """Adapt the towers of a text encoder to a catalogue, using only its items and the texts of its queries.

    Args:
        catalog: catalogue with items and queries in train; judgments of val, if present, are used only for metrics.
        tower: configuration with the encoder's width and no hidden layer. The encoder stays frozen. The towers get linear heads,
            and an image encoder only if it is of one model with the text encoder, and as config.photos says.
        config: settings.
        out: folder of the artefacts; encodings are stored in its sub-folder `.photos` and checkpoints in `.checkpoints`, as in
            training. A run of the same settings and data that was stopped or cut resumes there.
        progress_for: returns the progress callback of a phase, given its label.

    Raises:
        InvalidInput: the towers have a hidden layer or another width, or the catalogue has too few queries.
        TowerError: the encoder is not available.
    """
    started, began = time.monotonic(), datetime.now(UTC)
    items, queries = read_training_items(catalog, config.min_weight, typed_only=True)
    items = _sample(items, config)
    data, cache, measured = data_hash(catalog), out / CACHE_FOLDER, catalog.has_queries("val")

    encodings: dict[str, Tensor] = {}  # of the frozen text encoder, which all towers share

    def adapt(reads_photos: bool, phase: str) -> _Adapted:
        torch.manual_seed(config.seed)
        towers, tokenizer = _linear_towers(replace(tower, use_image=reads_photos), config)
        encoder, length = towers.item_tower.text_encoder, towers.config.max_length
        prepare_tokenizer(tokenizer, length)

        for what, texts in (("lots", items.texts), ("queries", queries.texts)):
            if what not in encodings:
                table = TokenTable.build(tokenizer, texts, length)
                encoded = encode_text_table(encoder, table, cache, CPU, progress_for(f"encode {what}"))
                encodings[what] = torch.from_numpy(np.array(encoded.vectors))
        item_vectors, query_vectors = encodings["lots"], encodings["queries"]
        photos = _encode_photos(towers, items, cache, progress_for)
        with torch.inference_mode():
            untrained = item_vectors if photos is None else towers.eval().item_tower(TextEncodings(item_vectors), photos)
        teacher = Teacher(items, queries, untrained.clone(), query_vectors, config.keyword_share)
        validation = Validation(catalog, tokenizer, towers.config, cache) if measured else None
        if validation:
            validation.encode_frozen(towers, CPU)
        before = validation.measure(towers) if validation else None
        settings = asdict(replace(config, max_seconds=None, photos="auto"))
        inputs = [query_vectors.numpy(), *([photos.pixels.numpy()] if photos else [])]
        key = hash_of([settings, towers.config.to_architecture(), data, *inputs, torch.__version__])
        checkpoints = Checkpoints(out / CHECKPOINT_FOLDER / key, CHECKPOINT_SECONDS)
        loop = TrainingLoop(
            AdaptationTask(towers, teacher, item_vectors, photos, query_vectors, config),
            LoopSettings(config.steps, 1, config.warmup, max_seconds=config.max_seconds),
            checkpoints,
        )
        loop.run(progress_for(phase))
        results = validation.search(towers) if validation else None
        return _Adapted(towers, tokenizer, loop, checkpoints, validation, before, results)

    choices, reason = _photo_choices(tower, items, config, measured=measured)
    phases = ("learn to rank", "learn to rank with photos")
    adapted = [adapt(reads_photos, phase) for reads_photos, phase in zip(choices, phases, strict=False)]
    best = adapted[0]
    trained = {each.system: each.metrics for each in adapted if each.metrics}
    if len(adapted) > 1 and gains_by_photos(trained[TEXT_PHOTO], trained[TEXT], SELECTION_METRIC):
        best = adapted[1]
    choice = None
    if best.validation and best.results is not None:
        choice = choose_search(best.validation, best.results, trained, SELECTION_METRIC, stored=best.system, reason=reason)
    folder, losses = save_towers(best.towers.eval(), best.tokenizer, out), [record.loss for record in best.loop.history]
    report = DistillationReport(
        tower_folder=folder,
        items=len(items.ids),
        queries=len(queries.texts),
        losses=(losses[0], losses[-1]),
        before=best.before,
        after=trained[best.system].mean() if best.system in trained else None,
        choice=choice,
        seconds=time.monotonic() - started,
        steps=sum(each.loop.steps_run for each in adapted),
        planned_steps=sum(each.loop.steps for each in adapted),
        cut_by_clock=any(each.loop.cut_by_clock for each in adapted),
    )
    write_record(folder, _record(report, best.towers, config, catalog, data, losses), began)
    write_model_card(folder)
    if not report.cut_by_clock:
        for each in adapted:
            each.checkpoints.remove()
    return report


@dataclass(frozen=True)
class _Adapted:
    """Adapted towers, of an adaptation that may compare several."""

    towers: TwoTowers
    tokenizer: Any
    loop: TrainingLoop[None]
    checkpoints: Checkpoints
    validation: Validation | None
    before: ValidationMetrics | None
    results: NDArray[np.int64] | None  # of the val queries, see Validation.search()

    @property
    def system(self) -> str:
        """Return the name of these towers in a comparison."""
        return TEXT_PHOTO if self.towers.config.use_image else TEXT

    @property
    def metrics(self) -> QueryMetrics | None:
        """Return the metrics of the val queries; None without a val split."""
        return self.validation.metrics(self.results) if self.validation and self.results is not None else None


def _photo_choices(
    tower: TowerConfig, items: ItemTable, config: DistillationConfig, *, measured: bool
) -> tuple[Sequence[bool], str]:
    """Return whether the towers to adapt read photos: False, then True for "auto", otherwise one value with the reason for it."""
    if not tower.use_image or tower.image.name != JOINT:
        if config.photos == "always":
            raise InvalidInput(
                f"towers of {tower.preset!r} read no photos; leave --use-photos always out, or adapt a model for words and "
                "pictures, such as CLIP"
            )
        return [False], ""
    if config.photos != "auto":
        return [config.photos == "always"], f"as asked by photos = {config.photos}"
    if not any(items.photos):
        return [False], "no lot of the catalogue has a photo"
    if not measured:
        return [True], "the catalogue has no val split to compare on"
    return [False, True], ""


def _linear_towers(tower: TowerConfig, config: DistillationConfig) -> tuple[TwoTowers, Any]:
    tower = replace(tower, linear=True, features=None, text=replace(tower.text, trainable="none"))
    towers = TwoTowers(tower, config.temperature)
    width = towers.item_tower.text_encoder.width
    if tower.hidden or towers.config.dimensions != width:
        raise InvalidInput(
            f"towers of {tower.preset!r} have {towers.config.dimensions} dimensions and a hidden layer of {tower.hidden}; to be "
            f"adapted they need the encoder's {width} and no hidden layer: take minilm, or a sentence encoder by name"
        )
    towers.logit_scale.requires_grad_(False)
    return towers, make_tokenizer(tower, ())


def _encode_photos(towers: TwoTowers, items: ItemTable, cache: Path, progress_for: PhaseProgress) -> Photos | None:
    """Return the encodings of the items' photos; None if the towers read no photos, or no item has one."""
    encoder = towers.item_tower.image_encoder
    if encoder is None or not any(items.photos):
        return None
    table = PhotoTable.load(items.photos, towers.config.image_size, cache)
    encoded = encode_photo_table(encoder, table, towers.config, cache, CPU, progress_for("encode photos"))
    has_image = np.array(encoded.has_image)
    return Photos(torch.from_numpy(encoded.vectors[has_image]), torch.from_numpy(has_image)) if has_image.any() else None


def _sample(items: ItemTable, config: DistillationConfig) -> ItemTable:
    if len(items.ids) <= config.lots:
        return items
    rows = np.sort(np.random.default_rng(config.seed).choice(len(items.ids), config.lots, replace=False))
    return ItemTable([items.ids[row] for row in rows], [items.texts[row] for row in rows], [items.photos[row] for row in rows])


class AdaptationTask(TrainingTask[None]):
    """Training of linear heads on a teacher's scores; each epoch is one step."""

    def __init__(
        self,
        towers: TwoTowers,
        teacher: Teacher,
        item_vectors: Tensor,
        photos: Photos | None,
        query_vectors: Tensor,
        config: DistillationConfig,
    ) -> None:
        self.model, self._towers, self._photos = towers, towers, photos
        self._teacher, self._items, self._queries, self._config = teacher, TextEncodings(item_vectors), query_vectors, config
        trained = [parameter for parameter in towers.parameters() if parameter.requires_grad]
        self.optimizers = {"optimizer": torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0)}
        self._random = np.random.default_rng(config.seed)

    def backward(self, step: int) -> StepMetrics:
        """Compute the gradients of one batch of queries against all items; steps must be made in order."""
        config, count = self._config, len(self._queries)
        rows = self._random.choice(count, min(config.queries, count), replace=False)  # (B,)
        queries = self._towers.query_tower.encode(TextEncodings(self._queries[torch.from_numpy(rows)]))  # (B, D)
        loss = listwise_distillation(
            queries @ self._towers.item_tower(self._items, self._photos).T,
            self._teacher.scores(rows),
            temperature=config.temperature,
            teacher_temperature=config.teacher_temperature,
        )
        torch.autograd.backward(loss)
        return StepMetrics.of_loss(loss)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the draws."""
        return {"random": self._random.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of state_dict()."""
        self._random.bit_generator.state = state["random"]


def _record(
    report: DistillationReport,
    towers: TwoTowers,
    config: DistillationConfig,
    catalog: CatalogFolder,
    data: str,
    losses: list[float],
) -> dict[str, Any]:
    return {
        "seconds": round(report.seconds, 1),
        "steps": steps_record(report.steps, report.planned_steps, report.cut_by_clock),
        "settings": {**asdict(config), "tower": towers.config.to_architecture()},
        "stage": "distillation",
        "start_from": None,
        "data": {"catalog": catalog.name, "sha256": data, "lots": report.items, "queries": report.queries},
        "losses": losses,
        "best": asdict(report.after) if report.after else {},
        "before": asdict(report.before) if report.before else {},
        "choice": report.choice.to_dict() if report.choice else None,
        "parameters": sum(p.numel() for p in towers.parameters() if p.requires_grad),
    }
