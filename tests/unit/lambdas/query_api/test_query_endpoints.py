"""The HTTP face of everything but plain search: similar lots, buyers, vectors, pages, explanations, several queries."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from lots import TOWER_ID, WORDS, WordEncoder, lot, publish

from lambdas.query_api.app import create_app
from retrieval.contracts.documents import IndexedItem
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import utc_now
from retrieval.ranker.features import FEATURES
from retrieval.search.service import SearchModels, SearchService

LOTS = [
    lot("v1", "red vase", category="vases", current_price=10.0),
    lot("v2", "blue vase", category="vases", current_price=90.0),
    lot("v3", "old red vase", category="vases", ends_at=utc_now() - timedelta(hours=1)),
    lot("w1", "gold watch", category="watches", current_price=500.0),
    lot("a/b", "silver watch", category="watches", current_price=50.0),
]
DIMENSIONS = len(WORDS) + 1


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    return shop(tmp_path, *LOTS)


def shop(root: Path, *lots: IndexedItem) -> TestClient:
    store = EmbeddedStore(root / "index")
    publish(store, lots)
    service = SearchService(store, SearchModels(WordEncoder))
    return TestClient(create_app(lambda: service), raise_server_exceptions=False)


def act(item_id: str, event_type: str = "view") -> dict[str, str]:
    return {"item_id": item_id, "event_type": event_type, "timestamp": "2026-11-21T20:00:00Z"}


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [lot["item_id"] for lot in answer.json()["results"]]


def refused(answer: Any, kind: str = "invalid_query", status: int = 400) -> str:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert answer.json()["type"] == kind
    return answer.json()["detail"]


def test_a_list_cuts_a_long_description_at_a_word_and_the_lot_itself_has_it_whole(tmp_path: Path) -> None:
    words, letters = "Sold by the estate. " * 4_000, "\u58fa" * 50_000
    lots = [
        lot("w", "red vase", description=words),
        lot("l", "blue vase", description=letters),
        lot("s", "vase", description="Old."),
    ]
    asked = shop(tmp_path, *lots)
    for answer in (asked.get("/search", params={"q": "vase"}), asked.get("/items/w/similar"), asked.get("/retrieve?item_id=w")):
        told = {found["item_id"]: found["fields"] for found in answer.json()["results"]}
        assert told["s"].get("description_cut") is None
        for item_id, whole in {"w": words, "l": letters}.items():
            if item_id in told:
                assert told[item_id]["description_cut"] is True
                assert whole.startswith(told[item_id]["description"])
                assert 300 < len(told[item_id]["description"]) <= 400
    assert told["l"]["description"][-1] == "\u58fa"
    assert asked.get("/search", params={"q": "red"}).json()["results"][0]["fields"]["description"].endswith("estate.")
    for item_id, whole in {"w": words, "l": letters, "s": "Old."}.items():
        fields = asked.get(f"/items/{item_id}").json()["fields"]
        assert (fields["description"], fields.get("description_cut")) == (whole, None)


ATTRIBUTED = (
    lot("red", "vase", attributes={"Colour": ["Red", "White"], "Size": "42"}),
    lot("blue", "vase", attributes={"colour": "blue", "size": 40.5}),
    lot("plain", "vase"),
)


@pytest.mark.parametrize(
    ("query", "body", "expected"),
    [
        ("attribute=colour:RED", {"attributes": {"colour": "red"}}, ["red"]),
        ("attribute=colour:red&attribute=Colour:blue", {"attributes": {"colour": ["red", "blue"]}}, ["blue", "red"]),
        ("attribute=colour:red&attribute=size:41..", {"attributes": {"colour": "white", "SIZE": {"min": 41}}}, ["red"]),
        ("attribute=size:..42", {"attribute": ["size:..42"]}, ["blue", "red"]),
        ("attribute=size:42", {"attributes": {"size": 42}}, ["red"]),
        ("attribute=colour:green", {"attributes": {"colour": "green"}}, []),
    ],
)
def test_lots_are_filtered_by_attributes(query: str, body: dict[str, Any], expected: list[str], tmp_path: Path) -> None:
    asked = shop(tmp_path, *ATTRIBUTED)
    assert sorted(ids(asked.get(f"/search?q=vase&{query}"))) == expected
    assert sorted(ids(asked.post("/search", json={"q": "vase", **body}))) == expected
    assert sorted(ids(asked.get(f"/items/plain/similar?{query}"))) == expected


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("attribute=red", "attribute is 'red'; write NAME:VALUE, such as colour:red"),
        ("attribute=--:red", "attribute is '--:red'"),
        ("attribute=size:44..40", "the range of attribute size begins at 44, above its end 40; swap them"),
        ("attribute=colour:" + "x" * 1_001, "attribute"),
        ("&".join(["attribute=a:b"] * 21), "attribute"),
    ],
)
def test_a_filter_that_is_none_is_refused(query: str, words: str, client: TestClient) -> None:
    assert words in refused(client.get(f"/search?q=vase&{query}"))


@pytest.mark.parametrize("condition", [{}, [], "", {"min": 4, "max": 3}, {"least": 3}, True, {"min": None}])
def test_a_condition_of_a_body_that_is_none_is_refused(condition: Any, client: TestClient) -> None:
    refused(client.post("/search", json={"q": "vase", "attributes": {"size": condition}}))


def test_a_lot_and_a_list_show_attributes_without_what_the_index_makes_of_them(tmp_path: Path) -> None:
    asked = shop(tmp_path, *ATTRIBUTED)
    (listed,) = (found for found in asked.get("/search?q=vase").json()["results"] if found["item_id"] == "red")
    for fields in (asked.get("/items/red").json()["fields"], listed["fields"]):
        assert fields["attributes"] == {"Colour": ["Red", "White"], "Size": "42"}
        assert not {"attribute_terms", "attribute_text", "attributes_cut"} & fields.keys()


def test_a_lot_is_shown_whole_also_when_it_has_ended(client: TestClient) -> None:
    ended = client.get("/items/v3").json()
    assert (ended["item_id"], ended["fields"]["title"]) == ("v3", "old red vase")
    assert ended["fields"]["ends_at"] < utc_now().timestamp() * 1_000
    assert not {"text", "embedding", "tower_id"} & set(ended["fields"])
    assert client.get("/items/a%2Fb").json()["item_id"] == "a/b"
    assert "'v9'" in refused(client.get("/items/v9"), "unknown_item", 404)


def test_an_answer_stays_below_what_can_be_sent_however_much_is_asked_for(tmp_path: Path) -> None:
    long = {"category": "\u58fa" * 1_000, "brand": "\u58fa" * 1_000, "seller": "\u58fa" * 1_000, "description": "\u3002" * 90_000}
    asked = shop(tmp_path, *(lot(f"v{n}", "red " + "\u58fa" * 990, **long) for n in range(100)))
    query = {"q": "red", "k": 100, "mode": "semantic"}
    one = asked.post("/search", json=query)
    assert (one.status_code, len(one.json()["results"])) == (200, 100)
    assert len(one.content) < 5_500_000
    assert "ask for fewer lots or queries" in refused(asked.post("/search", json=[query] * 20))


def test_similar_lots_are_the_nearest_without_the_lot_itself(client: TestClient) -> None:
    answer = client.get("/items/v1/similar", params={"k": 2})
    assert ids(answer)[0] == "v2"
    assert "v1" not in ids(answer)
    assert answer.json()["results"][0]["rank"] == 1


def test_lots_similar_to_an_ended_one_can_be_asked_for_and_are_not_ended_themselves(client: TestClient) -> None:
    assert ids(client.get("/items/v3/similar"))[0] == "v1"
    assert "v3" not in ids(client.get("/items/v1/similar"))


def test_similar_lots_pass_the_filters(client: TestClient) -> None:
    assert ids(client.get("/items/v1/similar", params={"category": "watches", "max_price": 100})) == ["a/b"]


def test_an_item_id_may_hold_a_slash(client: TestClient) -> None:
    assert ids(client.get("/items/a%2Fb/similar"))[0] == "w1"


def test_an_item_id_may_end_as_another_route_does(tmp_path: Path) -> None:
    asked = shop(tmp_path, lot("a", "red vase"), lot("a/similar", "blue vase"), lot("similar", "gold ring"))
    assert [asked.get(f"/items/{name}").json()["item_id"] for name in ("a%2Fsimilar", "a", "similar")] == [
        "a/similar",
        "a",
        "similar",
    ]
    assert ids(asked.get("/items/a/similar"))[0] == "a/similar"
    assert ids(asked.get("/items/a%2Fsimilar/similar"))[0] == "a"
    assert asked.get("/items/a%20").json()["item_id"] == "a", "the lot's own id, however it was asked for"


def test_a_lot_that_is_not_there_is_a_404(client: TestClient) -> None:
    assert "'v9'" in refused(client.get("/items/v9/similar"), "unknown_item", 404)


@pytest.mark.parametrize("path", ["v1/similar?k=0", "/similar", f"{'x' * 513}/similar", "v1/similar?q=a"])
def test_a_bad_question_for_similar_lots_is_refused(path: str, client: TestClient) -> None:
    assert refused(client.get(f"/items/{path}"))


def test_an_encoded_query_is_the_vector_that_a_search_compares_lots_with(client: TestClient) -> None:
    answer = client.post("/encode_query", json={"query": "Red  vase"}).json()
    assert (answer["dimension"], answer["tower_id"]) == (DIMENSIONS, TOWER_ID)
    assert answer["query_embedding"] == pytest.approx(WordEncoder().encode(["red vase"])[0].tolist())
    assert client.post("/encode_query", json={"q": "red vase"}).json() == answer
    nearest = client.post("/retrieve", json={"vector": answer["query_embedding"], "k": 2})
    assert ids(nearest) == ids(client.get("/search", params={"q": "red vase", "mode": "semantic", "k": 2}))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "query: "),
        ({"query": ""}, "query: "),
        ({"query": "   "}, "the query is empty"),
        ({"query": "x" * 513}, "query: "),
        ({"query": 7}, "query: "),
        ({"query": "vase", "k": 3}, "k: "),
        ({"query": "va\u0000se"}, "control character U+0000"),
    ],
)
def test_a_query_that_cannot_be_encoded_is_refused(body: dict[str, Any], words: str, client: TestClient) -> None:
    assert words in refused(client.post("/encode_query", json=body))


def test_a_buyer_is_the_weighted_average_of_the_lots(client: TestClient) -> None:
    answer = client.post("/encode_buyer", json={"events": [act("v1"), act("w1", "purchase"), act("gone")]}).json()
    wanted = LOTS[0].vector + 10 * LOTS[3].vector
    wanted = wanted / (wanted @ wanted) ** 0.5
    assert answer["vector"] == pytest.approx(wanted.tolist(), abs=1e-6)
    assert (answer["dimensions"], answer["tower_id"]) == (DIMENSIONS, TOWER_ID)
    assert (answer["known_items"], answer["unknown_items"]) == (["v1", "w1"], ["gone"])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"events": [act("gone")]}, "none of the 1 lots"),
        ({"events": []}, "send recent_interactions"),
        ({}, "send recent_interactions"),
        ({"events": [act("v1")] * 201}, "events: "),
        ({"events": [act("v1", "stare")]}, "events.0.event_type: "),
        ({"events": [{**act("v1"), "timestamp": "yesterday"}]}, "events.0.timestamp: "),
        ({"events": [{**act("v1"), "timestamp": 0}]}, "events.0.timestamp: "),
        ({"events": [{**act("v1"), "timestamp": "2026-11-21T20:00:00"}]}, "events.0.timestamp: "),
        ({"events": [{**act("v1"), "price": 1}]}, "events.0.price: "),
    ],
)
def test_a_buyer_that_cannot_be_encoded_is_refused(body: dict[str, Any], words: str, client: TestClient) -> None:
    assert words in refused(client.post("/encode_buyer", json=body))


def test_an_encoded_buyer_retrieves_lots(client: TestClient) -> None:
    vector = client.post("/encode_buyer", json={"events": [act("w1")]}).json()["vector"]
    by_body = client.post("/retrieve", json={"vector": vector, "k": 2})
    assert ids(by_body) == ["w1", "a/b"]
    assert ids(client.get("/retrieve", params={"vector": vector, "k": 2})) == ["w1", "a/b"]
    assert by_body.json()["results"][0]["similarity"] == pytest.approx(1, abs=1e-5)


def test_a_buyer_retrieves_lots_other_than_those_of_the_acts(client: TestClient) -> None:
    answer = client.post("/retrieve", json={"recent_interactions": [act("w1"), act("gone")], "k": 1})
    assert ids(answer) == ["a/b"]
    assert answer.json()["unknown_items"] == ["gone"]
    assert ids(client.get("/retrieve", params={"item_id": ["w1"], "k": 1})) == ["a/b"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "either a vector or"),
        ({"vector": [1.0] * DIMENSIONS, "recent_interactions": [act("v1")]}, "either a vector or"),
        ({"vector": [1.0]}, f"takes {DIMENSIONS}"),
        ({"vector": [0.0] * DIMENSIONS}, "no direction"),
        ({"vector": ["1"] * DIMENSIONS}, "vector.0: "),
        ({"vector": [1.0] * 5_000}, "vector: "),
        ({"recent_interactions": [act("gone")]}, "none of the 1 lots"),
        ({"vector": [1.0] * DIMENSIONS, "k": 101}, "k: "),
        ({"vector": [1.0] * DIMENSIONS, "min_price": 9, "max_price": 1}, "swap them"),
    ],
)
def test_what_nothing_can_be_nearest_to_is_refused(body: dict[str, Any], words: str, client: TestClient) -> None:
    assert words in refused(client.post("/retrieve", json=body))


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_the_length_of_a_vector_says_nothing(size: float, client: TestClient) -> None:
    vector = (LOTS[3].vector.astype(float) * size).tolist()
    assert ids(client.post("/retrieve", json={"vector": vector}))[0] == "w1"


def test_pages_follow_each_other(client: TestClient) -> None:
    whole = ids(client.get("/search", params={"q": "red vase", "mode": "semantic"}))
    pages, offset = [], 0
    while offset is not None:
        page = client.get("/search", params={"q": "red vase", "mode": "semantic", "k": 3, "offset": offset})
        pages += [(lot["rank"], lot["item_id"]) for lot in page.json()["results"]]
        offset = page.json()["next_offset"]
    assert pages == list(enumerate(whole, 1))


def test_an_explanation_tells_the_ranks_and_scores_of_both_lists(client: TestClient) -> None:
    answer = client.get("/search", params={"q": "red vase", "explain": True}).json()
    first = answer["results"][0]["explanation"]
    assert (first["semantic_rank"], first["keyword_rank"], first["first_stage_rank"], first["named_by_id"]) == (1, 1, 1, False)
    assert first["cosine"] == answer["results"][0]["similarity"]
    assert first["bm25"] > 0
    assert first["fused_score"] == pytest.approx(2 / 61)
    assert set(first["features"]) == set(FEATURES)
    assert first["features"]["title_overlap"] == 1
    assert (first["features"]["seller_rating"], first["contributions"]) == (None, None)
    last = answer["results"][-1]["explanation"]
    assert (last["keyword_rank"], last["bm25"]) == (None, None)
    assert client.get("/search", params={"q": "red vase"}).json()["results"][0]["explanation"] is None


def test_several_queries_are_answered_in_their_order(client: TestClient) -> None:
    answers = client.post("/search", json=[{"q": "gold watch", "k": 1}, {"q": "red vase", "k": 1}, {"q": "gold watch", "k": 2}])
    assert [[lot["item_id"] for lot in answer["results"]] for answer in answers.json()] == [["w1"], ["v1"], ["w1", "a/b"]]


def test_one_bad_query_of_several_is_named_by_its_place(client: TestClient) -> None:
    assert refused(client.post("/search", json=[{"q": "vase"}, {"q": "vase", "k": 0}])).startswith("1.k: ")
    assert refused(client.post("/search", json={"q": "vase", "k": 0})).startswith("k: ")
    assert refused(client.post("/search", json=[{"q": "vase"}] * 21))


def test_recent_interactions_draw_a_search_towards_their_lots(client: TestClient) -> None:
    question = {"q": "vase", "mode": "semantic", "k": 2}
    towards_blue = client.post("/search", json={**question, "recent_interactions": [act("v2", "purchase"), act("gone")]})
    towards_red = client.post("/search", json={**question, "recent_interactions": [act("v1", "purchase")]})
    assert (ids(towards_blue), ids(towards_red)) == (["v2", "v1"], ["v1", "v2"])
    assert towards_blue.json()["unknown_items"] == ["gone"]
    assert towards_blue.json()["results"][0]["similarity"] == pytest.approx(towards_red.json()["results"][1]["similarity"])


def test_a_search_is_fused_as_it_asks(client: TestClient) -> None:
    question = {"q": "red vase", "k": 4}

    def scores(fusion: str) -> list[float]:
        (answer,) = client.post("/search", json=[{**question, "fusion": fusion}]).json()
        assert answer["results"] == client.get("/search", params={**question, "fusion": fusion}).json()["results"]
        return [lot["score"] for lot in answer["results"]]

    assert scores("rrf")[0] == pytest.approx(2 / 61)
    assert scores("min_max")[0] == pytest.approx(1)
    assert scores("min_max:1,0")[-1] == 0, "the last one shares no word"
    by_default = client.post("/search", json=question).json()["results"]
    assert [lot["score"] for lot in by_default] == scores("rrf")


def test_acts_on_lots_that_are_all_gone_change_nothing(client: TestClient) -> None:
    question = {"q": "vase", "k": 2}
    answer = client.post("/search", json={**question, "recent_interactions": [act("gone")]})
    assert ids(answer) == ids(client.post("/search", json=question))
    assert answer.json()["unknown_items"] == ["gone"]


def test_the_id_of_a_lot_brings_it_first(client: TestClient) -> None:
    for mode in ("hybrid", "semantic", "keyword"):
        answer = client.get("/search", params={"q": " w1 ", "mode": mode, "explain": True})
        assert ids(answer)[0] == "w1"
        assert len(set(ids(answer))) == len(ids(answer))
        assert answer.json()["results"][0]["explanation"]["named_by_id"]


def test_the_id_of_a_lot_that_may_not_come_back_does_not_bring_it(client: TestClient) -> None:
    assert "v3" not in ids(client.get("/search", params={"q": "v3"}))
    assert "w1" not in ids(client.get("/search", params={"q": "w1", "category": "vases"}))
