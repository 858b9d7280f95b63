"""`gavel train`: the flags of all trainings, and checks that they fit together."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from catalog.folder import CatalogFolder
from gavel.cli.train_buyers import train_buyers
from gavel.cli.train_reranker import train_on_events, train_reranker
from gavel.cli.train_towers import Margin, NoMargin, PerQuery, train_rounds, train_towers
from gavel.cli.train_users_items import train_users_items
from gavel.workspace import pipeline
from gavel.workspace.folders import Workspace
from gavel.workspace.options import CatalogOption, Json, MaxSeconds, Seed, UsePhotos
from retrieval.config.settings import Settings
from retrieval.errors import InvalidInput

if TYPE_CHECKING:
    from processing.ranking.train_job import Labels


def train(
    what: Annotated[
        str,
        typer.Argument(help="towers; reranker or buyers (buyer tower) of the live index; or users-items (towers over tables)."),
    ] = "towers",
    catalog: CatalogOption = None,
    preset: Annotated[str, typer.Option(help="Architecture: compact, minilm, multilingual, distilbert-resnet50, …")] = "compact",
    text_only: Annotated[bool, typer.Option("--text-only", help="Train without photos.")] = False,
    use_photos: UsePhotos = None,
    text_model: Annotated[str | None, typer.Option(help="Hub name or folder of a pretrained text encoder.")] = None,
    dimensions: Annotated[int | None, typer.Option(min=8, help="Length of the vectors; the preset's length by default.")] = None,
    max_length: Annotated[
        int | None, typer.Option(min=8, help="Tokens read from each text; the preset's number by default.")
    ] = None,
    train_text: Annotated[
        str | None,
        typer.Option(metavar="all|none|last-<n>", help="Layers of the text encoder to train; the preset's choice by default."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="auto|none|all|NAME,…",
            help="Structured features of the item tower: category, brand, current_price, seller_rating, bid_count. "
            "auto trains without and with all, and stores the better towers on the val queries; none by default.",
        ),
    ] = None,
    query_bits: Annotated[
        int, typer.Option(help="Bits of the weights in the served query tower: 8, or 4 for a smaller and slower file.")
    ] = 8,
    hide_text: Annotated[
        float,
        typer.Option(
            min=0.0, max=0.9, help="Share of the lots whose text is hidden in training, for searches by photo without words."
        ),
    ] = 0.0,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training data; the catalogue's default otherwise.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Pairs per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    batch_hard: Annotated[
        float | None,
        typer.Option(min=0.0, help="Weight of a loss on the nearest wrong lot of the batch, beside that on all its lots; 0."),
    ] = None,
    micro_batch: Annotated[
        int | None, typer.Option(min=1, help="Texts encoded at once, so that large batches fit into memory; all by default.")
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option("--gradient-checkpointing", help="Compute the text encoder's layers twice to save memory; same gradients."),
    ] = None,
    log_with: Annotated[
        str | None, typer.Option(help="Experiment tracker beside TensorBoard: wandb, or another one of Accelerate.")
    ] = None,
    max_seconds: MaxSeconds = None,
    stages: Annotated[Path | None, typer.Option(help="YAML file with the stages of training.")] = None,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds of mining negatives and training on them.")] = 0,
    per_query: PerQuery = None,
    margin: Margin = None,
    no_margin: NoMargin = False,
    negatives: Annotated[Path | None, typer.Option(help="Train on these mined negatives; `gavel mine` makes them.")] = None,
    start_from: Annotated[str | None, typer.Option(help="tower_id of the weights to start from.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue a run that was cut short.")] = True,
    reranker: Annotated[
        bool, typer.Option("--reranker", help="Train the re-ranker of the live index instead of the towers.")
    ] = False,
    labels: Annotated[
        str | None, typer.Option(help="Labels of the re-ranker: clicks or judgments; by default clicks if the catalogue has any.")
    ] = None,
    from_events: Annotated[
        list[Path] | None,
        typer.Option(help="Train the re-ranker on these events of POST /events: a file or folder; may be repeated."),
    ] = None,
    events: Annotated[
        list[Path] | None,
        typer.Option(help="Train buyers on these events (CSV, NDJSON, parquet) instead of a catalogue's clicks; may be repeated."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="last|time|user|column",
            help="For train users-items: val and test are each user's last interactions, the last in time, those of some users, "
            "or as the column split says; by default as the column says, else last.",
        ),
    ] = None,
    heads: Annotated[int | None, typer.Option(min=1, max=16, help="Attention heads, for train buyers; 1.")] = None,
    force: Annotated[bool, typer.Option("--force", help="For train reranker: save it even if it does not gain.")] = False,
    trust_unsigned: Annotated[
        bool,
        typer.Option(
            "--trust-unsigned", help="With --from-events: also learn from lists without a proof that a search served them."
        ),
    ] = False,
    source_share: Annotated[
        float | None,
        typer.Option(help="With --from-events: largest share of the lists from one session or network client; .05."),
    ] = None,
    seed: Seed = 7,
    as_json: Json = False,
) -> None:
    """Train item and query tower on a catalogue, or the re-ranker or the buyer tower on clicks, judgments or events."""
    workspace = Workspace(Settings.from_env())
    if what not in ("towers", "reranker", "buyers", "users-items"):
        raise InvalidInput(f"there is no {what!r} to train; train towers, reranker, buyers or users-items")
    if what == "users-items":
        sizes = {"dimensions": dimensions, "epochs": epochs, "batch_size": batch_size}
        limits = {"rate": learning_rate, "max_seconds": max_seconds}
        train_users_items(workspace, catalog, split=split, seed=seed, changes={**sizes, **limits}, as_json=as_json)
        return
    if split:
        raise InvalidInput("--split belongs to `gavel train users-items`; leave it out")
    if what == "buyers":
        given = {"heads": heads, "epochs": epochs, "max_seconds": max_seconds}
        train_buyers(workspace, catalog, events or [], seed=seed, changes=given, as_json=as_json)
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
    if trust_unsigned or source_share is not None:
        raise InvalidInput("--trust-unsigned and --source-share belong to --from-events; leave them out")
    if force and not (reranker or what == "reranker"):
        raise InvalidInput("--force belongs to `gavel train reranker`; leave it out")
    source = CatalogFolder.load(workspace.catalog(catalog))
    if reranker or what == "reranker":
        train_reranker(workspace, source, cast("Labels | None", labels), seed=seed, force=force, as_json=as_json)
        return
    if rounds and (negatives or start_from):
        raise InvalidInput("--rounds mines its negatives and chooses its weights itself; leave --negatives and --start-from out")
    changes = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "max_seconds": max_seconds,
        "features": features,
        "photos": use_photos,
        "batch_hard": batch_hard,
        "micro_batch": micro_batch,
        "gradient_checkpointing": gradient_checkpointing,
        "log_with": log_with,
    }
    config = pipeline.training_config(
        source,
        preset=preset,
        text_only=text_only,
        seed=seed,
        text_model=text_model,
        dimensions=dimensions,
        query_bits=query_bits,
        hidden_text=hide_text,
        max_length=max_length,
        train_text=train_text,
        stages=stages,
        changes=changes,
    )
    if use_photos == "always" and not config.tower.use_image:
        flag = "--text-only" if text_only else f"--preset {preset}"
        raise InvalidInput(
            f"towers of {flag} read no photos; leave --use-photos always out, or train compact or distilbert-resnet50"
        )
    if rounds:
        rules = pipeline.mining_rules(per_query=per_query, margin=margin, no_margin=no_margin)
        train_rounds(workspace, source, config, rules, rounds=rounds, resume=resume, as_json=as_json)
        return
    train_towers(workspace, source, config, negatives=negatives, start_from=start_from, resume=resume, as_json=as_json)
