"""Choose by validation: towers with or without photos, and hybrid or keyword search.

Systems are compared query by query. A part is stored only if its mean gain is above the gain's standard error, as for tunings.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.training.validation import DEPTH, QueryMetrics, Validation, ValidationMetrics
from retrieval.config.settings import Settings
from retrieval.index.embedded.bm25 import Bm25Index, Bm25Parameters
from retrieval.index.fusion import Fusion, fuse
from retrieval.index.hybrid_tuning import DEFAULT_BOOSTS

KEYWORD, TEXT, TEXT_PHOTO, HYBRID = "keyword", "text", "text + photo", "hybrid"
METRIC_WORDS = {"quality": "mean of Recall@50 and nDCG@10", "recall_at_50": "Recall@50"}

Results = Sequence[Sequence[int]] | NDArray[np.int64]


@dataclass(frozen=True)
class Gain:
    """The gain of one system over another on the same queries.

    Attributes:
        mean: mean difference of the selection metric.
        standard_error: standard error of the mean; infinite for fewer than two queries.
    """

    mean: float
    standard_error: float

    @classmethod
    def of(cls, system: QueryMetrics, base: QueryMetrics, metric: str) -> "Gain":
        """Compare two systems by an attribute of QueryMetrics."""
        differences = getattr(system, metric) - getattr(base, metric)  # (J,)
        count = len(differences)
        error = float(differences.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
        return cls(float(differences.mean()) if count else 0.0, error)

    @property
    def is_certain(self) -> bool:
        """True if the mean is above its standard error."""
        return self.mean > self.standard_error

    def __str__(self) -> str:
        return f"{self.mean:+.3f}, standard error {self.standard_error:.3f}"


@dataclass(frozen=True)
class SearchChoice:
    """Systems measured on the validation queries, and what was chosen.

    Attributes:
        queries: number of validation queries with a relevant item.
        pseudo_queries: True if they were made from the items' own words.
        metrics: system -> its means: "keyword", "text" and "text + photo" where such towers were trained, and "hybrid" with the
            stored towers.
        reads_photos: True if the stored towers read photos.
        mode: recommended mode of searches.
        lines: the choices and their reasons, in sentences.
    """

    queries: int
    pseudo_queries: bool
    metrics: Mapping[str, ValidationMetrics]
    reads_photos: bool
    mode: Literal["hybrid", "keyword"]
    lines: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the choice as JSON values."""
        return asdict(self)


def gains_by_photos(photo: QueryMetrics, text: QueryMetrics, metric: str) -> bool:
    """Return True if towers that read photos are to be stored. Without a judged query nothing speaks against them."""
    return not len(text.ndcg_at_10) or Gain.of(photo, text, metric).is_certain


def choose_search(
    validation: Validation, results: Results, trained: Mapping[str, QueryMetrics], metric: str, *, stored: str, reason: str = ""
) -> SearchChoice:
    """Compare the stored towers with keyword and hybrid search, and say what was chosen.

    Args:
        validation: validation queries.
        results: rows of the items that the stored towers find, best first.
        trained: TEXT or TEXT_PHOTO -> metrics of trained towers.
        metric: attribute of QueryMetrics that chooses.
        stored: TEXT or TEXT_PHOTO, the kind of the stored towers.
        reason: why photos are read or not, where towers of one kind were trained.
    """
    keyword_results = search_keywords(validation)
    keyword = validation.metrics(keyword_results)
    hybrid = validation.metrics(fuse_results(keyword_results, results))
    systems = {KEYWORD: keyword, **{name: trained[name] for name in (TEXT, TEXT_PHOTO) if name in trained}, HYBRID: hybrid}
    queries = len(keyword.ndcg_at_10)
    lines = [_measured(systems, queries, metric)] if queries else ["no val query has a relevant lot: nothing was compared"]
    lines.append(_photos(trained, metric, stored=stored == TEXT_PHOTO, reason=reason, pseudo=validation.is_pseudo))
    loss = Gain.of(keyword, hybrid, metric)
    loses = queries > 0 and loss.is_certain
    if queries:
        lines.append(_search(loss, systems[stored], keyword, metric, pseudo=validation.is_pseudo))
    return SearchChoice(
        queries,
        validation.is_pseudo,
        {name: metrics.mean() for name, metrics in systems.items()} if queries else {},
        stored == TEXT_PHOTO,
        "keyword" if loses and not validation.is_pseudo else "hybrid",
        [line for line in lines if line],
    )


def search_keywords(validation: Validation) -> list[list[int]]:
    """Return the rows of the first 50 items of each query by BM25, as an untuned index searches texts and attributes."""
    language = Settings.from_env().language
    texts = Bm25Index.build(((row, text) for row, (text, _) in enumerate(validation.item_words)), language)
    attributes = Bm25Index.build(
        ((row, words) for row, (_, words) in enumerate(validation.item_words)),
        language,
        Bm25Parameters(DEFAULT_BOOSTS.attributes_k1, DEFAULT_BOOSTS.attributes_b),
    )
    results = []
    for query in validation.query_texts:
        scores = np.zeros(len(validation.item_words))
        scores[texts.row_ids] = texts.scores(query)
        scores[attributes.row_ids] += DEFAULT_BOOSTS.attributes * attributes.scores(query)
        order = np.argsort(-scores, kind="stable")[:DEPTH]
        results.append([int(row) for row in order if scores[row] > 0])
    return results


def fuse_results(keyword: Results, semantic: Results) -> list[list[int]]:
    """Fuse the first 50 items of both lists of each query as an untuned hybrid search does."""

    def scored(rows: Sequence[int] | NDArray[np.int64]) -> list[tuple[str, float]]:
        return [(f"{row:012}", 1 / rank) for rank, row in enumerate(rows[:DEPTH], 1)]

    fusion = Fusion()
    assert fusion.kind == "rrf"  # which reads ranks alone
    return [
        [int(item) for item, _ in fuse(scored(words), scored(vectors), fusion)[:DEPTH]]
        for words, vectors in zip(keyword, semantic, strict=True)
    ]


def _measured(systems: Mapping[str, QueryMetrics], queries: int, metric: str) -> str:
    values = ", ".join(f"{name} {float(getattr(metrics, metric).mean()):.3f}" for name, metrics in systems.items())
    return f"on {queries:,} val queries, {METRIC_WORDS[metric]}: {values}"


def _photos(trained: Mapping[str, QueryMetrics], metric: str, *, stored: bool, reason: str, pseudo: bool) -> str:
    if TEXT in trained and TEXT_PHOTO in trained and len(trained[TEXT].ndcg_at_10):
        gain = Gain.of(trained[TEXT_PHOTO], trained[TEXT], metric)
        if stored:
            return f"photos are read: text + photo gains over text ({gain})"
        caveat = "; these queries were made from the lots' own words, judged ones may say otherwise" if pseudo else ""
        return (
            f"photos are not read: text + photo does not gain over text ({gain}){caveat}; `--use-photos always` reads them all the "
            "same, for searches by photo"
        )
    return f"photos are {'' if stored else 'not '}read: {reason}" if reason else ""


def _search(loss: Gain, semantic: QueryMetrics, keyword: QueryMetrics, metric: str, *, pseudo: bool) -> str:
    alone = Gain.of(semantic, keyword, metric).mean
    if not loss.is_certain:
        return (
            f"search: hybrid, which is {-loss.mean:+.3f} against keywords alone (standard error {loss.standard_error:.3f}); "
            f"vectors alone are {alone:+.3f}"
        )
    lost = f"keywords alone gain over hybrid ({loss})"
    if pseudo:
        return (
            f"search: hybrid; {lost}, but these queries were made from the lots' own words, which favours keywords: measure with "
            "judged queries, or compare with --mode keyword"
        )
    return f"search: --mode keyword, because {lost}; `gavel serve` and `gavel search` follow it, and --mode hybrid overrides it"
