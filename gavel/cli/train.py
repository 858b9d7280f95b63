"""`gavel train`, `gavel adapt` and `gavel mine`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog.folder import CatalogFolder
from gavel.workspace import pipeline
from gavel.workspace.console import Stages, console, progress, show_table
from gavel.workspace.folders import Workspace
from gavel.workspace.options import CatalogOption, Json, Seed, print_json, report
from models.artefacts.run_record import cut_steps
from retrieval.config.settings import Settings
from retrieval.errors import InvalidInput

if TYPE_CHECKING:  # imports torch
    from processing.training.rounds import RoundsReport

# None takes what the settings file or the dataclass says: importing that here would make every command slower
PerQuery = Annotated[int | None, typer.Option("--per-query", min=1, help="Hard negatives mined for each query; 15.")]
Margin = Annotated[
    float | None,
    typer.Option("--margin", min=0.0, help="Unjudged lots closer to the best answer's score than this are left out; .05."),
]
NoMargin = Annotated[bool, typer.Option("--no-margin", help="Take unjudged lots whatever they score: all judgments are known.")]


def train(
    what: Annotated[str, typer.Argument(help="towers; reranker or buyers: that of the live index.")] = "towers",
    catalog: CatalogOption = None,
    preset: Annotated[str, typer.Option(help="Architecture: compact, minilm, multilingual, distilbert-resnet50, …")] = "compact",
    text_only: Annotated[bool, typer.Option("--text-only", help="Leave the photos out.")] = False,
    text_model: Annotated[str | None, typer.Option(help="Hub name or folder of a pretrained text encoder.")] = None,
    dimensions: Annotated[int | None, typer.Option(min=8, help="Length of the vectors; the preset's by default.")] = None,
    hide_text: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of the lots whose text is hidden, for searches by photo alone.")
    ] = 0.0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the lots; the catalogue's own by default.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Pairs of a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak of the learning rate.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Shorten each stage to end after so long.")] = None,
    stages: Annotated[Path | None, typer.Option(help="YAML file with the stages of training.")] = None,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds of mining and training on what was mined.")] = 0,
    per_query: PerQuery = None,
    margin: Margin = None,
    no_margin: NoMargin = False,
    negatives: Annotated[Path | None, typer.Option(help="Train on these mined negatives; `gavel mine` makes them.")] = None,
    start_from: Annotated[str | None, typer.Option(help="tower_id of the weights to go on from.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was cut short.")] = True,
    reranker: Annotated[
        bool, typer.Option("--reranker", help="Train the re-ranker of the live index instead of the towers.")
    ] = False,
    labels: Annotated[
        str | None, typer.Option(help="What the re-ranker learns from: clicks or judgments; clicks where there are any.")
    ] = None,
    from_events: Annotated[
        list[Path] | None,
        typer.Option(help="Train the re-ranker on these events of POST /events: a file or folder; may be repeated."),
    ] = None,
    events: Annotated[
        list[Path] | None,
        typer.Option(help="Train buyers on these events (CSV, NDJSON, parquet) instead of a catalogue's clicks; may be repeated."),
    ] = None,
    heads: Annotated[int | None, typer.Option(min=1, max=16, help="Of the attention, for train buyers; 1.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="With --from-events: save the re-ranker whatever the comparisons say.")
    ] = False,
    trust_unsigned: Annotated[
        bool,
        typer.Option("--trust-unsigned", help="With --from-events: learn from lists that no search is known to have served, too."),
    ] = False,
    source_share: Annotated[
        float | None,
        typer.Option(help="With --from-events: of the lists, the most that one session or network client may teach; .05."),
    ] = None,
    seed: Seed = 7,
    as_json: Json = False,
) -> None:
    """Train item and query tower on a catalogue, or on clicks, judgments or events the re-ranker or the buyer tower."""
    workspace = Workspace(Settings.from_env())
    if what not in ("towers", "reranker", "buyers"):
        raise InvalidInput(f"there is no {what!r} to train; train towers, reranker or buyers")
    if what == "buyers":
        train_buyers(workspace, catalog, events or [], heads=heads, epochs=epochs, seed=seed, as_json=as_json)
        return
    if events:
        raise InvalidInput("--events belongs to `gavel train buyers`; leave it out, or say --from-events for the re-ranker")
    if from_events:
        if labels:
            raise InvalidInput("--from-events learns what buyers did with the lots of the live index; leave --labels out")
        train_on_events(
            workspace,
            from_events,
            as_json,
            judgments=catalog,
            trust_unsigned=trust_unsigned,
            source_share=source_share,
            seed=seed,
            force=force,
        )
        return
    if force or trust_unsigned or source_share is not None:
        raise InvalidInput("--force, --trust-unsigned and --source-share belong to --from-events; leave them out")
    source = CatalogFolder.load(workspace.catalog(catalog))
    if reranker or what == "reranker":
        with progress("train re-ranker") as step:
            made = pipeline.train_reranker(workspace, source, seed=seed, progress=step, labels=labels)
        report(made.to_dict(), as_json)
        return
    if rounds and (negatives or start_from):
        raise InvalidInput("--rounds mines its negatives and chooses its weights itself; leave --negatives and --start-from out")
    changes = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "max_seconds": max_seconds}
    config = pipeline.training_config(
        source,
        preset=preset,
        text_only=text_only,
        seed=seed,
        text_model=text_model,
        dimensions=dimensions,
        hidden_text=hide_text,
        stages=stages,
        changes=changes,
    )
    if rounds:
        rules = pipeline.mining_rules(per_query=per_query, margin=margin, no_margin=no_margin)
        run = pipeline.train_rounds(workspace, source, config, rounds=rounds, rules=rules, resume=resume, steps=progress)
        print_json(run.to_dict()) if as_json else show_rounds(run)
        return
    go_on = workspace.tower(start_from) if start_from else None
    with progress("train towers") as step:
        tower = pipeline.train_towers(
            workspace, source, config, negatives=negatives, start_from=go_on, resume=resume, progress=step
        )
    cut = cut_steps(tower)
    told = {"cut_by_clock": f"after {cut[0]} of {cut[1]} steps; the same command again trains on"} if cut else {}
    report({"tower_id": tower.name, "tower": str(tower), **told}, as_json)


def train_buyers(
    workspace: Workspace,
    catalog: Path | None,
    events: list[Path],
    *,
    heads: int | None,
    epochs: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Train the buyer tower over the stored vectors of the live index's tower, and show what held-out baskets say of it."""
    if events and catalog:
        raise InvalidInput("--events and --catalog both say what to learn from; leave one out")
    with progress("train buyers") as step:
        made = pipeline.train_buyers(workspace, catalog, events, heads=heads, epochs=epochs, seed=seed, progress=step)
    if as_json:
        print_json(made.to_dict())
        return
    found = {"average": made.plain, f"average, half-life {made.half_life_days or '∞'}": made.average, "attention": made.attention}
    rows = [(name, f"{figures.recall_at_50:.3f}", f"{figures.hit_rate_at_50:.3f}") for name, figures in found.items()]
    show_table(
        f"Next baskets of {made.val_baskets:,} buyers from {made.val_from:%Y-%m-%d} on", ("way", "recall@50", "hit rate@50"), rows
    )
    set_aside = sum(made.set_aside.values())
    counts = {"kept": made.kind, "file": str(made.path), "events": made.acts, "on unknown lots": made.unknown_items}
    report({**counts, "set aside": set_aside, "lots": made.lots, "baskets trained on": made.train_baskets}, as_json=False)
    console.print("next: start `gavel serve` anew; nothing is embedded or indexed again", style="dim", highlight=False)


def train_on_events(workspace: Workspace, places: list[Path], as_json: bool, **given: Any) -> None:
    """Train the re-ranker on events, and show what held-out sources say of it; `given` as pipeline.train_on_events() takes it."""
    with Stages() as stages:
        made = pipeline.train_on_events(workspace, places, stages=stages, **given)
    if as_json:
        print_json(made.to_dict())
        return
    report({name: value for name, value in made.to_dict().items() if name not in ("held_out", "judged")}, as_json=False)
    header = ("queries", "", f"nDCG@10, {made.before}", "nDCG@10, new", "difference", "95 % interval", "p")
    rows = []
    for name, found in (("held-out queries", made.held_out), ("judged queries", made.judged)):
        if found:
            cells = (f"{found.base:.3f}", f"{found.new:.3f}", f"{found.difference:+.3f}")
            rows.append((name, f"{found.queries:,}", *cells, f"{found.low:+.3f} to {found.high:+.3f}", f"{found.p_value:.3f}"))
    show_table("", header, rows)


def adapt(
    catalog: CatalogOption = None,
    model: Annotated[str, typer.Option(help="Sentence encoder: a preset, hub name or folder.")] = "minilm",
    max_length: Annotated[int | None, typer.Option(min=8, help="Tokens of a text that are read; the preset's by default.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of gradient descent; 200.")] = None,
    min_weight: Annotated[float | None, typer.Option(min=0.0, help="Queries of pairs that weigh less are left out; 0.")] = None,
    seed: Seed = 7,
    as_json: Json = False,
) -> None:
    """Adapt a sentence encoder to a catalogue without judgments: it learns to rank as it does together with keywords."""
    workspace = Workspace(Settings.from_env())
    source = CatalogFolder.load(workspace.catalog(catalog))
    with Stages() as stages:
        made = pipeline.adapt(
            workspace, source, model, max_length=max_length, steps=steps, min_weight=min_weight, seed=seed, stages=stages
        )
    figures = {
        f"val {name}": f"{getattr(made.before, name):.3f} → {getattr(made.after, name):.3f}"
        for name in ("recall_at_50", "ndcg_at_10")
        if made.before and made.after
    }
    values = {"tower_id": made.tower_folder.name, "tower": str(made.tower_folder), "lots": made.lots, "queries": made.queries}
    report(values | figures, as_json)


def mine(
    catalog: CatalogOption = None,
    out: Annotated[Path | None, typer.Option(help="File to write; <home>/negatives/<tower_id>.parquet by default.")] = None,
    per_query: PerQuery = None,
    depth: Annotated[int | None, typer.Option(min=1, help="Lots looked at for each query; 100.")] = None,
    skip: Annotated[int | None, typer.Option(min=0, help="Unjudged lots among the first so many are left out; 0.")] = None,
    margin: Margin = None,
    absolute: Annotated[bool, typer.Option("--absolute", help="The margin is a difference of scores, not a share.")] = False,
    no_margin: NoMargin = False,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every lot instead of asking the graph.")] = False,
    as_json: Json = False,
) -> None:
    """Mine hard negatives from the live index: for each training query the wrong lots that rank highest."""
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


def show_rounds(run: "RoundsReport") -> None:
    """Print a row a round, the best one in bold."""
    header = ("round", "stage", "tower_id", "recall@50", "ndcg@10", "recall@50, hnsw", "build flat / hnsw", "took")
    rows = []
    for made in run.rounds:
        flat, hnsw, built = made.quality["flat"], made.quality["hnsw"], made.build_seconds
        cells = (
            str(made.number),
            made.stage,
            made.tower_id,
            *(f"{value:.3f}" for value in (flat["recall@50"], flat["ndcg@10"], hnsw["recall@50"])),
            f"{built['flat']:.2f} / {built['hnsw']:.2f} s",
            f"{sum(made.seconds.values()):.0f} s{', cut by the clock' if cut_steps(run.tower.parent / made.tower_id) else ''}",
        )
        rows.append([f"[bold]{cell}[/]" for cell in cells] if made.number == run.best else cells)
    show_table("Val queries, round by round; the best one is bold and the newest tower now", header, rows, right_from=3)
    console.print(f"report and indices: {run.folder}\nnext: gavel embed, then gavel index", style="dim", highlight=False)
