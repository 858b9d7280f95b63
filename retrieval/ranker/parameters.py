"""Training parameters of the re-ranker; imports no XGBoost."""

from dataclasses import dataclass, field
from typing import Any

from retrieval.errors import InvalidInput


@dataclass(frozen=True)
class FewQueries:
    """Parameters for learning from some dozens of judged queries. Trees are shallow, and each boosting step averages several.

    Attributes:
        eta: shrinkage of a boosting step, above 0 and up to 1.
        subsample: share of the rows that a tree is trained on, above 0 and up to 1.
        colsample_bytree: share of the features that a tree is trained on, above 0 and up to 1.
        num_parallel_tree: trees per boosting step, >= 1, each trained on its own sample of rows and features.
        depths: candidate depths of the trees, each >= 1; cross-validation chooses one.
        most_steps: maximum number of boosting steps, >= 20.
    """

    eta: float = 0.05
    subsample: float = 0.7
    colsample_bytree: float = 0.5
    num_parallel_tree: int = 4
    depths: tuple[int, ...] = (2, 3)
    most_steps: int = 160

    def __post_init__(self) -> None:
        _check_fractions(eta=self.eta, subsample=self.subsample, colsample_bytree=self.colsample_bytree)
        if self.num_parallel_tree < 1 or not self.depths or min(self.depths) < 1 or self.most_steps < 20:
            raise InvalidInput(
                "few queries need num_parallel_tree >= 1, depths >= 1 and most_steps >= 20, "
                f"not {self.num_parallel_tree}, {list(self.depths)} and {self.most_steps}"
            )


@dataclass(frozen=True)
class BoosterParameters:
    """Parameters for learning from clicks.

    Attributes:
        eta: shrinkage of a tree, above 0 and up to 1.
        max_depth: maximum depth of a tree, >= 1.
        min_child_weight: minimum weight of a leaf, >= 0.
        subsample: share of the rows that a tree is trained on, above 0 and up to 1.
        rounds: maximum number of trees, >= 1.
        early_stopping_rounds: training stops after this number of trees without a better validation nDCG@10, >= 1.
        few_queries: parameters for learning from judgments instead of clicks.
    """

    eta: float = 0.1
    max_depth: int = 4
    min_child_weight: float = 5.0
    subsample: float = 0.8
    rounds: int = 300
    early_stopping_rounds: int = 30
    few_queries: FewQueries = field(default_factory=FewQueries)

    def __post_init__(self) -> None:
        _check_fractions(eta=self.eta, subsample=self.subsample)
        if min(self.max_depth, self.rounds, self.early_stopping_rounds) < 1 or self.min_child_weight < 0:
            raise InvalidInput(
                "a re-ranker needs max_depth, rounds and early_stopping_rounds >= 1 and min_child_weight >= 0, "
                f"not {self.max_depth}, {self.rounds}, {self.early_stopping_rounds} and {self.min_child_weight}"
            )

    def of_clicks(self, seed: int) -> dict[str, Any]:
        """Return XGBoost's parameters for learning from clicks."""
        return {
            **FIXED,
            "eta": self.eta,
            "max_depth": self.max_depth,
            "min_child_weight": self.min_child_weight,
            "subsample": self.subsample,
            "seed": seed,
        }

    def of_few_queries(self, depth: int, seed: int) -> dict[str, Any]:
        """Return XGBoost's parameters for learning from few queries with trees of the depth `depth`."""
        few = self.few_queries
        return {
            **self.of_clicks(seed),
            "eta": few.eta,
            "max_depth": depth,
            "subsample": few.subsample,
            "colsample_bytree": few.colsample_bytree,
            "num_parallel_tree": few.num_parallel_tree,
        }


FIXED: dict[str, Any] = {
    "objective": "rank:ndcg",
    "ndcg_exp_gain": False,  # labels are gains already: mean event weights, or grades, which count as gains unchanged
    "eval_metric": "ndcg@10",
    "base_score": 0.5,  # XGBoost 3.0 (SageMaker's container) reads this value right from newer files; it changes no order
    "nthread": 1,
}


def _check_fractions(**fractions: float) -> None:
    for name, fraction in fractions.items():
        if not 0 < fraction <= 1:
            raise InvalidInput(f"{name} is {fraction}; allowed are numbers above 0 and up to 1")
