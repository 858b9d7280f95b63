"""Training settings of a buyer tower; without torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BuyerTrainingConfig:
    """Training settings of a buyer tower.

    Attributes:
        heads: of the attention; 0 trains the weighted average, that is the items alone.
        half_life_days: age at which an interaction counts half in the average; None for never.
        epochs: over all baskets.
        batch_size: baskets of a step.
        targets: items of a basket that are drawn for a step.
        random: further negatives of a step, drawn evenly from all items.
        rate: peak learning rate of AdamW; warm-up over a tenth, then a cosine.
        weight_decay: of AdamW.
        temperature: to start from; it is learned.
        correct_popularity: subtract log q, estimated from the stream of batches (Yi et al. 2019).
        own_are_negatives: count items that the buyer acted on before as negatives when they are not in the basket.
        seed: of weights, batches and draws.
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
