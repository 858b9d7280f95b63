"""`gavel aws …`: work on a deployed stage from this machine."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gavel.workspace.console import progress, show_table, show_values
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, print_json, report
from retrieval.config.settings import Settings

if TYPE_CHECKING:
    from gavel.aws.status import StageStatus

aws_app = typer.Typer(no_args_is_help=True, help="Work with a deployed stage: jobs, nights, towers, status.")

Stage = Annotated[str, typer.Option(help="Name of the stage, as it was deployed.")]
Day = Annotated[str, typer.Option("--date", help="Date of the lots, such as 2026-11-21.")]
Instance = Annotated[str | None, typer.Option(help="Instance type; the first type of the stage's ladder by default.")]
DEPLOY_RANKER = "`npx cdk deploy --all -c stage={}` serves it; commit {}, so that later deployments keep it"
Wait = Annotated[bool, typer.Option(help="Show the job's log until it ends.")]


@aws_app.command()
def embed(
    date: Day,
    stage: Stage = "dev",
    instance: Instance = None,
    tower: Annotated[str | None, typer.Option(help="tower_id; the current tower by default.")] = None,
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Embed a day's lots with a separate job; the stage's indexer then indexes the release."""
    from gavel.aws import jobs
    from gavel.aws.account import deployed_stage

    started = jobs.embed_date(deployed_stage(stage), date, tower, jobs.LaunchOptions(instance, wait))
    report(asdict(started), as_json)


@aws_app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(
    context: typer.Context,
    catalog: Annotated[str, typer.Option(help="Catalogue folder, or an s3:// URI below catalogs/ in the stage's towers bucket.")],
    preset: Annotated[str, typer.Option(help="Architecture: compact, minilm, distilbert-resnet50, …")] = "distilbert-resnet50",
    stage: Stage = "dev",
    instance: Instance = None,
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Train towers with a job; further flags are passed to processing.training.towers_job unchanged."""
    from gavel.aws import jobs
    from gavel.aws.account import deployed_stage

    deployed = deployed_stage(stage)
    with progress("put up the catalogue") as step:
        uri = jobs.upload_catalog(deployed, catalog, step)
    started = jobs.train(deployed, uri, ["--preset", preset, *context.args], jobs.LaunchOptions(instance, wait))
    report({"job": started.job, "instance": started.instance, "output": started.output}, as_json)


@aws_app.command()
def publish(
    tower: Annotated[str | None, typer.Argument(help="tower_id or folder; the newest tower by default.")] = None,
    stage: Stage = "dev",
    current: Annotated[bool, typer.Option("--current", help="Let the nightly runs use this tower.")] = False,
    as_json: Json = False,
) -> None:
    """Upload a tower to the stage's bucket, its card last; of an uploaded tower only new files and a changed tuning."""
    from gavel.aws import towers
    from gavel.aws.account import deployed_stage

    deployed = deployed_stage(stage)
    folder = Path(tower) if tower and Path(tower).is_dir() else None
    uploaded = 0
    if folder is None and tower and not (Workspace(Settings.from_env()).towers / tower).is_dir():
        tower_id = towers.tower_in_bucket(deployed, tower)  # a tower that a job trained is in the bucket, or nowhere
    else:
        folder = folder or Workspace(Settings.from_env()).tower(tower)
        tower_id = folder.resolve().name
        with progress("put up the tower") as step:
            uploaded = towers.upload_tower(deployed, folder, step)
    changed = towers.make_current(deployed, tower_id) if current else False
    report({"tower_id": tower_id, "files": uploaded, "current": towers.current_tower(deployed), "made_current": changed}, as_json)


@aws_app.command()
def publish_ranker(
    tower: Annotated[str | None, typer.Argument(help="tower_id of the re-ranker; the current tower by default.")] = None,
    stage: Stage = "dev",
    context: Annotated[
        Path | None, typer.Option(help="Context file to name the re-ranker in; the checkout's cdk.context.json by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Pack a tower's re-ranker for the endpoint, upload it, and name it in cdk.context.json for the next deployment."""
    from gavel.aws.account import deployed_stage
    from gavel.aws.rankers import upload_ranker
    from gavel.aws.towers import tower_in_bucket
    from gavel.workspace.cdk_context import context_path, name_reranker

    path = context or context_path()  # asked for first: nothing is uploaded where it cannot be named
    deployed = deployed_stage(stage)
    tower_id = tower or tower_in_bucket(deployed, None)
    key, uploaded = upload_ranker(deployed, Workspace(Settings.from_env()).ranker(tower_id), tower_id)
    named = name_reranker(stage, key, path)
    answer = {"tower_id": tower_id, "model_key": key, "uploaded": uploaded, "context": str(path), "changed": named}
    report({**answer, "next": DEPLOY_RANKER.format(stage, path.name)}, as_json)


@aws_app.command()
def events(
    out: Annotated[Path | None, typer.Option(help="Folder to fetch into; <home>/events-of-<stage> by default.")] = None,
    date: Annotated[str | None, typer.Option(help="Only events of this UTC day, such as 2026-11-21.")] = None,
    stage: Stage = "dev",
    as_json: Json = False,
) -> None:
    """Download buyers' events that are not on this machine yet, for `gavel train reranker --from-events`."""
    from gavel.aws.account import deployed_stage
    from gavel.aws.buckets import Bucket
    from gavel.aws.jobs import check_date

    folder = out or Settings.from_env().home / f"events-of-{stage}"
    prefix = f"events/{check_date(date).replace('-', '/')}/" if date else "events/"
    bucket = Bucket(deployed_stage(stage).output("EventsBucket"))
    with progress("fetch events") as step:
        fetched = bucket.download(prefix, folder, step)
    report({"events": str(folder), "fetched": fetched}, as_json)


@aws_app.command()
def night(date: Day, stage: Stage = "dev", as_json: Json = False) -> None:
    """Start the nightly run for a day's lots, as the stage's schedule does."""
    from gavel.aws.account import deployed_stage
    from gavel.aws.machines import start_night

    report({"execution": start_night(deployed_stage(stage), date)}, as_json)


@aws_app.command()
def rebuild(tower: Annotated[str, typer.Argument(help="tower_id.")], stage: Stage = "dev", as_json: Json = False) -> None:
    """Start the rebuild, in which the stage embeds all its lots again with another tower."""
    from gavel.aws.account import deployed_stage
    from gavel.aws.machines import start_rebuild

    report({"execution": start_rebuild(deployed_stage(stage), tower)}, as_json)


@aws_app.command()
def status(stage: Stage = "dev", as_json: Json = False) -> None:
    """Show nights, running jobs, dead letters, the live release and the endpoint."""
    from gavel.aws.account import deployed_stage
    from gavel.aws.status import stage_status

    summary = stage_status(deployed_stage(stage))
    print_json(asdict(summary)) if as_json else show_status(summary)


def show_status(summary: "StageStatus") -> None:
    """Print the status of a stage."""
    live = summary.live or {}
    show_values(
        {
            "stage": summary.stage,
            "tower": summary.tower_id or "none is current",
            "live release": f"{live.get('release_id', '?')} of {live.get('date', '?')}" if live else "none yet",
            "dead letters": summary.dead_letters,
            "re-ranker": summary.endpoint or "none; first-stage order",
        }
    )
    nights = [(n.date, n.status, n.started, "" if n.minutes is None else f"{n.minutes:.1f}", n.cause) for n in summary.nights]
    if nights:
        show_table("Nights", ("date", "status", "started", "minutes", "cause"), nights, right_from=9)
    jobs = [(job["job"], job["status"], f"{job['minutes']:.1f}") for job in summary.jobs]
    if jobs:
        show_table("Jobs", ("job", "status", "minutes"), jobs, right_from=2)
