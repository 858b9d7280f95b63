"""Answers of a cluster that lost something: asked for again, or an error, never taken for whole."""

import pytest
from opensearchpy.exceptions import ConnectionTimeout, TransportError

from retrieval.index.opensearch.responses import check_answer, check_documents, check_refresh, check_searches, retry_read

WHOLE = {"timed_out": False, "_shards": {"total": 3, "successful": 3, "failed": 0}, "hits": {"hits": []}}
FAILURE = {"shard": 1, "reason": {"type": "node_disconnected_exception", "reason": "gone"}}
PARTIAL = {**WHOLE, "_shards": {"total": 3, "successful": 2, "failed": 1, "failures": [FAILURE]}}
LATE = {**WHOLE, "timed_out": True}
BROKEN = {"error": {"type": "search_phase_execution_exception"}, "status": 500}


class Asked:
    """Answers with the next of what it was given, or raises it."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def __call__(self):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize("status", [500, 503])
def test_a_question_that_a_lost_node_leaves_open_is_asked_once_more(status):
    assert retry_read(Asked(TransportError(status, "node_disconnected_exception", {}), "found")) == "found"


def test_a_question_that_fails_twice_is_given_up():
    asked = Asked(TransportError(500, "first", {}), TransportError(500, "second", {}), "never asked for")
    with pytest.raises(TransportError, match="second"):
        retry_read(asked)
    assert asked.answers == ["never asked for"]


@pytest.mark.parametrize("error", [TransportError(400, "parsing_exception", {}), ConnectionTimeout("TIMEOUT", "slow", Exception())])
def test_what_another_copy_cannot_mend_is_not_asked_again(error):
    asked = Asked(error, "never asked for")
    with pytest.raises(type(error)):
        retry_read(asked)
    assert asked.answers == ["never asked for"]


def test_an_answer_without_one_of_its_shards_is_an_error_that_names_the_reason():
    assert check_answer(WHOLE) is WHOLE
    with pytest.raises(TransportError, match="1 of 3 shards did not answer: node_disconnected_exception"):
        check_answer(PARTIAL)
    with pytest.raises(TransportError, match="503"):
        check_answer(LATE)


def test_a_shard_that_stands_nowhere_is_missed_by_a_count_and_not_by_a_refresh():
    unassigned = {"_shards": {"total": 3, "successful": 1, "failed": 0}}
    assert check_refresh(unassigned) is unassigned
    with pytest.raises(TransportError, match="2 of 3 shards did not answer"):
        check_answer(unassigned)
    with pytest.raises(TransportError, match="1 of 3 shards did not answer"):
        check_refresh(PARTIAL)


@pytest.mark.parametrize("second", [PARTIAL, BROKEN])
def test_two_searches_in_one_request_are_whole_or_an_error(second):
    assert check_searches({"responses": [WHOLE, WHOLE]}) == [WHOLE, WHOLE]
    with pytest.raises(TransportError) as raised:
        check_searches({"responses": [WHOLE, second]})
    assert raised.value.status_code in (500, 503)


def test_a_lot_that_could_not_be_read_is_not_taken_for_one_that_is_not_there():
    unknown = {"_id": "b", "found": False}
    assert check_documents({"docs": [unknown]}) == [unknown]
    with pytest.raises(TransportError, match="no_shard_available"):
        check_documents({"docs": [unknown, {"_id": "a", "error": {"type": "no_shard_available_action_exception"}}]})
