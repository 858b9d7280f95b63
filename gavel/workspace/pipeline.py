"""Steps from a catalogue to a searchable index on one machine, shared by the commands and the demo."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.folder import CatalogFolder
from gavel.workspace.config_file import configured
from gavel.workspace.console import Step
from gavel.workspace.folders import ROLLBACK_FILE, Workspace
from gavel.workspace.wiring import load_buyers, load_encoder, open_store
from retrieval.config.settings import Settings
from retrieval.contracts.item_files import DEFAULT_OPTIONS, ReadingLog, ReadOptions
from retrieval.contracts.release import load_release
from retrieval.contracts.tower_card import TowerCard, split_tower_id
from retrieval.errors import InvalidInput
from retrieval.files import exclusive, former_path, replace_file
from retrieval.index.port import VectorIndex, summary_of
from retrieval.ingestion import ReleaseReport, drop_old_indices, index_release, publish_index, rebuild_index
from retrieval.search.service import SearchModels, SearchService

logger = logging.getLogger(__name__)

# torch takes seconds to import and a search must not wait for that: modules that use torch are imported where they are needed
if TYPE_CHECKING:
    from models.config.training import TrainingConfig
    from models.data.hard_negatives import HardNegatives
    from models.training.adaptation import DistillationReport
    from processing.embedding.downloads import Downloads
    from processing.embedding.tower_fit import TowerFit
    from processing.ranking.train_from_events import EventsReport
    from processing.ranking.train_job import Labels, RerankerReport
    from processing.training.buyers import BuyersReport
    from processing.training.mining_rules import MiningRules
    from processing.training.rounds import RoundsReport


def training_config(
    catalog: CatalogFolder,
    *,
    preset: str = "compact",
    text_only: bool = False,
    seed: int,
    text_model: str | None = None,
    dimensions: int | None = None,
    query_bits: int = 8,
    hidden_text: float = 0.0,
    max_length: int | None = None,
    train_text: str | None = None,
    stages: Path | None = None,
    changes: Mapping[str, Any] | None = None,
) -> "TrainingConfig":
    """Return the training configuration of a catalogue with the changes of gavel.toml and of flags.

    Args:
        catalog: catalogue whose name selects the training schedule.
        preset: name in models.towers.config.PRESETS.
        text_only: True trains without photos.
        seed: seed of the run.
        text_model: hub name or local folder of a pretrained text encoder; None keeps the preset's.
        dimensions: length of the vectors; None keeps the preset's.
        query_bits: bits of the weights in the served query tower, 8 or 4.
        hidden_text: share of the items with a photo whose text is hidden, see models.towers.config.
        max_length: number of tokens read of each text; None keeps the preset's.
        train_text: layers of the text encoder to train, "all", "none" or "last-<n>"; None keeps the preset's.
        stages: file of stages, see processing.training.schedule_files.
        changes: field of TrainingConfig -> value; a value of None leaves the field as it is.
    """
    from models.config.training import TrainingConfig
    from processing.training.schedule_files import read_stages

    config = TrainingConfig.for_catalog(catalog.name, preset=preset, use_image=not text_only, seed=seed)
    config = configured(config, "training")
    if text_only:
        config = replace(config, tower=replace(config.tower, use_image=False))
    if text_model:
        from models.towers.published import stated_pooling

        text = replace(config.tower.text, model=text_model, pooling=stated_pooling(text_model) or config.tower.text.pooling)
        config = replace(config, tower=replace(config.tower, text=text))
    if dimensions:
        config = replace(config, tower=replace(config.tower, dimensions=dimensions))
    if query_bits != config.tower.query_bits:
        config = replace(config, tower=replace(config.tower, query_bits=query_bits))
    if hidden_text:
        config = replace(config, tower=replace(config.tower, hidden_text=hidden_text))
    if max_length:
        config = replace(config, tower=replace(config.tower, max_length=max_length))
    if train_text:
        config = replace(config, tower=replace(config.tower, text=replace(config.tower.text, trainable=train_text)))
    if stages:
        config = replace(config, stages=read_stages(stages))
    return replace(config, **_without_none(changes or {}))


def mining_rules(*, no_margin: bool = False, **values: Any) -> "MiningRules":
    """Return the rules of mining with `values` as fields of MiningRules; None takes the value of gavel.toml."""
    from processing.training.mining_rules import MiningRules

    rules = replace(configured(MiningRules(), "mining"), **_without_none(values))
    return replace(rules, margin=None) if no_margin else rules


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def train_towers(
    workspace: Workspace,
    catalog: CatalogFolder,
    config: "TrainingConfig",
    *,
    negatives: Path | None = None,
    start_from: Path | None = None,
    resume: bool = True,
    progress: Step,
) -> Path:
    """Train one stage of a pair of towers on a catalogue and save the artefact.

    Args:
        workspace: workspace that stores the tower.
        catalog: catalogue to train on.
        config: configuration whose first stage is trained, or with `negatives` its second stage.
        negatives: file of mined negatives.
        start_from: folder of the initial tower; None with `negatives` takes the tower that mined them.
        resume: True continues an interrupted run.
        progress: called with (steps done, steps in all).

    Returns:
        The tower's folder.
    """
    from models.data.hard_negatives import HardNegatives
    from models.training.two_towers import train_towers
    from processing.training.rounds import MINED, in_stages

    stage, mined = 0, None
    if negatives is not None:
        file = HardNegatives.load(negatives)
        config, stage, mined = in_stages(config), MINED, file.by_query
        start_from = start_from or workspace.tower(split_tower_id(str(file.settings.get("tower_id", "")))[0])
    with _alone(workspace, "trains towers"):
        report = train_towers(
            catalog, config, workspace.towers, progress, stage=stage, start_from=start_from, negatives=mined, resume=resume
        )
        return report.tower_folder


def adapt(
    workspace: Workspace,
    catalog: CatalogFolder,
    model: str,
    stages: Callable[[str], Step],
    *,
    max_length: int | None,
    **settings: Any,
) -> "DistillationReport":
    """Adapt a sentence encoder to a catalogue and save the towers, see models.training.adaptation.

    Args:
        workspace: workspace that stores the towers.
        catalog: catalogue with items and queries; its judgments are not used for training.
        model: preset of a sentence encoder; or hub name or folder of one, or of a model for words and pictures.
        stages: shows progress: returns a function of (done, total) for the label of a stage.
        max_length: number of tokens read from each text; None takes the preset's.
        settings: fields of DistillationConfig; None takes the value of gavel.toml.
    """
    from models.config.distillation import DistillationConfig
    from models.towers.published import published_towers
    from models.training.adaptation import distil_towers

    tower = published_towers(model)
    tower = replace(tower, max_length=max_length or tower.max_length)
    config = replace(configured(DistillationConfig(), "distillation"), **_without_none(settings))
    with _alone(workspace, "trains towers"):
        return distil_towers(catalog, tower, config, workspace.towers, stages)


def published_tower(workspace: Workspace, model: str) -> Path:
    """Return the folder of the towers of a published encoder as it is, which are made if they are not there.

    Args:
        workspace: workspace that stores the towers.
        model: hub name or local folder of a sentence encoder or of a model for words and pictures, or a preset of one.
    """
    from models.artefacts.published import save_published_towers

    with _alone(workspace, "trains towers"):
        return save_published_towers(model, workspace.towers)


def train_rounds(
    workspace: Workspace,
    catalog: CatalogFolder,
    config: "TrainingConfig",
    *,
    rounds: int,
    rules: "MiningRules",
    resume: bool = True,
    steps: Callable[[str], AbstractContextManager[Step]],
) -> "RoundsReport":
    """Train a baseline, rounds on mined negatives and a last stage. The best tower becomes the workspace's newest tower."""
    from processing.training.rounds import train_rounds

    with _alone(workspace, "trains towers"):
        return train_rounds(
            catalog, config, workspace.towers, workspace.rounds, rounds=rounds, rules=rules, resume=resume, steps=steps
        )


def mine(
    workspace: Workspace, catalog: CatalogFolder, rules: "MiningRules", out: Path | None, *, progress: Step
) -> tuple["HardNegatives", Path, bool]:
    """Mine hard negatives of a catalogue's training queries from the live index.

    Returns:
        The negatives, their file, and True if an earlier run had already mined them.
    """
    from processing.training.mining import mine_or_reuse

    index = open_store(workspace.settings).live()
    path = out or workspace.negatives(index.tower_id)
    encoder = load_encoder(workspace.settings, index.tower_id)
    mined, reused = mine_or_reuse(path, catalog, index, encoder, rules, progress=progress)
    return mined, path, reused


def find_release(
    workspace: Workspace,
    inputs: Sequence[Path],
    tower: Path,
    *,
    release_id: str | None,
    dimensions: int | None = None,
    photos: Sequence[Path] = (),
    options: ReadOptions = DEFAULT_OPTIONS,
    log: ReadingLog | None = None,
    photo_hosts: Sequence[str] | None = None,
) -> Path | None:
    """Return the folder of the committed release that embed() would write again, or None if there is none or an input changed."""
    from processing.embedding.job import find_release
    from processing.embedding.plan import EmbeddingRun

    card = TowerCard.load(tower, verify=True).at(dimensions)
    log = log or ReadingLog()
    run = EmbeddingRun(
        list(inputs),
        workspace.embeddings,
        release_id=release_id,
        photos=photos,
        options=options,
        log=log,
        downloads=_downloads(workspace, photo_hosts),
    )
    release = find_release(run, card)
    if release is None:
        return None
    workspace.remember_sources(release.release_id, [*inputs, *photos])
    return workspace.embeddings / release.release_id


def embed(
    workspace: Workspace,
    inputs: Sequence[Path],
    tower: Path,
    *,
    release_id: str | None,
    workers: int,
    progress: Step,
    force: bool = False,
    dimensions: int | None = None,
    photos: Sequence[Path] = (),
    options: ReadOptions = DEFAULT_OPTIONS,
    log: ReadingLog | None = None,
    photo_hosts: Sequence[str] | None = None,
) -> Path:
    """Embed catalogue files into a release.

    Items may name photos in the folders of their files and in `photos`. Thumbnails of these photos go to the workspace.

    Args:
        workspace: workspace that stores the release and the thumbnails.
        inputs: catalogue files.
        tower: folder of the tower.
        release_id: id of the release; None derives it from tower and inputs.
        workers: processes that decode photos; 0 decodes in a thread.
        progress: called with (items done, items in all).
        force: True embeds again although nothing has changed.
        dimensions: length of the vectors, one of those that the tower serves; None takes the tower's own.
        photos: further folders of photos.
        options: what the user says about the columns and values of the files.
        log: gets what the user should know about the files.
        photo_hosts: hosts whose photos are fetched although they have no public address; None fetches from no host at all.

    Returns:
        The release's folder.
    """
    from processing.embedding.job import embed

    manifest = embed(
        list(inputs),
        tower,
        workspace.embeddings,
        release_id=release_id,
        workers=workers,
        force=force,
        dimensions=dimensions,
        photos=photos,
        thumbnails=workspace.thumbnails,
        progress=progress,
        options=options,
        log=log or ReadingLog(),
        downloads=_downloads(workspace, photo_hosts),
    )
    workspace.remember_sources(manifest.release_id, [*inputs, *photos])
    return workspace.embeddings / manifest.release_id


def _downloads(workspace: Workspace, hosts: Sequence[str] | None) -> "Downloads | None":
    from processing.embedding.downloads import Downloads

    return None if hosts is None else Downloads(workspace.downloads, frozenset(hosts))


def measure_fit(workspace: Workspace, release: Path) -> "TowerFit":
    """Measure what a sample of a release's lots looks like to its tower, see processing.embedding.tower_fit."""
    from processing.embedding.tower_fit import measure_fit

    return measure_fit(release, Path(workspace.settings.towers) / split_tower_id(load_release(release).tower_id)[0])


def index(settings: Settings, release: Path, *, progress: Step, overwrite: bool = False, force: bool = False) -> ReleaseReport:
    """Index a release, make it live and return the report; for `overwrite` and `force` see index_release()."""
    with _alone(Workspace(settings), "writes the index"):
        store = open_store(settings)
        report = index_release(
            release, store, progress, overwrite=overwrite, force=force, check=partial(_quality_objection, settings)
        )
        (release / ROLLBACK_FILE).unlink(missing_ok=True)  # whoever names a release that was rolled back brings it back
        drop_old_indices(store, settings.old_indices)
        return report


def replace_index(settings: Settings, release: Path, *, progress: Step) -> ReleaseReport:
    """Build a new index of one release alone and make it live, whatever the live one holds."""
    with _alone(Workspace(settings), "writes the index"):
        store = open_store(settings)
        report = rebuild_index([release], store, progress, force=True)
        drop_old_indices(store, settings.old_indices)
        return report


def rebuild(
    settings: Settings, tower_id: str | None, *, progress: Step, overwrite: bool = False, force: bool = False
) -> tuple[ReleaseReport, list[Path]]:
    """Build a new index from the releases in the workspace and make it live.

    Args:
        settings: settings of workspace and index.
        tower_id: tower of the releases; None takes the tower of the settings, of the live index, or of the newest release.
        progress: called with (items done, items in all).
        overwrite: see rebuild_index().
        force: see rebuild_index().

    Returns:
        The report, and the folders of the releases.

    Raises:
        InvalidInput: the workspace holds no complete release of the tower.
    """
    workspace, store = Workspace(settings), open_store(settings)
    tower_id = tower_id or settings.tower_id or store.live_tower() or load_release(workspace.release(None)).tower_id
    releases, faults = workspace.whole_releases(tower_id)
    for fault in faults:
        logger.warning("a release is left out: %s", fault)
    if not releases:
        artefact, dimensions = split_tower_id(tower_id)
        flags = f" --tower {artefact}{f' --dimensions {dimensions}' if dimensions else ''}"
        raise InvalidInput(
            f"{workspace.embeddings} holds no whole release of tower {tower_id}; embed the lots again with `gavel embed{flags}`, "
            "then build the index with `gavel index --rebuild`; until then it stays as it is"
        )
    with _alone(workspace, "writes the index"):
        check = partial(_quality_objection, settings)
        report = rebuild_index(releases, store, progress, overwrite=overwrite, force=force, check=check)
        drop_old_indices(store, settings.old_indices)
        return report, releases


def roll_back_index(settings: Settings, name: str | None, *, force: bool = False) -> str:
    """Make the index live that was live before, or the one of this name, and return its name.

    Args:
        settings: settings of workspace and index.
        name: physical name of the index; None takes the index before.
        force: see publish_index().

    Raises:
        InvalidInput: there is no such index, or no index was live before.
        ReleaseError: see publish_index().
    """
    with _alone(Workspace(settings), "writes the index"):
        store = open_store(settings)
        live = store.live().name
        target = name or store.previous()
        if target is None:
            others = ", ".join(other for other in store.names() if other != live) or "none"
            raise InvalidInput(
                f"no index was live before {live}, or it was dropped; name another index (there are: {others}), or the release to "
                "go back to, as `gavel release list` shows them"
            )
        if summary_of(target, store.list_indices()).tower_id is None:
            raise InvalidInput(f"{target} was not made by Gavel and cannot be searched")
        if target != live:
            publish_index(store.open_index(target), store, force=force, check=partial(_quality_objection, settings))
        return target


def roll_back_release(
    settings: Settings, release: Path, *, progress: Step, force: bool = False
) -> tuple[ReleaseReport, list[Path]]:
    """Build a new index from the releases of a tower up to this one, and make it live; later ones are left out of rebuilds, too.

    Args:
        settings: settings of workspace and index.
        release: folder of the release to go back to.
        progress: called with (items done, items in all).
        force: see rebuild_index().

    Returns:
        The report, and the folders of the releases that were left out, the oldest first.

    Raises:
        InvalidInput: no release of the tower is newer, so there is nothing to go back from.
        ReleaseError: see rebuild_index().
    """
    workspace = Workspace(settings)
    releases, faults = workspace.whole_releases(load_release(release).tower_id)
    for fault in faults:
        logger.warning("a release is left out: %s", fault)
    by_path = [folder.resolve() for folder in releases]
    if release.resolve() not in by_path:
        raise InvalidInput(
            f"{release} is no whole release of this workspace, or was rolled back itself; `gavel release list` has them"
        )
    count = by_path.index(release.resolve()) + 1
    base, newer = releases[:count], releases[count:]
    if not newer:
        raise InvalidInput(
            f"no release of its tower is newer than {release.name}; name an older one, as `gavel release list` shows them"
        )
    with _alone(workspace, "writes the index"):
        store = open_store(settings)
        check = partial(_quality_objection, settings)
        report = rebuild_index(base, store, progress, force=force, check=check, undo=newer)
        for folder in newer:
            replace_file(folder / ROLLBACK_FILE, json.dumps({"to": release.name, "index": report.index}) + "\n")
        drop_old_indices(store, settings.old_indices)
    return report, newer


def roll_back_ranker(settings: Settings, tower_id: str) -> Path | None:
    """Exchange a tower's re-ranker and the one before; return its path, or None if there was none before.

    Raises:
        InvalidInput: the tower has no re-ranker, now or before.
    """
    workspace = Workspace(settings)
    path = workspace.ranker(tower_id)
    former = former_path(path)
    with _alone(workspace, "trains the re-ranker"):
        present, before = (file.read_bytes() if file.is_file() else None for file in (path, former))
        if present is None and before is None:
            raise InvalidInput(f"tower {tower_id} has no re-ranker to go back from; train one with `gavel train reranker`")
        if before is not None:
            replace_file(path, before)
        else:
            path.unlink()
        if present is not None:
            replace_file(former, present)
        else:
            former.unlink()
    return path if before is not None else None


def _quality_objection(settings: Settings, new: VectorIndex, live: VectorIndex) -> str | None:
    """Compare an index with the live one on the judged val queries of the newest catalogue, if there is any."""
    from processing.evaluation.index_check import quality_objection

    if not settings.min_quality:
        return None
    try:
        catalog = CatalogFolder.load(Workspace(settings).catalog(None))
    except InvalidInput:
        return None  # most workspaces have no catalogue with judgments
    return quality_objection(new, live, catalog, partial(load_encoder, settings), settings.min_quality)


def train_reranker(
    workspace: Workspace,
    catalog: CatalogFolder,
    *,
    seed: int,
    progress: Step,
    labels: "Labels | None" = None,
    force: bool = False,
) -> "RerankerReport":
    """Train the re-ranker of the live index's tower on a catalogue's clicks or judgments. It is saved if it gains.

    Args:
        workspace: workspace whose settings name the index; it stores the booster.
        catalog: catalogue with the training data.
        seed: seed of the training.
        progress: called with (queries done, queries in all).
        labels: "clicks" or "judgments"; None takes clicks if there are any.
        force: True saves it in any case.
    """
    from processing.ranking.train_job import train_reranker
    from retrieval.ranker.parameters import BoosterParameters

    service, path = _without_ranker(workspace)
    with _alone(workspace, "trains the re-ranker"):
        return train_reranker(
            catalog,
            service,
            path,
            labels=labels,
            force=force,
            seed=seed,
            progress=progress,
            candidates=workspace.settings.candidates,
            parameters=configured(BoosterParameters(), "reranker"),
        )


def train_buyers(
    workspace: Workspace,
    catalog: Path | None,
    events: Sequence[Path],
    *,
    seed: int,
    changes: Mapping[str, Any],
    progress: Step,
) -> "BuyersReport":
    """Train the buyer tower of the live index's tower on the vectors of that tower's newest release.

    Args:
        workspace: workspace whose settings name the index; the tower's folder stores the buyer tower.
        catalog: catalogue whose clicks are used if there are no events; None takes the newest catalogue.
        events: files or folders of events.
        seed: seed of the training.
        changes: field of BuyerTrainingConfig -> value; None takes the value of gavel.toml.
        progress: called with (epochs done, epochs in all).
    """
    from models.config.buyers import BuyerTrainingConfig
    from processing.training.buyers import catalog_events, logged_events, train_on_release

    log = logged_events(events) if events else catalog_events(CatalogFolder.load(workspace.catalog(catalog)))
    tower_id, shorter = split_tower_id(open_store(workspace.settings).live().tower_id)
    if shorter:
        raise InvalidInput(f"the live index holds the first {shorter} numbers of each vector; train on an index of full length")
    config = replace(configured(BuyerTrainingConfig(), "training.buyers"), **_without_none(changes), seed=seed)
    with _alone(workspace, "trains the buyer tower"):
        return train_on_release(log, workspace.release_of_tower(tower_id), workspace.tower(tower_id), config, progress)


def train_on_events(
    workspace: Workspace,
    places: Sequence[Path],
    *,
    judgments: Path | None,
    trust_unsigned: bool,
    source_share: float | None,
    seed: int,
    force: bool,
    stages: Callable[[str], Step],
) -> "EventsReport":
    """Train the re-ranker of the live index's tower on stored events. The present re-ranker stays if it is better.

    Args:
        workspace: workspace whose settings name the index; it stores the booster.
        places: files or folders of events.
        judgments: catalogue whose judgments also compare the re-rankers; None takes the newest catalogue, if there is any.
        trust_unsigned: True also learns from lists without a valid signature.
        source_share: maximum share of the lists from one session or network client, 0 to 1; None takes SOURCE_SHARE.
        seed: seed of the training.
        force: True replaces the present re-ranker in any case.
        stages: shows progress: returns a function of (done, total) for a label.
    """
    from catalog.event_files import read_events
    from processing.ranking.train_from_events import SOURCE_SHARE, train_on_events
    from retrieval.ranker.parameters import BoosterParameters

    service, path = _without_ranker(workspace)
    log = read_events(places, stages("read events"), trust_unsigned=trust_unsigned)
    step = stages("train re-ranker")
    try:
        catalog = CatalogFolder.load(workspace.catalog(judgments))
    except InvalidInput:
        if judgments:
            raise
        catalog = None  # most catalogues have no judgments
    with _alone(workspace, "trains the re-ranker"):
        return train_on_events(
            log,
            service,
            path,
            judgments=catalog,
            source_share=SOURCE_SHARE if source_share is None else source_share,
            force=force,
            seed=seed,
            progress=step,
            candidates=workspace.settings.candidates,
            parameters=configured(BoosterParameters(), "reranker"),
        )


def _alone(workspace: Workspace, work: str) -> AbstractContextManager[None]:
    """Keep other processes from doing the same work in a workspace while the block runs; see files.exclusive()."""
    home = workspace.settings.home
    return exclusive(home / f".{work.replace(' ', '-')}.lock", f"{work} in {home}")


def _without_ranker(workspace: Workspace) -> tuple[SearchService, Path]:
    """Return a search service without a re-ranker, and the path for the new one. The present one may have older features."""
    settings = workspace.settings
    service = SearchService(
        open_store(settings),
        SearchModels(partial(load_encoder, settings), load_buyer_tower=partial(load_buyers, settings), tower_id=settings.tower_id),
    )
    return service, workspace.ranker(service.live().index.tower_id)
