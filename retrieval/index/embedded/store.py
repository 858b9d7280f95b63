"""The embedded index store: a folder of indices, one of them live (docs/adr/0002-embedded-index.md).

root/auction-items.json                      the alias: which index is live
root/auction-items-<tower_id>-<stamp>/       one physical index
    lots.sqlite                              every acknowledged lot and tombstone
    lots.json                                its checksum when it was published
    shard-00/, shards.json                   or these, each shard with files as below
    <family>.faiss, bm25-<generation>…/  snapshots for a quick start; rebuilt when missing or damaged, read on from when old
"""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from retrieval.config.index_spec import IndexSpec
from retrieval.errors import IndexMissing, IndexUnavailable, InvalidInput
from retrieval.files import commit_folder, replace_file
from retrieval.index.embedded.database import damaged
from retrieval.index.embedded.index import EXACT_BELOW, EmbeddedIndex
from retrieval.index.embedded.sharding import ShardedIndex, is_sharded
from retrieval.index.hybrid_tuning import Tuning, untuned
from retrieval.index.port import index_name, utc_now
from retrieval.text.languages import DEFAULT_LANGUAGE, check_language

__all__ = ["EmbeddedIndex", "EmbeddedStore"]

OpenedIndex = EmbeddedIndex | ShardedIndex


class EmbeddedStore:
    """The folder that holds the embedded indices; its indices are opened once and shared between threads.

    Args:
        root: made when the first index is.
        alias: name behind which the live index stands.
        exact_below: see EmbeddedIndex.
        language: of words in Latin letters, in the indices that create() makes; a key of SNOWBALL of retrieval.text.stemming.
        spec: see EmbeddedIndex; the lots are the same, so a root may be opened as any.
        tuning: tower_id -> how an index of that tower is searched; asked when it is opened.
        shards: how many processes share the lots of an index that is made from now on; 1 keeps them in this one.
    """

    def __init__(
        self,
        root: Path,
        alias: str = "auction-items",
        *,
        exact_below: int = EXACT_BELOW,
        spec: IndexSpec | None = None,
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
        self._opened: dict[str, OpenedIndex] = {}
        self._turn = threading.Lock()

    def create(self, tower_id: str, dimensions: int) -> OpenedIndex:
        """Make a new, empty index for a tower; it is not live."""
        name = index_name(self._alias, tower_id, utc_now())
        partial = self._root / f".{name}.partial"
        try:
            partial.mkdir(parents=True)
            if self._shards > 1:
                ShardedIndex.create(partial, tower_id, dimensions, self._language, self._shards)
            else:
                EmbeddedIndex.create(partial, tower_id, dimensions, self._language)
            commit_folder(partial, self._root / name)
        except OSError as error:
            raise IndexUnavailable(f"no index can be made in {self._root}: {error}; free space or choose another folder") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return self._open(name)

    def find(self, tower_id: str) -> OpenedIndex | None:
        """The live index if it is of this tower, else the newest index of this tower, else None."""
        start = f"{self._alias}-{tower_id}-"
        of_tower = sorted(p.name for p in self._root.glob("*") if p.name.startswith(start) and "-" not in p.name[len(start) :])
        if not of_tower:
            return None
        live = self._live_name()
        return self._open(live if live in of_tower else of_tower[-1])

    def live(self) -> OpenedIndex:
        """The index behind the alias.

        Raises:
            IndexMissing: nothing was published yet.
        """
        name = self._live_name()
        if name is None:
            raise IndexMissing(f"{self._root} holds no live index {self._alias!r}; build one with `gavel index`")
        return self._open(name)

    def live_tower(self) -> str | None:
        """Return the tower of the live index, even if that is damaged; if the alias is, that of the newest index."""
        try:
            name = self._live_name()
        except IndexUnavailable:
            folders = [path for path in self._root.glob(f"{self._alias}-*") if path.is_dir()]
            name = max(folders, key=lambda path: path.name.rpartition("-")[2]).name if folders else None
        return None if name is None else self._tower_of(name)

    def publish(self, name: str) -> None:
        """Point the alias at the index of this name, in one atomic step; the one before stays for rollback.

        Whatever its first search needs is built and saved before.

        Raises:
            IndexMissing: there is no index of this name.
        """
        self._open(name).prepare()
        try:
            replace_file(self._pointer, json.dumps({"live": name}))
        except OSError as error:
            raise IndexUnavailable(f"{self._pointer} cannot be written: {error}; the index before stays live") from error

    def drop(self, name: str) -> None:
        """Delete an index that is not live.

        Raises:
            InvalidInput: it is live.
            IndexMissing: there is no index of this name.
        """
        if name == self._live_name():
            raise InvalidInput(f"index {name} is live; publish another one before it is dropped")
        folder = self._folder(name)
        with self._turn:
            opened = self._opened.pop(name, None)
        if opened is not None:
            opened.close()
        doomed = folder.with_name(f".{name}.dropped")  # an index is there whole or not at all
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def close(self) -> None:
        """Close every index that was opened."""
        with self._turn:
            for index in self._opened.values():
                index.close()

    def _open(self, name: str) -> OpenedIndex:
        folder = self._folder(name)
        with self._turn:
            opened = self._opened.get(name)
            if opened is None or opened.closed:
                form = ShardedIndex if is_sharded(folder) else EmbeddedIndex
                opened = form(folder, self._exact_below, self._spec, self._tuning(self._tower_of(name)))
                if opened.tower_id != self._tower_of(name):
                    opened.close()
                    raise damaged(folder, f"it holds lots of tower {opened.tower_id}")
                self._opened[name] = opened
            return opened

    def _tower_of(self, name: str) -> str:
        """The tower_id that index_name() put between alias and stamp."""
        return name.removeprefix(f"{self._alias}-").rpartition("-")[0]

    def _folder(self, name: str) -> Path:
        folder = self._root / name
        if not name.startswith(f"{self._alias}-") or Path(name).name != name or not folder.is_dir():
            raise IndexMissing(f"{self._root} holds no index {name!r}; build it with `gavel index`")
        return folder

    def _live_name(self) -> str | None:
        try:
            return str(json.loads(self._pointer.read_bytes())["live"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise damaged(self._pointer, error) from error
