"""Search while the alias moves: every answer comes whole from one index or the other."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from lots import TOWER_ID, WordEncoder, lot, publish

from retrieval.index.port import IndexStore
from retrieval.search.service import SearchLimits, SearchModels, SearchRequest, SearchService

SWAPS = 40
SEARCHERS = 3
OTHER_TOWER = "b1b2c3d4e5f6"


def test_searches_while_the_alias_moves_are_each_answered_whole_by_one_index(
    store: IndexStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.search.live_index.LIVE_CHECK_S", 0.0)
    names, lots = [], {}
    for tower_id in (TOWER_ID, OTHER_TOWER):
        index = publish(store, [lot(f"{tower_id}-{n}", "red vase") for n in range(12)], tower_id)
        names.append(index.name)
        lots[index.name] = {f"{tower_id}-{n}" for n in range(12)}
    service, moved = (
        SearchService(store, SearchModels(WordEncoder), SearchLimits(deadline_s=60, retrieve_timeout_s=60)),
        threading.Event(),
    )

    def search() -> set[str]:
        answered_by = set()
        while not moved.is_set():
            answer = service.search(SearchRequest("red vase", k=12))
            assert answer.failed_components == []
            (found,) = [name for name, ids in lots.items() if ids == {result.item_id for result in answer.results}]
            answered_by.add(found)
        return answered_by

    with ThreadPoolExecutor(SEARCHERS) as searchers:
        searching = [searchers.submit(search) for _ in range(SEARCHERS)]
        try:
            for swap in range(SWAPS):
                store.publish(names[swap % 2])
                service.search(SearchRequest("red vase", k=1))
        finally:
            moved.set()
    assert set().union(*(each.result() for each in searching)) == set(names)
