"""Take states of lots on AWS: bids, new ends and withdrawals, from a queue and from the API's routes that write.

A message of the queue is one state, {"item_id": "v1", "bid_count": 7, …}, a list of up to 1,000 of them, or an event of EventBridge
whose `detail` is one. Without a version the time at which SQS received the message counts, also when it is delivered again. A
message with a state that cannot be read, or while the index does not answer, is delivered again and in the end becomes a dead
letter; the other states of the message count all the same, and may be sent twice.

Requests of API Gateway are answered as in `gavel serve`; API Gateway has checked the caller's IAM signature.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger
from fastapi import FastAPI
from mangum import Mangum

from lambdas.query_api.item_states import MAX_STATES, item_states_router, read_state
from lambdas.query_api.problems import PROBLEM_TYPE, answer_problems
from lambdas.query_api.strict_route import StrictRoute
from retrieval.config.settings import Settings
from retrieval.contracts.item_states import StateUpdate
from retrieval.contracts.items import moment_of
from retrieval.errors import InvalidInput
from retrieval.index.opensearch.store import open_store
from retrieval.index.port import IndexStore, VectorIndex

logger = Logger(service="item-states")


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Take the states of SQS messages and return the messages to deliver again, or answer one request of API Gateway.

    Raises:
        InvalidInput: the event is neither.
    """
    match event:
        case {"Records": [{"eventSource": "aws:sqs"}, *_] as messages}:
            return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in take(messages, live_index())]}
        case {"httpMethod": str(), "requestContext": _}:
            answer_http = Mangum(app(), lifespan="off", text_mime_types=["application/json", PROBLEM_TYPE])
            return dict(answer_http(event, context))  # type: ignore[arg-type]  # its own type of Lambda's context
    raise InvalidInput("the event is neither of SQS nor of API Gateway")


def take(messages: list[dict[str, Any]], index: VectorIndex) -> list[str]:
    """Carry out the updates of messages.

    Args:
        messages: messages of SQS.
        index: live index.

    Returns:
        Ids of the messages that have a state which cannot be read, or, if the index fails, of all messages.
    """
    updates: list[StateUpdate] = []
    failed: list[str] = []
    for message in messages:
        arrived = moment_of(int(message["attributes"]["SentTimestamp"]))
        states, reasons = _read(message["body"], arrived)
        updates += states
        if reasons:
            logger.error("states refused", extra={"message_id": message["messageId"], "refused": len(reasons), "first": reasons[0]})
            failed.append(message["messageId"])
    try:
        outcomes = [outcome.outcome for outcome in index.update_states(updates)]
    except Exception:  # entry point of the process: SQS delivers again whatever the reason
        logger.exception("states not taken", extra={"states": len(updates)})
        return [message["messageId"] for message in messages]
    logger.info("states taken", extra={name: outcomes.count(name) for name in ("applied", "stale", "unknown")})
    return failed


def _read(body: str, arrived: datetime) -> tuple[list[StateUpdate], list[str]]:
    """Return the states of a message's body, and the reason of each one that cannot be read."""
    try:
        content = json.loads(body)
    except ValueError as error:
        return [], [f"the message is not JSON: {error}"]
    if isinstance(content, Mapping) and "detail-type" in content:
        content = content.get("detail")
    states = content if isinstance(content, list) else [content]
    if len(states) > MAX_STATES:
        return [], [f"the message has {len(states)} states; send at most {MAX_STATES} in one"]
    updates, reasons = list[StateUpdate](), list[str]()
    for state in states:
        try:
            updates.append(read_state(state, arrived))
        except InvalidInput as error:
            reasons.append(str(error))
    return updates, reasons


@cache
def app() -> FastAPI:
    """Build the app of the routes, once per process."""
    routes = FastAPI(title="Gavel: states of lots", docs_url=None, redoc_url=None, openapi_url=None)
    routes.router.route_class = StrictRoute
    answer_problems(routes)
    routes.include_router(item_states_router(live_index, token=None))
    return routes


def live_index() -> VectorIndex:
    """Return the live index, which another one may have replaced since the last call.

    Raises:
        IndexMissing: no release has been published yet.
    """
    return store().live()


@cache
def store() -> IndexStore:
    """Open the index store that the environment configures, once per process."""
    return open_store(Settings.from_env())
