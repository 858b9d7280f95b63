"""Training settings of a buyer tower; without torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BuyerTrainingConfig:
    """Training settings of a buyer tower.

    Attributes:
        heads: attention heads; 0 encodes a buyer as the weighted average of the items, so that only the items are trained.
        half_life_days: age in days at which an interaction counts half in the average; None for no decay.
        epochs: passes over all baskets.
        batch_size: baskets per step.
        targets: items drawn from each basket per step, with replacement.
        random: negatives per step that are drawn uniformly from all items, in addition to the other baskets' items.
        rate: peak learning rate of AdamW; it rises over a tenth of the steps, then falls as a cosine.
        weight_decay: weight decay of AdamW.
        temperature: initial temperature; it is learned.
        correct_popularity: True subtracts the log of an item's sampling frequency from the item's logit. The frequency is estimated
            from the batches (Yi et al. 2019).
        own_are_negatives: True counts items that the buyer acted on before as negatives, unless they are in the basket.
        seed: seed of weights, batches and draws.
        max_seconds: time limit of a call in seconds, which stops the run; the next call resumes it. None for no limit.
    """

    heads: int = 1
    half_life_days: float | None = None
    epochs: int = 8
    batch_size: int = 128
    targets: int = 4
    random: int = 512
    rate: float = 1e-3
    weight_decay: float = 1e-4
    temperature: float = 0.07
    correct_popularity: bool = True
    own_are_negatives: bool = False
    seed: int = 7
    max_seconds: float | None = None
