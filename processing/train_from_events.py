"""Trains the re-ranker on what POST /events kept, and puts it in its place if held-out sessions say that it is better.

python -m processing.train_from_events --events EVENTS --tower TOWER --release RELEASE --before OLD --output reranker.ubj
"""

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from catalog.event_files import EventFiles, read_events
from catalog.folder import Click
from processing.ranking_labels import position_bias
from processing.shown_lists import ShownQuery, by_query_and_day, find_candidates, ndcg, part_of, ranking_data
from processing.train_reranker import (
    CANDIDATES,
    EXIT_USAGE,
    ROOT,
    Progress,
    add_places,
    candidate_features,
    service_of_release,
)
from retrieval.errors import FeatureMismatch, GavelError, InvalidInput, RankerUnavailable
from retrieval.ranker.base import Ranker
from retrieval.ranker.parameters import BoosterParameters
from retrieval.ranker.xgboost import BoosterRanker, fit_booster
from retrieval.search import SearchService
from retrieval.significance import PairedComparison, compare_paired

Before = Literal["re-ranker", "first stage"]
Labelled = tuple[NDArray[np.float32], NDArray[np.float32]]  # features (M, F), gains (M,)

LEAST_TOUCHED = 100  # lists on which something was clicked, bid on or bought
LEAST_HELD_OUT = 5  # queries that tell which order is better: below, chance alone decides
REJECTS_SUFFIX = ".rejects.ndjson"


@dataclass(frozen=True)
class EventsReport:
    """What was read, learnt, and found on sessions that were not learnt from.

    Attributes:
        path: where the booster belongs.
        saved: whether the new one is there now.
        reason: why, or why not.
        before: what the new one was compared with: the re-ranker that was there, else the first stage's order.
        held_out: nDCG@10 of `before` and of the new one on the held-out sessions, their clicks freed of their positions.
        position_bias: how fast buyers stop looking, see ranking_labels.position_bias; None: clicks count as they are.
        events: different ones that were read.
        duplicates: rows that told one once more.
        rejects: rows that were set aside.
        rejects_file: with their files, lines and reasons; None when there are none.
        sessions: different ones.
        lists: that were shown.
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
    position_bias: float | None
    events: int
    duplicates: int
    rejects: int
    rejects_file: Path | None
    sessions: int
    lists: int
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
    progress: Progress | None = None,
) -> EventsReport:
    """Train LambdaMART on the events of most sessions, and compare it with what ranks today on the others.

    The rows are the candidates that the first stage finds today, with the features that serving computes, at the moment when
    the lists were shown; what nobody was shown is left out. A query may stand in both parts, as buyers ask the same things.

    Args:
        log: what read_events() returned.
        service: searches the index whose candidates are to be put in order.
        path: the booster that is there, and where a better one goes.
        debias: free clicks of their positions, in training.
        force: put the new one there even if it is no better.
        candidates: first-stage candidates a query, as in serving.
        seed: deals the sessions, and of the training.
        parameters: of the trees; None takes the defaults.
        progress: called with (queries done, queries in all).

    Raises:
        InvalidInput: there are too few events; the message says how many are needed.
    """
    rejects_file = _set_aside(log, path)
    touched = {_list(click) for click in log.clicks if click.event_type}
    if len(touched) < LEAST_TOUCHED:
        raise InvalidInput(_too_few(log, f"{len(touched)} lists with a click, bid or purchase", f"{LEAST_TOUCHED} such lists"))
    fall = position_bias([click for click in log.clicks if part_of(click.buyer_id, seed) == "train"])
    find = partial(candidate_features, service, candidates=candidates)
    queries = find_candidates(by_query_and_day(log.clicks), find, seed, progress)
    train, val = (ranking_data(queries, part, (fall or 0.0) if debias else 0.0) for part in ("train", "val"))
    held_out = _held_out(queries, fall or 0.0)
    _check_enough(log, {"training": (len(train), 1), "validation": (len(val), 1), "held-out": (len(held_out), LEAST_HELD_OUT)})
    booster = fit_booster(train, val, seed=seed, parameters=parameters)
    before, old = _ranks_today(path)
    compared = compare_paired(_measured(old, held_out), _measured(booster, held_out))
    saved = force or compared.difference > 0
    if saved:
        booster.save(path, service.live().index.tower_id)
    return EventsReport(
        path=path,
        saved=saved,
        reason=_reason(compared, before, force),
        before=before,
        held_out=compared,
        position_bias=fall if debias else None,
        rejects_file=rejects_file,
        touched=len(touched),
        not_found=sum(query.not_found for query in queries),
        train_queries=len(train),
        val_queries=len(val),
        **_counts(log),
    )


def _counts(log: EventFiles) -> dict[str, int]:
    """What was read, as the report has it."""
    return {
        "events": log.events,
        "duplicates": log.duplicates,
        "rejects": len(log.rejects),
        "sessions": len({click.buyer_id for click in log.clicks}),
        "lists": len({_list(click) for click in log.clicks}),
        "impressions": len(log.clicks),
    }


def _check_enough(log: EventFiles, parts: Mapping[str, tuple[int, int]]) -> None:
    """Refuse a log of which a part has fewer queries than it must: part -> (queries that tell lots apart, the least)."""
    for name, (count, least) in parts.items():
        if count < least:
            raise InvalidInput(_too_few(log, f"{count} queries that tell lots apart in {name} sessions", f"{least} such queries"))


def _held_out(queries: Sequence[ShownQuery], fall: float) -> dict[str, Labelled]:
    """Number of a query -> what the held-out sessions say; never as clicks fell, for so they praise the order they were shown."""
    labelled = {str(number): query.labelled("held_out", fall) for number, query in enumerate(queries)}
    return {number: rows for number, rows in labelled.items() if rows is not None}


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


def _reason(compared: PairedComparison, before: Before, force: bool) -> str:
    gained = f"nDCG@10 {compared.base:.3f} of the {before} before, {compared.new:.3f} of the new one"
    if compared.difference > 0:
        return gained
    return f"{gained}; saved all the same" if force else f"{gained}; what was there stays, --force would replace it"


def _too_few(log: EventFiles, have: str, need: str) -> str:
    return (
        f"{log.events} events hold {have}; at least {need} are needed to train on some and measure on others "
        f"({log.duplicates} duplicates and {len(log.rejects)} rejected rows not counted); collect more with `gavel serve`"
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


def _list(click: Click) -> tuple[str, str, datetime]:
    return click.query, click.buyer_id, click.timestamp


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job from the command line; the report is printed as one line of JSON.

    Returns:
        0, whether the output is the new booster or the one before; 2 when the input or a flag cannot be used, with one line on
        stderr that says why.
    """
    flags = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        log = read_events([flags.events])
        if flags.before.is_file():
            flags.output.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(flags.before, flags.output)
        given = {name: getattr(flags, name) for name in ("debias", "force", "candidates", "seed")}
        with service_of_release(flags.tower, flags.release) as service:
            report = train_on_events(log, service, flags.output, **given)
    except GavelError as error:
        print(f"train_from_events: {error}", file=sys.stderr)
        return EXIT_USAGE
    print(json.dumps(report.to_dict()))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="train_from_events", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=Path, default=ROOT / "input/events", help="a file of events, or a folder of them")
    parser.add_argument("--before", type=Path, default=ROOT / "input/ranker/reranker.ubj", help="the booster to be better than")
    add_places(parser)
    parser.add_argument("--debias", action=argparse.BooleanOptionalAction, default=True, help="free clicks of their positions")
    parser.add_argument("--force", action="store_true", help="take the new booster even if it is no better")
    return parser


if __name__ == "__main__":
    sys.exit(main())
