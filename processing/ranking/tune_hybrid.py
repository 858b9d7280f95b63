"""Choose fusion and field boosts of hybrid searches on the judged queries of a validation split."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from catalog.folder import CatalogFolder
from processing.evaluation.corpus import build_corpus, catalog_moment, open_grades
from retrieval.contracts.attributes import ATTRIBUTES_FIELD
from retrieval.contracts.items import query_text
from retrieval.errors import InvalidInput
from retrieval.evaluation.metrics import MEASURES, RELEVANT_GRADE, Grades, evaluate_per_query
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter
from retrieval.index.fusion import FUSION_KINDS, Fusion, FusionKind, Scored, fuse
from retrieval.index.hybrid_tuning import BOOSTED_FIELDS, FieldBoosts, Tuning
from retrieval.index.port import Candidate
from retrieval.progress import Progress, ProgressCounter
from retrieval.search.service import Encoder

SELECTION_METRICS = ("ndcg@10", "recall@50")  # the best trial has the highest mean of these two
SHARES = tuple(tenth / 10 for tenth in range(1, 10))  # weights of the keyword list
RANK_CONSTANTS = (10, 20, 60)
BOOSTS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
ATTRIBUTE_K1S = (0.3, 1.2)  # besides the default
ATTRIBUTE_BS = (0.25, 1.0)  # likewise
PARTS = 5  # parts of the queries, for cross-validation

Lists = Mapping[str, Scored]  # query_id -> results of one retriever
KeywordLists = Callable[[FieldBoosts], Lists]


@dataclass(frozen=True)
class JudgedLists:
    """Results of both retrievers for judged queries.

    Attributes:
        grades: query_id -> item_id -> grade.
        semantic: results by vectors.
        keyword: boosts -> results by words with these boosts.
        depth: length of each list, and of the fused list.
        has_attributes: True if items among the results have attributes.
    """

    grades: Grades
    semantic: Lists
    keyword: KeywordLists
    depth: int
    has_attributes: bool = False

    def part(self, queries: Sequence[str]) -> "JudgedLists":
        """Return the lists of some of the queries."""
        return replace(self, grades={query: self.grades[query] for query in queries})

    def values(self, tuning: Tuning) -> dict[str, dict[str, float]]:
        """Return measure -> query_id -> value of the fused lists."""
        keyword = self.keyword(tuning.boosts)
        fused = {query: fuse(keyword[query], self.semantic[query], tuning.fusion)[: self.depth] for query in self.grades}
        run = {query: [item_id for item_id, _ in scored] for query, scored in fused.items()}
        return evaluate_per_query(self.grades, run, {name: MEASURES[name] for name in SELECTION_METRICS})


@dataclass(frozen=True)
class Trial:
    """The measurements of one tuning.

    Attributes:
        tuning: tuning that was measured.
        measures: measure -> mean over the queries.
        scores: mean of the measures for each query, with the queries in the same order in all trials.
    """

    tuning: Tuning
    measures: Mapping[str, float]
    scores: Sequence[float]

    @property
    def score(self) -> float:
        """Selection score: the mean over the queries."""
        return fmean(self.scores)


@dataclass(frozen=True)
class Choice:
    """The result of a tuning.

    Attributes:
        queries: number of queries.
        base: the trial with the default tuning.
        best: the trial with the highest score.
        gain: mean gain over base on held-out queries: each part of the queries is measured with the best tuning of the other
            parts. The best tuning of all queries is not measured on these queries, because it can never lose there.
        standard_error: standard error of the gain.
        trials: all trials.
    """

    queries: int
    base: Trial
    best: Trial
    gain: float
    standard_error: float
    trials: Sequence[Trial]

    @property
    def chosen(self) -> Trial:
        """Best trial if the gain exceeds its standard error; otherwise the base, because the queries are too few to decide."""
        return self.best if self.gain > self.standard_error else self.base

    def to_dict(self) -> dict[str, Any]:
        """Return the choice as JSON values."""

        def to_json(trial: Trial) -> dict[str, Any]:
            return {**asdict(trial.tuning), **trial.measures}

        return {
            "queries": self.queries,
            "gain": self.gain,
            "standard_error": self.standard_error,
            "base": to_json(self.base),
            "best": to_json(self.best),
            "chosen": to_json(self.chosen),
            "trials": [to_json(trial) for trial in self.trials],
        }


def search_lists(
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
        catalog: source of the judgments.
        split: split of the queries and items.
        release: folder of the release of the items, embedded by the tower.
        encoder: query encoder of the tower.
        folder: folder for the index; it must exist while keyword lists with new boosts are computed.
        depth: length of each list, as in a search.
        progress: called with (queries done, queries).

    Raises:
        InvalidInput: the split has no query with a relevant item.
        ReleaseError: the release lacks items of the split.
    """
    build_corpus(catalog, split, release, EmbeddedStore(folder))
    filters = Filter(now=catalog_moment(catalog))
    grades, texts = _judged_queries(catalog, split, filters.moment())
    queries = {query: query_text(texts[query]) for query in grades}
    cache: dict[FieldBoosts, Lists] = {}

    def keyword(boosts: FieldBoosts) -> Lists:
        if boosts not in cache:
            index = EmbeddedStore(folder, tuning=lambda _: Tuning(boosts=boosts)).live()
            cache[boosts] = {query: _pairs(index.keyword(text, depth, filters)) for query, text in queries.items()}
            index.close()
        return cache[boosts]

    index, count = EmbeddedStore(folder).live(), ProgressCounter(len(queries), progress)
    semantic, has_attributes = {}, False
    for query, text in queries.items():
        candidates = index.semantic(encoder.encode([text])[0], depth, filters)
        semantic[query] = _pairs(candidates)
        has_attributes = has_attributes or any(ATTRIBUTES_FIELD in candidate.document for candidate in candidates)
        count.tick()
    index.close()
    return JudgedLists(grades, semantic, keyword, depth, has_attributes)


def choose(lists: JudgedLists, *, boosts: bool = True, progress: Progress | None = None) -> Choice:
    """Try every fusion, then boosts field by field with the best fusion, then every fusion with the best boosts.

    Where items have attributes, their weight may also be 0, and the best weight is tried with other values of k1 and of b.

    Args:
        lists: lists of the judged queries.
        boosts: False tries no boosts.
        progress: called with (trials done, upper limit of trials).
    """
    steps = list(_boost_steps(lists.has_attributes)) if boosts else []
    rounds = 2 if boosts else 1
    count = ProgressCounter(1 + rounds * len(list(fusions())) + sum(len(values) for _, values in steps), progress)
    trials: dict[Tuning, Trial] = {}

    def attempt(tuning: Tuning) -> None:
        if tuning not in trials:
            values = lists.values(tuning)
            queries = sorted(lists.grades)
            scores = [fmean(values[name][query] for name in SELECTION_METRICS) for query in queries]
            trials[tuning] = Trial(tuning, {name: fmean(values[name].values()) for name in SELECTION_METRICS}, scores)
        count.tick()

    def best() -> Trial:
        return max(trials.values(), key=lambda trial: trial.score)  # among equal trials the first

    attempt(Tuning())
    for fusion in fusions():
        attempt(Tuning(fusion))
    for field, values in steps:
        tuning = best().tuning
        for value in values:
            attempt(replace(tuning, boosts=replace(tuning.boosts, **{field: value})))
    if boosts:
        tuning = best().tuning
        for fusion in fusions():
            attempt(replace(tuning, fusion=fusion))
    gains = _held_out_gains(list(trials.values()), trials[Tuning()])
    error = stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("inf")
    return Choice(len(gains), trials[Tuning()], best(), fmean(gains), error, list(trials.values()))


def _boost_steps(has_attributes: bool) -> Iterator[tuple[str, Sequence[float]]]:
    """Yield fields of FieldBoosts with the values to try, in order."""
    for field in BOOSTED_FIELDS:
        if field != "attributes":
            yield field, BOOSTS
    if has_attributes:
        yield "attributes", (0.0, *BOOSTS)
        yield "attributes_k1", ATTRIBUTE_K1S
        yield "attributes_b", ATTRIBUTE_BS


def fusions() -> Iterator[Fusion]:
    """Yield every kind of fusion with every share of the keyword list."""
    for kind in FUSION_KINDS:
        for share in SHARES:
            for constant in RANK_CONSTANTS if kind == "rrf" else (Fusion().rank_constant,):
                yield Fusion(kind, (share, round(1 - share, 1)), constant)


def ndcg_by_share(choice: Choice) -> dict[str, list[tuple[float, float]]]:
    """Return kind of fusion -> (share of the keyword list, nDCG@10), with boosts and rank constant of the best trial."""
    best = choice.best.tuning
    constant = best.fusion.rank_constant if best.fusion.kind == "rrf" else Fusion().rank_constant

    def belongs(trial: Trial, kind: FusionKind) -> bool:
        fusion = trial.tuning.fusion
        return fusion.kind == kind and trial.tuning.boosts == best.boosts and (kind != "rrf" or fusion.rank_constant == constant)

    return {
        kind: sorted((t.tuning.fusion.normalised_weights[0], t.measures["ndcg@10"]) for t in choice.trials if belongs(t, kind))
        for kind in FUSION_KINDS
    }


def _held_out_gains(trials: Sequence[Trial], base: Trial) -> list[float]:
    """Return the gain over base of each query, measured with the tuning that is best on the other parts' queries."""
    scores = np.array([trial.scores for trial in trials])  # (T, Q)
    gains = np.zeros(scores.shape[1])
    parts = np.arange(scores.shape[1]) % PARTS
    for part in set(parts.tolist()):
        others = scores[:, parts != part]
        best = others.mean(axis=1).argmax() if others.size else trials.index(base)
        gains[parts == part] = scores[best, parts == part] - np.array(base.scores)[parts == part]
    return [float(gain) for gain in gains]


def _judged_queries(catalog: CatalogFolder, split: str, now: datetime) -> tuple[Grades, Mapping[str, str]]:
    grades = open_grades(catalog, split, now)
    judged = {query: graded for query, graded in grades.items() if max(graded.values(), default=0) >= RELEVANT_GRADE}
    if not judged:
        raise InvalidInput(f"no query of split {split!r} in {catalog.path} has an open lot of grade 2 or 3; take another split")
    return judged, catalog.qrels(split).queries


def _pairs(candidates: Sequence[Candidate]) -> Scored:
    return [(candidate.item_id, candidate.score) for candidate in candidates]
