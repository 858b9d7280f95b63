"""What is OpenSearch's own about its adapter: analysis, native fusion, shards, aliases, and a server that is gone."""

import gzip
import json
import time
import urllib.request
import uuid

import numpy as np
import pytest
from lots import TOWER_ID, WORDS, WordEncoder, lot, publish
from opensearchpy import OpenSearch

from gavel.opensearch.node import free_port
from retrieval.contracts.documents import Deletion, bulk_lines
from retrieval.contracts.parts import read_part
from retrieval.errors import IndexMissing, IndexUnavailable, InvalidInput
from retrieval.index.filters import Filter
from retrieval.index.fusion import Fusion
from retrieval.index.opensearch.mapping import fusion_pipeline, index_body
from retrieval.index.opensearch.queries import filter_query, hybrid_body
from retrieval.index.opensearch.store import OpenSearchStore

WHERE = Filter()
TITLES = (
    "old red vase",
    "red vase",
    "gold ring",
    "blue vase",
    "silver watch",
    "red lamp",
    "luxury gold watch",
    "round red vase red",
)


@pytest.fixture
def client(opensearch_url):
    client = OpenSearch(opensearch_url)
    yield client
    client.close()


@pytest.fixture
def alias(client):
    alias = f"lots-{uuid.uuid4().hex[:8]}"
    yield alias
    client.indices.delete(index=f"{alias}-*")


@pytest.fixture
def store(opensearch_url, alias):
    return OpenSearchStore(opensearch_url, alias)


def test_an_index_whose_words_an_older_version_cut_is_found_and_told(store, client, alias, caplog):
    body = index_body(TOWER_ID, len(WORDS) + 1)
    del body["mappings"]["_meta"]["analysis"]
    client.indices.create(index=f"{alias}-{TOWER_ID}-20261121", body=body)
    index = store.find(TOWER_ID)
    assert index.name in caplog.text
    assert "`gavel index --rebuild`" in caplog.text
    caplog.clear()
    assert store.find(store.create(TOWER_ID, len(WORDS) + 1).tower_id).name > index.name
    assert caplog.text == ""


def vector(text):
    return WordEncoder().encode([text])[0]


def ids(found):
    return [candidate.item_id for candidate in found]


@pytest.mark.parametrize(
    ("text", "stems"),
    [
        ("Luxury vintage Watches, running", ["luxuri", "vintag", "watch", "run"]),
        ("women's café_bar 1990’s", ["women", "s", "café_bar", "1990", "s"]),
        ("東京タワー ÅNGSTRÖM", ["東京タワー", "ångström"]),
        ("!?… —", []),
    ],
)
def test_text_is_cut_into_words_in_lower_case_and_stemmed(store, client, text, stems):
    name = store.create(TOWER_ID, 2).name
    answer = client.indices.analyze(index=name, body={"analyzer": "item_text", "text": text})
    assert [token["token"] for token in answer["tokens"]] == stems


def test_a_lot_with_an_endless_word_is_indexed_and_found(store):
    index = publish(store, [lot("a", "red vase", description="é" * 50_000)])
    assert ids(index.keyword("vase", 5, WHERE)) == ["a"]


def test_the_mapping_has_the_hnsw_graph_that_the_schema_says(store, client):
    name = store.create(TOWER_ID, 128).name
    field = client.indices.get_mapping(index=name)[name]["mappings"]["properties"]["embedding"]
    assert field["dimension"] == 128
    assert field["method"]["engine"] == "lucene"
    assert field["method"]["space_type"] == "cosinesimil"
    assert field["method"]["parameters"] == {"m": 16, "ef_construction": 256}


@pytest.mark.parametrize("fusion", [Fusion(), Fusion("min_max", (0.6, 0.4)), Fusion("l2", (0.2, 0.8))], ids=str)
def test_the_servers_own_fusion_gives_the_same_scores_where_nothing_ties(store, client, alias, fusion):
    titles = [" ".join(WORDS[: n + 1]) for n in range(len(WORDS))]  # each longer than the last: no two score alike
    index = store.create(TOWER_ID, len(vector("vase")))
    part = (line for n, title in enumerate(titles) for line in bulk_lines(lot(f"lot-{n:02}", title)))
    client.bulk(body="".join(f"{line}\n" for line in part), index=index.name, params={"refresh": "true"})  # not moved apart
    text, query = "vase watch", vector("vase watch ring lamp red blue")
    body = {**hybrid_body(text, query, len(titles), filter_query(WHERE)), "search_pipeline": fusion_pipeline(fusion)}
    native = client.search(index=index.name, body=body)["hits"]["hits"]
    ours = index.hybrid(text, query, len(titles), WHERE, fusion)
    assert len(ours) == len(titles)
    assert {c.item_id: c.score for c in ours} == pytest.approx({hit["_id"]: hit["_score"] for hit in native}, rel=1e-6, abs=1e-6)


def test_the_bytes_of_a_part_are_a_body_of_bulk_as_curl_posts_it(store, client, opensearch_url, tmp_path):
    """gzip -dc part-00000.ndjson.gz > part.ndjson && curl --data-binary @part.ndjson <url>/<index>/_bulk"""
    lots = [lot(f"lot-{n}", f"old {word}", current_price=10.0 + n) for n, word in enumerate(WORDS)]
    part = tmp_path / "part-00000.ndjson.gz"
    part.write_bytes(gzip.compress("".join(f"{line}\n" for one in lots for line in bulk_lines(one)).encode()))
    assert [op.item_id for op in read_part(part)] == [one.item_id for one in lots], "the indexer reads the same file"
    index = store.create(TOWER_ID, len(lots[0].vector))
    headers = {"Content-Type": "application/x-ndjson"}
    request = urllib.request.Request(
        f"{opensearch_url}/{index.name}/_bulk?refresh=true", gzip.decompress(part.read_bytes()), headers
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = json.load(response)
    assert (answer["errors"], [item["index"]["status"] for item in answer["items"]]) == (False, [201] * len(lots))
    store.publish(index.name)
    best = store.live().hybrid("vase", vector("vase"), 1, WHERE)[0]
    assert (best.document["title"], best.document["tower_id"]) == ("old vase", TOWER_ID)


def test_lots_that_tie_in_both_lists_come_by_id_whatever_the_order_of_writing(store):
    index = publish(store, [lot(f"lot-{n}", "red vase") for n in (5, 3, 9, 1, 7)])
    assert ids(index.hybrid("vase", vector("red vase"), 3, WHERE)) == ["lot-1", "lot-3", "lot-5"]


def test_several_shards_answer_as_one(opensearch_url, alias):
    lots = [lot(f"lot-{n:03}", TITLES[n % len(TITLES)], current_price=float(n)) for n in range(64)]
    one, many = (publish(OpenSearchStore(opensearch_url, alias, shards=shards), lots) for shards in (1, 3))
    query = vector("old red vase")
    filters = Filter(max_price=40)
    assert ids(many.semantic(query, 7, filters, exact=True)) == ids(one.semantic(query, 7, filters, exact=True))
    assert many.count() == 64
    assert len(set(ids(many.hybrid("red vase", query, 7, filters)))) == 7


def test_words_weigh_the_same_in_several_shards_as_in_one(opensearch_url, alias):
    lots = [lot(f"lot-{n:03}", " ".join(TITLES[m % len(TITLES)] for m in range(n % 3 + 1))) for n in range(64)]
    one, many = (publish(OpenSearchStore(opensearch_url, alias, shards=shards), lots) for shards in (1, 5))
    query = vector("old red vase")
    for text in ("red", "gold ring", "old blue watch"):
        assert [(c.item_id, c.score) for c in many.keyword(text, 20, WHERE)] == [
            (c.item_id, c.score) for c in one.keyword(text, 20, WHERE)
        ]
        for fusion in (Fusion(), Fusion("min_max", (0.6, 0.4))):
            assert ids(many.hybrid(text, query, 20, WHERE, fusion)) == ids(one.hybrid(text, query, 20, WHERE, fusion))


def test_an_index_that_lacks_a_shard_gives_errors_and_not_half_answers(store, client, alias):
    name = f"{alias}-{TOWER_ID}-half"
    body = index_body(TOWER_ID, len(WORDS) + 1, shards=3)
    body["settings"]["index"]["routing.allocation.total_shards_per_node"] = 1  # on one node: two of three stand nowhere
    client.indices.create(index=name, body=body, params={"wait_for_active_shards": "0"})
    index = store.find(TOWER_ID)
    assert index.name == name
    for ask in (
        lambda: index.semantic(vector("red vase"), 5, WHERE),
        lambda: index.semantic(vector("red vase"), 5, WHERE, exact=True),
        lambda: index.keyword("vase", 5, WHERE),
        lambda: index.hybrid("vase", vector("red vase"), 5, WHERE),
        lambda: index.top("bid_count", 5, WHERE),
        lambda: index.corrections(["vaes"]),
        lambda: index.fetch([f"lot-{n}" for n in range(20)]),
        index.count,
    ):
        with pytest.raises(IndexUnavailable):
            ask()


def test_a_node_that_is_gone_is_passed_over(opensearch_url, alias):
    urls = f"http://127.0.0.1:{free_port()},{opensearch_url}, http://127.0.0.1:{free_port()}"
    index = publish(OpenSearchStore(urls, alias), [lot("a", "red vase")])
    for _ in range(10):
        assert ids(index.keyword("vase", 5, WHERE)) == ["a"]


def test_more_than_ef_search_neighbours_can_be_asked_for(store):
    index = publish(store, [lot(f"lot-{n:03}", TITLES[n % len(TITLES)]) for n in range(150)])
    assert len(index.semantic(vector("red vase"), 140, WHERE)) == 140


def test_upsert_into_a_dropped_index_does_not_make_a_new_one_without_mapping(store, client):
    index = store.create(TOWER_ID, len(WORDS) + 1)
    store.drop(index.name)
    with pytest.raises(IndexMissing, match=index.name):
        index.upsert([lot("a")])
    assert not client.indices.exists(index=index.name)


def test_withdrawn_lots_are_told_apart_in_an_index_that_an_older_version_made(store, client, alias):
    body = index_body(TOWER_ID, len(WORDS) + 1)
    del body["mappings"]["properties"]["deleted_at"]
    client.indices.create(index=f"{alias}-{TOWER_ID}-20261121", body=body)
    index = store.find(TOWER_ID)
    index.upsert([lot("a"), lot("b"), Deletion("a", 1)])
    index.refresh()
    assert (index.count(), index.deletions()) == (1, [Deletion("a", 1)])


def test_publishing_moves_the_alias_and_keeps_the_index_before(store, client, alias):
    first, second = (publish(store, [lot("a")]) for _ in range(2))
    assert list(client.indices.get_alias(name=alias)) == [second.name]
    assert client.indices.exists(index=first.name)
    store.publish(first.name)
    assert store.live().name == first.name


def test_publishing_what_is_not_there_leaves_the_live_index_alone(store):
    index = publish(store, [lot("a")])
    with pytest.raises(IndexMissing, match="nowhere"):
        store.publish("nowhere")
    assert store.live().name == index.name


def test_an_alias_does_not_see_the_indices_of_a_longer_alias(store, opensearch_url, alias):
    OpenSearchStore(opensearch_url, f"{alias}-test").create(TOWER_ID, 2)
    assert store.find(TOWER_ID) is None


def test_a_vector_of_another_length_is_refused_before_it_is_sent(store):
    index = store.create(TOWER_ID, 4)
    with pytest.raises(InvalidInput, match=r"shape \(3,\)"):
        index.semantic(np.ones(3, np.float32), 5, WHERE)


def test_a_client_with_its_own_credentials_can_be_passed_in(client, alias):
    index = publish(OpenSearchStore(client, alias), [lot("a", "red vase")])
    assert ids(index.keyword("vases", 5, WHERE)) == ["a"]


def test_a_server_that_is_gone_is_named_at_once_with_the_way_out():
    url = f"http://127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(IndexUnavailable, match=rf"{url} does not answer .*`gavel up`"):
        OpenSearchStore(url).live()
    assert time.monotonic() - began < 2


def test_a_password_in_the_url_stays_out_of_the_message():
    with pytest.raises(IndexUnavailable) as raised:
        OpenSearchStore(f"http://buyer:secret@127.0.0.1:{free_port()}").live()
    assert "secret" not in str(raised.value)


def test_the_record_of_a_deletion_goes_when_no_event_so_old_can_come_any_more(store, client):
    index = store.create(TOWER_ID, 2)
    index.upsert([Deletion("withdrawn long ago", 1)])
    index.refresh()
    aged = {"script": {"source": "ctx._source.deleted_at -= 31L * 24 * 3600 * 1000"}, "query": {"match_all": {}}}
    client.update_by_query(index=index.name, body=aged, params={"refresh": "true"})
    index.upsert([Deletion("withdrawn now", 1)])
    index.refresh()
    left = client.search(index=index.name, body={"query": {"match_all": {}}})["hits"]["hits"]
    assert [hit["_id"] for hit in left] == ["withdrawn now"]
    assert index.count() == 0
