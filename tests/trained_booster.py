"""A re-ranker that is real in every part but its data: buyers who want the cheaper lots, whatever the rest says."""

import numpy as np

from retrieval.ranker.features import FEATURES
from retrieval.ranker.parameters import BoosterParameters
from retrieval.ranker.xgboost_ranker import BoosterRanker, RankingData, fit_booster


def ranking_data(seed: int) -> RankingData:
    """Thirty queries of twenty lots; the gain is that of a price below 0.3."""
    rng = np.random.default_rng(seed)
    features = [rng.random((20, len(FEATURES)), dtype=np.float32) for _ in range(30)]
    labels = [np.float32(3.5) * (x[:, FEATURES.index("log_price")] < 0.3) for x in features]
    return RankingData(features, [label.astype(np.float32) for label in labels])


def trained_booster(rounds: int = 20) -> BoosterRanker:
    """Trained in a moment."""
    return fit_booster(ranking_data(0), ranking_data(1), parameters=BoosterParameters(rounds=rounds))


def feature_rows(rows: int, seed: int = 3) -> np.ndarray:
    """(rows, len(FEATURES)) float32, a tenth of it missing."""
    rng = np.random.default_rng(seed)
    features = rng.random((rows, len(FEATURES)), dtype=np.float32)
    features[rng.random(features.shape) < 0.1] = np.nan
    return features
