"""The re-ranker in SageMaker's XGBoost container (script mode): the four functions that the container's server calls.

The container has Python 3.10 and no Gavel, so this file stands on the standard library, numpy and xgboost alone. A request
names its features, and one that names others than the booster was trained on is refused: as its first line in CSV, as
`features` in JSON. A header would not do: the container's server shows its functions the body and the content type, no more.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xgboost
from numpy.typing import NDArray

try:  # the container's server gives these errors their own status, and 500 to any other
    from sagemaker_inference.errors import GenericInferenceToolkitError as ServerError
except ImportError:

    class ServerError(Exception):  # type: ignore[no-redef]
        """What the container's server knows its own errors by."""

        def __init__(self, status_code: int, message: str) -> None:
            super().__init__(message)
            self.status_code, self.message = status_code, message


BOOSTER_FILE = "reranker.ubj"
CSV, JSON = "text/csv", "application/json"
BAD_REQUEST, NOT_ACCEPTABLE, UNSUPPORTED = 400, 406, 415


class Request(NamedTuple):
    """What a client asks.

    Attributes:
        features: names of the columns.
        rows: (N, len(features)) float32, NaN where a value is missing.
        explain: whether the answer shall say what every feature added.
    """

    features: list[str]
    rows: NDArray[np.float32]
    explain: bool = False


def model_fn(model_dir: str) -> xgboost.Booster:
    """Load the booster, unless its features are not what it says they are.

    Args:
        model_dir: folder that model.tar.gz was unpacked into.

    Raises:
        ValueError: the names of its features are missing, or do not fit their hash or the trees.
    """
    path = Path(model_dir) / BOOSTER_FILE
    booster = xgboost.Booster({"nthread": 1})  # 50 rows a request: threads cost more than they give
    booster.load_model(path)
    names = json.loads(booster.attr("features") or "[]")
    named = hashlib.sha256(",".join(names).encode()).hexdigest()[:12]  # as retrieval/ranker/features.py makes FEATURES_HASH
    if not names or booster.attr("features_hash") != named or booster.num_features() != len(names):
        raise ValueError(
            f"{path} names {len(names)} features with hash {named}; its trees have {booster.num_features()} and its own hash "
            f"is {booster.attr('features_hash')}: train it again with `gavel train`, and pack it anew"
        )
    return booster


def input_fn(body: str | bytes | bytearray, content_type: str) -> Request:
    """Read a request.

    Args:
        body: CSV, a line of names and then one line a row, an empty field where a value is missing; or JSON,
            `{"features": [...], "rows": [[...], ...], "explain": true}` with null for it; JSON alone can ask to explain.
        content_type: text/csv or application/json.

    Raises:
        ServerError: 415 for another content type, 400 for what cannot be read.
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
        (N,) float32, higher is better. Where it shall be explained (N, 1 + F + 1): the score, what each feature added to it (SHAP
        values), and what every row has alike.

    Raises:
        ServerError: 400, the request names other features than the booster was trained on, or another order.
    """
    trained = json.loads(booster.attr("features"))
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
        scores: (N,) float32, or (N, 1 + F + 1) with what the features added.
        accept: text/csv, one score a line, what was added behind it; or application/json, `{"scores": [...]}`, with
            `"contributions": [[...], ...]`.

    Returns:
        The body, and its content type.

    Raises:
        ServerError: 406 for anything else.
    """
    wanted = [kind.partition(";")[0].strip().lower() for kind in (accept or CSV).split(",")]
    rows = [[f"{value:.9g}" for value in row] for row in scores.reshape(len(scores), -1).tolist()]  # 9 digits bring float32 back
    if CSV in wanted or "*/*" in wanted:
        return "\n".join(",".join(row) for row in rows), CSV
    if JSON in wanted:
        added = ", ".join(f"[{', '.join(row[1:])}]" for row in rows)
        explained = f', "contributions": [{added}]' if scores.ndim == 2 else ""
        return f'{{"scores": [{", ".join(row[0] for row in rows)}]{explained}}}', JSON
    raise ServerError(NOT_ACCEPTABLE, f"{accept!r} is not written here; accept {CSV} or {JSON}")


def _csv(text: str) -> tuple[list[str], list[list[str]], bool]:
    header, *lines = text.strip("\r\n").splitlines()
    return header.split(","), [line.split(",") for line in lines], False


def _json(text: str) -> tuple[list[str], list[list[Any]], bool]:
    asked = json.loads(text)
    return list(asked["features"]), list(asked["rows"]), asked.get("explain", False) is True


def _number(value: Any) -> float:
    """A value of a row; what is missing is NaN, and only that."""
    if value in ("", None):
        return math.nan
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no finite number")
    return number
