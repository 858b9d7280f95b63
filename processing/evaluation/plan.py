"""What an evaluation measures: the ways of searching by name, and the plan that chooses among them."""

from dataclasses import dataclass
from pathlib import Path

from catalog.folder import CatalogFolder
from retrieval.errors import InvalidInput
from retrieval.evaluation.metrics import RECALL_DEPTHS

KEYWORD, SEMANTIC, HYBRID, RERANKED = "BM25", "semantic", "hybrid", "hybrid, re-ranked"
ZERO_SHOT, ZERO_SHOT_FUSED = "zero-shot", "BM25 + zero-shot"
DEPTH = RECALL_DEPTHS[-1]
LATENCY_QUERIES = 200
CANDIDATES = 50


@dataclass(frozen=True)
class Plan:
    """What is measured, and how.

    Attributes:
        catalog: its judgments are measured against.
        release: holds the lots of the split, embedded by the tower.
        tower: folder of the tower that encodes the queries.
        booster: file of the re-ranker; None leaves the re-ranked search out.
        split: val for choices, test for the report.
        zero_shot: preset, hub name or folder of a sentence encoder to compare with; empty for none.
        depth: ranks of every run, >= 1; measures that look deeper are left out.
        baseline: the way of searching that the others are tested against.
        latency_queries: searches of every way that are timed one by one, >= 1.
        candidates: first-stage candidates that are re-ranked, as in serving.
        seed: of the tests, and of the samples that are timed and drawn.
    """

    catalog: CatalogFolder
    release: Path
    tower: Path
    booster: Path | None = None
    split: str = "test"
    zero_shot: str = ""
    depth: int = DEPTH
    baseline: str = KEYWORD
    latency_queries: int = LATENCY_QUERIES
    candidates: int = CANDIDATES
    seed: int = 0

    @property
    def ways(self) -> tuple[str, ...]:
        """The ways of searching that it measures, in the order of the report."""
        untrained = (KEYWORD, ZERO_SHOT, ZERO_SHOT_FUSED) if self.zero_shot else (KEYWORD,)
        return (*untrained, SEMANTIC, HYBRID, *((RERANKED,) if self.booster else ()))

    def check(self) -> None:
        """Hold the plan against what there is.

        Raises:
            InvalidInput: it names an unknown baseline, or a number below 1.
        """
        if self.baseline not in self.ways:
            raise InvalidInput(f"there is no way of searching {self.baseline!r} here; there are {', '.join(map(repr, self.ways))}")
        if self.depth < 1 or self.latency_queries < 1:
            raise InvalidInput(f"depth ({self.depth}) and timed queries ({self.latency_queries}) must be 1 or more")
