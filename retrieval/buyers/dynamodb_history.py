"""Store buyers' recent interactions in a DynamoDB table, one table item per interaction.

The table has a partition key `buyer_id` and a sort key `act`, both text. `act` begins with the time, so a buyer's interactions are
sorted by time. The time to live is in `expires_at` (infra/buyer_events.py).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from retrieval.buyers.history_store import MAX_PER_BUYER, interaction_key, oldest_stored, select_storable
from retrieval.contracts.events import Interaction
from retrieval.contracts.items import epoch_ms, moment_of
from retrieval.errors import FeedbackUnavailable
from retrieval.index.filters import utc_now

WRITES_PER_CALL = 25  # the most that BatchWriteItem takes
ATTEMPTS = 5  # maximum number of calls until all writes of a batch are taken
LONGEST_WAIT_S = 1.0
TIMEOUT_S = 0.5  # seconds per try; there are two tries, and a search waits for them
TIME_DIGITS = 15  # digits of the ms since 1970, with leading zeros, so that texts sort by time
DOES_NOT_ANSWER = "the table of buyers' events does not answer ({}); try again in a moment"


class _NotAllTaken(Exception):
    """DynamoDB's response says that it did not carry out some writes of a call."""


class BuyerTable:
    """A store of the latest interactions of each buyer. Threads may share it.

    Interactions older than the latest MAX_PER_BUYER are never read. DynamoDB deletes them when their time to live is over.
    """

    def __init__(self, name: str, days: int, clock: Callable[[], datetime] = utc_now) -> None:
        """Keep the arguments; the first call of a method connects.

        Args:
            name: name of the table.
            days: days that an interaction is stored.
            clock: function that returns the time in UTC.
        """
        self._name, self._days, self._clock = name, days, clock

    def append(self, interactions: Sequence[Interaction]) -> int:
        """Store interactions; see BuyerStore.append()."""
        storable = select_storable(interactions, self._clock(), self._days)
        with _translated_errors():
            self._write([{"PutRequest": {"Item": self._item(interaction)}} for interaction in storable])
        return len(storable)

    def recent(self, buyer_id: str, limit: int = MAX_PER_BUYER) -> list[Interaction]:
        """Return the latest interactions of a buyer, the oldest first. An interaction of the last second may be missing."""
        # the query excludes expired interactions, because DynamoDB may delete them days late
        oldest = f"{epoch_ms(oldest_stored(self._clock(), self._days)):0{TIME_DIGITS}}"
        with _translated_errors():
            answer = self._dynamodb.query(  # always one page of at most 1 MB: MAX_PER_BUYER items of at most 1.7 kB
                TableName=self._name,
                KeyConditionExpression="buyer_id = :buyer AND act >= :oldest",
                ExpressionAttributeValues={":buyer": {"S": buyer_id}, ":oldest": {"S": oldest}},
                ScanIndexForward=False,
                Limit=limit,
            )
        return [_interaction(item) for item in reversed(answer["Items"])]

    def erase(self, buyer_id: str) -> int:
        """Delete all interactions of a buyer, found page by page with consistent reads; return their number."""
        erased = 0
        with _translated_errors():
            for keys in self._keys(buyer_id):
                self._write([{"DeleteRequest": {"Key": key}} for key in keys])
                erased += len(keys)
        return erased

    def _keys(self, buyer_id: str) -> Iterator[list[dict[str, Any]]]:
        query: dict[str, Any] = {
            "TableName": self._name,
            "KeyConditionExpression": "buyer_id = :buyer",
            "ExpressionAttributeValues": {":buyer": {"S": buyer_id}},
            "ProjectionExpression": "buyer_id, act",
            "ConsistentRead": True,
        }
        while True:
            page = self._dynamodb.query(**query)
            yield page["Items"]
            if "LastEvaluatedKey" not in page:
                return
            query["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def _write(self, writes: Sequence[dict[str, Any]]) -> None:
        """Carry out writes, and repeat those that DynamoDB did not carry out. No two writes may have the same key."""
        for start in range(0, len(writes), WRITES_PER_CALL):
            waiting = list(writes[start : start + WRITES_PER_CALL])
            calls = Retrying(
                retry=retry_if_exception_type(_NotAllTaken),
                stop=stop_after_attempt(ATTEMPTS),
                wait=wait_random_exponential(multiplier=0.05, max=LONGEST_WAIT_S),
                reraise=True,
            )
            for call in calls:
                with call:
                    answer = self._dynamodb.batch_write_item(RequestItems={self._name: waiting})
                    waiting = answer.get("UnprocessedItems", {}).get(self._name, [])
                    if waiting:
                        raise _NotAllTaken(f"{len(waiting)} writes were not taken")

    def _item(self, interaction: Interaction) -> dict[str, Any]:
        at_ms, kind, item_id = interaction_key(interaction)
        expiry = min(interaction.timestamp, self._clock()) + timedelta(days=self._days)
        return {
            "buyer_id": {"S": interaction.buyer_id},
            "act": {"S": f"{at_ms:0{TIME_DIGITS}}#{kind}#{item_id}"},
            "expires_at": {"N": str(epoch_ms(expiry) // 1000 + 1)},
        }

    @cached_property
    def _dynamodb(self) -> Any:
        import boto3
        from botocore.config import Config

        retries: Any = {"mode": "standard", "total_max_attempts": 2}
        return boto3.client("dynamodb", config=Config(connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S, retries=retries))


def _interaction(item: dict[str, Any]) -> Interaction:
    at_ms, kind, item_id = item["act"]["S"].split("#", 2)
    return Interaction(item["buyer_id"]["S"], item_id, kind, moment_of(int(at_ms)))


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Translate errors of DynamoDB into FeedbackUnavailable. Their texts are left out, because they may quote ids of buyers."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise FeedbackUnavailable(DOES_NOT_ANSWER.format(error.response["Error"]["Code"])) from None
    except BotoCoreError as error:
        raise FeedbackUnavailable(DOES_NOT_ANSWER.format(type(error).__name__)) from None
    except _NotAllTaken as error:
        raise FeedbackUnavailable(DOES_NOT_ANSWER.format(error)) from None
