"""An embedded index in several shards, each in a process of its own: one search uses as many cores as there are shards.

A lot is in the shard that the hash of its id names. Every shard answers with its own best k, so that the best k of all answers are
those of one index that compares with every lot: what is exact in a shard is exact in all. Words are weighed by the statistics of
their shard, as OpenSearch does it.
"""

import logging
import os
import signal
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from retrieval.config.index_spec import IndexSpec
from retrieval.contracts.documents import Deletion, IndexedItem, UpsertReport, Vector
from retrieval.errors import GavelError, IndexUnavailable
from retrieval.files import seal_json, unseal_json
from retrieval.index.embedded.database import damaged
from retrieval.index.embedded.index import ENTRIES_A_COMMIT, EmbeddedIndex
from retrieval.index.embedded.title_terms import corrections
from retrieval.index.fusion import Fusion
from retrieval.index.hybrid_tuning import Tuning
from retrieval.index.port import Candidate, Filter, TopField
from retrieval.index.ranking import add_ranks, fuse_candidates, sort_by_score
from retrieval.index.validation import batches, entry_chars
from retrieval.processes import end_with_parent

logger = logging.getLogger(__name__)

SHARDS_FILE = "shards.json"
ASKED = (
    *("count", "damaged", "deletions", "upsert", "refresh", "prepare", "semantic", "keyword", "top"),
    *("near_titles", "fetch", "sample", "close"),
)

Found = TypeVar("Found")


class _Opened:
    """The index of a shard in its process.

    The first question opens it: a manager hands on the errors of an answer as they are, and those of a start as a traceback.
    """

    def __init__(self, *given: Any) -> None:
        self._given = given

    @cached_property
    def _index(self) -> EmbeddedIndex:
        return EmbeddedIndex(*self._given)

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **named: getattr(self._index, name)(*given, **named)


class _Shards(BaseManager):
    """Starts the process of a shard and speaks with it over a socket of this machine, a connection a thread."""


_Shards.register("open", _Opened, exposed=ASKED)


class Shard:
    """One shard in its process, which is started at once and again where it died."""

    def __init__(self, open_index: Callable[["_Shards"], Any]) -> None:
        """Start the process.

        Args:
            open_index: opens the shard's index with the means of its process.
        """
        self._open_index = open_index
        self._turn = threading.Lock()
        self._start()

    def ask(self, method: str, *given: Any, **named: Any) -> Any:
        """Call a method of the shard's index.

        Raises:
            IndexUnavailable: the process has died; the next call finds another one.
        """
        asked = self._index
        try:
            return asked._callmethod(method, given, named)
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            with self._turn:
                if self._index is asked:
                    self._start()
            raise IndexUnavailable(f"a shard's process ended ({error!r}) and was started again; ask again") from error

    def end(self) -> None:
        """Close the index and end the process."""
        try:
            self._index.close()
        except (ConnectionError, EOFError, FileNotFoundError):
            logger.warning("a shard's process had ended before it was closed; what it had acknowledged is on the disk")
        self._process.shutdown()

    def _start(self) -> None:
        self._process = _Shards(ctx=get_context("spawn"))
        self._process.start(_live_with_parent)
        self._index: Any = self._open_index(self._process)


class ShardedIndex:
    """One physical index of several shards. Threads may share it; their searches of a shard run side by side, too.

    Args:
        folder: what create() made; its name is the index's name.
        exact_below: see EmbeddedIndex.
        spec: see EmbeddedIndex.
        tuning: see EmbeddedIndex.

    Raises:
        IndexUnavailable: a shard is missing or damaged.
    """

    def __init__(self, folder: Path, exact_below: int, spec: IndexSpec | None, tuning: Tuning) -> None:
        self._folder = folder
        try:
            told = unseal_json((folder / SHARDS_FILE).read_bytes())
            self.tower_id, self.dimensions, count = str(told["tower_id"]), int(told["dimensions"]), int(told["shards"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise damaged(folder / SHARDS_FILE, error) from error
        folders = [_shard_folder(folder, number) for number in range(count)]
        self._tuning = tuning
        self._threads = ThreadPoolExecutor(4 * count, thread_name_prefix=folder.name)
        self._shards = list(self._threads.map(lambda f: Shard(partial(_open, f, exact_below, spec, tuning)), folders))
        self.closed = False
        try:
            self._of_all("count")  # opens each
        except GavelError:
            self.close()
            raise

    @classmethod
    def create(cls, folder: Path, tower_id: str, dimensions: int, language: str, shards: int) -> None:
        """Make an empty index in a new folder."""
        for number in range(shards):
            _shard_folder(folder, number).mkdir()
            EmbeddedIndex.create(_shard_folder(folder, number), tower_id, dimensions, language)
        told = {"tower_id": tower_id, "dimensions": dimensions, "shards": shards}
        (folder / SHARDS_FILE).write_text(seal_json(told))

    @property
    def name(self) -> str:
        """Physical name, auction-items-<tower_id>-<stamp>."""
        return self._folder.name

    def count(self, filters: Filter | None = None) -> int:
        """Return the number of lots in it, ended ones included; with a filter, of those that pass it."""
        return sum(self._of_all("count", filters))

    def damaged(self) -> int:
        """Number of lots that are left out because their rows are damaged."""
        return sum(self._of_all("damaged"))

    def deletions(self) -> list[Deletion]:
        """The lots that were withdrawn and did not come back."""
        return [gone for of_shard in self._of_all("deletions") for gone in of_shard]

    def upsert(self, entries: Iterable[IndexedItem | Deletion], *, overwrite: bool = False) -> UpsertReport:
        """Write lots and carry out tombstones, those of a lot in their order; what is acknowledged is durable."""
        report = UpsertReport()
        for batch in batches(entries, ENTRIES_A_COMMIT * len(self._shards), entry_chars):
            parts: list[list[IndexedItem | Deletion]] = [[] for _ in self._shards]
            for entry in batch:
                parts[self._number(entry.item_id)].append(entry)
            for written in self._each(lambda shard, part: shard.ask("upsert", part, overwrite=overwrite), parts):
                report += written
        return report

    def refresh(self) -> None:
        """Make all acknowledged writes visible to the next search."""
        self._of_all("refresh")

    def prepare(self) -> None:
        """Build and save all that a first search needs."""
        self._of_all("prepare")

    def semantic(self, vector: Vector, k: int, filters: Filter, *, exact: bool = False) -> list[Candidate]:
        """The lots whose vectors have the highest cosine with `vector`; exact=True compares with every allowed lot."""
        found = self._best("semantic", k, vector, k, filters, exact=exact)
        return add_ranks(found, semantic=found)

    def keyword(self, text: str, k: int, filters: Filter) -> list[Candidate]:
        """The lots whose text has the highest BM25 score for `text` among those of their shard."""
        found = self._best("keyword", k, text, k, filters)
        return add_ranks(found, keyword=found)

    def hybrid(self, text: str, vector: Vector, k: int, filters: Filter, fusion: Fusion | None = None) -> list[Candidate]:
        """The k best of semantic() and of keyword(), fused as the request says, else as was tuned."""
        return fuse_candidates(
            self.keyword(text, k, filters), self.semantic(vector, k, filters), fusion or self._tuning.fusion, max(k, 0)
        )

    def top(self, field: TopField, k: int, filters: Filter) -> list[Candidate]:
        """The lots with the most bids, or those listed last; lots that have no such number do not come."""
        return self._best("top", k, field, k, filters)

    def corrections(self, words: Sequence[str]) -> dict[str, str]:
        """What words in lower case that no shard has were meant to be: word -> the nearest word of a title in any of them."""
        told: list[dict[str, dict[str, int]]] = self._of_all("near_titles", words)
        unknown = [word for word in words if all(word in near for near in told)]
        return corrections({word: sum((Counter(near[word]) for near in told), Counter()) for word in unknown})

    def fetch(self, item_ids: Sequence[str]) -> list[Candidate]:
        """The stored lots of these ids, in the order of the ids, score 0; unknown ids are left out, ended lots are not."""
        parts: list[list[str]] = [[] for _ in self._shards]
        for item_id in dict.fromkeys(item_ids):
            parts[self._number(item_id)].append(item_id)
        found = {lot.item_id: lot for lots in self._each(lambda shard, part: shard.ask("fetch", part), parts) for lot in lots}
        return [found[item_id] for item_id in item_ids if item_id in found]

    def sample(self, count: int, filters: Filter, seed: int) -> list[Vector]:
        """At most `count` stored (dimensions,) vectors of random lots that pass a filter, from all shards alike."""
        drawn = [vector for vectors in self._of_all("sample", count, filters, seed) for vector in vectors]
        return Random(seed).sample(drawn, min(count, len(drawn)))

    def within(self, seconds: float) -> "ShardedIndex":
        """Itself: what is computed here cannot be given up."""
        return self

    def close(self) -> None:
        """End the shards' processes."""
        if self.closed:
            return
        self.closed = True
        list(self._threads.map(Shard.end, self._shards))
        self._threads.shutdown()

    def _best(self, method: str, k: int, *given: Any, **named: Any) -> list[Candidate]:
        """The k best of what every shard finds, by descending score, ties by item_id."""
        return sort_by_score(hit for found in self._of_all(method, *given, **named) for hit in found)[: max(k, 0)]

    def _of_all(self, method: str, *given: Any, **named: Any) -> list[Any]:
        return self._each(lambda shard, _: shard.ask(method, *given, **named), self._shards)

    def _each(self, ask: Callable[[Shard, Any], Found], parts: Sequence[Any]) -> list[Found]:
        """Ask all shards at once, each with its part; the answers in the order of the shards.

        Raises:
            IndexUnavailable: no thread can be started, or the index is closed; or as the shards raise it.
        """
        try:
            answers = self._threads.map(ask, self._shards, parts)
        except RuntimeError as error:
            raise IndexUnavailable(f"the shards of {self.name} cannot be asked ({error}); ask again") from error
        return list(answers)

    def _number(self, item_id: str) -> int:
        return shard_of(item_id, len(self._shards))


def shard_of(item_id: str, shards: int) -> int:
    """The shard that a lot is in, from 0: the CRC-32 of its id's UTF-8, the same on every machine."""
    return zlib.crc32(item_id.encode(errors="surrogatepass")) % shards


def is_sharded(folder: Path) -> bool:
    """Whether an index lies in shards."""
    return (folder / SHARDS_FILE).is_file()


def _shard_folder(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:02}"


def _open(folder: Path, exact_below: int, spec: IndexSpec | None, tuning: Tuning, process: Any) -> Any:
    return process.open(folder, exact_below, spec, tuning)


def _live_with_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it does, however it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(partial(os._exit, 0))  # what was acknowledged is on the disk
