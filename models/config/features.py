"""Settings of the training of two feature towers."""

from dataclasses import dataclass, field

from catalog.user_items import SplitRule


@dataclass(frozen=True)
class FeatureTrainingConfig:
    """Training settings of two feature towers.

    Attributes:
        dimensions: length of the vectors.
        hidden: width of the hidden layers; 0 for no hidden layer.
        id_width: width of the embeddings of user and item ids.
        unknown_rate: share of category values, ids included, that training replaces by unknown.
        dropout: dropout probability on the hidden layers.
        batch_size: pairs per step.
        epochs: passes over all pairs, without and with mined negatives.
        rate: peak learning rate of AdamW; it rises over a tenth of the steps, then falls as a cosine.
        weight_decay: weight decay of AdamW.
        temperature: initial temperature; it is learned.
        correct_popularity: True subtracts the log of an item's sampling frequency from the item's logit. The frequency is estimated
            from the batches (Yi et al. 2019).
        hard: mined negatives per pair; used only if mined negatives are given.
        random: random negatives per pair; used only if mined negatives are given.
        mined_skip: top ranks that mining leaves out, because they often hold items that were only not bought yet.
        mined_depth: last rank that mining takes.
        later_rate: peak learning rate as a share of `rate`, for training that starts from trained towers.
        seed: seed of weights, batches and draws.
        patience: epochs without a better selection metric after which training ends; None trains to the end.
        max_seconds: time limit of a call in seconds, which stops the run; the next call resumes it. None for no limit.
    """

    dimensions: int = 64
    hidden: int = 128
    id_width: int = 32
    unknown_rate: float = 0.1
    dropout: float = 0.0
    batch_size: int = 512
    epochs: int = 3
    rate: float = 5e-3
    weight_decay: float = 1e-4
    temperature: float = 0.1
    correct_popularity: bool = False
    hard: float = 1.0
    random: float = 0.5
    mined_skip: int = 0
    mined_depth: int = 100
    later_rate: float = 0.3
    seed: int = 7
    patience: int | None = None
    max_seconds: float | None = None


@dataclass(frozen=True)
class UsersItemsConfig:
    """Settings of a training on tables of users, items and interactions.

    Attributes:
        user_features: columns of the users to use; None uses all categories and numbers.
        item_features: columns of the items, likewise.
        user_ids: True lets the user tower learn a vector for every user with train interactions.
        item_ids: True lets the item tower learn one for every item with at least `min_taken` train interactions.
        min_taken: train interactions below which an item has the id unknown, because one interaction teaches too little.
        split: rule of catalog.user_items.split_interactions(); None takes the column split, else each user's last interactions.
        val: share of the val interactions.
        test: share of the test interactions.
        val_users: users whose val interactions choose the epoch, drawn by the seed.
        towers: sizes of the towers and settings of the optimiser.
    """

    user_features: tuple[str, ...] | None = None
    item_features: tuple[str, ...] | None = None
    user_ids: bool = True
    item_ids: bool = True
    min_taken: int = 3
    split: SplitRule | None = None
    val: float = 0.1
    test: float = 0.2
    val_users: int = 2_000
    towers: FeatureTrainingConfig = field(default_factory=lambda: FeatureTrainingConfig(batch_size=1024, correct_popularity=True))
