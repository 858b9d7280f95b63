"""Settings: one object, read from the environment and written back to it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.config.settings import Settings
from retrieval.errors import InvalidSettings

word = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)


def test_an_empty_environment_gives_the_embedded_default():
    settings = Settings.from_env({})
    assert settings == Settings()
    assert (settings.index, settings.index_alias, settings.candidates) == ("faiss", "auction-items", 50)


@given(
    st.builds(
        Settings,
        home=word.map(Path),
        index=st.sampled_from(["faiss", "opensearch"]),
        embedded_index=st.sampled_from(["hnsw", "flat", "hnsw_sq8:m=16", "pq:pq_m=64,rescore=4"]),
        opensearch_url=word,
        opensearch_auth=st.sampled_from(["none", "sigv4"]),
        index_alias=word,
        index_shards=st.integers(1, 64),
        index_replicas=st.integers(0, 5),
        language=st.sampled_from(["en", "de", "fr", "es"]),
        cors_origins=word | st.just(""),
        towers_uri=word | st.just(""),
        query_tower=st.sampled_from(["full", "small"]),
        candidates=st.integers(1, 10_000),
        request_timeout_s=st.floats(0.001, 1e6),
        retrieve_timeout_s=st.floats(0.001, 100),
        deadline_s=st.floats(0.001, 100),
        cached_queries=st.integers(0, 10_000),
        cached_answers_s=st.floats(0, 100),
        ranker_endpoint=word | st.just(""),
        ranker_timeout_s=st.floats(0.001, 10),
        buyer_events_table=word | st.just(""),
        buyer_events_days=st.integers(1, 3_650),
        stage=word,
    )
)
def test_what_is_written_to_the_environment_reads_back_equal(settings):
    assert Settings.from_env(settings.to_env()) == settings


def test_opensearch_url_has_its_common_name_too_and_gavels_own_wins():
    assert Settings.from_env({"OPENSEARCH_URL": "http://a:1"}).opensearch_url == "http://a:1"
    both = {"OPENSEARCH_URL": "http://a:1", "GAVEL_OPENSEARCH_URL": "http://b:2"}
    assert Settings.from_env(both).opensearch_url == "http://b:2"


def test_an_empty_variable_is_an_unset_one():
    assert Settings.from_env({"GAVEL_INDEX": "", "GAVEL_CANDIDATES": "", "OPENSEARCH_URL": ""}) == Settings()


def test_towers_lie_in_home_unless_said_otherwise():
    assert Settings(home=Path("/x")).towers == "/x/towers"
    assert Settings(towers_uri="s3://bucket/towers").towers == "s3://bucket/towers"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("GAVEL_INDEX", "nmslib", "allowed are faiss, opensearch"),
        ("GAVEL_EMBEDDED_INDEX", "tree", "no index family 'tree'; there are flat, fp16"),
        ("GAVEL_EMBEDDED_INDEX", "pq:m=16", "'m=16' is no parameter of pq; write name=number with pq_m"),
        ("GAVEL_OPENSEARCH_AUTH", "basic", "allowed are none, sigv4"),
        ("GAVEL_LANGUAGE", "xx", "allowed are en, de, fr, es"),
        ("GAVEL_INDEX_REPLICAS", "-1", "whole numbers from 0"),
        ("GAVEL_INDEX_SHARDS", "0", "whole numbers from 1"),
        ("GAVEL_CANDIDATES", "many", "not a number"),
        ("GAVEL_CANDIDATES", "0", "whole numbers from 1"),
        ("GAVEL_CANDIDATES", "1.5", "whole numbers from 1"),
        ("GAVEL_CANDIDATES", "inf", "not a number"),
        ("GAVEL_REQUEST_TIMEOUT_S", "0", "seconds above 0"),
        ("GAVEL_REQUEST_TIMEOUT_S", "nan", "not a number"),
        ("GAVEL_RETRIEVE_TIMEOUT_S", "0", "seconds above 0"),
        ("GAVEL_DEADLINE_S", "-1", "seconds above 0"),
        ("GAVEL_CACHED_ANSWERS_S", "-1", "seconds from 0"),
        ("GAVEL_CACHED_QUERIES", "-1", "whole numbers from 0"),
        ("GAVEL_INDEX_REPLICAS", "0.5", "whole numbers from 0"),
        ("GAVEL_BUYER_EVENTS_DAYS", "0", "whole numbers from 1 to 3650"),
        ("GAVEL_BUYER_EVENTS_DAYS", "3651", "whole numbers from 1 to 3650"),
        ("GAVEL_RANKER_TIMEOUT_S", "-1", "seconds above 0"),
        ("GAVEL_RANKER_TIMEOUT_S", "soon", "not a number"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_its_variable(name, value, allowed):
    with pytest.raises(InvalidSettings, match=rf"{name} is .*{allowed}"):
        Settings.from_env({name: value})
