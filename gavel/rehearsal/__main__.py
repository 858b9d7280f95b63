"""`make rehearse`: deploy the stages on this machine, run a night, answer a search, list the stand-ins for AWS."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from gavel.aws.account import deployed_stage
from gavel.aws.rankers import key_of, upload_ranker
from gavel.opensearch import node as opensearch_node
from gavel.rehearsal.cloud import ACCOUNT, Cloud, running
from gavel.rehearsal.deployment import bootstrap, deploy, synthesise
from gavel.rehearsal.domain import https_domain
from gavel.rehearsal.journey import MAX_SEARCHABLE_S, Journey, RehearsalFailed
from gavel.rehearsal.principals import AccessRefused, Principals
from gavel.rehearsal.rerank_endpoint import make_booster, serving_endpoint
from gavel.workspace.console import Stages, console, show_table
from gavel.workspace.entry import run_command
from gavel.workspace.options import Json, print_json
from retrieval.errors import GavelError, InvalidInput

STAGES = ("dev", "prod")
LOTS, SEED = 60, 7
NODE_HEAP = "512m"
UNREACHABLE = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_REGION": "eu-west-1",
}


@dataclass
class Report:
    """Results of the rehearsal of one stage.

    Attributes:
        stage: name of the stage.
        seconds: step -> duration in seconds.
        searchable_s: number of items in a part -> seconds from the part's arrival in S3 to the end of the search that finds it.
        titles: titles of the last search's results, best first.
        functions: function name -> number of calls.
        jobs: number of processing jobs.
        stand_ins: resource type -> number of resources that were deployed only as records.
        calls: number of different calls, by role, action and resource, that roles were allowed.
        role_actions: every action of every role, as "<role>:<action>" without the random end of the role's name.
        needed_actions: number of these without which a call of this rehearsal would be refused.
        unused: role -> grants that no call needed, as "<action> on <resource>".
        caught: a sample of role_actions -> True if a rehearsal without the action failed.
    """

    stage: str
    seconds: dict[str, float]
    searchable_s: dict[int, float]
    titles: list[str]
    functions: dict[str, int]
    jobs: int
    stand_ins: dict[str, int]
    calls: int = 0
    role_actions: list[str] = field(default_factory=list)
    needed_actions: int = 0
    unused: dict[str, list[str]] = field(default_factory=dict)
    caught: dict[str, bool] = field(default_factory=dict)


@contextmanager
def _timed(seconds: dict[str, float], label: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[label] = time.perf_counter() - start


def rehearse_stage(
    stage: str,
    work: Path,
    towers: Sequence[Path],
    booster: Path,
    lots: Path,
    tell: Callable[[str], Any],
    without: str = "",
) -> Report:
    """Deploy one stage into a new emulated account and run the stage's journey.

    Args:
        stage: name of a stage in cdk.json.
        work: path of a folder that does not exist yet.
        towers: folders of two towers.
        booster: file of the re-ranker.
        lots: folder with a day's item files.
        tell: called with the label of each phase.
        without: "<part of a role's name>:<action>", an action that is taken out of the role's policies.

    Raises:
        AccessRefused: a role was refused a call.
        InvalidInput: no role allows the action of `without`.
    """
    role, _, action = without.partition(":")
    principals = Principals(ACCOUNT, (role, action) if without else None)
    seconds: dict[str, float] = {}
    work.mkdir()
    model_key = key_of(booster, towers[0].name)
    with _timed(seconds, "synthesise"):
        tell(f"{stage}: synthesise")
        synthesise(stage, work / "assembly", UNREACHABLE, model_key)
    with _node(work, seconds, tell, stage) as url, https_domain(url, work, principals) as domain, running(domain, work) as cloud:
        tell(f"{stage}: deploy")
        with _timed(seconds, "deploy"), _refusals_first(cloud):
            bootstrap(cloud, work / "assembly")
            deploy(cloud, work / "assembly", f"Gavel-{stage}-Storage")
            if upload_ranker(deployed_stage(stage, ["Storage"]), booster, towers[0].name) != (model_key, True):
                raise RehearsalFailed(f"the re-ranker was not published as {model_key}")
            deploy(cloud, work / "assembly")
        principals.grants()  # reads the policies of all roles
        if without and not principals.has_removed:
            raise InvalidInput(f"no role whose name has {role!r} allows {action!r}; write --without as QueryApiRole:s3:GetObject")
        tell(f"{stage}: a night and a search")
        journey = Journey(cloud, domain, deployed_stage(stage), seconds=seconds)
        with serving_endpoint(cloud, journey.stage, model_key, work):
            journey.run(towers, lots)
        names = [name for name, _ in cloud.invocations]
        functions = {name: names.count(name) for name in dict.fromkeys(names)}
        stand_ins = {kind: len(names) for kind, names in sorted(cloud.record.resources.items())}
        return Report(
            stage,
            seconds,
            journey.searchable_s,
            journey.titles,
            functions,
            len(cloud.jobs),
            stand_ins,
            **_use_of_grants(principals),
        )


@contextmanager
def _refusals_first(cloud: Cloud) -> Iterator[None]:
    """Check the roles after the block. If the block failed and a role was refused a call, tell of the refusal."""
    try:
        yield
    except GavelError:
        cloud.principals.check()
        raise
    cloud.check_roles()


def _use_of_grants(principals: Principals) -> dict[str, Any]:
    needed = principals.needed_actions()
    unused: dict[str, list[str]] = {}
    for granted in sorted(principals.grants() - principals.used):
        unused.setdefault(granted.role, []).append(f"{granted.grant.action} on {granted.grant.resource}")
    calls = sum(map(len, principals.calls.values()))
    actions = [f"{role.rpartition('-')[0]}:{action}" for role, action in needed]
    return {"calls": calls, "role_actions": actions, "needed_actions": sum(needed.values()), "unused": unused}


def _is_refused(rehearsal: Callable[[], Any]) -> bool:
    """Return True if a rehearsal fails because a role was refused a call."""
    try:
        rehearsal()
    except AccessRefused:
        return True
    return False


@contextmanager
def _node(work: Path, seconds: dict[str, float], tell: Callable[[str], Any], stage: str) -> Iterator[str]:
    """Run a new OpenSearch node for the length of the block, and yield its URL."""
    tell(f"{stage}: start OpenSearch")
    with _timed(seconds, "start OpenSearch"):
        node = opensearch_node.start(work / "node", opensearch_node.free_port(), heap=NODE_HEAP, secured=True)
    try:
        yield node.url
    finally:
        opensearch_node.stop(work / "node")


def make_tower(out: Path, texts: list[str], seed: int) -> Path:
    """Save a compact tower with random weights and return its folder. It embeds and searches like any other tower."""
    import torch

    from models.artefacts.tower_files import save_towers
    from models.towers.config import preset
    from models.towers.tokenizer import make_tokenizer
    from models.towers.two_towers import TwoTowers

    torch.manual_seed(seed)
    config = preset("compact")
    tokenizer = make_tokenizer(config, texts)
    text = replace(config.text, config={**config.text.config, "vocab_size": tokenizer.get_vocab_size()})
    return save_towers(TwoTowers(replace(config, text=text)), tokenizer, out)


def rehearse(
    stage: Annotated[list[str], typer.Option(help="Stage of cdk.json; may be repeated.")] = list(STAGES),  # noqa: B006
    without: Annotated[
        str,
        typer.Option(
            help="ROLE:ACTION that is taken out of a role's policies, to see the rehearsal fail; ROLE is part of its name."
        ),
    ] = "",
    sample: Annotated[
        int,
        typer.Option(min=0, help="Rehearse again without an action of a role, so many times, and count how often it fails."),
    ] = 0,
    as_json: Json = False,
) -> None:
    """Deploy stages to an AWS that is emulated on this machine, run a night there and answer a search."""
    from catalog.synthetic import generate
    from retrieval.contracts.item_files import read_items
    from retrieval.contracts.items import Item

    logging.disable(logging.ERROR)  # silences moto; the command line and the machines report failures
    with TemporaryDirectory(prefix="gavel-rehearsal-") as folder, Stages() as stages:
        work, started = Path(folder), time.perf_counter()
        stages("make lots and two towers")
        catalog = generate(work / "catalog", lots=LOTS, seed=SEED)
        lots = catalog.item_files()[0].parent
        titles = [item.title for item in read_items(catalog.item_files()[0]) if isinstance(item, Item)]
        towers = [make_tower(work / "towers", titles, seed) for seed in (1, 2)]
        booster = make_booster(work / "reranker.ubj", towers[0].name)

        def run(name: str, removed: str) -> Report:
            folder = work / f"{name}-{removed}".replace(":", "-")
            return rehearse_stage(name, folder, towers, booster, lots, stages, removed)

        reports = [run(name, without) for name in dict.fromkeys(stage)]
        for report in reports:
            for action in Random(SEED).sample(report.role_actions, min(sample, len(report.role_actions))):
                report.caught[action] = _is_refused(partial(run, report.stage, action))
        total = time.perf_counter() - started
    if as_json:
        print_json({"seconds": total, "stages": [asdict(report) for report in reports]})
        return
    for report in reports:
        _show(report)
    console.print(f"{total:.0f} s in all")


def _show(report: Report) -> None:
    show_table(f"{report.stage}: steps", ("step", "s"), [(label, f"{seconds:.1f}") for label, seconds in report.seconds.items()], 1)
    show_table(
        f"{report.stage}: what stood in for AWS, deployed as a record of its properties",
        ("resource type", "how many"),
        [(kind, str(count)) for kind, count in report.stand_ins.items()],
        1,
    )
    for items, seconds in report.searchable_s.items():
        console.print(
            f"a part of {items:,} lots is searchable {seconds:.1f} s after its arrival in S3 (limit {MAX_SEARCHABLE_S:g} s)"
        )
    console.print(f"run for real: {report.functions}, {report.jobs} embedding jobs (without their container)")
    console.print(f"found: {report.titles}")
    show_table(
        f"{report.stage}: grants that nothing used",
        ("role", "grant"),
        [(role, grant) for role, grants in report.unused.items() for grant in grants],
    )
    console.print(
        f"{report.calls} different calls of roles were allowed, none was refused; "
        f"without any one of {report.needed_actions} of {len(report.role_actions)} actions of roles a call would have been"
    )
    if report.caught:
        passed = [action for action, caught in report.caught.items() if not caught]
        console.print(f"{len(report.caught) - len(passed)} of {len(report.caught)} rehearsals without an action failed")
        console.print(f"not without {passed}")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(rehearse)
    run_command(app, "rehearse")
