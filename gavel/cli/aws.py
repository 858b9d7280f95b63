"""`gavel aws …`: work on a deployed stage from this machine."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gavel.workspace.console import progress, show_table, show_values
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, print_json, report
from retrieval.config.settings import Settings
from retrieval.errors import InvalidInput

if TYPE_CHECKING:
    from gavel.aws.status import StageStatus

aws_app = typer.Typer(no_args_is_help=True, help="Work with a deployed stage: search, jobs, nights, towers, indices, status.")

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
def night(
    date: Day,
    again: Annotated[bool, typer.Option("--again", help="Also if the day had a night already.")] = False,
    stage: Stage = "dev",
    as_json: Json = False,
) -> None:
    """Start the nightly run for a day's lots, as the stage's schedule does."""
    from gavel.aws.account import deployed_stage
    from gavel.aws.machines import start_night

    report({"execution": start_night(deployed_stage(stage), date, again=again)}, as_json)


@aws_app.command()
def rebuild(tower: Annotated[str, typer.Argument(help="tower_id.")], stage: Stage = "dev", as_json: Json = False) -> None:
    """Start the rebuild, in which the stage embeds all its lots again with another tower."""
    from gavel.aws.account import deployed_stage
    from gavel.aws.machines import start_rebuild

    report({"execution": start_rebuild(deployed_stage(stage), tower)}, as_json)


@aws_app.command()
def search(
    query: Annotated[str, typer.Argument(help="Words of the query.")],
    k: Annotated[int, typer.Option("-k", min=1, max=100, help="Number of lots.")] = 10,
    stage: Stage = "dev",
    as_json: Json = False,
) -> None:
    """Search through the stage's API, with the address and the key of its outputs."""
    from gavel.aws.account import deployed_stage
    from gavel.aws.search import search_stage

    deployed = deployed_stage(stage)
    answer = search_stage(deployed, query, k)
    if as_json:
        print_json(answer)
        return
    rows = [
        (str(rank), lot["item_id"], str(lot["fields"].get("title", "")), f"{lot['score']:.3f}")
        for rank, lot in enumerate(answer["results"], 1)
    ]
    show_table(f"“{query}”", ("", "lot", "title", "score"), rows, right_from=3)
    without = ", ".join(answer.get("degraded", []))
    show_values({"api": deployed.output("ApiUrl"), "tower": answer["tower_id"], "without": without or "nothing"})


@aws_app.command()
def indices(stage: Stage = "dev", as_json: Json = False) -> None:
    """List the stage's indices: tower, lots, size, and which one is live."""
    from gavel.aws.account import deployed_stage
    from gavel.aws.indices import list_indices

    listed = list_indices(deployed_stage(stage))
    if as_json:
        print_json(listed)
        return
    rows = [
        (
            "live" if index["is_live"] else "",
            index["name"],
            index["tower_id"] or "not made by Gavel",
            *("" if index[name] is None else f"{index[name]:,}" for name in ("items", "open_items")),
            f"{index['bytes'] / 1e6:,.1f}",
        )
        for index in listed
    ]
    show_table("Indices", ("", "index", "tower", "lots", "open", "MB"), rows, right_from=3)


@aws_app.command()
def publish_index(
    index: Annotated[str, typer.Argument(help="Name of the index, as `gavel aws indices` shows it.")],
    force: Annotated[bool, typer.Option("--force", help="Also with fewer than half of the live index's open lots.")] = False,
    stage: Stage = "dev",
    as_json: Json = False,
) -> None:
    """Make an index live, let nights use its tower, and renew the snapshot of the query function."""
    from gavel.aws import indices
    from gavel.aws.account import deployed_stage

    report(asdict(indices.publish_index(deployed_stage(stage), index, force=force)), as_json)


@aws_app.command()
def rollback(stage: Stage = "dev", as_json: Json = False) -> None:
    """Go back to the index and the tower before the last rebuild; days to embed again are listed."""
    from gavel.aws.account import deployed_stage
    from gavel.aws.indices import roll_back

    report(asdict(roll_back(deployed_stage(stage))), as_json)


@aws_app.command()
def drop_index(
    index: Annotated[str, typer.Argument(help="Name of the index, as `gavel aws indices` shows it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first; needed where nobody can answer.")] = False,
    stage: Stage = "dev",
    as_json: Json = False,
) -> None:
    """Delete an index that is not live. A rollback to it is then a rebuild."""
    from gavel.aws import indices
    from gavel.aws.account import deployed_stage

    deployed = deployed_stage(stage)
    if not yes:
        if not sys.stdin.isatty():
            raise InvalidInput(f"add --yes to delete {index}: there is no terminal to ask at")
        typer.confirm(f"Delete {index} of stage {stage}?", abort=True, err=True)
    report(indices.drop_index(deployed, index), as_json)


@aws_app.command()
def renew_snapshot(stage: Stage = "dev", as_json: Json = False) -> None:
    """Renew the snapshot that new instances of the query function start from; releases do it themselves."""
    from gavel.aws import indices
    from gavel.aws.account import deployed_stage

    report(indices.renew_snapshot(deployed_stage(stage)), as_json)


@aws_app.command()
def redrive(stage: Stage = "dev", as_json: Json = False) -> None:
    """Send the dead letters of the indexer and of states back to their queues, after the reason was mended."""
    from gavel.aws import dead_letters
    from gavel.aws.account import deployed_stage

    report(dead_letters.redrive(deployed_stage(stage)), as_json)


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
