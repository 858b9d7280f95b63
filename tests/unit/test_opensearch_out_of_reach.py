"""An OpenSearch that cannot be reached is one error with the way out, and nothing else."""

import logging

import pytest

from retrieval.errors import IndexUnavailable, InvalidInput
from retrieval.index.opensearch import OpenSearchStore


def test_a_server_that_does_not_answer_is_one_error_without_stack_traces_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(IndexUnavailable, match=r"127\.0\.0\.1:9 does not answer .*gavel up"):
        OpenSearchStore("http://127.0.0.1:9").live()
    assert caplog.records == []


def test_a_url_that_cannot_be_read_is_refused_without_its_password() -> None:
    with pytest.raises(InvalidInput, match="Port out of range") as refused:
        OpenSearchStore("http://user:secret@127.0.0.1:99999")
    assert "secret" not in str(refused.value)


def test_a_url_of_no_node_is_refused() -> None:
    with pytest.raises(InvalidInput, match="there is none"):
        OpenSearchStore(" , ")
