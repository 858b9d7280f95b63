"""LambdaMART on XGBoost (Burges, "From RankNet to LambdaRank to LambdaMART", 2010), trained and served in process."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xgboost
from numpy.typing import NDArray

from retrieval.errors import FeatureMismatch, RankerUnavailable
from retrieval.ranker.features import FEATURES, FEATURES_HASH

PARAMETERS = {
    "objective": "rank:ndcg",
    "ndcg_exp_gain": False,  # labels are gains already: mean event weights, not grades
    "eval_metric": "ndcg@10",
    "base_score": 0.5,  # the one that XGBoost 3.0, which SageMaker's container has, reads as newer ones write it; ranks nothing
    "eta": 0.1,
    "max_depth": 4,
    "min_child_weight": 5,
    "subsample": 0.8,
    "nthread": 1,
}
ROUNDS = 300
EARLY_STOPPING_ROUNDS = 30


class BoosterRanker:
    """A trained booster that refuses to score features it was not trained on."""

    def __init__(self, booster: xgboost.Booster) -> None:
        self._booster = booster

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score candidates, as ranker.base.Ranker says.

        Raises:
            RankerUnavailable: XGBoost could not score the matrix.
        """
        try:
            return np.asarray(self._booster.inplace_predict(features), dtype=np.float32)  # (N, F) -> (N,)
        except (xgboost.core.XGBoostError, ValueError) as error:
            raise RankerUnavailable(f"the booster cannot score a {features.shape} matrix: {error}") from error

    def save(self, path: Path) -> None:
        """Write the booster with its feature names and their hash, in one step."""
        self._booster.set_attr(features=json.dumps(FEATURES), features_hash=FEATURES_HASH)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"partial-{path.name}")
        self._booster.save_model(partial)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "BoosterRanker":
        """Read a booster that save() wrote.

        Raises:
            RankerUnavailable: the file is missing or no booster.
            FeatureMismatch: it was trained on other features than FEATURES.
        """
        booster = xgboost.Booster({"nthread": 1})  # 50 rows a query: threads cost more than they give
        try:
            booster.load_model(path)
        except xgboost.core.XGBoostError as error:
            raise RankerUnavailable(f"{path} is not a readable booster; train it again with `gavel train`") from error
        if booster.attr("features_hash") != FEATURES_HASH:
            trained = json.loads(booster.attr("features") or "[]")
            differing = sorted(set(trained) ^ set(FEATURES)) or ["their order"]
            raise FeatureMismatch(
                f"{path} was trained on other features ({', '.join(differing)}); train it again with `gavel train`"
            )
        return cls(booster)


def fit_booster(
    train: "RankingData", validation: "RankingData", *, seed: int = 0, rounds: int = ROUNDS, patience: int = EARLY_STOPPING_ROUNDS
) -> BoosterRanker:
    """Train LambdaMART and keep the round that is best on the validation queries.

    Args:
        train: features and graded labels of the training queries.
        validation: the same of queries that the training does not see.
        seed: of the row sampling.
        rounds: trees at most.
        patience: rounds without a better validation nDCG@10 after which training stops.
    """
    booster = xgboost.train(
        {**PARAMETERS, "seed": seed},
        train.matrix(),
        num_boost_round=rounds,
        evals=[(validation.matrix(), "validation")],
        early_stopping_rounds=patience,
        verbose_eval=False,
    )
    return BoosterRanker(booster[: booster.best_iteration + 1])


class RankingData:
    """Rows of features with labels, grouped by query."""

    def __init__(self, features: Sequence[NDArray[np.float32]], labels: Sequence[NDArray[np.float32]]) -> None:
        """Gather the queries.

        Args:
            features: one (N_q, F) float32 matrix a query.
            labels: one (N_q,) vector of gains >= 0 a query.
        """
        self._features, self._labels = np.concatenate(features), np.concatenate(labels)
        self._group_sizes = [len(rows) for rows in features]

    def matrix(self) -> xgboost.DMatrix:
        """The rows as XGBoost reads them."""
        matrix = xgboost.DMatrix(self._features, label=self._labels, feature_names=list(FEATURES))
        matrix.set_group(self._group_sizes)
        return matrix
