"""Chooses how hybrid searches fuse and what fields count, on the judged queries of a validation split."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from catalog.folder import CatalogFolder
from processing.evaluation.corpus import build_corpus, catalog_moment, open_grades
from retrieval.contracts.items import query_text
from retrieval.errors import InvalidInput
from retrieval.evaluation.metrics import MEASURES, RELEVANT_GRADE, Grades, evaluate_per_query
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.fusion import FUSION_KINDS, Fusion, FusionKind, Scored, fuse
from retrieval.index.hybrid_tuning import FieldBoosts, Tuning
from retrieval.index.port import Candidate, Filter
from retrieval.progress import Progress, ProgressCounter
from retrieval.search.service import Encoder

AIMS = ("ndcg@10", "recall@50")  # their mean is what is chosen by
SHARES = tuple(tenth / 10 for tenth in range(1, 10))  # of the keyword list
RANK_CONSTANTS = (10, 20, 60)
BOOSTS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
PARTS = 5  # of the queries, of which each is measured under the choice of the others

Lists = Mapping[str, Scored]  # query_id -> what one retriever found
KeywordLists = Callable[[FieldBoosts], Lists]


@dataclass(frozen=True)
class JudgedLists:
    """What both retrievers find for judged queries: all that a choice needs.

    Attributes:
        grades: query_id -> item_id -> grade.
        semantic: what is found by vectors.
        keyword: boosts -> what is found by words under them.
        depth: lots of each list, and of the fused one.
    """

    grades: Grades
    semantic: Lists
    keyword: KeywordLists
    depth: int

    def part(self, queries: Sequence[str]) -> "JudgedLists":
        """The same of some of the queries."""
        return replace(self, grades={query: self.grades[query] for query in queries})

    def values(self, tuning: Tuning) -> dict[str, dict[str, float]]:
        """Measure -> query_id -> value of the fused lists."""
        keyword = self.keyword(tuning.boosts)
        fused = {query: fuse(keyword[query], self.semantic[query], tuning.fusion)[: self.depth] for query in self.grades}
        run = {query: [item_id for item_id, _ in found] for query, found in fused.items()}
        return evaluate_per_query(self.grades, run, {name: MEASURES[name] for name in AIMS})


@dataclass(frozen=True)
class Trial:
    """One way of fusing, measured.

    Attributes:
        tuning: which.
        measures: measure -> mean over the queries.
        aims: the mean of the measures for each query, in one order for all trials.
    """

    tuning: Tuning
    measures: Mapping[str, float]
    aims: Sequence[float]

    @property
    def aim(self) -> float:
        """What is chosen by."""
        return fmean(self.aims)


@dataclass(frozen=True)
class Choice:
    """What was found.

    Attributes:
        queries: how many chose.
        base: the trial of a tower that nothing was tuned for.
        best: the trial with the highest aim.
        gain: over base on queries that did not choose, mean: each part of the queries is measured under what is best for the
            other parts. What is best for all of them always gains on all of them, and says nothing.
        standard_error: of that gain.
        trials: all of them.
    """

    queries: int
    base: Trial
    best: Trial
    gain: float
    standard_error: float
    trials: Sequence[Trial]

    @property
    def chosen(self) -> Trial:
        """The best, where the gain is above its standard error; else the base: so few queries cannot tell which is better."""
        return self.best if self.gain > self.standard_error else self.base

    def to_dict(self) -> dict[str, Any]:
        """The choice as JSON has it."""

        def shown(trial: Trial) -> dict[str, Any]:
            return {**asdict(trial.tuning), **trial.measures}

        return {
            "queries": self.queries,
            "gain": self.gain,
            "standard_error": self.standard_error,
            "base": shown(self.base),
            "best": shown(self.best),
            "chosen": shown(self.chosen),
            "trials": [shown(trial) for trial in self.trials],
        }


def judged_lists(
    catalog: CatalogFolder,
    split: str,
    release: Path,
    encoder: Encoder,
    folder: Path,
    *,
    depth: int = 50,
    progress: Progress | None = None,
) -> JudgedLists:
    """Search the corpus of a split by vectors and by words, at the catalogue's own moment.

    Args:
        catalog: its judgments choose.
        split: whose queries and lots.
        release: holds the lots, embedded by the tower.
        encoder: the tower's.
        folder: for the index; the lists under new boosts read it as long as they are asked for.
        depth: lots of each list, as many as a search asks for.
        progress: called with (queries done, queries).

    Raises:
        InvalidInput: the split has no query with a relevant lot.
        ReleaseError: the release lacks lots of the split.
    """
    build_corpus(catalog, split, release, EmbeddedStore(folder))
    where = Filter(now=catalog_moment(catalog))
    grades, texts = _measured(catalog, split, where.now)
    asked = {query: query_text(texts[query]) for query in grades}
    known: dict[FieldBoosts, Lists] = {}

    def keyword(boosts: FieldBoosts) -> Lists:
        if boosts not in known:
            index = EmbeddedStore(folder, tuning=lambda _: Tuning(boosts=boosts)).live()
            known[boosts] = {query: _pairs(index.keyword(text, depth, where)) for query, text in asked.items()}
            index.close()
        return known[boosts]

    index, count = EmbeddedStore(folder).live(), ProgressCounter(len(asked), progress)
    semantic = {}
    for query, text in asked.items():
        semantic[query] = _pairs(index.semantic(encoder.encode([text])[0], depth, where))
        count.tick()
    index.close()
    return JudgedLists(grades, semantic, keyword, depth)


def choose(lists: JudgedLists, *, boosts: bool = True, progress: Progress | None = None) -> Choice:
    """Try every fusion, then boosts field by field under the best of them, then every fusion under the best boosts.

    Args:
        lists: of the queries that choose.
        boosts: False tries no boosts.
        progress: called with (trials done, trials at most).
    """
    fields = tuple(asdict(FieldBoosts())) if boosts else ()
    rounds = 2 if boosts else 1
    count = ProgressCounter(1 + rounds * len(list(fusions())) + len(fields) * len(BOOSTS), progress)
    trials: dict[Tuning, Trial] = {}

    def attempt(tuning: Tuning) -> None:
        if tuning not in trials:
            values = lists.values(tuning)
            queries = sorted(lists.grades)
            aims = [fmean(values[name][query] for name in AIMS) for query in queries]
            trials[tuning] = Trial(tuning, {name: fmean(values[name].values()) for name in AIMS}, aims)
        count.tick()

    def best() -> Trial:
        return max(trials.values(), key=lambda trial: trial.aim)  # of equals the one that was tried first

    attempt(Tuning())
    for fusion in fusions():
        attempt(Tuning(fusion))
    for field in fields:
        under = best().tuning
        for boost in BOOSTS:
            attempt(replace(under, boosts=replace(under.boosts, **{field: boost})))
    if boosts:
        under = best().tuning
        for fusion in fusions():
            attempt(replace(under, fusion=fusion))
    gains = _held_out_gains(list(trials.values()), trials[Tuning()])
    error = stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("inf")
    return Choice(len(gains), trials[Tuning()], best(), fmean(gains), error, list(trials.values()))


def fusions() -> Iterator[Fusion]:
    """What is tried: every kind with every share of the keyword list."""
    for kind in FUSION_KINDS:
        for share in SHARES:
            for constant in RANK_CONSTANTS if kind == "rrf" else (Fusion().rank_constant,):
                yield Fusion(kind, (share, round(1 - share, 1)), constant)


def ndcg_by_share(choice: Choice) -> dict[str, list[tuple[float, float]]]:
    """Kind of fusion -> (share of the keyword list, nDCG@10), under the boosts and the rank constant of the best trial."""
    best = choice.best.tuning
    constant = best.fusion.rank_constant if best.fusion.kind == "rrf" else Fusion().rank_constant

    def belongs(trial: Trial, kind: FusionKind) -> bool:
        fusion = trial.tuning.fusion
        return fusion.kind == kind and trial.tuning.boosts == best.boosts and (kind != "rrf" or fusion.rank_constant == constant)

    return {
        kind: sorted((t.tuning.fusion.shares[0], t.measures["ndcg@10"]) for t in choice.trials if belongs(t, kind))
        for kind in FUSION_KINDS
    }


def _held_out_gains(trials: Sequence[Trial], base: Trial) -> list[float]:
    """The gain over base for each query, under what is best for the queries of the other parts."""
    aims = np.array([trial.aims for trial in trials])  # (T, Q)
    gains = np.zeros(aims.shape[1])
    parts = np.arange(aims.shape[1]) % PARTS
    for part in set(parts.tolist()):
        others = aims[:, parts != part]
        best = others.mean(axis=1).argmax() if others.size else trials.index(base)
        gains[parts == part] = aims[best, parts == part] - np.array(base.aims)[parts == part]
    return [float(gain) for gain in gains]


def _measured(catalog: CatalogFolder, split: str, now: datetime) -> tuple[Grades, Mapping[str, str]]:
    grades = open_grades(catalog, split, now)
    found = {query: graded for query, graded in grades.items() if max(graded.values(), default=0) >= RELEVANT_GRADE}
    if not found:
        raise InvalidInput(f"no query of split {split!r} in {catalog.path} has an open lot of grade 2 or 3; take another split")
    return found, catalog.qrels(split).queries


def _pairs(found: Sequence[Candidate]) -> Scored:
    return [(candidate.item_id, candidate.score) for candidate in found]
