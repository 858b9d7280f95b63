"""An OpenSearch that cannot be reached is one error with the way out, and nothing else."""

import logging
import socket
import time

import pytest
from recording_server import recording_server

from retrieval.errors import IndexUnavailable, InvalidInput
from retrieval.index.opensearch.client import connect
from retrieval.index.opensearch.store import OpenSearchStore


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


def test_a_node_that_hangs_costs_one_request_its_time_and_is_left_alone_then() -> None:
    with socket.socket() as hanging, recording_server() as sound:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        client = connect(f"http://127.0.0.1:{hanging.getsockname()[1]},{sound.url}", 0.3)
        answers = [client.ping() for _ in range(10)]
    assert answers.count(False) <= 1
    assert answers[2:] == [True] * 8


def test_all_nodes_together_take_no_longer_than_one_request_may() -> None:
    with socket.socket() as full:  # a queue of connections that is full takes no more: connecting hangs
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        client, start = connect(",".join([f"http://127.0.0.1:{full.getsockname()[1]}"] * 3), 0.4), time.monotonic()
        assert not client.ping()
        assert time.monotonic() - start < 0.8
        for each in waiting:
            each.close()
