"""The buyers' API as first described: interactions under product_id, without times; answers as lists of ids and scores."""

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from lots import WORDS, WordEncoder, lot, publish

from lambdas.query_api.app import create_app
from retrieval.buyers.sqlite_history import BuyerEvents
from retrieval.contracts.events import Interaction
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import utc_now
from retrieval.search.service import SearchModels, SearchService

LOTS = [
    lot("v1", "red vase", category="vases", seller="Ann", brand="Acme", current_price=10.0),
    lot("v2", "blue vase", category="vases", seller="Ann", current_price=90.0),
    lot("v3", "old red vase", category="vases", seller="Bob", current_price=40.0),
    lot("w1", "gold watch", category="watches", seller="Bob", current_price=500.0),
    lot("w2", "silver watch", category="watches", seller="Ann", current_price=50.0, bid_count=1),
    lot("r1", "round ring", category="rings", seller="Cem"),
]
DESCRIBED = {
    "buyer_id": "b-4f1c",
    "recent_interactions": [
        {"product_id": "v1", "event_type": "view"},
        {"product_id": "v2", "event_type": "add_to_cart"},
        {"product_id": "w1", "event_type": "purchase"},
    ],
    "k": 10,
}


class ByPlace:
    """A re-ranker that prefers what is further from the buyer."""

    def score(self, features: np.ndarray) -> np.ndarray:
        return np.arange(len(features), dtype=np.float32)


class RecencyTower:
    """Takes the latest interaction alone, and notes the ages."""

    def __init__(self) -> None:
        self.ages: list[list[float]] = []

    def encode(self, vectors: np.ndarray, weights: np.ndarray, ages_days: np.ndarray) -> np.ndarray:
        self.ages.append(ages_days.tolist())
        return vectors[-1]


class Shop:
    """A served shop with histories of buyers."""

    def __init__(self, folder: Path, **models: Any) -> None:
        store = EmbeddedStore(folder / "index")
        publish(store, LOTS)
        self.histories = BuyerEvents(folder / "buyers.sqlite", 90)
        service = SearchService(store, SearchModels(WordEncoder, **models), buyer_store=self.histories)
        self.client = TestClient(create_app(lambda: service), raise_server_exceptions=False)

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, path: str, **body: Any) -> str:
        answer = self.client.post(path, json=body)
        assert (answer.status_code, answer.json()["type"]) == (400, "invalid_query"), answer.text
        return answer.json()["detail"]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def reranked(tmp_path: Path) -> Shop:
    return Shop(tmp_path, load_ranker=lambda tower_id: ByPlace())


def test_a_buyer_is_encoded_as_described(shop: Shop) -> None:
    answer = shop.post("/encode_buyer", **DESCRIBED)
    vector = LOTS[0].vector + 5 * LOTS[1].vector + 10 * LOTS[3].vector
    assert answer["buyer_embedding"] == pytest.approx((vector / np.linalg.norm(vector)).tolist(), abs=1e-6)
    assert answer["dimension"] == len(WORDS) + 1
    assert (answer["vector"], answer["dimensions"]) == (answer["buyer_embedding"], answer["dimension"])
    assert (answer["known_items"], answer["unknown_items"], answer["degraded"]) == (["v1", "v2", "w1"], [], [])


def test_lots_for_a_buyer_are_retrieved_as_described(shop: Shop) -> None:
    answer = shop.post("/retrieve", **DESCRIBED)
    assert answer["product_ids"] == [result["item_id"] for result in answer["results"]]
    assert answer["scores"] == [result["score"] for result in answer["results"]]
    assert answer["product_ids"][0] == "w2"
    assert set(answer["product_ids"]) == {"w2", "v3", "r1"}
    assert answer["scores"] == sorted(answer["scores"], reverse=True)
    assert (answer["source"], answer["ranked_by"], answer["unknown_items"]) == ("history", "relevance", [])


def test_lots_for_a_stored_buyer_are_retrieved_as_described(shop: Shop) -> None:
    shop.histories.append([Interaction("b-4f1c", "w1", "purchase", utc_now())])
    answer = shop.client.get("/retrieve", params={"buyer_id": "b-4f1c", "k": 2}).json()
    assert (answer["product_ids"][0], len(answer["scores"])) == ("w2", 2)
    popular = shop.client.get("/retrieve", params={"buyer_id": "new", "k": 1}).json()
    assert (popular["product_ids"], popular["scores"], popular["mode"]) == (["w2"], [1.0], "popular")


def test_the_steps_give_what_the_single_request_gives(reranked: Shop) -> None:
    vector = reranked.post("/encode_buyer", **DESCRIBED)["buyer_embedding"]
    by_vector, by_buyer = reranked.post("/retrieve", vector=vector, k=6), reranked.post("/retrieve", **DESCRIBED, exclude="none")
    assert by_vector["product_ids"] == by_buyer["product_ids"]
    assert by_vector["reranked"]


def test_unknown_items_are_told_and_the_others_count(shop: Shop) -> None:
    sent = [{"product_id": "gone", "event_type": "view"}, {"product_id": "w1", "event_type": "view"}]
    for path in ("/encode_buyer", "/retrieve"):
        assert shop.post(path, recent_interactions=sent)["unknown_items"] == ["gone"]
        assert "none of the 1 lots" in shop.refused(path, recent_interactions=sent[:1])
    answer = shop.post("/retrieve", buyer_id="b", recent_interactions=sent[:1])
    assert (answer["source"], answer["unknown_items"]) == ("popular_and_fresh", ["gone"])


def test_interactions_without_times_are_read_oldest_first_and_count_as_of_now(tmp_path: Path) -> None:
    tower = RecencyTower()
    shop = Shop(tmp_path, load_buyer_tower=lambda tower_id: tower)
    sent = [{"product_id": item_id, "event_type": "view"} for item_id in ("w1", "v1", "v1", "r1")]
    assert shop.post("/encode_buyer", recent_interactions=sent)["vector"] == pytest.approx(LOTS[5].vector.tolist())
    assert shop.post("/encode_buyer", recent_interactions=sent[::-1])["vector"] == pytest.approx(LOTS[3].vector.tolist())
    assert all(len(ages) == 4 and max(ages) < 1e-6 for ages in tower.ages), "each counts, in full"
    shop.histories.append([Interaction("b", "v2", "purchase", utc_now() - timedelta(minutes=1))])
    assert shop.post("/encode_buyer", buyer_id="b", recent_interactions=sent)["vector"] == pytest.approx(LOTS[5].vector.tolist())
    assert tower.ages[-1][0] == pytest.approx(1 / 1_440, rel=0.1)
    by_address = shop.client.get("/retrieve", params={"item_id": ["w1", "r1"], "exclude": "none"}).json()
    assert by_address["product_ids"][0] == "r1"


def test_an_interaction_without_a_time_stands_right_after_the_one_before_it(tmp_path: Path) -> None:
    tower = RecencyTower()
    shop = Shop(tmp_path, load_buyer_tower=lambda tower_id: tower)
    times = [None, "2026-11-01T12:00:00Z", None, "2026-11-11T12:00:00+00:00"]
    sent = [{"product_id": "v1", "event_type": "view"} | ({"timestamp": t} if t else {}) for t in times]
    shop.post("/encode_buyer", recent_interactions=sent)
    assert tower.ages == [pytest.approx([10, 10, 10, 0], abs=1e-6)]
    assert tower.ages[0] == sorted(tower.ages[0], reverse=True)
    assert len(set(tower.ages[0])) == 4
    for edge in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"):
        sent = [{"product_id": "v1", "event_type": "view"} | ({"timestamp": edge} if n == 1 else {}) for n in range(3)]
        assert shop.post("/encode_buyer", recent_interactions=sent)["known_items"] == ["v1"]


def test_a_search_takes_the_same_interactions(shop: Shop) -> None:
    question = {"q": "vase", "mode": "semantic", "k": 1}
    for item_id in ("v1", "v2"):
        sent = [{"product_id": item_id, "event_type": "purchase"}]
        assert shop.post("/search", **question, recent_interactions=sent)["results"][0]["item_id"] == item_id


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "send recent_interactions"),
        ({"recent_interactions": []}, "send recent_interactions"),
        ({"buyer_id": "nobody"}, "nothing is known of this buyer"),
        ({"buyer_id": "nobody", "recent_interactions": []}, "nothing is known of this buyer"),
        ({"recent_interactions": [{"event_type": "view"}]}, "recent_interactions.0.item_id: Field required"),
        (
            {"recent_interactions": [{"product_id": "v1", "item_id": "v1", "event_type": "view"}]},
            "recent_interactions.0.product_id",
        ),
        ({"recent_interactions": [{"product_id": 1, "event_type": "view"}]}, "recent_interactions.0.product_id"),
        ({"recent_interactions": [{"product_id": "v1"}]}, "recent_interactions.0.event_type"),
        ({"recent_interactions": [{"product_id": "v1", "event_type": "stare"}]}, "'view', 'add_to_cart', 'bid' or 'purchase'"),
        ({"recent_interactions": [{"product_id": "v1", "event_type": "view", "timestamp": ""}]}, "recent_interactions.0.timestamp"),
        ({"recent_interactions": [{"product_id": "v1", "event_type": "view"}] * 201}, "recent_interactions: "),
        ({**DESCRIBED, "events": DESCRIBED["recent_interactions"]}, "events: "),
        ({**DESCRIBED, "k": 0}, "k: "),
        ({**DESCRIBED, "buyer": "b"}, "buyer: "),
    ],
)
def test_a_body_that_says_too_little_or_too_much_is_refused(body: dict[str, Any], words: str, shop: Shop) -> None:
    assert words in shop.refused("/encode_buyer", **body)


def test_lots_for_a_buyer_are_re_ranked_unless_that_is_declined(reranked: Shop, tmp_path: Path) -> None:
    answer, plain = reranked.post("/retrieve", **DESCRIBED), reranked.post("/retrieve", **DESCRIBED, rerank=False)
    assert (answer["reranked"], plain["reranked"]) == (True, False)
    assert answer["product_ids"] == plain["product_ids"][::-1]
    assert answer["scores"] == [2, 1, 0]
    by_address = reranked.client.get("/retrieve", params={"item_id": "v1", "rerank": "false"}).json()
    assert not by_address["reranked"]


def test_blocked_lots_sellers_categories_and_brands_never_come(shop: Shop) -> None:
    query = {"recent_interactions": [{"product_id": "r1", "event_type": "view"}]}
    blocks = {
        "blocked_items": (["v1", "w1"], {"v2", "v3", "w2"}),
        "blocked_sellers": (["Ann"], {"v3", "w1"}),
        "blocked_categories": (["VASES", "carts"], {"w1", "w2"}),
        "blocked_brands": (["acme"], {"v2", "v3", "w1", "w2"}),
    }
    for field, (values, expected) in blocks.items():
        assert set(shop.post("/retrieve", **query, **{field: values})["product_ids"]) == expected
        found = shop.post("/search", q="vase watch", **{field: values})["results"]
        assert {result["item_id"] for result in found} - {"r1"} == expected
    assert "blocked_sellers" in shop.refused("/retrieve", **query, blocked_sellers=["a"] * 1_001)
    assert "blocked sellers" in shop.refused("/retrieve", **query, blocked_sellers=["\x00"])


@pytest.mark.parametrize(
    ("field", "label"), [("most_per_seller", "seller"), ("most_per_category", "category"), ("most_per_brand", "brand")]
)
def test_at_most_so_many_of_one_label_come(field: str, label: str, shop: Shop) -> None:
    query = {"recent_interactions": [{"product_id": "r1", "event_type": "view"}]}
    for answer in (
        shop.post("/retrieve", **query, **{field: 1}),
        shop.client.get("/retrieve", params={"item_id": "r1", field: 1}).json(),
        shop.client.get("/retrieve", params={"buyer_id": "new", field: 1}).json(),
    ):
        counts = Counter(result["fields"].get(label) for result in answer["results"])
        assert answer["results"]
        assert all(count == 1 for value, count in counts.items() if value)
    assert field in shop.refused("/retrieve", **query, **{field: 0})


def test_an_answer_may_be_varied(shop: Shop) -> None:
    query = {"recent_interactions": [{"product_id": "v1", "event_type": "view"}], "k": 2}
    assert [r["fields"]["category"] for r in shop.post("/retrieve", **query)["results"]] == ["vases", "vases"]
    varied = shop.post("/retrieve", **query, diversity=0.9)
    assert varied["results"][1]["fields"]["category"] != "vases"
    assert "diversity" in shop.refused("/retrieve", **query, diversity=2)


def test_lots_may_be_ranked_by_expected_value(reranked: Shop) -> None:
    answer = reranked.post("/retrieve", **DESCRIBED, rank_by="expected_value")
    chances = {"w2": 1 / (1 + np.e), "v3": 0.5, "r1": 1 / (1 + 1 / np.e)}
    assert (answer["ranked_by"], answer["degraded"]) == ("expected_value", [])
    assert answer["product_ids"] == ["v3", "w2", "r1"]
    assert answer["scores"] == pytest.approx([40 * chances["v3"], 50 * chances["w2"], 0])
    assert "leave rerank=false out" in reranked.refused("/retrieve", **DESCRIBED, rank_by="expected_value", rerank=False)
    assert "rank_by" in reranked.refused("/retrieve", **DESCRIBED, rank_by="price")


def test_without_a_re_ranker_expected_value_is_declined_in_the_answer(shop: Shop) -> None:
    answer = shop.post("/retrieve", **DESCRIBED, rank_by="expected_value")
    assert (answer["ranked_by"], answer["degraded"]) == ("relevance", ["rerank"])
    assert answer["product_ids"] == shop.post("/retrieve", **DESCRIBED)["product_ids"]


def test_the_description_shows_both_names_of_a_lots_id(shop: Shop) -> None:
    schemas = shop.client.get("/openapi.json").json()["components"]["schemas"]
    interaction = schemas["BuyerInteraction"]
    assert {"item_id", "product_id"} <= set(interaction["properties"])
    assert interaction["required"] == ["event_type"]
    assert "oldest first" in interaction["properties"]["timestamp"]["description"]
    assert {"buyer_embedding", "dimension"} <= set(schemas["EncodedBuyer"]["properties"])
    assert {"product_ids", "scores", "ranked_by"} <= set(schemas["RetrieveAnswer"]["properties"])


def test_health_counts_the_cached_buyers(shop: Shop) -> None:
    for _ in range(2):
        shop.post("/retrieve", recent_interactions=[{"product_id": "r1", "event_type": "view"}])
    assert shop.client.get("/health").json()["caches"]["buyers"]["hits"] == 1
