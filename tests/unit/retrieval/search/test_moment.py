"""The moment of a search is that of its call, however old its request and its filters are."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from lots import WordEncoder, lot, publish

from retrieval.contracts.events import Interaction
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter, utc_now
from retrieval.search.service import Mode, SearchLimits, SearchModels, SearchRequest, SearchService

NOW = utc_now()
LOTS = [lot("ending", "red vase", ends_at=NOW + timedelta(hours=1)), lot("endless", "old red vase")]


class Clock:
    now = NOW


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("retrieval.index.filters.utc_now", lambda: clock.now)
    return clock


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    store = EmbeddedStore(tmp_path / "index")
    publish(store, LOTS)
    return store


@pytest.mark.parametrize("mode", ["hybrid", "semantic", "keyword"])
@pytest.mark.parametrize("cached_answers_s", [0, 60])
def test_a_reused_request_answers_without_an_item_that_ended_meanwhile(
    mode: Mode, cached_answers_s: float, store: EmbeddedStore, clock: Clock
) -> None:
    service = SearchService(store, SearchModels(WordEncoder), SearchLimits(cached_answers_s=cached_answers_s))
    request = SearchRequest("red vase", mode=mode)
    assert {result.item_id for result in service.search(request).results} == {"ending", "endless"}
    clock.now += timedelta(hours=2)
    assert [result.item_id for result in service.search(request).results] == ["endless"]
    assert [result.item_id for result in service.search_many([request])[0].results] == ["endless"]


def test_reused_filters_leave_out_an_item_that_ended_meanwhile(store: EmbeddedStore, clock: Clock) -> None:
    service, index, filters = SearchService(store, SearchModels(WordEncoder)), store.live(), Filter()
    vector = WordEncoder().encode(["red vase"])[0]
    interactions = [Interaction("", "endless", "view", NOW)]

    def answers() -> list[set[str]]:
        lists = [index.semantic(vector, 5, filters), index.keyword("vase", 5, filters), index.hybrid("vase", vector, 5, filters)]
        lists.append(service.search(SearchRequest("vase", filters=filters)).results)  # type: ignore[arg-type]
        lists.append(service.nearest(vector.tolist(), 5, filters).results)  # type: ignore[arg-type]
        lists.append(service.nearest_to_buyer(interactions, 5, filters, exclude="none").results)  # type: ignore[arg-type]
        return [{item.item_id for item in one} for one in lists]

    assert answers() == [{"ending", "endless"}] * 6
    assert [result.item_id for result in service.similar("endless", 5, filters).results] == ["ending"]
    clock.now += timedelta(hours=2)
    assert answers() == [{"endless"}] * 6
    assert service.similar("endless", 5, filters).results == []
    assert (index.count(), index.count(filters)) == (2, 1)


def test_a_moment_that_the_caller_sets_is_kept(store: EmbeddedStore, clock: Clock) -> None:
    service = SearchService(store, SearchModels(WordEncoder))

    def ids(moment: datetime) -> set[str]:
        return {result.item_id for result in service.search(SearchRequest("vase", filters=Filter(now=moment))).results}

    clock.now += timedelta(hours=2)
    assert ids(NOW) == {"ending", "endless"}
    assert ids(NOW + timedelta(hours=1)) == {"endless"}
