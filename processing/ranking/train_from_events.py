"""Train the re-ranker on events of POST /events, and replace the current one if held-out sessions show an improvement.

python -m processing.train_from_events --events EVENTS --tower TOWER --release RELEASE --before OLD --output reranker.ubj
"""

import json
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
from retrieval.files import replace_file
from retrieval.progress import Progress
from retrieval.ranker.parameters import BoosterParameters
from retrieval.ranker.port import Ranker
from retrieval.ranker.xgboost_ranker import BoosterRanker, fit_booster
from retrieval.search.service import SearchService

Before = Literal["re-ranker", "first stage"]
Labelled = tuple[NDArray[np.float32], NDArray[np.float32]]  # features (M, F), gains (M,)

MIN_TOUCHED = 100  # lists with a click, bid or purchase
MIN_HELD_OUT = 5  # queries whose candidates differ in gain; with fewer, chance decides
SOURCE_SHARE = 0.05  # largest share of one session or one network client in the lists
MAX_GAIN = 0.5  # in nDCG@10: more suggests faked lists rather than real improvement; simulated buyers give 0.16
REJECTS_SUFFIX = ".rejects.ndjson"


@dataclass(frozen=True)
class EventsReport:
    """Data of a training on events, and its comparison on held-out sessions.

    Attributes:
        path: path of the booster's file.
        saved: True if the new booster is stored at `path`.
        reason: why the new booster was saved or not.
        before: the baseline: the current re-ranker, or the first stage's order if there is no usable re-ranker.
        held_out: nDCG@10 of `before` and of the new booster on the held-out sources, with clicks corrected for position bias.
        judged: nDCG@10 of both on a catalogue's val judgments; None with fewer than 5 queries whose candidates differ in grade.
        position_bias: exponent, see processing.ranking.labels.position_bias(); None if training clicks are not corrected.
        events: number of distinct events.
        duplicates: number of rows that repeat an event.
        unproven: number of rows without proof that a search returned the item; they are not used.
        rejects: number of rejected rows.
        rejects_file: file with place and reason of each rejected row; None without rejects.
        sessions: number of distinct sessions.
        clients: number of distinct network clients, where known.
        lists: number of lists shown to buyers.
        left_out: number of lists dropped above the share of their session or client. `sessions`, `clients`, `lists`, `touched`
            and `impressions` exclude these lists.
        touched: number of lists with a click, bid or purchase.
        impressions: number of items in the lists.
        not_found: number of impressions of items that the first stage no longer returns.
        train_queries: number of (query, day) pairs that were trained on.
        val_queries: number of (query, day) pairs that chose the number of trees.
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
        """Return the report as JSON values."""
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
    """Train LambdaMART on the events of most sources, and compare it with the current ranking on the others.

    A source is a network client, or a session if its client is unknown. Training and measurement never share a source, so that
    faked lists cannot confirm themselves. A gain above 0.5 is too good to be true and not accepted. Judgments have a veto.

    The rows are the first stage's current candidates, with the features of serving, at the moment when the lists were shown.
    Candidates without an impression are left out. A query may occur in training and in measurement, because buyers repeat queries.

    Args:
        log: result of read_events().
        service: service that searches the index of the candidates.
        path: path of the current booster, which a better one replaces.
        debias: True corrects clicks for position bias in training.
        force: True saves the new booster whatever the comparisons say.
        candidates: number of first-stage candidates per query, as in serving.
        seed: seed of the split into parts and of the training.
        parameters: parameters of the trees; None takes the defaults.
        source_share: largest share of one session or client in the lists, above 0 to 1.
        judgments: catalogue on whose `val` judgments the new booster must not be significantly worse; None compares with none.
        progress: called with (queries done, queries).

    Raises:
        InvalidInput: there are too few events; the message gives the required number.
    """
    if not 0 < source_share <= 1:
        raise InvalidInput(f"the share of one source is {source_share:g}; allowed is above 0 to 1")
    rejects_file = _write_rejects(log, path)
    _count_touched(log)
    all_lists = len({list_of(click) for click in log.clicks})
    log = replace(log, clicks=limit_sources(log.clicks, source_share, seed))
    if not log.clicks:
        raise InvalidInput(
            _too_few(log, f"{all_lists} lists of too few sessions or clients", f"{1 / source_share:.0f} of each")
            + f"; --source-share above {source_share:g} lets each teach more"
        )
    touched = _count_touched(log)
    position_bias_exponent = position_bias([click for click in log.clicks if part_of(source_of(click), seed) == "train"])
    find = partial(candidate_features, service, candidates=candidates)
    queries = find_candidates(by_query_and_day(log.clicks), find, seed, progress)
    train, val = (ranking_data(queries, part, (position_bias_exponent or 0.0) if debias else 0.0) for part in ("train", "val"))
    held_out = _held_out_rows(queries, position_bias_exponent or 0.0)
    _check_enough(log, {"training": (len(train), 1), "validation": (len(val), 1), "held-out": (len(held_out), MIN_HELD_OUT)})
    booster = fit_booster(train, val, seed=seed, parameters=parameters)
    before, old = _current_ranker(path)
    compared = compare_paired(_ndcg_by_query(old, held_out), _ndcg_by_query(booster, held_out))
    rows = _judged_rows(judgments, find) if judgments else {}
    judged = compare_paired(_ndcg_by_query(old, rows), _ndcg_by_query(booster, rows)) if len(rows) >= MIN_HELD_OUT else None
    counts = _count_events(log)
    objection = _objection(compared, judged, counts)
    saved = force or not objection
    if saved:
        booster.save(path, service.live().index.tower_id)
    comparison = f"nDCG@10 {compared.base:.3f} of the {before} before, {compared.new:.3f} of the new one"
    outcome = "saved all the same" if force else "what was there stays, --force would replace it"
    return EventsReport(
        path=path,
        saved=saved,
        reason=f"{comparison}{objection}; {outcome}" if objection else comparison,
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


def _count_events(log: EventFiles) -> dict[str, int]:
    """Return the report's counts."""
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


def _count_touched(log: EventFiles) -> int:
    """Count the lists with a click, bid or purchase; raise InvalidInput if there are too few."""
    touched = len({list_of(click) for click in log.clicks if click.event_type})
    if touched < MIN_TOUCHED:
        raise InvalidInput(_too_few(log, f"{touched} lists with a click, bid or purchase", f"{MIN_TOUCHED} such lists"))
    return touched


def _check_enough(log: EventFiles, parts: Mapping[str, tuple[int, int]]) -> None:
    """Raise InvalidInput if a part has too few queries: part -> (queries whose candidates differ in gain, minimum)."""
    for name, (count, minimum) in parts.items():
        if count < minimum:
            raise InvalidInput(_too_few(log, f"{count} queries that tell lots apart in {name} sessions", f"{minimum} such queries"))


def _held_out_rows(queries: Sequence[ShownQuery], position_bias_exponent: float) -> dict[str, Labelled]:
    """Return query number -> held-out rows; clicks are always corrected, because raw clicks favour the order that was shown."""
    labelled = {str(number): query.labelled("held_out", position_bias_exponent) for number, query in enumerate(queries)}
    return {number: rows for number, rows in labelled.items() if rows is not None}


def _judged_rows(catalog: CatalogFolder, find: Candidates) -> dict[str, Labelled]:
    """Return query -> features and grades of its candidates, if the grades differ; an unjudged candidate has grade 0."""
    labelled = {}
    for query, gains in judged_gains(catalog.qrels("val")).items() if catalog.has_queries("val") else ():
        item_ids, features = find(query, catalog_moment(catalog))
        labels = np.array([gains.get(item_id, 0.0) for item_id in item_ids], dtype=np.float32)
        if len(set(labels.tolist())) > 1:
            labelled[query] = features, labels
    return labelled


def _ndcg_by_query(ranker: Ranker | None, rows: dict[str, Labelled]) -> dict[str, float]:
    """Return query -> nDCG@10; without a re-ranker, rows keep their first-stage order."""
    scores = {n: np.zeros(len(x), dtype=np.float32) if ranker is None else ranker.score(x) for n, (x, _) in rows.items()}
    return {number: ndcg(scores[number], gains) for number, (_, gains) in rows.items()}


def _current_ranker(path: Path) -> tuple[Before, Ranker | None]:
    """Return the name of the baseline and the current booster; a booster that search would refuse counts as none."""
    if not path.is_file():
        return "first stage", None
    try:
        return "re-ranker", BoosterRanker.load(path)
    except (FeatureMismatch, RankerUnavailable):
        return "first stage", None


def _objection(compared: PairedComparison, judged: PairedComparison | None, counts: Mapping[str, int]) -> str:
    """Return the reason why the new booster should not be saved; empty if there is none."""
    objection = ""
    if compared.difference <= 0:
        objection = ", no gain"
    elif compared.difference > MAX_GAIN:
        objection = (
            f", which is more than buyers' lists bring: look whether people stand behind the {counts['lists']} lists of "
            f"{counts['sessions']} sessions and {counts['clients']} clients (`buyer_id` and `client` in the files)"
        )
    if judged and judged.high < 0:
        objection += (
            f", but {judged.base:.3f} before and {judged.new:.3f} of the new one on {judged.queries} judged queries: what the "
            "lists say is not what the judges say"
        )
    return objection


def _too_few(log: EventFiles, have: str, need: str) -> str:
    return (
        f"{log.events} events hold {have}; at least {need} are needed to train on some and measure on others "
        f"({log.duplicates} duplicates, {len(log.rejects)} rejected rows and {log.unproven} rows of lists that no search is known "
        "to have served not counted); collect more with `gavel serve`"
        + (", or say --trust-unsigned where all rows come from a system of your own" if log.unproven else "")
    )


def _write_rejects(log: EventFiles, path: Path) -> Path | None:
    """Write the rejects beside the booster and return their file."""
    file = path.with_name(f"{path.stem}{REJECTS_SUFFIX}")
    if not log.rejects:
        file.unlink(missing_ok=True)
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    return replace_file(file, "".join(f"{reject.to_json()}\n" for reject in log.rejects))


def run_training(
    events: Annotated[Path, typer.Option(help="A file of events, or a folder of them.")] = CONTAINER / "input/events",
    before: Annotated[Path, typer.Option(help="The current booster, to be improved on.")] = CONTAINER / "input/ranker/reranker.ubj",
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
    source_share: Annotated[
        float, typer.Option(help="Largest share of the lists from one session or network client, above 0 to 1.")
    ] = SOURCE_SHARE,
    catalog: Annotated[Path | None, typer.Option(help="Catalogue whose val judgments the new booster must not lose on.")] = None,
) -> int:
    """Train a re-ranker on recorded events; it replaces the current one if held-out sessions rank better with it.

    Judgments of `catalog` can veto it. --force overrides both.
    """
    log = read_events([events], trust_unsigned=trust_unsigned)
    if before.is_file():
        output.parent.mkdir(parents=True, exist_ok=True)
        replace_file(output, before.read_bytes())
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
    """Run the job from a command line, see run_job()."""
    return run_job(run_training, arguments, "train_from_events")
