"""LambdaMART on XGBoost (Burges, "From RankNet to LambdaRank to LambdaMART", 2010), trained and served in process."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from retrieval.errors import FeatureMismatch, RankerUnavailable
from retrieval.files import replace_file, shortage
from retrieval.ranker.features import FEATURES, FEATURES_HASH
from retrieval.ranker.parameters import BoosterParameters

REMEDY = "train it again with `gavel train reranker`"
SEAL_START = b"\nsha256 "  # of the line behind XGBoost's format
STEP_GRID = 20  # the number of steps is a multiple of it: a finer choice would follow chance


class BoosterRanker:
    """A trained booster; it rejects other features than those of its training."""

    def __init__(self, booster: xgboost.Booster) -> None:
        self._booster = booster

    def ndcg_at_10(self, data: "RankingData") -> float:
        """Return the mean nDCG@10 of queries in this booster's order."""
        return float(self._booster.eval(data.matrix()).rpartition(":")[2])

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score candidates; see Ranker.score().

        Raises:
            RankerUnavailable: XGBoost could not score the matrix.
        """
        try:
            return np.asarray(self._booster.inplace_predict(features), dtype=np.float32)  # (N, F) -> (N,)
        except (xgboost.core.XGBoostError, ValueError) as error:
            raise RankerUnavailable(f"the booster cannot score a {features.shape} matrix: {error}") from error

    def explain(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Split scores into contributions by feature, as ranker.base.ExplainingRanker says.

        Raises:
            RankerUnavailable: XGBoost could not score the matrix.
        """
        if not len(features):  # of which XGBoost would make a row of numbers, not a matrix
            return np.empty((0, len(FEATURES) + 1), dtype=np.float32)
        try:
            matrix = xgboost.DMatrix(features, feature_names=list(FEATURES), nthread=1)
            return np.asarray(self._booster.predict(matrix, pred_contribs=True), dtype=np.float32)  # (N, F) -> (N, F + 1)
        except (xgboost.core.XGBoostError, ValueError) as error:
            raise RankerUnavailable(f"the booster cannot explain a {features.shape} matrix: {error}") from error

    def save(self, path: Path, tower_id: str = "") -> None:
        """Write the booster with its feature names and their hash, in one step.

        A line with the sha256 of XGBoost's format follows it, which XGBoost does not read.

        Args:
            path: file to write; its folder is made.
            tower_id: the tower whose candidates it was trained on; empty if any tower's may be scored.
        """
        self._booster.set_attr(features=json.dumps(FEATURES), features_hash=FEATURES_HASH, tower_id=tower_id or None)
        model = bytes(self._booster.save_raw("ubj"))
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, model + SEAL_START + hashlib.sha256(model).hexdigest().encode())

    @classmethod
    def load(cls, path: Path, tower_id: str = "") -> "BoosterRanker":
        """Read a booster that save() wrote.

        Args:
            path: the file; one that an older version wrote has no checksum and is taken as it is.
            tower_id: the tower whose candidates it is to score; empty for any.

        Raises:
            RankerUnavailable: the file is missing, damaged, no booster, or was trained on another tower's candidates.
            FeatureMismatch: it was trained on other features than FEATURES.
        """
        booster = xgboost.Booster({"nthread": 1})  # 50 rows a query: threads cost more than they give
        try:
            model, _, checksum = path.read_bytes().partition(SEAL_START)
            if checksum and checksum != hashlib.sha256(model).hexdigest().encode():
                raise ValueError("its checksum does not hold")
            booster.load_model(path)  # not from memory: XGBoost ends the process on bytes that are no model
        except (xgboost.core.XGBoostError, OSError, ValueError) as error:
            raise RankerUnavailable(shortage(path, error) or f"{path} is not a readable booster; {REMEDY}") from error
        if tower_id and (trained_on := booster.attr("tower_id") or tower_id) != tower_id:
            raise RankerUnavailable(f"{path} was trained on candidates of tower {trained_on}, not of {tower_id}; {REMEDY}")
        if booster.attr("features_hash") != FEATURES_HASH:
            trained = json.loads(booster.attr("features") or "[]")
            differing = sorted(set(trained) ^ set(FEATURES)) or ["their order"]
            raise FeatureMismatch(f"{path} was trained on other features ({', '.join(differing)}); {REMEDY}")
        return cls(booster)


def fit_booster(
    train: "RankingData", validation: "RankingData", *, seed: int = 0, parameters: BoosterParameters | None = None
) -> BoosterRanker:
    """Train LambdaMART and keep the round that is best on the validation queries.

    Args:
        train: features and graded labels of the training queries.
        validation: the same of queries that the training does not see.
        seed: of the row sampling.
        parameters: of the trees and of when to stop; None takes the defaults.
    """
    parameters = parameters or BoosterParameters()
    booster = xgboost.train(
        parameters.of_clicks(seed),
        train.matrix(),
        num_boost_round=parameters.rounds,
        evals=[(validation.matrix(), "validation")],
        early_stopping_rounds=parameters.early_stopping_rounds,
        verbose_eval=False,
    )
    return BoosterRanker(booster[: booster.best_iteration + 1])


@dataclass(frozen=True, slots=True)
class Choice:
    """The choice of cross-validation.

    Attributes:
        max_depth: of the trees.
        rounds: steps of boosting.
        ndcg_at_10: mean over the held-out parts, of the candidates that the first stage found.
    """

    max_depth: int
    rounds: int
    ndcg_at_10: float


def fit_few_queries(
    data: "RankingData", *, seed: int = 0, folds: int = 5, parameters: BoosterParameters | None = None
) -> tuple[BoosterRanker, Choice]:
    """Train LambdaMART on so few queries that none can be spared: depth and steps by cross-validation, then all queries train.

    Args:
        data: of all queries that may be learnt from, N >= 2.
        seed: deals the queries into parts and draws rows and features.
        folds: parts, each held out once; no more than there are queries.
        parameters: of the trees; None takes the defaults.

    Returns:
        The booster, and what was chosen.
    """
    part = np.random.default_rng(seed).permutation(len(data)) % min(folds, len(data))  # (N,)
    parameters = parameters or BoosterParameters()
    steps, choices = parameters.few_queries.most_steps, []
    for depth in parameters.few_queries.depths:
        tree_parameters = parameters.of_few_queries(depth, seed)
        curve = np.mean(
            [_held_out_curve(tree_parameters, data, part == fold, steps) for fold in range(part.max() + 1)], axis=0
        )  # (steps,)
        choices += [Choice(depth, rounds, float(curve[rounds - 1])) for rounds in range(STEP_GRID, steps + 1, STEP_GRID)]
    best = max(choices, key=lambda choice: choice.ndcg_at_10)  # the flattest, then the shortest of equals
    tree_parameters = parameters.of_few_queries(best.max_depth, seed)
    return BoosterRanker(xgboost.train(tree_parameters, data.matrix(), num_boost_round=best.rounds)), best


def _held_out_curve(parameters: dict[str, Any], data: "RankingData", held_out: NDArray[np.bool_], steps: int) -> list[float]:
    """Return nDCG@10 of the held-out queries after every step of a training on the others."""
    train, validation = (data.take(np.flatnonzero(chosen)).matrix() for chosen in (~held_out, held_out))
    history: dict[str, dict[str, list[float]]] = {}
    evals = [(validation, "held_out")]
    xgboost.train(parameters, train, num_boost_round=steps, evals=evals, evals_result=history, verbose_eval=False)
    return history["held_out"]["ndcg@10"]


class RankingData:
    """Rows of features with labels, grouped by query."""

    def __init__(self, features: Sequence[NDArray[np.float32]], labels: Sequence[NDArray[np.float32]]) -> None:
        """Gather the queries.

        Args:
            features: one (N_q, F) float32 matrix a query.
            labels: one (N_q,) vector of gains >= 0 a query.
        """
        self._features, self._labels = list(features), list(labels)

    def __len__(self) -> int:
        """Number of queries."""
        return len(self._features)

    @property
    def rows(self) -> int:
        """Number of candidates of all queries."""
        return sum(len(labels) for labels in self._labels)

    def take(self, queries: Iterable[int]) -> "RankingData":
        """Return the queries with these numbers."""
        chosen = list(queries)
        return RankingData([self._features[n] for n in chosen], [self._labels[n] for n in chosen])

    def __add__(self, other: "RankingData") -> "RankingData":
        return RankingData([*self._features, *other._features], [*self._labels, *other._labels])

    def matrix(self) -> xgboost.DMatrix:
        """Convert the rows to a DMatrix of XGBoost."""
        labels = np.concatenate(self._labels)
        matrix = xgboost.DMatrix(np.concatenate(self._features), label=labels, feature_names=list(FEATURES))
        matrix.set_group([len(rows) for rows in self._features])
        return matrix
