"""Send rows of feedback to a Firehose delivery stream, which writes them to S3 as lines of JSON."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from retrieval.errors import FeedbackUnavailable

MAX_RECORD_BYTES = 500_000  # Firehose takes 1,024,000, and per call 500 records or 4 MiB; MAX_EVENTS rows stay far below
ATTEMPTS = 4
LONGEST_WAIT_S = 1.0
TIMEOUT_S = 2.0


class _NotAllTaken(Exception):
    """Firehose's response says that it did not take some records of a call."""


class EventStream:
    """A sink that sends rows of feedback to a delivery stream. Threads may share it.

    The rows of one request go into one record if they fit. Firehose stores a record whole or not at all, and charges at least 5 kB
    per record.
    """

    def __init__(self, name: str) -> None:
        """Store the name; the first append() connects.

        Args:
            name: name of the delivery stream; empty if there is none, so that all feedback is refused.
        """
        self._name = name

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Send rows, and send those records again that Firehose did not take.

        Raises:
            FeedbackUnavailable: some rows were not taken in ATTEMPTS calls; others may be stored. It is safe to send all again,
                because every row has its event_id.
        """
        if not self._name:
            raise FeedbackUnavailable("no delivery stream takes events here; set GAVEL_EVENTS_STREAM to its name")
        from botocore.exceptions import BotoCoreError, ClientError

        waiting = list(_records(rows))
        calls = Retrying(
            retry=retry_if_exception_type(_NotAllTaken),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.1, max=LONGEST_WAIT_S),
            reraise=True,
        )
        try:
            for call in calls:
                with call:
                    waiting, reason = self._put(waiting)
                    if waiting:
                        raise _NotAllTaken(f"{len(waiting)} records were not taken: {reason}")
        except (_NotAllTaken, ClientError, BotoCoreError) as error:
            raise FeedbackUnavailable(f"delivery stream {self._name} does not take events ({error}); send them again") from error

    def _put(self, records: Sequence[bytes]) -> tuple[list[bytes], str]:
        """Send records; return those that were not taken, and the reason for the first of these."""
        batch = [{"Data": data} for data in records]
        results = self._firehose.put_record_batch(DeliveryStreamName=self._name, Records=batch)["RequestResponses"]
        failed = [(data, result) for data, result in zip(records, results, strict=True) if "ErrorCode" in result]
        reason = next((f"{result['ErrorCode']} {result.get('ErrorMessage', '')}".strip() for _, result in failed), "")
        return [data for data, _ in failed], reason

    @cached_property
    def _firehose(self) -> Any:
        import boto3
        from botocore.config import Config

        retries: Any = {"mode": "standard", "total_max_attempts": 2}
        return boto3.client("firehose", config=Config(connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S, retries=retries))


def _records(rows: Sequence[Mapping[str, Any]]) -> Iterator[bytes]:
    """Yield records of at most MAX_RECORD_BYTES that hold the rows in their order, as lines of JSON."""
    record = b""
    for row in rows:
        line = f"{json.dumps(row, ensure_ascii=False)}\n".encode()
        if record and len(record) + len(line) > MAX_RECORD_BYTES:
            yield record
            record = b""
        record += line
    if record:
        yield record
