"""What is known of a buyer, over HTTP: told by /events, used by /retrieve and /search, shown and erased by /buyers."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from fastapi.testclient import TestClient
from lots import WordEncoder, lot, publish

from lambdas.query_api.app import create_app
from lambdas.query_api.events import events_router
from retrieval import resilience as circuit
from retrieval.buyers.sqlite_history import BuyerEvents
from retrieval.contracts.events import Interaction
from retrieval.errors import FeedbackUnavailable, InvalidQuery
from retrieval.feedback.file_sink import EventLog
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import utc_now
from retrieval.ranker.features import FEATURES
from retrieval.ranker.port import Ranker
from retrieval.search.service import SearchLimits, SearchModels, SearchRequest, SearchService

NOW = utc_now()
BUYER = "b-4f1c"
LOTS = [
    lot("v1", "red vase", category="vases", bid_count=1, listed_at=NOW - timedelta(days=9)),
    lot("v2", "blue vase", category="vases", bid_count=9, listed_at=NOW - timedelta(days=8)),
    lot("v3", "old red vase", bid_count=99, listed_at=NOW, ends_at=NOW - timedelta(hours=1)),
    lot("w1", "gold watch", category="watches", bid_count=7, listed_at=NOW - timedelta(days=7)),
    lot("w2", "silver watch", category="watches", listed_at=NOW - timedelta(days=1)),
    lot("r1", "round ring", category="rings", listed_at=NOW - timedelta(days=2), current_price=5.0),
    lot("undated", "old lamp"),
]


class BrokenStore:
    """A store that does not answer, or not until it is mended."""

    def __init__(self, inner: BuyerEvents) -> None:
        self.inner, self.broken, self.asked = inner, True, 0

    def append(self, acts: Sequence[Interaction]) -> int:
        return self._store().append(acts)

    def recent(self, buyer_id: str, limit: int = 200) -> list[Interaction]:
        return self._store().recent(buyer_id, limit)

    def erase(self, buyer_id: str) -> int:
        return self._store().erase(buyer_id)

    def _store(self) -> BuyerEvents:
        self.asked += 1
        if self.broken:
            raise FeedbackUnavailable("the store does not answer")
        return self.inner


class Shop:
    """A served shop, its service and its store."""

    def __init__(self, folder: Path, store: Any = None, ranker: Ranker | None = None, **limits: Any) -> None:
        lots = EmbeddedStore(folder / "index")
        publish(lots, LOTS)
        self.store = store or BuyerEvents(folder / "buyers.sqlite", 90)
        models = SearchModels(WordEncoder, lambda tower_id: ranker)
        self.service = SearchService(lots, models, SearchLimits(**limits), self.store)
        app = create_app(lambda: self.service)
        app.include_router(events_router(EventLog(folder / "events"), self.service.record_interactions))
        self.client = TestClient(app, raise_server_exceptions=False)

    def tell(self, *acts: tuple[str, str], buyer_id: str = BUYER) -> None:
        """Post (kind, item_id), a minute between them, the last one now."""
        now = utc_now()
        events = [
            {
                "event_type": kind,
                "item_id": item_id,
                "position": 1,
                "timestamp": (now - timedelta(minutes=len(acts) - n)).isoformat(),
            }
            for n, (kind, item_id) in enumerate(acts)
        ]
        shown = {"query_id": "l-1", "session_id": buyer_id, "query": "a vase", "shown_at": now.isoformat(), "events": events}
        answer = self.client.post("/events", json=shown)
        assert (answer.status_code, answer.json()) == (202, {"accepted": len(acts), "served": 0})

    def retrieve(self, **query: Any) -> dict[str, Any]:
        answer = self.client.get("/retrieve", params={"buyer_id": BUYER, **query})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def search(self, **query: Any) -> dict[str, Any]:
        answer = self.client.get("/search", params={"q": "vase", "mode": "semantic", **query})
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def broken(tmp_path: Path) -> Shop:
    """A shop whose store is down."""
    return Shop(tmp_path, BrokenStore(BuyerEvents(tmp_path / "buyers.sqlite", 90)))


def ids(answer: dict[str, Any]) -> list[str]:
    return [lot["item_id"] for lot in answer["results"]]


def refused(answer: Any) -> str:
    assert (answer.status_code, answer.json()["type"]) == (400, "invalid_query"), answer.text
    return answer.json()["detail"]


def test_what_a_buyer_clicked_bid_on_and_bought_is_their_history_and_what_they_saw_is_not(shop: Shop) -> None:
    shop.tell(("impression", "w2"), ("click", "v1"), ("bid", "w1"), ("purchase", "r1"))
    acts = shop.client.get(f"/buyers/{BUYER}").json()["acts"]
    assert [(act["item_id"], act["event_type"]) for act in acts] == [("r1", "purchase"), ("w1", "bid"), ("v1", "view")]
    assert acts[0]["fields"]["title"] == "round ring"
    assert datetime.fromisoformat(acts[0]["timestamp"]).tzinfo is not None
    assert shop.client.get("/buyers/nobody").json() == {"acts": []}


def test_a_history_shows_the_latest_first_and_lots_that_are_gone_or_ended(shop: Shop) -> None:
    shop.store.append([Interaction(BUYER, "gone", "view", utc_now() - timedelta(hours=1))])
    shop.tell(("click", "v3"), ("click", "v1"))
    acts = shop.client.get(f"/buyers/{BUYER}", params={"limit": 2}).json()["acts"]
    assert [(act["item_id"], act["fields"] is None) for act in acts] == [("v1", False), ("v3", False)]
    assert shop.client.get(f"/buyers/{BUYER}").json()["acts"][-1]["fields"] is None
    assert refused(shop.client.get(f"/buyers/{BUYER}", params={"limit": 0}))
    assert refused(shop.client.get(f"/buyers/{BUYER}", params={"limit": 201}))


def test_a_buyer_retrieves_what_is_near_to_what_they_did(shop: Shop) -> None:
    shop.tell(("click", "w1"))
    answer = shop.retrieve(k=2)
    assert (answer["source"], answer["degraded"], ids(answer)[0]) == ("history", [], "w2")
    assert answer["results"][0]["similarity"] > 0.4
    by_body = shop.client.post("/retrieve", json={"buyer_id": BUYER, "k": 2}).json()
    assert by_body["results"] == answer["results"]


def test_acts_that_are_sent_along_count_beside_those_that_are_kept(shop: Shop) -> None:
    shop.tell(("click", "w1"))
    sent = {"item_id": "v1", "event_type": "purchase", "timestamp": utc_now().isoformat()}
    answer = shop.client.post("/retrieve", json={"buyer_id": BUYER, "recent_interactions": [sent]}).json()
    assert ids(answer)[0] == "v2"
    assert not {"w1", "v1"} & set(ids(answer))
    assert ids(shop.retrieve(item_id=["v1", "v1"], k=1)) != []


def test_what_a_buyer_knows_is_left_out_as_they_ask(shop: Shop) -> None:
    shop.tell(("click", "v1"), ("purchase", "v2"), ("bid", "w1"))
    assert not {"v1", "v2", "w1"} & set(ids(shop.retrieve()))
    purchased = set(ids(shop.retrieve(exclude="purchased")))
    assert ("v2" in purchased, {"v1", "w1"} <= purchased) == (False, True)
    assert {"v1", "v2", "w1"} <= set(ids(shop.retrieve(exclude="none")))
    assert "exclude" in refused(shop.client.get("/retrieve", params={"buyer_id": BUYER, "exclude": "all"}))
    with pytest.raises(InvalidQuery, match="allowed are acted, purchased, none"):
        shop.service.nearest_to_buyer([], buyer_id=BUYER, exclude="all")  # type: ignore[arg-type]


def test_a_new_buyer_gets_popular_and_fresh_lots_in_turn_and_is_told_so(shop: Shop) -> None:
    answer = shop.retrieve()
    assert (answer["source"], answer["degraded"], answer["unknown_items"]) == ("popular_and_fresh", [], [])
    assert answer["mode"] == "popular"
    assert ids(answer) == ["v2", "w2", "w1", "r1", "v1"], "by bids v2 w1 v1, by date w2 r1 w1 v2 v1, none of them ended"
    assert [result["rank"] for result in answer["results"]] == [1, 2, 3, 4, 5]
    assert {result["similarity"] for result in answer["results"]} == {None}
    assert ids(shop.retrieve(k=3)) == ["v2", "w2", "w1"]


def test_popular_and_fresh_lots_pass_the_filters(shop: Shop) -> None:
    assert ids(shop.retrieve(category="watches")) == ["w1", "w2"]
    assert ids(shop.retrieve(max_price=10)) == ["r1"]
    assert ids(shop.retrieve(category="carts")) == []


def test_a_buyer_whose_lots_are_all_gone_is_a_new_one(shop: Shop) -> None:
    hours = [utc_now() - timedelta(hours=2), utc_now() - timedelta(hours=1)]
    shop.store.append([Interaction(BUYER, "gone", "view", hours[0]), Interaction(BUYER, "gone-too", "purchase", hours[1])])
    answer = shop.retrieve()
    assert (answer["source"], answer["unknown_items"]) == ("popular_and_fresh", ["gone", "gone-too"])


def test_acts_without_a_name_are_answered_as_ever(shop: Shop) -> None:
    assert shop.client.get("/retrieve", params={"item_id": "w1"}).json()["source"] == "history"
    assert "none of the 1 lots" in refused(shop.client.get("/retrieve", params={"item_id": "gone"}))
    vector = WordEncoder().encode(["vase"])[0].tolist()
    assert shop.client.post("/retrieve", json={"vector": vector}).json()["source"] is None
    assert "and not both" in refused(shop.client.post("/retrieve", json={"vector": vector, "buyer_id": BUYER}))


@pytest.mark.parametrize("buyer_id", ["", "  ", "x" * 513, "ü" * 300, "a\u0007b"])
def test_an_id_that_is_none_is_refused_everywhere(buyer_id: str, shop: Shop) -> None:
    for path, params in (("/retrieve", {}), ("/search", {"q": "vase"})):
        assert "buyer_id" in refused(shop.client.get(path, params={**params, "buyer_id": buyer_id}))
    assert "buyer_id" in refused(shop.client.post("/search", json={"q": "vase", "buyer_id": buyer_id}))
    assert "buyer_id" in refused(shop.client.post("/retrieve", json={"buyer_id": buyer_id}))
    for verb in ("GET", "DELETE"):
        assert refused(shop.client.request(verb, f"/buyers/{quote(buyer_id)}"))


def test_a_search_is_drawn_towards_what_its_buyer_did_and_not_another(shop: Shop) -> None:
    shop.tell(("purchase", "v2"))
    shop.tell(("purchase", "v1"), buyer_id="another")
    assert ids(shop.search(buyer_id=BUYER))[:2] == ["v2", "v1"]
    assert ids(shop.search(buyer_id="another"))[:2] == ["v1", "v2"]
    assert ids(shop.search()) == ids(shop.search(buyer_id="nobody"))
    by_body = shop.client.post("/search", json=[{"q": "vase", "mode": "semantic", "buyer_id": b} for b in (BUYER, "another")])
    assert [ids(answer)[0] for answer in by_body.json()] == ["v2", "v1"]


def test_kept_answers_are_not_mixed_between_buyers_nor_stay_when_a_buyer_did_more(tmp_path: Path) -> None:
    shop = Shop(tmp_path, cached_answers_s=60)
    shop.tell(("purchase", "v2"))
    assert [shop.search(buyer_id=BUYER)["cached"] for _ in range(2)] == [False, True]
    assert [shop.search()["cached"] for _ in range(2)] == [False, True]
    shop.tell(("purchase", "v2"), buyer_id="another")
    assert not shop.search(buyer_id="another")["cached"]
    shop.tell(("purchase", "v1"))
    assert not shop.search(buyer_id=BUYER)["cached"]


def test_how_near_a_lot_is_to_the_buyer_reaches_the_re_ranker(tmp_path: Path) -> None:
    seen: list[np.ndarray] = []

    class Watching:
        def score(self, features: np.ndarray) -> np.ndarray:
            seen.append(features)
            return -np.arange(len(features), dtype=np.float32)

    shop = Shop(tmp_path, ranker=Watching())
    shop.tell(("click", "w1"))
    affinity = FEATURES.index("buyer_affinity")
    shop.search(buyer_id="nobody")
    assert np.isnan(seen.pop()[:, affinity]).all()
    answer = shop.search(buyer_id=BUYER, mode="keyword", q="gold watch", explain=True)
    by_lot = {result["item_id"]: result["explanation"]["features"]["buyer_affinity"] for result in answer["results"]}
    assert by_lot["w1"] == pytest.approx(1, abs=1e-5)
    assert sorted(seen[0][:, affinity].tolist()) == pytest.approx(sorted(by_lot.values()))
    assert answer["timings_ms"]["history"] >= 0


def test_of_kept_and_sent_acts_the_latest_two_hundred_count(shop: Shop) -> None:
    old = [Interaction(BUYER, f"gone-{n}", "view", utc_now() - timedelta(minutes=500 - n)) for n in range(200)]
    shop.store.append(old)
    sent = [
        {"item_id": "v2", "event_type": "view", "timestamp": (utc_now() - timedelta(minutes=n)).isoformat()} for n in range(150)
    ]
    answer = shop.client.post("/search", json={"q": "vase", "buyer_id": BUYER, "recent_interactions": sent}).json()
    assert answer["unknown_items"] == [f"gone-{n}" for n in range(150, 200)]


def test_an_erased_buyer_is_a_new_one(shop: Shop) -> None:
    shop.tell(("click", "w1"), ("click", "v1"))
    shop.tell(("click", "w1"), buyer_id="another")
    assert shop.client.delete(f"/buyers/{BUYER}").json() == {"erased": 2}
    assert shop.client.delete(f"/buyers/{BUYER}").json() == {"erased": 0}
    assert shop.client.get(f"/buyers/{BUYER}").json() == {"acts": []}
    assert shop.retrieve()["source"] == "popular_and_fresh"
    assert len(shop.client.get("/buyers/another").json()["acts"]) == 1


def test_an_id_may_hold_what_stands_in_addresses(shop: Shop) -> None:
    shop.tell(("click", "w1"), buyer_id="shop/ü?b=1")
    path = "/buyers/shop%2F%C3%BC%3Fb=1"
    assert len(shop.client.get(path).json()["acts"]) == 1
    assert shop.client.delete(path).json() == {"erased": 1}


def test_a_store_that_is_down_costs_the_history_and_nothing_else(broken: Shop, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        broken.tell(("click", "w1"))  # told to the log of events all the same
        searched, retrieved = broken.search(buyer_id=BUYER), broken.retrieve()
    assert (ids(searched)[:2], searched["degraded"]) == (["v1", "v2"], ["buyer"])
    assert (retrieved["source"], retrieved["degraded"]) == ("popular_and_fresh", ["buyer"])
    assert "1 acts are in no buyer's history" in caplog.text
    assert "answering without the buyer's history: the store does not answer" in caplog.text
    assert BUYER not in caplog.text
    sent = {"item_id": "w1", "event_type": "view", "timestamp": utc_now().isoformat()}
    along = broken.client.post("/retrieve", json={"buyer_id": BUYER, "recent_interactions": [sent]}).json()
    assert (along["source"], along["degraded"], ids(along)[0]) == ("history", ["buyer"], "w2")
    for verb in ("GET", "DELETE"):
        answer = broken.client.request(verb, f"/buyers/{BUYER}")
        assert (answer.status_code, answer.json()["type"]) == (503, "feedback_unavailable")
        assert answer.headers["retry-after"]
        assert BUYER not in answer.text


def test_an_answer_without_the_history_is_not_kept_for_when_it_is_back(tmp_path: Path) -> None:
    shop = Shop(tmp_path, BrokenStore(BuyerEvents(tmp_path / "buyers.sqlite", 90)), cached_answers_s=60)
    shop.store.inner.append([Interaction(BUYER, "v2", "purchase", utc_now())])
    assert shop.search(buyer_id=BUYER)["degraded"] == ["buyer"]
    shop.store.broken = False
    assert (shop.search(buyer_id=BUYER)["degraded"], ids(shop.search(buyer_id=BUYER))[0]) == ([], "v2")


def test_a_store_that_keeps_failing_is_left_alone_for_a_while_but_not_by_who_wants_to_be_forgotten(broken: Shop) -> None:
    for _ in range(circuit.FAILURES + 5):
        broken.search(buyer_id=BUYER)
    assert broken.store.asked == circuit.FAILURES
    assert broken.client.get("/health").json()["circuits"]["buyers"] == "open"
    broken.store.broken = False
    assert broken.client.delete(f"/buyers/{BUYER}").json() == {"erased": 0}


def test_where_nothing_is_kept_every_buyer_is_a_new_one(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.service = SearchService(EmbeddedStore(tmp_path / "index"), SearchModels(WordEncoder))
    shop.tell(("click", "w1"))
    assert shop.retrieve()["source"] == "popular_and_fresh"
    assert shop.client.delete(f"/buyers/{BUYER}").json() == {"erased": 0}


def test_a_request_names_its_buyer_for_the_core_too(shop: Shop) -> None:
    shop.tell(("purchase", "v2"))
    asked = SearchRequest("vase", mode="semantic", buyer_id=f" {BUYER} ")
    assert shop.service.search(asked).results[0].item_id == "v2"
    with pytest.raises(InvalidQuery, match="buyer_id is empty"):
        shop.service.search(replace(asked, buyer_id=" "))


def test_pages_of_other_origins_may_ask_to_be_forgotten(tmp_path: Path) -> None:
    app = create_app(lambda: Shop(tmp_path).service, ["https://shop.example"])
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "DELETE"}
    answer = TestClient(app).options(f"/buyers/{BUYER}", headers=asked)
    assert answer.status_code == 200
    assert "DELETE" in answer.headers["access-control-allow-methods"]


def test_a_buyers_clock_may_be_wrong_by_a_day(shop: Shop) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=20)
    event = {"event_type": "click", "item_id": "w1", "position": 1, "timestamp": ahead.isoformat()}
    shown = {"query_id": "l", "session_id": BUYER, "query": "a", "shown_at": ahead.isoformat(), "events": [event]}
    assert shop.client.post("/events", json=shown).status_code == 202
    shop.tell(("purchase", "v1"))
    assert shop.retrieve()["source"] == "history"
    assert shop.search(buyer_id=BUYER)["degraded"] == []
