"""Search an embedded index in several shards, each in its own process, so that one search uses as many cores as there are shards.

A hash of the item's id selects its shard. Every shard answers with its own k best items, so exact searches find the same items as
in a single index. BM25 takes the statistics of words from each shard, so keyword scores may differ from those of a single index.
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
from tempfile import gettempdir
from typing import Any, TypeVar
from uuid import uuid4

from retrieval.config.index_spec import IndexSpec
from retrieval.contracts.documents import Deletion, IndexedItem, UpsertReport, Vector
from retrieval.contracts.item_states import ItemState, StateOutcome, StateUpdate
from retrieval.contracts.items import epoch_ms
from retrieval.errors import GavelError, IndexUnavailable
from retrieval.files import seal_json, unseal_json
from retrieval.index.ann.automatic import AutomaticIndex
from retrieval.index.embedded.database import damaged
from retrieval.index.embedded.index import ENTRIES_PER_COMMIT, EmbeddedIndex, VectorIndexInfo
from retrieval.index.embedded.states import STATES_FILE, StateDatabase
from retrieval.index.embedded.title_terms import corrections
from retrieval.index.filters import Filter, utc_now
from retrieval.index.fusion import Fusion
from retrieval.index.hybrid_tuning import Tuning
from retrieval.index.port import Candidate, TopField
from retrieval.index.ranking import add_ranks, fuse_candidates, sort_by_score
from retrieval.index.validation import batches, entry_chars
from retrieval.processes import end_with_parent

logger = logging.getLogger(__name__)

SHARDS_FILE = "shards.json"
MAX_SOCKET_FOLDER = 70  # bytes of the temporary folder's path, so that multiprocessing's socket in it stays below 104
REMOTE_METHODS = (
    *("count", "damaged", "deletions", "newest_update", "upsert", "refresh", "prepare", "semantic", "keyword", "top"),
    *("near_titles", "fetch", "known", "sample", "describe_vectors", "close"),
)

T = TypeVar("T")


class _LazyIndex:
    """The index of a shard in the shard's process, opened by the first call of a method.

    The constructor does not open it, because a manager passes on errors of a constructor only as a traceback. Errors of a method
    are passed on unchanged.
    """

    def __init__(self, *args: Any) -> None:
        self._args = args

    @cached_property
    def _index(self) -> EmbeddedIndex:
        return EmbeddedIndex(*self._args)

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: getattr(self._index, name)(*args, **options)


class _ShardManager(BaseManager):
    """A manager that starts the process of a shard and calls it over a local socket, with one connection per thread."""

    open: Callable[..., Any]  # added by register()


_ShardManager.register("open", _LazyIndex, exposed=REMOTE_METHODS)


def _socket_path() -> str | None:
    """Return a path in /tmp if multiprocessing's own, in the temporary folder, would be too long for a socket; otherwise None."""
    return f"/tmp/gavel-{uuid4().hex}" if len(os.fsencode(gettempdir())) > MAX_SOCKET_FOLDER else None


class Shard:
    """One shard in a process of its own, which is started at once, and again after it died.

    Args:
        args: arguments of EmbeddedIndex.
    """

    def __init__(self, *args: Any) -> None:
        self._args = args
        self._start_lock = threading.Lock()
        self._start()

    def call(self, method: str, *args: Any, **options: Any) -> Any:
        """Call a method of the shard's index, and return its result.

        Raises:
            IndexUnavailable: the process has died. The next call uses a new process.
        """
        index = self._index
        try:
            return index._callmethod(method, args, options)
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            with self._start_lock:
                if self._index is index:
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
        self._process = _ShardManager(_socket_path(), ctx=get_context("spawn"))
        self._process.start(_end_with_parent)
        self._index: Any = self._process.open(*self._args)


class ShardedIndex:
    """One physical index of several shards. Threads may share it; their searches run in parallel in every shard.

    Args:
        folder: folder that create() filled; its name is the name of the index.
        exact_below: see EmbeddedIndex.
        spec: see EmbeddedIndex.
        tuning: see EmbeddedIndex.
        states: see EmbeddedIndex; None takes a file in the folder.

    Raises:
        IndexUnavailable: a shard is missing or damaged.
    """

    def __init__(
        self,
        folder: Path,
        exact_below: int,
        spec: IndexSpec | AutomaticIndex | None,
        tuning: Tuning,
        states: Path | None = None,
    ) -> None:
        self._folder = folder
        try:
            meta = unseal_json((folder / SHARDS_FILE).read_bytes())
            self.tower_id, self.dimensions, count = str(meta["tower_id"]), int(meta["dimensions"]), int(meta["shards"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise damaged(folder / SHARDS_FILE, error) from error
        folders = [_shard_folder(folder, number) for number in range(count)]
        spec = spec.divided(count) if isinstance(spec, AutomaticIndex) else spec
        self._tuning = tuning
        states = states or folder / STATES_FILE
        self._states = StateDatabase(states)
        self._threads = ThreadPoolExecutor(4 * count, thread_name_prefix=folder.name)
        self._shards = list(self._threads.map(lambda shard_folder: Shard(shard_folder, exact_below, spec, tuning, states), folders))
        self.closed = False
        try:
            self._call_all("count")  # opens each shard
        except GavelError:
            self.close()
            raise

    @classmethod
    def create(cls, folder: Path, tower_id: str, dimensions: int, language: str, shards: int) -> None:
        """Create an empty index of several shards.

        Args:
            folder: new, empty folder.
            tower_id: id of the tower of the vectors.
            dimensions: length of the vectors.
            language: language of words in Latin letters.
            shards: number of shards.
        """
        for number in range(shards):
            _shard_folder(folder, number).mkdir()
            EmbeddedIndex.create(_shard_folder(folder, number), tower_id, dimensions, language)
        meta = {"tower_id": tower_id, "dimensions": dimensions, "shards": shards}
        (folder / SHARDS_FILE).write_text(seal_json(meta))

    @property
    def name(self) -> str:
        """Return the physical name, <alias>-<tower_id>-<UTC stamp>."""
        return self._folder.name

    def count(self, filters: Filter | None = None) -> int:
        """Return the number of items, ended ones included; with filters, the number of items that match."""
        return sum(self._call_all("count", filters))

    def damaged(self) -> int:
        """Return the number of items that are left out because their rows are damaged."""
        return sum(self._call_all("damaged"))

    def newest_update(self) -> int | None:
        """Return the latest `updated_at` of an item, in ms since 1970; None if no item has one."""
        return max((newest for newest in self._call_all("newest_update") if newest is not None), default=None)

    def deletions(self) -> list[Deletion]:
        """Return the deletions of items that were not written again."""
        return [deletion for deletions in self._call_all("deletions") for deletion in deletions]

    def upsert(self, entries: Iterable[IndexedItem | Deletion], *, overwrite: bool = False) -> UpsertReport:
        """Write items and apply deletions, those of one id in their order; acknowledged writes are durable."""
        report = UpsertReport()
        for batch in batches(entries, ENTRIES_PER_COMMIT * len(self._shards), entry_chars):
            parts: list[list[IndexedItem | Deletion]] = [[] for _ in self._shards]
            for entry in batch:
                parts[shard_of(entry.item_id, len(parts))].append(entry)
            for part_report in self._map(lambda shard, part: shard.call("upsert", part, overwrite=overwrite), parts):
                report += part_report
        return report

    def refresh(self) -> None:
        """Make all acknowledged writes visible to the next search."""
        self._call_all("refresh")

    def prepare(self) -> None:
        """Build and save everything that a first search needs."""
        self._call_all("prepare")

    def semantic(self, vector: Vector, k: int, filters: Filter, *, exact: bool = False) -> list[Candidate]:
        """Return the items with the highest cosine to `vector`; exact=True compares with every matching item."""
        results = self._top_k("semantic", k, vector, k, filters, exact=exact)
        return add_ranks(results, semantic=results)

    def keyword(self, text: str, k: int, filters: Filter) -> list[Candidate]:
        """Return the items with the highest BM25 score for `text` in their shard; items that share no word are left out."""
        results = self._top_k("keyword", k, text, k, filters)
        return add_ranks(results, keyword=results)

    def hybrid(self, text: str, vector: Vector, k: int, filters: Filter, fusion: Fusion | None = None) -> list[Candidate]:
        """Return the k best of the fused lists of semantic() and keyword(); fusion=None takes the tuned fusion."""
        return fuse_candidates(
            self.keyword(text, k, filters), self.semantic(vector, k, filters), fusion or self._tuning.fusion, max(k, 0)
        )

    def top(self, field: TopField, k: int, filters: Filter) -> list[Candidate]:
        """Return the items with the highest values of a field; items without the field are left out."""
        return self._top_k("top", k, field, k, filters)

    def corrections(self, words: Sequence[str]) -> dict[str, str]:
        """Return misspelt word -> the most similar title word of all shards, for words in lower case that no shard has."""
        near_titles: list[dict[str, dict[str, int]]] = self._call_all("near_titles", words)
        unknown = [word for word in words if all(word in near for near in near_titles)]
        return corrections({word: sum((Counter(near[word]) for near in near_titles), Counter()) for word in unknown})

    def fetch(self, item_ids: Sequence[str]) -> list[Candidate]:
        """Return the items of these ids in the order of the ids; unknown ids are left out, ended items are not."""
        parts: list[list[str]] = [[] for _ in self._shards]
        for item_id in dict.fromkeys(item_ids):
            parts[shard_of(item_id, len(parts))].append(item_id)
        items = {item.item_id: item for part in self._map(lambda shard, part: shard.call("fetch", part), parts) for item in part}
        return [items[item_id] for item_id in item_ids if item_id in items]

    def update_states(self, updates: Sequence[StateUpdate]) -> list[StateOutcome]:
        """Carry out updates of states, in order; acknowledged updates are durable, and the next search uses them."""
        outcomes = self._states.write(updates, epoch_ms(utc_now()))
        parts: list[list[str]] = [[] for _ in self._shards]
        for item_id in {outcome.item_id for outcome in outcomes}:
            parts[shard_of(item_id, len(parts))].append(item_id)
        known = set().union(*self._map(lambda shard, part: shard.call("known", part), parts))
        return [one if one.item_id in known else StateOutcome(one.item_id, "unknown") for one in outcomes]

    def states(self, item_ids: Sequence[str]) -> dict[str, ItemState]:
        """Return item_id -> state of these items; items without a state are left out."""
        return self._states.of_items(item_ids)

    def state_stamp(self, filters: Filter) -> int:
        """Return a number that changes when an update of a state may have made an item match the filters."""
        return self._states.stamp(filters)

    def sample(self, count: int, filters: Filter, seed: int) -> list[Vector]:
        """Return at most `count` stored (D,) vectors of random matching items of all shards."""
        vectors = [vector for part in self._call_all("sample", count, filters, seed) for vector in part]
        return Random(seed).sample(vectors, min(count, len(vectors)))

    def describe_vectors(self) -> list[VectorIndexInfo]:
        """Return a description of each shard's vector index."""
        return [info for infos in self._call_all("describe_vectors") for info in infos]

    def within(self, seconds: float) -> "ShardedIndex":
        """Return this index without a time limit, because an embedded search cannot be cancelled."""
        return self

    def close(self) -> None:
        """End the shards' processes."""
        if self.closed:
            return
        self.closed = True
        list(self._threads.map(Shard.end, self._shards))
        self._threads.shutdown()
        self._states.close()

    def _top_k(self, method: str, k: int, *args: Any, **options: Any) -> list[Candidate]:
        """Call a search of all shards; return the k best results of all, by descending score, ties by item_id."""
        return sort_by_score(result for results in self._call_all(method, *args, **options) for result in results)[: max(k, 0)]

    def _call_all(self, method: str, *args: Any, **options: Any) -> list[Any]:
        return self._map(lambda shard, _: shard.call(method, *args, **options), self._shards)

    def _map(self, call: Callable[[Shard, Any], T], parts: Sequence[Any]) -> list[T]:
        """Call all shards in parallel, each with its part, and return the results in the order of the shards.

        Raises:
            IndexUnavailable: no thread can be started, the index is closed, or a shard raises it.
        """
        try:
            results = self._threads.map(call, self._shards, parts)
        except RuntimeError as error:
            raise IndexUnavailable(f"the shards of {self.name} cannot be asked ({error}); ask again") from error
        return list(results)


def shard_of(item_id: str, shards: int) -> int:
    """Return the number of an item's shard, from 0, by the CRC-32 of its id; it is the same on every machine."""
    return zlib.crc32(item_id.encode(errors="surrogatepass")) % shards


def is_sharded(folder: Path) -> bool:
    """True if the index in a folder is a ShardedIndex."""
    return (folder / SHARDS_FILE).is_file()


def _shard_folder(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:02}"


def _end_with_parent() -> None:
    """Ignore Ctrl-C, which the parent handles, and end this process when the parent ends, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(partial(os._exit, 0))  # loses nothing, because acknowledged writes are on the disk
