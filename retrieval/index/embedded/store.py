"""Manage a folder of embedded indices, one of them live (docs/adr/0002-embedded-index.md).

root/auction-items.json                      the alias: holds the names of the live index and of the one before
root/auction-items-<tower_id>-<stamp>/       one physical index
    lots.sqlite                              all acknowledged items and deletions
    lots.json                                checksum of lots.sqlite at publication
    <index_type>.faiss                       vectors of earlier commits, for a quick start; built again if missing or damaged
    bm25-<commit>…/                          inverted lists, likewise
    title-words-<commit>.<analysis>.json     terms of titles, likewise
    shard-00/, …, shards.json                instead of these files in a sharded index; each shard has a folder of such files
"""

import json
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from retrieval.config.index_spec import IndexSpec
from retrieval.errors import IndexMissing, IndexUnavailable, InvalidInput
from retrieval.files import building_folder, reason_of, replace_file
from retrieval.index.ann.automatic import AutomaticIndex
from retrieval.index.embedded.database import damaged
from retrieval.index.embedded.index import EXACT_BELOW, EmbeddedIndex
from retrieval.index.embedded.sharding import ShardedIndex, is_sharded
from retrieval.index.embedded.states import STATES_FILE, mend_states
from retrieval.index.filters import Filter, utc_now
from retrieval.index.hybrid_tuning import Tuning, untuned
from retrieval.index.port import IndexSummary, created_at, index_name
from retrieval.text.languages import DEFAULT_LANGUAGE, check_language

__all__ = ["EmbeddedIndex", "EmbeddedStore"]

logger = logging.getLogger(__name__)

OpenIndex = EmbeddedIndex | ShardedIndex


class EmbeddedStore:
    """A folder of embedded indices. Each index is opened once and shared between threads.

    Args:
        root: path of the folder, which is created with the first index.
        alias: name of the alias.
        exact_below: see EmbeddedIndex.
        language: language of words in Latin letters in new indices; a key of SNOWBALL in retrieval.text.stemming.
        spec: see EmbeddedIndex; it may differ from the spec with which an index was built.
        tuning: tower_id -> tuning of searches; called when an index of that tower is opened.
        shards: number of shards of new indices, each in its own process; 1 has no shards and runs in this process.
    """

    def __init__(
        self,
        root: Path,
        alias: str = "auction-items",
        *,
        exact_below: int = EXACT_BELOW,
        spec: IndexSpec | AutomaticIndex | None = None,
        language: str = DEFAULT_LANGUAGE,
        tuning: Callable[[str], Tuning] = untuned,
        shards: int = 1,
    ) -> None:
        check_language(language)
        self._root = root
        self._language = language
        self._alias = alias
        self._exact_below = exact_below
        self._spec = spec
        self._tuning = tuning
        self._shards = shards
        self._pointer = root / f"{alias}.json"
        self._states = root / f"{alias}.{STATES_FILE}"
        self._open_indices: dict[str, OpenIndex] = {}
        self._lock = threading.Lock()

    def create(self, tower_id: str, dimensions: int) -> OpenIndex:
        """Create an empty index for a tower, and return it; it is not live."""
        name = index_name(self._alias, tower_id, utc_now())
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            mend_states(self._states)
            with building_folder(self._root / name) as folder:
                if self._shards > 1:
                    ShardedIndex.create(folder, tower_id, dimensions, self._language, self._shards)
                else:
                    EmbeddedIndex.create(folder, tower_id, dimensions, self._language)
        except OSError as error:
            raise IndexUnavailable(
                f"no index can be made in {self._root}: {reason_of(error)}; free space or choose another folder"
            ) from error
        return self._open(name)

    def find(self, tower_id: str) -> OpenIndex | None:
        """Return the live index if it is of this tower, else the newest index of this tower, else None."""
        names = [name for name in self.names() if self._tower_of(name) == tower_id]
        if not names:
            return None
        live = self._live_name()
        return self._open(live if live in names else names[0])

    def live(self) -> OpenIndex:
        """Return the index that the alias names.

        Raises:
            IndexMissing: nothing was published yet.
        """
        name = self._live_name()
        if name is None:
            raise IndexMissing(f"{self._root} holds no live index {self._alias!r}; build one with `gavel index`")
        return self._open(name)

    def live_tower(self) -> str | None:
        """Return the tower of the live index, even if that index is damaged; None if nothing is published.

        If the alias is damaged, or names an index that is not there, return the tower of the newest index.
        """
        names = self.names()
        try:
            name = self._live_name()
        except IndexUnavailable:
            return self._tower_of(names[0]) if names else None
        return None if name is None else self._tower_of(name if name in names or not names else names[0])

    def names(self) -> list[str]:
        """Return the names of the indices that create() made for this alias, the newest first."""
        others = {path.stem for path in self._root.glob(f"{self._alias}-*.json")}  # aliases whose names begin with this one
        moments = {path.name: created_at(path.name) for path in self._root.glob(f"{self._alias}-*") if path.is_dir()}
        own = {
            name: moment
            for name, moment in moments.items()
            if moment is not None and not any(name.startswith(f"{other}-") for other in others)
        }
        return sorted(own, key=lambda name: own[name], reverse=True)

    def open_index(self, name: str) -> OpenIndex:
        """Return an index by its physical name.

        Raises:
            IndexMissing: there is no index of this name.
        """
        return self._open(name)

    def list_indices(self) -> list[IndexSummary]:
        """Return a summary of every index of the alias, the newest name of each tower first; a damaged one has no counts."""
        live, summaries = self._live_name(), []
        for name in sorted(self.names(), reverse=True):
            counts: tuple[int | None, int | None] = (None, None)
            try:
                index = self._open(name)
                index.refresh()
                counts = index.count(), index.count(Filter())
            except IndexUnavailable as error:
                logger.warning("%s", error)
            size = sum(path.stat().st_size for path in (self._root / name).rglob("*") if path.is_file())
            summaries.append(IndexSummary(name, self._tower_of(name), *counts, size, name == live))
        return summaries

    def previous(self) -> str | None:
        """Return the name of the index that was live before the live one; None if none was, or it was dropped."""
        _, name = self._read_alias()
        return name if name in self.names() else None

    def publish(self, name: str) -> None:
        """Prepare an index, then point the alias at it in one atomic step; the previous index stays for rollback.

        Raises:
            IndexMissing: there is no index of this name.
        """
        self._open(name).prepare()
        try:
            live, before = self._read_alias()
        except IndexUnavailable:  # a damaged alias is written anew
            live = before = None
        try:
            replace_file(self._pointer, json.dumps({"live": name, "previous": before if live == name else live}))
        except OSError as error:
            raise IndexUnavailable(f"{self._pointer} cannot be written: {reason_of(error)}; the index before stays live") from error

    def drop(self, name: str) -> None:
        """Delete an index that is not live.

        Raises:
            InvalidInput: the index is live.
            IndexMissing: there is no index of this name.
        """
        if name == self._live_name():
            raise InvalidInput(f"index {name} is live; publish another one before it is dropped")
        folder = self._folder(name)
        with self._lock:
            index = self._open_indices.pop(name, None)
        if index is not None:
            index.close()
        dropped = folder.with_name(f".{name}.dropped")  # so that no reader sees a half-deleted index
        folder.rename(dropped)
        shutil.rmtree(dropped, ignore_errors=True)

    def close(self) -> None:
        """Close all open indices."""
        with self._lock:
            for index in self._open_indices.values():
                index.close()

    def _open(self, name: str) -> OpenIndex:
        folder = self._folder(name)
        with self._lock:
            index = self._open_indices.get(name)
            if index is None or index.closed:
                index_type = ShardedIndex if is_sharded(folder) else EmbeddedIndex
                index = index_type(folder, self._exact_below, self._spec, self._tuning(self._tower_of(name)), self._states)
                if index.tower_id != self._tower_of(name):
                    index.close()
                    raise damaged(folder, f"it holds lots of tower {index.tower_id}")
                self._open_indices[name] = index
            return index

    def _tower_of(self, name: str) -> str:
        """Return the tower_id in a name of index_name()."""
        return name.removeprefix(f"{self._alias}-").rpartition("-")[0]

    def _folder(self, name: str) -> Path:
        folder = self._root / name
        if not name.startswith(f"{self._alias}-") or Path(name).name != name or not folder.is_dir():
            raise IndexMissing(f"{self._root} holds no index {name!r}; build it with `gavel index`")
        return folder

    def _live_name(self) -> str | None:
        return self._read_alias()[0]

    def _read_alias(self) -> tuple[str | None, str | None]:
        """Return the names of the live index and of the one before; None for what the alias's file does not name."""
        try:
            names = json.loads(self._pointer.read_bytes())
            live, previous = str(names["live"]), names.get("previous")
        except FileNotFoundError:
            return None, None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged(self._pointer, error) from error
        return live, None if previous is None else str(previous)
