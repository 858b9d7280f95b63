"""Following the alias: who looks, what happens when it cannot be looked at, and models that cannot be loaded."""

import threading
from pathlib import Path

import pytest
from lots import TOWER_ID, WordEncoder, lot, publish

from retrieval.errors import IndexUnavailable, TowerError
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.port import VectorIndex
from retrieval.search.live_index import ActiveIndexCache
from retrieval.search.service import SearchModels, SearchRequest, SearchService


class Store(EmbeddedStore):
    """A store whose alias can be out of reach, or slow to look at."""

    down = False
    looking: threading.Event | None = None
    go_on = threading.Event()

    def live(self) -> VectorIndex:
        if self.looking is not None:
            self.looking.set()
            assert self.go_on.wait(10)
        if self.down:
            raise IndexUnavailable("no answer")
        return super().live()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "index")
    publish(store, [lot("v1", "red vase")])
    return store


@pytest.fixture(autouse=True)
def looks_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.search.live_index.LIVE_CHECK_S", 0.0)


def following(store: Store) -> ActiveIndexCache:
    return ActiveIndexCache(store, SearchModels(WordEncoder))


def test_an_alias_that_cannot_be_looked_at_leaves_the_index_that_was_known(store: Store) -> None:
    live = following(store)
    known = live.get()
    store.down = True
    assert live.get().index is known.index
    with pytest.raises(IndexUnavailable):
        following(store).get()


def test_while_one_thread_looks_the_others_go_on(store: Store) -> None:
    live = following(store)
    known = live.get()
    store.looking = threading.Event()
    looker = threading.Thread(target=live.get)
    looker.start()
    assert store.looking.wait(10)
    assert live.get().index is known.index, "without waiting"
    store.go_on.set()
    looker.join()


def test_a_tower_that_cannot_be_loaded_leaves_words_and_is_tried_again(store: Store) -> None:
    there: list[WordEncoder] = []

    def load(tower_id: str) -> WordEncoder:
        if not there:
            raise TowerError(f"tower {TOWER_ID} is not in the bucket")
        return there[0]

    service = SearchService(store, SearchModels(load))
    answer = service.search(SearchRequest("vase"))
    assert ([r.item_id for r in answer.results], answer.failed_components) == (["v1"], ["semantic"])
    with pytest.raises(TowerError):
        service.search(SearchRequest("vase", mode="semantic"))
    there.append(WordEncoder())
    assert service.search(SearchRequest("vase")).failed_components == []
