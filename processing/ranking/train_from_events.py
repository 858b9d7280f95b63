"""Trains the re-ranker on what POST /events kept, and puts it in its place if held-out sessions say that it is better.

python -m processing.train_from_events --events EVENTS --tower TOWER --release RELEASE --before OLD --output reranker.ubj
"""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from numpy.typing import NDArray

from catalog.event_files import EventFiles, read_events
from catalog.folder import CatalogFolder
from processing.command_line import (
    CONTAINER,
    BoosterOutputOption,
    CandidatesOption,
    DebiasOption,
    ReleaseOption,
    SeedOption,
    TowerOption,
    run_job,
)
from processing.evaluation.corpus import catalog_moment
from processing.ranking.impressions import (
    Candidates,
    ShownQuery,
    by_query_and_day,
    find_candidates,
    limit_sources,
    list_of,
    ndcg,
    part_of,
    ranking_data,
    source_of,
)
from processing.ranking.labels import judged_gains, position_bias
from processing.ranking.train_job import CANDIDATES, candidate_features, service_of_release
from retrieval.errors import FeatureMismatch, InvalidInput, RankerUnavailable
from retrieval.evaluation.significance import PairedComparison, compare_paired
from retrieval.progress import Progress
from retrieval.ranker.parameters import BoosterParameters
from retrieval.ranker.port import Ranker
from retrieval.ranker.xgboost_ranker import BoosterRanker, fit_booster
from retrieval.search.service import SearchService

Before = Literal["re-ranker", "first stage"]
Labelled = tuple[NDArray[np.float32], NDArray[np.float32]]  # features (M, F), gains (M,)

MIN_TOUCHED = 100  # lists on which something was clicked, bid on or bought
MIN_HELD_OUT = 5  # queries that tell which order is better: below, chance alone decides
SOURCE_SHARE = 0.05  # of the lists, the most that one session or one network client may teach
MAX_GAIN = 0.5  # in nDCG@10: above it the lists are rather made up than so much better understood; simulated buyers bring .16
REJECTS_SUFFIX = ".rejects.ndjson"


@dataclass(frozen=True)
class EventsReport:
    """What was read, learnt, and found on sessions that were not learnt from.

    Attributes:
        path: where the booster belongs.
        saved: whether the new one is there now.
        reason: why, or why not.
        before: what the new one was compared with: the re-ranker that was there, else the first stage's order.
        held_out: nDCG@10 of `before` and of the new one on the held-out sources, their clicks freed of their positions.
        judged: the same on a catalogue's judgments; None where there are none of lots in the index.
        position_bias: how fast buyers stop looking, see ranking_labels.position_bias; None: clicks count as they are.
        events: different ones that were read.
        duplicates: rows that told one once more.
        unproven: rows of lots that no search is known to have answered with.
        rejects: rows that were set aside.
        rejects_file: with their files, lines and reasons; None when there are none.
        sessions: different ones.
        clients: different network clients, where they are known.
        lists: that were shown.
        left_out: lists of sessions or clients that told of more than their share; the other counts are without them.
        touched: lists on which something was clicked, bid on or bought.
        impressions: lots in the lists.
        not_found: of them, those that the first stage finds no more.
        train_queries: queries of a day that trained; one of two days counts twice.
        val_queries: that chose the number of trees.
    """

    path: Path
    saved: bool
    reason: str
    before: Before
    held_out: PairedComparison
    judged: PairedComparison | None
    position_bias: float | None
    events: int
    duplicates: int
    unproven: int
    rejects: int
    rejects_file: Path | None
    sessions: int
    clients: int
    lists: int
    left_out: int
    touched: int
    impressions: int
    not_found: int
    train_queries: int
    val_queries: int

    def to_dict(self) -> dict[str, object]:
        """The report as JSON can write it."""
        values: dict[str, object] = json.loads(json.dumps(asdict(self), default=str))
        return values


def train_on_events(
    log: EventFiles,
    service: SearchService,
    path: Path,
    *,
    debias: bool = True,
    force: bool = False,
    candidates: int = CANDIDATES,
    seed: int = 0,
    parameters: BoosterParameters | None = None,
    source_share: float = SOURCE_SHARE,
    judgments: CatalogFolder | None = None,
    progress: Progress | None = None,
) -> EventsReport:
    """Train LambdaMART on the events of most sources, and compare it with what ranks today on the others.

    A source is a network client, or a session where no client is known: who makes up lists makes up those that measure, too,
    but none of theirs trains and measures. A gain that is too good to be true is not believed, and judgments have a veto.

    The rows are the candidates that the first stage finds today, with the features that serving computes, at the moment when
    the lists were shown; what nobody was shown is left out. A query may stand in both parts, as buyers ask the same things.

    Args:
        log: what read_events() returned.
        service: searches the index whose candidates are to be put in order.
        path: the booster that is there, and where a better one goes.
        debias: free clicks of their positions, in training.
        force: put the new one there whatever the comparisons say.
        candidates: first-stage candidates a query, as in serving.
        seed: deals the sessions, and of the training.
        parameters: of the trees; None takes the defaults.
        source_share: of the lists, the most that one session or client may teach, above 0 to 1.
        judgments: a catalogue whose `val` judgments must not be lost on; None asks none.
        progress: called with (queries done, queries in all).

    Raises:
        InvalidInput: there are too few events; the message says how many are needed.
    """
    if not 0 < source_share <= 1:
        raise InvalidInput(f"the share of one source is {source_share:g}; allowed is above 0 to 1")
    rejects_file = _set_aside(log, path)
    _enough_touched(log)
    all_lists = len({list_of(click) for click in log.clicks})
    log = replace(log, clicks=limit_sources(log.clicks, source_share, seed))
    if not log.clicks:
        raise InvalidInput(
            _too_few(log, f"{all_lists} lists of too few sessions or clients", f"{1 / source_share:.0f} of each")
            + f"; --source-share above {source_share:g} lets each teach more"
        )
    touched = _enough_touched(log)
    position_bias_exponent = position_bias([click for click in log.clicks if part_of(source_of(click), seed) == "train"])
    find = partial(candidate_features, service, candidates=candidates)
    queries = find_candidates(by_query_and_day(log.clicks), find, seed, progress)
    train, val = (ranking_data(queries, part, (position_bias_exponent or 0.0) if debias else 0.0) for part in ("train", "val"))
    held_out = _held_out(queries, position_bias_exponent or 0.0)
    _check_enough(log, {"training": (len(train), 1), "validation": (len(val), 1), "held-out": (len(held_out), MIN_HELD_OUT)})
    booster = fit_booster(train, val, seed=seed, parameters=parameters)
    before, old = _ranks_today(path)
    compared = compare_paired(_measured(old, held_out), _measured(booster, held_out))
    rows = _judged(judgments, find) if judgments else {}
    judged = compare_paired(_measured(old, rows), _measured(booster, rows)) if len(rows) >= MIN_HELD_OUT else None
    counts = _counts(log)
    objection = _objection(compared, judged, counts)
    saved = force or not objection
    if saved:
        booster.save(path, service.live().index.tower_id)
    gained = f"nDCG@10 {compared.base:.3f} of the {before} before, {compared.new:.3f} of the new one"
    kept = "saved all the same" if force else "what was there stays, --force would replace it"
    return EventsReport(
        path=path,
        saved=saved,
        reason=f"{gained}{objection}; {kept}" if objection else gained,
        before=before,
        held_out=compared,
        judged=judged,
        position_bias=position_bias_exponent if debias else None,
        rejects_file=rejects_file,
        touched=touched,
        not_found=sum(query.not_found for query in queries),
        train_queries=len(train),
        val_queries=len(val),
        left_out=all_lists - counts["lists"],
        **counts,
    )


def _counts(log: EventFiles) -> dict[str, int]:
    """What was read, as the report has it."""
    return {
        "events": log.events,
        "duplicates": log.duplicates,
        "unproven": log.unproven,
        "rejects": len(log.rejects),
        "sessions": len({click.buyer_id for click in log.clicks}),
        "clients": len({click.client for click in log.clicks if click.client}),
        "lists": len({list_of(click) for click in log.clicks}),
        "impressions": len(log.clicks),
    }


def _enough_touched(log: EventFiles) -> int:
    """Count the lists with a click, bid or purchase; refuse a log of too few."""
    touched = len({list_of(click) for click in log.clicks if click.event_type})
    if touched < MIN_TOUCHED:
        raise InvalidInput(_too_few(log, f"{touched} lists with a click, bid or purchase", f"{MIN_TOUCHED} such lists"))
    return touched


def _check_enough(log: EventFiles, parts: Mapping[str, tuple[int, int]]) -> None:
    """Refuse a log of which a part has fewer queries than it must: part -> (queries that tell lots apart, the least)."""
    for name, (count, least) in parts.items():
        if count < least:
            raise InvalidInput(_too_few(log, f"{count} queries that tell lots apart in {name} sessions", f"{least} such queries"))


def _held_out(queries: Sequence[ShownQuery], position_bias_exponent: float) -> dict[str, Labelled]:
    """Number of a query -> what the held-out sessions say; never as clicks fell, for so they praise the order they were shown."""
    labelled = {str(number): query.labelled("held_out", position_bias_exponent) for number, query in enumerate(queries)}
    return {number: rows for number, rows in labelled.items() if rows is not None}


def _judged(catalog: CatalogFolder, find: Candidates) -> dict[str, Labelled]:
    """Query -> what the val judgments say of its candidates, where they tell them apart; an unjudged one counts as wrong."""
    labelled = {}
    for query, gains in judged_gains(catalog.qrels("val")).items() if "val" in catalog.splits else ():
        found, features = find(query, catalog_moment(catalog))
        labels = np.array([gains.get(item_id, 0.0) for item_id in found], dtype=np.float32)
        if len(set(labels.tolist())) > 1:
            labelled[query] = features, labels
    return labelled


def _measured(ranker: Ranker | None, held_out: dict[str, Labelled]) -> dict[str, float]:
    """Number of a query -> nDCG@10; without a re-ranker rows are in their order already."""
    scores = {n: np.zeros(len(x), dtype=np.float32) if ranker is None else ranker.score(x) for n, (x, _) in held_out.items()}
    return {number: ndcg(scores[number], gains) for number, (_, gains) in held_out.items()}


def _ranks_today(path: Path) -> tuple[Before, Ranker | None]:
    """The booster that is there; one that search refuses ranks nothing."""
    if not path.is_file():
        return "first stage", None
    try:
        return "re-ranker", BoosterRanker.load(path)
    except (FeatureMismatch, RankerUnavailable):
        return "first stage", None


def _objection(compared: PairedComparison, judged: PairedComparison | None, counts: Mapping[str, int]) -> str:
    """Say why the new booster should not be saved; empty if nothing speaks against it."""
    told = ""
    if compared.difference <= 0:
        told = ", no gain"
    elif compared.difference > MAX_GAIN:
        told = (
            f", which is more than buyers' lists bring: look whether people stand behind the {counts['lists']} lists of "
            f"{counts['sessions']} sessions and {counts['clients']} clients (`buyer_id` and `client` in the files)"
        )
    if judged and judged.high < 0:
        told += (
            f", but {judged.base:.3f} before and {judged.new:.3f} of the new one on {judged.queries} judged queries: what the "
            "lists say is not what the judges say"
        )
    return told


def _too_few(log: EventFiles, have: str, need: str) -> str:
    return (
        f"{log.events} events hold {have}; at least {need} are needed to train on some and measure on others "
        f"({log.duplicates} duplicates, {len(log.rejects)} rejected rows and {log.unproven} rows of lists that no search is known "
        "to have served not counted); collect more with `gavel serve`"
        + (", or say --trust-unsigned where all rows come from a system of your own" if log.unproven else "")
    )


def _set_aside(log: EventFiles, path: Path) -> Path | None:
    """Write the rejects beside the booster; returns their file."""
    file = path.with_name(f"{path.stem}{REJECTS_SUFFIX}")
    if not log.rejects:
        file.unlink(missing_ok=True)
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{reject.to_json()}\n" for reject in log.rejects), encoding="utf-8")
    return file


def run_training(
    events: Annotated[Path, typer.Option(help="A file of events, or a folder of them.")] = CONTAINER / "input/events",
    before: Annotated[Path, typer.Option(help="The booster to be better than.")] = CONTAINER / "input/ranker/reranker.ubj",
    tower: TowerOption = CONTAINER / "input/tower",
    release: ReleaseOption = CONTAINER / "input/release",
    output: BoosterOutputOption = CONTAINER / "output/reranker.ubj",
    candidates: CandidatesOption = CANDIDATES,
    seed: SeedOption = 7,
    debias: DebiasOption = True,
    force: Annotated[bool, typer.Option("--force", help="Take the new booster whatever the comparisons say.")] = False,
    trust_unsigned: Annotated[
        bool, typer.Option("--trust-unsigned", help="Learn from lists that no search is known to have served, too.")
    ] = False,
    source_share: Annotated[float, typer.Option(help="Of the lists, the most that one session teaches.")] = SOURCE_SHARE,
    catalog: Annotated[Path | None, typer.Option(help="Catalogue whose val judgments the new booster must not lose on.")] = None,
) -> int:
    """Train the re-ranker on recorded events; it replaces the current one if held-out sessions show that it is better."""
    log = read_events([events], trust_unsigned=trust_unsigned)
    if before.is_file():
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(before, output)
    judgments = CatalogFolder.load(catalog) if catalog else None
    with service_of_release(tower, release) as service:
        report = train_on_events(
            log,
            service,
            output,
            debias=debias,
            force=force,
            candidates=candidates,
            seed=seed,
            source_share=source_share,
            judgments=judgments,
        )
    print(json.dumps(report.to_dict()))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job from the command line; the report is printed as one line of JSON.

    Returns:
        0, whether the output is the new booster or the one before; 2 when the input or a flag cannot be used, with one line on
        stderr that says why.
    """
    return run_job(run_training, arguments, "train_from_events")


if __name__ == "__main__":
    sys.exit(main())
