"""Training of towers for `gavel train`, and the commands `gavel adapt` and `gavel mine`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog.folder import CatalogFolder
from gavel.workspace import pipeline
from gavel.workspace.console import Stages, console, progress, show_table
from gavel.workspace.entry import EXIT_CUT, commands_for, show_next
from gavel.workspace.folders import Workspace
from gavel.workspace.options import CatalogOption, Json, MaxSeconds, Seed, UsePhotos, print_json, report
from models.artefacts.run_record import cut_steps, read_record
from models.towers.feature_names import NONE
from retrieval.config.settings import Settings

if TYPE_CHECKING:  # imports torch
    from models.config.training import TrainingConfig
    from processing.training.mining_rules import MiningRules
    from processing.training.rounds import RoundsReport

# None takes the default of the settings file or of MiningRules, whose import here would slow down every command
PerQuery = Annotated[int | None, typer.Option("--per-query", min=1, help="Hard negatives per query; 15.")]
Margin = Annotated[
    float | None,
    typer.Option("--margin", min=0.0, help="Leave out unjudged lots whose score is closer than this to the best answer's; .05."),
]
NoMargin = Annotated[
    bool, typer.Option("--no-margin", help="Take unjudged lots of any score; for catalogues whose judgments are complete.")
]


def train_towers(
    workspace: Workspace,
    catalog: CatalogFolder,
    config: "TrainingConfig",
    *,
    negatives: Path | None,
    start_from: str | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Train a pair of towers and print the folder that holds them."""
    start = workspace.tower(start_from) if start_from else None
    with progress("train towers") as step:
        tower = pipeline.train_towers(
            workspace, catalog, config, negatives=negatives, start_from=start, resume=resume, progress=step
        )
    cut, choice = cut_steps(tower), read_record(tower).get("choice")
    compared = {"choice": choice} if as_json else {}
    report({"tower_id": tower.name, "tower": str(tower), **_features(tower, as_json), **compared, **cut_note(cut)}, as_json)
    if not as_json:
        show_choice(choice)
    if cut:
        raise typer.Exit(EXIT_CUT)
    if not as_json:
        show_next(*commands_for(catalog))


def show_choice(choice: Mapping[str, Any] | None) -> None:
    """Print what validation chose and why, given `choice` of a training record; nothing if nothing was compared."""
    for line in (choice or {}).get("lines", ()):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def cut_note(cut: tuple[int, int] | None) -> dict[str, Any]:
    """Return what a report says about a cut training, given its steps run and planned; empty for a whole one."""
    return {"cut_by_clock": f"after {cut[0]:,} of {cut[1]:,} steps; the same command again trains on"} if cut else {}


def _features(tower: Path, as_json: bool) -> dict[str, Any]:
    """Return the structured features that a tower reads, and the metrics that chose them; empty for a tower without a choice."""
    record = read_record(tower)
    names, compared = record.get("features", []), record.get("compared_features", {})
    if as_json:
        return {"features": names, "compared_features": compared}
    if not (names or compared):
        return {}
    metrics = {
        f"val {'without' if choice == NONE else 'with'} features": f"recall@50 {values['recall_at_50']:.3f}, "
        f"ndcg@10 {values['ndcg_at_10']:.3f}"
        for choice, values in compared.items()
    }
    return {"features": ", ".join(names) or "none, because they gain nothing on the val queries", **metrics}


def train_rounds(
    workspace: Workspace,
    catalog: CatalogFolder,
    config: "TrainingConfig",
    rules: "MiningRules",
    *,
    rounds: int,
    resume: bool,
    as_json: bool,
) -> None:
    """Train in rounds on mined negatives and print one row per round."""
    run = pipeline.train_rounds(workspace, catalog, config, rounds=rounds, rules=rules, resume=resume, steps=progress)
    print_json(run.to_dict()) if as_json else _show_rounds(run)
    if any(cut_steps(run.tower.parent / trained.tower_id) for trained in run.rounds):
        raise typer.Exit(EXIT_CUT)


def adapt(
    catalog: CatalogOption = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME|FOLDER",
            help="Sentence encoder, or CLIP, SigLIP or another model for words and pictures: a preset, hub name or folder.",
        ),
    ] = "minilm",
    max_length: Annotated[
        int | None, typer.Option(min=8, help="Tokens read from each text; the preset's number by default.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of gradient descent; 200.")] = None,
    min_weight: Annotated[float | None, typer.Option(min=0.0, help="Leave out queries of pairs with a smaller weight; 0.")] = None,
    use_photos: UsePhotos = None,
    max_seconds: MaxSeconds = None,
    seed: Seed = 7,
    as_json: Json = False,
) -> None:
    """Adapt a sentence encoder to a catalogue without judgments: it learns the ranking of its own scores fused with keywords."""
    workspace = Workspace(Settings.from_env())
    source = CatalogFolder.load(workspace.catalog(catalog))
    with Stages() as stages:
        result = pipeline.adapt(
            workspace,
            source,
            model,
            max_length=max_length,
            steps=steps,
            min_weight=min_weight,
            photos=use_photos,
            max_seconds=max_seconds,
            seed=seed,
            stages=stages,
        )
    metrics = {
        f"val {name}": f"{getattr(result.before, name):.3f} → {getattr(result.after, name):.3f}"
        for name in ("recall_at_50", "ndcg_at_10")
        if result.before and result.after
    }
    values = {
        "tower_id": result.tower_folder.name,
        "tower": str(result.tower_folder),
        "lots": result.items,
        "queries": result.queries,
    }
    cut, choice = cut_steps(result.tower_folder), result.choice.to_dict() if result.choice else None
    report(values | metrics | ({"choice": choice} if as_json else {}) | cut_note(cut), as_json)
    if not as_json:
        show_choice(choice)
    if cut:
        raise typer.Exit(EXIT_CUT)
    if not as_json:
        show_next(*commands_for(source))


def mine(
    catalog: CatalogOption = None,
    out: Annotated[Path | None, typer.Option(help="File to write; <home>/negatives/<tower_id>.parquet by default.")] = None,
    per_query: PerQuery = None,
    depth: Annotated[int | None, typer.Option(min=1, help="Ranks searched per query; 100.")] = None,
    skip: Annotated[int | None, typer.Option(min=0, help="Leave out unjudged lots among this many first ranks; 0.")] = None,
    margin: Margin = None,
    absolute: Annotated[
        bool, typer.Option("--absolute", help="Take the margin as a difference of scores instead of a share.")
    ] = False,
    no_margin: NoMargin = False,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every lot instead of searching the graph.")] = False,
    as_json: Json = False,
) -> None:
    """Mine hard negatives from the live index: the highest-ranked wrong lots for each training query."""
    workspace = Workspace(Settings.from_env())
    source = CatalogFolder.load(workspace.catalog(catalog))
    rules = pipeline.mining_rules(
        per_query=per_query,
        depth=depth,
        skip=skip,
        margin=margin,
        no_margin=no_margin,
        relative=False if absolute else None,
        exact=exact or None,
    )
    with progress("mine negatives") as step:
        mined, path, reused = pipeline.mine(workspace, source, rules, out, progress=step)
    report({"file": str(path), "tower_id": mined.settings["tower_id"], "reused": reused, **mined.stats}, as_json)


def _show_rounds(run: "RoundsReport") -> None:
    """Print one row per round, the best round in bold."""
    header = ("round", "stage", "tower_id", "recall@50", "ndcg@10", "recall@50, hnsw", "build flat / hnsw", "took")
    rows = []
    for trained in run.rounds:
        flat, hnsw, built = trained.quality["flat"], trained.quality["hnsw"], trained.build_seconds
        is_cut = cut_steps(run.tower.parent / trained.tower_id) is not None
        cells = (
            str(trained.number),
            trained.stage,
            trained.tower_id,
            *(f"{value:.3f}" for value in (flat["recall@50"], flat["ndcg@10"], hnsw["recall@50"])),
            f"{built['flat']:.2f} / {built['hnsw']:.2f} s",
            f"{sum(trained.seconds.values()):.0f} s{', cut by the clock' if is_cut else ''}",
        )
        rows.append([f"[bold]{cell}[/]" for cell in cells] if trained.number == run.best else cells)
    show_table("Val queries, round by round; the best one is bold and the newest tower now", header, rows, right_from=3)
    console.print(f"report and indices: {run.folder}\nnext: gavel embed, then gavel index", style="dim", highlight=False)
