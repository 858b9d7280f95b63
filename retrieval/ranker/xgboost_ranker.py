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
from retrieval.files import former_path, replace_file, shortage
from retrieval.ranker.features import FEATURES, FEATURES_HASH
from retrieval.ranker.parameters import BoosterParameters

REMEDY = "train it again with `gavel train reranker`"
SEAL_START = b"\nsha256 "  # start of the line that follows XGBoost's bytes in the file
STEP_GRID = 20  # the chosen number of steps is a multiple of 20, because a finer choice would follow chance


class BoosterRanker:
    """A trained booster. load() rejects one that was trained on other features than FEATURES."""

    def __init__(self, booster: xgboost.Booster) -> None:
        self._booster = booster

    def ndcg_at_10(self, data: "RankingData") -> float:
        """Return the mean nDCG@10 of the queries in `data`, ranked by this booster."""
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
        """Split scores into contributions by feature; see ExplainingRanker.explain().

        Raises:
            RankerUnavailable: XGBoost could not score the matrix.
        """
        if not len(features):  # XGBoost would return a vector for an empty matrix
            return np.empty((0, len(FEATURES) + 1), dtype=np.float32)
        try:
            matrix = xgboost.DMatrix(features, feature_names=list(FEATURES), nthread=1)
            return np.asarray(self._booster.predict(matrix, pred_contribs=True), dtype=np.float32)  # (N, F) -> (N, F + 1)
        except (xgboost.core.XGBoostError, ValueError) as error:
            raise RankerUnavailable(f"the booster cannot explain a {features.shape} matrix: {error}") from error

    def save(self, path: Path, tower_id: str = "") -> None:
        """Write the booster with its feature names and their hash, in one step.

        The file ends with a line that has the sha256 of XGBoost's bytes; XGBoost ignores this line. A booster that was there is
        stored at former_path().

        Args:
            path: file to write; its folder is created if it is missing.
            tower_id: id of the tower whose candidates the booster was trained on; empty if it may score those of any tower.
        """
        self._booster.set_attr(features=json.dumps(FEATURES), features_hash=FEATURES_HASH, tower_id=tower_id or None)
        model = bytes(self._booster.save_raw("ubj"))
        path.parent.mkdir(parents=True, exist_ok=True)
        content = model + SEAL_START + hashlib.sha256(model).hexdigest().encode()
        if path.is_file() and (present := path.read_bytes()) != content:
            replace_file(former_path(path), present)
        replace_file(path, content)

    @classmethod
    def load(cls, path: Path, tower_id: str = "") -> "BoosterRanker":
        """Read a booster that save() wrote.

        Args:
            path: file of the booster; a file of an older version has no checksum and is loaded unchecked.
            tower_id: id of the tower whose candidates the booster is to score; empty for any tower.

        Raises:
            RankerUnavailable: the file is missing, damaged or no booster, or the booster was trained on another tower's candidates.
            FeatureMismatch: the booster was trained on other features than FEATURES.
        """
        booster = xgboost.Booster({"nthread": 1})  # a query has some 50 rows: starting threads costs more time than they save
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
    """Train LambdaMART and return the booster up to its best round on the validation queries.

    Args:
        train: features and labels of the training queries.
        validation: features and labels of other queries, which choose the best round.
        seed: seed of the row sampling.
        parameters: parameters of the trees and of early stopping; None takes the defaults.
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
        max_depth: maximum depth of the trees.
        rounds: number of boosting steps.
        ndcg_at_10: mean nDCG@10 of the held-out folds. Relevant items that are not among the candidates do not count.
    """

    max_depth: int
    rounds: int
    ndcg_at_10: float


def fit_few_queries(
    data: "RankingData", *, seed: int = 0, folds: int = 5, parameters: BoosterParameters | None = None
) -> tuple[BoosterRanker, Choice]:
    """Train LambdaMART on too few queries to hold some out for good.

    Cross-validation chooses depth and number of steps. The returned booster is then trained on all queries.

    Args:
        data: features and labels of all N >= 2 queries.
        seed: seed of the assignment to folds, and of the sampling of rows and features.
        folds: number of folds, each held out once; limited to N.
        parameters: parameters of the trees; None takes the defaults.

    Returns:
        The booster, and the choice of cross-validation.
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
    best = max(choices, key=lambda choice: choice.ndcg_at_10)  # of equal choices, the one with the flattest, then the fewest trees
    tree_parameters = parameters.of_few_queries(best.max_depth, seed)
    return BoosterRanker(xgboost.train(tree_parameters, data.matrix(), num_boost_round=best.rounds)), best


def _held_out_curve(parameters: dict[str, Any], data: "RankingData", held_out: NDArray[np.bool_], steps: int) -> list[float]:
    """Train on all but the held-out queries; return nDCG@10 of the held-out queries after every step."""
    train, validation = (data.take(np.flatnonzero(chosen)).matrix() for chosen in (~held_out, held_out))
    history: dict[str, dict[str, list[float]]] = {}
    evals = [(validation, "held_out")]
    xgboost.train(parameters, train, num_boost_round=steps, evals=evals, evals_result=history, verbose_eval=False)
    return history["held_out"]["ndcg@10"]


class RankingData:
    """Rows of features with labels, grouped by query."""

    def __init__(self, features: Sequence[NDArray[np.float32]], labels: Sequence[NDArray[np.float32]]) -> None:
        """Store the rows of the queries.

        Args:
            features: one (N_q, F) float32 matrix per query.
            labels: one (N_q,) float32 vector of gains >= 0 per query.
        """
        self._features, self._labels = list(features), list(labels)

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self._features)

    @property
    def labels(self) -> Sequence[NDArray[np.float32]]:
        """Return the gains (N_q,) of each query's candidates."""
        return self._labels

    @property
    def rows(self) -> int:
        """Return the number of candidates of all queries."""
        return sum(len(labels) for labels in self._labels)

    def take(self, queries: Iterable[int]) -> "RankingData":
        """Return the data of the queries with these indices, from 0."""
        chosen = list(queries)
        return RankingData([self._features[n] for n in chosen], [self._labels[n] for n in chosen])

    def __add__(self, other: "RankingData") -> "RankingData":
        return RankingData([*self._features, *other._features], [*self._labels, *other._labels])

    def matrix(self) -> xgboost.DMatrix:
        """Return the rows as a DMatrix of XGBoost, grouped by query."""
        labels = np.concatenate(self._labels)
        matrix = xgboost.DMatrix(np.concatenate(self._features), label=labels, feature_names=list(FEATURES))
        matrix.set_group([len(rows) for rows in self._features])
        return matrix
