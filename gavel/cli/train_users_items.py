"""Training on tables of users and items for `gavel train users-items`, and the command `gavel recommend`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gavel.cli.train_towers import cut_note
from gavel.workspace.config_file import configured
from gavel.workspace.console import Stages, notes, show_answer, show_table
from gavel.workspace.entry import EXIT_CUT
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, print_json, report
from models.artefacts.run_record import cut_of
from retrieval.config.settings import Settings

if TYPE_CHECKING:  # imports torch
    from gavel.workspace.users_items import TrainedTables
    from models.training.loop import EpochRecord

TARGETS = {"recall@10": 0.30, "recall@100": 0.60, "recall@1000": 0.85}  # published aims for towers over users and items


def train_users_items(
    workspace: Workspace, tables: Path | None, *, split: str | None, seed: int, changes: Mapping[str, Any], as_json: bool
) -> None:
    """Train feature towers on tables of users, items and interactions, and print recall beside popularity.

    Args:
        workspace: workspace that stores the towers.
        tables: folder of the tables; None takes the newest one that was generated.
        split: rule of the split; None takes that of gavel.toml.
        seed: seed of the run.
        changes: field of FeatureTrainingConfig -> value; None leaves the field as it is.
        as_json: True prints JSON.
    """
    from gavel.workspace import users_items
    from models.config.features import UsersItemsConfig

    folder = tables or workspace.users_items()
    config = configured(UsersItemsConfig(), "training.users_items")
    given = {name: value for name, value in changes.items() if value is not None}
    config = replace(config, towers=replace(config.towers, seed=seed, **given))
    if split:
        config = replace(config, split=split)  # type: ignore[arg-type]  # split_interactions() rejects others
    with Stages() as stages:
        result = users_items.train(workspace, folder, config, stages=stages, on_epoch=_show_epoch)
    values = result.report.to_dict()
    if as_json:
        print_json(
            {
                "tower_id": result.tower_id,
                "tower": str(result.folder),
                "release_id": result.release.release_id,
                "columns": result.columns,
                "ignored": result.ignored,
                "left_out": result.left_out,
                "rejected_items": result.release.items_rejected,
                "targets": TARGETS,
                **values,
            }
        )
    else:
        _show_result(result, values)
    if cut_of(values["steps"]):
        raise typer.Exit(EXIT_CUT)


def _show_result(result: "TrainedTables", values: Mapping[str, Any]) -> None:
    """Print recall beside popularity, and what was trained."""
    rows = [(system, *(f"{value:.3f}" for value in recall.values())) for system, recall in values["recall"].items()]
    rows.append(("published aims", *(f"{value:.2f}" for value in TARGETS.values())))
    show_table(f"Test interactions of {values['tested_users']:,} users", ("system", *TARGETS), rows)
    report(
        {
            "tower_id": result.tower_id,
            "tower": result.folder,
            "users read": ", ".join(result.columns["users"]),
            "items read": ", ".join(result.columns["items"]),
            **{f"{table} ignored": _reasons(reasons) for table, reasons in result.ignored.items() if reasons},
            **({"interactions left out": _reasons(result.left_out)} if result.left_out else {}),
            "best epoch": values["best_epoch"],
            **cut_note(cut_of(values["steps"])),
            "training": f"{values['seconds']:.0f} s, CPU time {values['cpu_seconds']:.0f} s",
            "release_id": result.release.release_id,
            **({"items rejected": result.release.items_rejected} if result.release.items_rejected else {}),
        },
        as_json=False,
    )
    notes.print(f"next: gavel index {result.release.release_id}, then gavel recommend USER_ID", style="dim", highlight=False)


def recommend(
    user_id: Annotated[str, typer.Argument(help="Id of the user in the table of users.")],
    k: Annotated[int, typer.Option("-k", help="Number of lots, 1 to 100.")] = 10,
    tables: Annotated[
        Path | None, typer.Option(help="Folder with the present tables; those that the towers were trained on by default.")
    ] = None,
    include_taken: Annotated[bool, typer.Option("--include-taken", help="Also lots that the user took.")] = False,
    vector: Annotated[bool, typer.Option("--vector", help="Print a body for POST /retrieve instead: the user's vector.")] = False,
    as_json: Json = False,
) -> None:
    """Find lots for a user of `gavel train users-items` in the live index."""
    from gavel.workspace import users_items

    workspace = Workspace(Settings.from_env())
    if vector:
        print_json(users_items.retrieve_body(workspace, user_id, k, tables=tables, exclude_taken=not include_taken))
        return
    answer = users_items.recommend(workspace, user_id, k, tables=tables, exclude_taken=not include_taken)
    print_json(answer.to_dict()) if as_json else show_answer(user_id, answer)


def _show_epoch(record: "EpochRecord[float]") -> None:
    """Print one line per epoch on stderr."""
    if record.epoch == 0:
        notes.print(f"epoch  0: val recall@100 {record.metrics:.3f}", highlight=False)
        return
    notes.print(
        f"epoch {record.epoch:2}: loss {record.loss:.3f}, in-batch accuracy {record.in_batch_accuracy:.3f}, "
        f"in-batch recall@10 {record.in_batch_recall_at_10:.3f}, val recall@100 {record.metrics:.3f}, {record.seconds:.0f} s",
        highlight=False,
    )


def _reasons(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} ({value})" for name, value in counts.items())
