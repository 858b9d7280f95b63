"""Choice of the index type by the number of vectors and the memory, for an index whose settings name none.

Few vectors are compared one by one, which is exact. Otherwise the index is an HNSW graph if it fits into the memory and is built
within a night. Otherwise it is the quickest type of the calibration that fits (retrieval.index.ann.advice).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

from retrieval.config.index_spec import IndexSpec
from retrieval.errors import InvalidInput
from retrieval.files import replace_file
from retrieval.index.ann.advice import HEADROOM, Advice, Calibration, advise

MAX_FLAT_ITEMS = 10_000  # comparing with so many vectors takes about 0.2 ms
TARGET_RECALL = 0.98  # recall@50 that the chosen type must reach
MAX_BUILD_HOURS = 12.0  # a longer build does not end in one night
RECONSIDER_GROWTH = 2  # the choice is made again with so many times the vectors of the last choice
GRAPHS = ("hnsw", "hnsw_sq8")


@dataclass(frozen=True, slots=True)
class IndexChoice:
    """A chosen index type.

    Attributes:
        spec: spec of the index, as IndexSpec.parse() reads it.
        reason: reason for the choice, one sentence.
        items: number of vectors at the choice.
        memory_bytes: memory that the index may use.
    """

    spec: str
    reason: str
    items: int
    memory_bytes: int

    @classmethod
    def load(cls, path: Path) -> "IndexChoice | None":
        """Read a choice of save(); None if there is no such file, or it is damaged."""
        try:
            choice = cls(**json.loads(path.read_text(encoding="utf-8")))
            IndexSpec.parse(choice.spec)
        except (OSError, ValueError, TypeError, AttributeError, InvalidInput):
            return None
        return choice

    def save(self, path: Path) -> None:
        """Write the choice as JSON."""
        replace_file(path, json.dumps(asdict(self), indent=2) + "\n")


@dataclass(frozen=True, slots=True)
class AutomaticIndex:
    """The rules by which an index type is chosen. It takes the place of an IndexSpec.

    Attributes:
        memory_bytes: memory that the vector index may use, > 0.
        graph: parameters of a graph: m, ef_construction and ef_search.
    """

    memory_bytes: int
    graph: Mapping[str, int] = field(default_factory=dict)

    def divided(self, shards: int) -> "AutomaticIndex":
        """Return the rules for one of several shards, which share the memory."""
        return replace(self, memory_bytes=max(self.memory_bytes // shards, 1))

    def is_stale(self, choice: IndexChoice, items: int) -> bool:
        """True if the choice should be made again: twice as many vectors as at the choice, or another memory."""
        return choice.memory_bytes != self.memory_bytes or items > max(RECONSIDER_GROWTH * choice.items, MAX_FLAT_ITEMS)

    def choose(self, items: int, dimensions: int) -> IndexChoice:
        """Choose the index type for a number of vectors.

        Args:
            items: number of vectors, >= 0.
            dimensions: length of the vectors.
        """
        if items <= MAX_FLAT_ITEMS:
            reason = f"{items:,} vectors are compared one by one, which is exact and takes less than a millisecond"
            return IndexChoice("flat", reason, items, self.memory_bytes)
        advices = advise(_calibration(), items, dimensions, self.memory_bytes, TARGET_RECALL)
        chosen, why = self._select(advices)
        spec = IndexSpec.parse(chosen.spec)
        if spec.index_type in GRAPHS:
            spec = IndexSpec.parse(spec.index_type, self.graph)
        elif "nlist" in str(spec):
            spec = replace(spec, nlist=0)  # derived from the number of vectors at training
        about = "an estimated" if chosen.estimated else "about"
        reason = (
            f"{why} for {items:,} vectors in {format_bytes(self.memory_bytes)}: {format_bytes(chosen.memory_bytes)}, "
            f"{about} {chosen.p50_ms:g} ms at recall@50 {chosen.recall:g}"
        )
        return IndexChoice(str(spec), reason, items, self.memory_bytes)

    def _select(self, advices: list[Advice]) -> tuple[Advice, str]:
        """Return the advice to follow, and the reason without its numbers."""
        suitable = [advice for advice in advices if not advice.why_not]
        quick = [advice for advice in suitable if advice.build_hours <= MAX_BUILD_HOURS] or suitable
        graph = next((advice for advice in quick if advice.family == "hnsw"), None)
        if graph is not None:
            return graph, "a graph with full vectors, because it fits,"
        if quick:
            return quick[0], "the quickest type that fits"
        reaching = [advice for advice in advices if advice.reaches] or advices
        least = min(reaching, key=lambda advice: advice.memory_bytes)
        remedy = "raise GAVEL_INDEX_MEMORY or set GAVEL_INDEX_SHARDS on more machines"
        return least, f"no type fits into {HEADROOM:.0%} of the memory ({remedy}), so this is the smallest"


def machine_memory() -> int:
    """Return the bytes of memory that this process may use: those of the machine, or of its control group if that has fewer."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [machine]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # no such group, or "max", which is no limit
            continue
    return min(limits)


def format_bytes(size: int) -> str:
    """Return a size such as "512 MB" or "6.4 GB"."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"


@cache
def _calibration() -> Calibration:
    return Calibration.load()
