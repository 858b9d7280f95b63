"""The re-ranker in SageMaker's XGBoost container (script mode): the four functions that its server calls.

The container has Python 3.10 and no Gavel, so this file imports the standard library, numpy and xgboost only. A request names
its features: in the first line of CSV, or in `features` of JSON. Other features than the booster's are refused. An HTTP header
could not name them, because the container's server passes only body and content type to these functions.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xgboost
from numpy.typing import NDArray

try:  # the container's server answers these errors with their status, and any other with 500
    from sagemaker_inference.errors import GenericInferenceToolkitError as ServerError
except ImportError:

    class ServerError(Exception):  # type: ignore[no-redef]
        """Stand-in for the error type of the container's server."""

        def __init__(self, status_code: int, message: str) -> None:
            super().__init__(message)
            self.status_code, self.message = status_code, message


BOOSTER_FILE = "reranker.ubj"
CSV, JSON = "text/csv", "application/json"
BAD_REQUEST, NOT_ACCEPTABLE, UNSUPPORTED = 400, 406, 415


class Request(NamedTuple):
    """A request to score rows.

    Attributes:
        features: names of the columns.
        rows: (N, len(features)) float32, NaN where a value is missing.
        explain: True also returns the contribution of every feature.
    """

    features: list[str]
    rows: NDArray[np.float32]
    explain: bool = False


def model_fn(model_dir: str) -> xgboost.Booster:
    """Load the booster and check its feature names against their hash and the trees.

    Args:
        model_dir: folder of the unpacked model.tar.gz.

    Raises:
        ValueError: the booster's feature names are missing, or do not match their hash or the trees.
    """
    path = Path(model_dir) / BOOSTER_FILE
    booster = xgboost.Booster({"nthread": 1})  # with 50 rows per request, threads cost more than they save
    booster.load_model(path)
    names = json.loads(booster.attr("features") or "[]")
    names_hash = hashlib.sha256(",".join(names).encode()).hexdigest()[:12]  # as retrieval/ranker/features.py computes FEATURES_HASH
    if not names or booster.attr("features_hash") != names_hash or booster.num_features() != len(names):
        raise ValueError(
            f"{path} names {len(names)} features with hash {names_hash}; its trees have {booster.num_features()} and its own hash "
            f"is {booster.attr('features_hash')}: train it again with `gavel train`, and pack it anew"
        )
    return booster


def input_fn(body: str | bytes | bytearray, content_type: str) -> Request:
    """Read a request.

    Args:
        body: CSV: a line of names, then one line per row, with an empty field for a missing value. Or JSON:
            `{"features": [...], "rows": [[...], ...], "explain": true}`, with null for a missing value. Only JSON has `explain`.
        content_type: text/csv or application/json.

    Raises:
        ServerError: 415 for another content type, 400 for an unreadable body.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind not in (CSV, JSON):
        raise ServerError(UNSUPPORTED, f"content type {content_type!r} is not read here; send {CSV} or {JSON}")
    try:
        text = body if isinstance(body, str) else bytes(body).decode()
        names, rows, explain = _csv(text) if kind == CSV else _json(text)
        with np.errstate(over="raise"):  # a number that float32 cannot hold
            matrix = np.array([[_number(value) for value in row] for row in rows], dtype=np.float32)
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise ServerError(BAD_REQUEST, f"the request cannot be read as {kind} ({error!r})") from error
    if matrix.ndim != 2 or matrix.shape[1] != len(names):
        raise ServerError(BAD_REQUEST, f"the request has rows of shape {matrix.shape} under {len(names)} names; send (rows, names)")
    return Request(names, matrix, explain)


def predict_fn(request: Request, booster: xgboost.Booster) -> NDArray[np.float32]:
    """Score the rows.

    Returns:
        (N,) float32, higher is better. With `explain` (N, 1 + F + 1): the score, the contribution of each feature (SHAP values),
        and the bias that all rows share.

    Raises:
        ServerError: 400, the request has other features than the booster, or another order.
    """
    trained = json.loads(booster.attr("features") or "[]")
    if request.features != trained:
        differing = sorted(set(request.features) ^ set(trained)) or ["their order"]
        raise ServerError(
            BAD_REQUEST, f"this re-ranker was trained on other features ({', '.join(differing)}); train and deploy it again"
        )
    scores = np.asarray(booster.inplace_predict(request.rows), dtype=np.float32)  # (N, F) -> (N,)
    if not request.explain:
        return scores
    matrix = xgboost.DMatrix(request.rows, feature_names=booster.feature_names, nthread=1)
    return np.column_stack([scores, booster.predict(matrix, pred_contribs=True)])  # (N, 1 + F + 1)


def output_fn(scores: NDArray[np.float32], accept: str) -> tuple[str, str]:
    """Write the scores.

    Args:
        scores: (N,) float32, or (N, 1 + F + 1) with contributions.
        accept: text/csv for one line per row, with the score and then its contributions; or application/json for
            `{"scores": [...]}`, with `"contributions": [[...], ...]` if there are contributions.

    Returns:
        The body, and its content type.

    Raises:
        ServerError: 406 for another content type.
    """
    accepted = [kind.partition(";")[0].strip().lower() for kind in (accept or CSV).split(",")]
    rows = [[f"{value:.9g}" for value in row] for row in scores.reshape(len(scores), -1).tolist()]  # 9 digits restore a float32
    if CSV in accepted or "*/*" in accepted:
        return "\n".join(",".join(row) for row in rows), CSV
    if JSON in accepted:
        added = ", ".join(f"[{', '.join(row[1:])}]" for row in rows)
        explained = f', "contributions": [{added}]' if scores.ndim == 2 else ""
        return f'{{"scores": [{", ".join(row[0] for row in rows)}]{explained}}}', JSON
    raise ServerError(NOT_ACCEPTABLE, f"{accept!r} is not written here; accept {CSV} or {JSON}")


def _csv(text: str) -> tuple[list[str], list[list[str]], bool]:
    header, *lines = text.strip("\r\n").splitlines()
    return header.split(","), [line.split(",") for line in lines], False


def _json(text: str) -> tuple[list[str], list[list[Any]], bool]:
    request = json.loads(text)
    return list(request["features"]), list(request["rows"]), request.get("explain", False) is True


def _number(value: Any) -> float:
    """Parse a value of a row; a missing value becomes NaN, and any other value must be finite."""
    if value in ("", None):
        return math.nan
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no finite number")
    return number
