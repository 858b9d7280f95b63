"""An OpenSearch that cannot be reached is one error with the way out, and nothing else."""

import logging

import pytest

from retrieval.errors import IndexUnavailable, InvalidInput
from retrieval.index.opensearch import OpenSearchStore


def test_a_server_that_does_not_answer_is_one_error_without_stack_traces_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(IndexUnavailable, match=r"127\.0\.0\.1:9 does not answer .*gavel up"):
        OpenSearchStore("http://127.0.0.1:9").live()
    assert caplog.records == []


@pytest.mark.parametrize("url", ["http://user:secret@127.0.0.1:99999", "http://user:secret,/word@127.0.0.1:9200"])
def test_a_url_that_cannot_be_read_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be read") as refused:
        OpenSearchStore(url)
    assert "secret" not in str(refused.value)


def test_a_url_of_no_node_is_refused() -> None:
    with pytest.raises(InvalidInput, match="names no node"):
        OpenSearchStore(" , ")
