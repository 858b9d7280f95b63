"""Client of the re-ranker behind a SageMaker endpoint (processing/reranker_endpoint).

A call sends the features of one query: in CSV to get scores, in JSON to get contributions as well.
"""

import json
import logging
import math
from http import HTTPStatus
from typing import Any

import boto3
import numpy as np
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from numpy.typing import NDArray

from retrieval.errors import RankerUnavailable
from retrieval.ranker.features import FEATURES

logger = logging.getLogger(__name__)

CSV, JSON = "text/csv", "application/json"
MAX_REASON_CHARS = 300  # longest part of a container's message that is shown; the whole message has a stack trace


class EndpointRanker:
    """A re-ranker that calls an endpoint once, with a short timeout, and never retries.

    Every request names its features. An endpoint whose booster was trained on other features refuses the request. The first
    refusal is logged as an error; later ones are not, because every search is refused until the endpoint is redeployed.
    """

    def __init__(self, endpoint: str, timeout_s: float) -> None:
        """Prepare the client; nothing is sent.

        Args:
            endpoint: name of the endpoint.
            timeout_s: seconds to wait for an answer; a new connection may take the same time in addition.

        Raises:
            RankerUnavailable: this process has no AWS region.
        """
        once = {"total_max_attempts": 1, "mode": "standard"}  # a second try would exceed the time that a query has
        settings = Config(connect_timeout=timeout_s, read_timeout=timeout_s, retries=once, tcp_keepalive=True)
        self._endpoint, self._refused = endpoint, False
        try:
            self._runtime = boto3.client("sagemaker-runtime", config=settings)
        except BotoCoreError as error:
            raise RankerUnavailable(f"endpoint {endpoint!r} cannot be asked: {error}; set AWS_DEFAULT_REGION") from error

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score candidates; see Ranker.score().

        Raises:
            RankerUnavailable: the endpoint does not answer in time, refuses, or does not return one finite number per row.
        """
        if not len(features):
            return np.empty(0, dtype=np.float32)
        return self._numbers(self._ask(_request(features), CSV), (len(features), 1))[:, 0]

    def explain(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Split scores into contributions by feature; see ExplainingRanker.explain().

        Raises:
            RankerUnavailable: as score(); also if the endpoint runs an older script, which cannot explain.
        """
        width = len(FEATURES) + 1
        if not len(features):
            return np.empty((0, width), dtype=np.float32)
        rows = [[None if math.isnan(value) else value for value in row] for row in features.tolist()]
        body = self._ask(json.dumps({"features": FEATURES, "rows": rows, "explain": True}).encode(), JSON)
        return self._numbers(body, (len(features), 1 + width))[:, 1:]

    def _ask(self, body: bytes, content_type: str) -> bytes:
        try:
            answer = self._runtime.invoke_endpoint(EndpointName=self._endpoint, ContentType=content_type, Accept=CSV, Body=body)
            return bytes(answer["Body"].read())
        except ClientError as error:
            raise RankerUnavailable(f"endpoint {self._endpoint!r} does not score: {self._reason(error)}") from error
        except BotoCoreError as error:
            raise RankerUnavailable(f"endpoint {self._endpoint!r} does not answer: {error}") from error

    def _numbers(self, body: bytes, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Parse a response into an array of `shape`. A row has a score and, if requested, the contributions of the features."""
        rows, columns = shape
        try:
            lines = body.decode().strip().splitlines()
            with np.errstate(over="ignore"):  # too large is infinite, and refused below
                scores = np.array([[float(value) for value in line.split(",", columns - 1)] for line in lines], dtype=np.float32)
        except ValueError as error:
            raise RankerUnavailable(f"endpoint {self._endpoint!r} answers with something else than numbers: {error}") from error
        if scores.shape != shape or not np.isfinite(scores).all():
            finite = int(np.isfinite(scores).sum())
            each = f" of {columns} numbers" if columns > 1 else ""
            raise RankerUnavailable(
                f"endpoint {self._endpoint!r} answers {rows} rows{each} with {len(scores)} scores, {finite} finite"
            )
        return scores  # (N, columns)

    def _reason(self, error: ClientError) -> str:
        """Return the first line of the container's message, else of SageMaker's; log the first refusal of the container."""
        response: Any = error.response
        status = response.get("OriginalStatusCode", 0)
        lines = str(response.get("OriginalMessage") or error).splitlines()
        reason = lines[0][:MAX_REASON_CHARS] if lines else "no reason given"
        if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and not self._refused:
            self._refused = True
            logger.error("endpoint %r refuses every request (%s): %s", self._endpoint, status, reason)
        return reason


def _request(features: NDArray[np.float32]) -> bytes:
    """Write feature names and rows as CSV. Nine digits restore every float32; an empty cell is a missing value."""
    rows = (",".join("" if math.isnan(value) else f"{value:.9g}" for value in row) for row in features.tolist())
    return "\n".join([",".join(FEATURES), *rows]).encode()
