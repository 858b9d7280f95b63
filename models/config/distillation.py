"""Training settings of models that learn from other models; without torch."""

from dataclasses import dataclass

from models.towers.config import PhotoUse
from retrieval.errors import InvalidInput

LOT_TOKENS = 48  # of a lot's text; best val Recall@50 of 32, 48, 64 and 128 on the electronics shop (pseudo-queries of seed 7)


@dataclass(frozen=True)
class DistillationConfig:
    """Settings of the linear heads that learn from the teacher.

    Attributes:
        steps: steps of gradient descent, >= 1.
        queries: queries per step, >= 1.
        lots: largest number of items that are ranked, >= 1; a larger catalogue is sampled.
        min_weight: minimum weight of a training pair whose query is used; the pair's item is ignored.
        keyword_share: number that a query's best BM25 score adds to the item's cosine, >= 0; lower scores add proportionally less.
        teacher_temperature: temperature of the teacher's distribution, > 0; lower is sharper.
        temperature: temperature of the student's distribution, > 0.
        learning_rate: peak learning rate of AdamW.
        warmup: share of the steps over which the learning rate rises.
        photos: use of the photos by models for words and pictures: "always", "never", or "auto", which adapts without and with
            photos, and stores the towers that read photos only if they are better on the val split.
        seed: seed of the random draws.
        max_seconds: time limit of a call's steps in seconds, which stops the run; the next call resumes it. None for no limit.
    """

    steps: int = 200
    queries: int = 128
    lots: int = 20_000
    min_weight: float = 0.0
    keyword_share: float = 0.5
    teacher_temperature: float = 0.08
    temperature: float = 0.05
    learning_rate: float = 1e-3
    warmup: float = 0.1
    photos: PhotoUse = "auto"
    seed: int = 7
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        if min(self.steps, self.queries, self.lots) < 1 or min(self.teacher_temperature, self.temperature) <= 0:
            raise InvalidInput("distillation needs 1 step, query and lot or more, and temperatures above 0")


@dataclass(frozen=True)
class StaticQueryConfig:
    """Settings of a static query encoder.

    Attributes:
        texts: largest number of texts to learn from, >= 2.
        epochs: passes over the texts, >= 1.
        batch_size: texts per step, >= 1.
        learning_rate: peak learning rate of Adam, > 0.
        warmup: share of the steps over which the learning rate rises.
        pair_count: minimum number of times that a pair of tokens occurs in the texts to get its own vector, >= 1.
        most_pairs: largest number of pairs with a vector, >= 0; the most frequent pairs are taken.
        seed: seed of all random choices.
        max_seconds: time limit of a call's steps in seconds, which stops the run; the next call resumes it. None for no limit.
    """

    texts: int = 30_000
    epochs: int = 20
    batch_size: int = 256
    learning_rate: float = 2e-3
    warmup: float = 0.05
    pair_count: int = 2
    most_pairs: int = 65_536
    seed: int = 7
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        if min(self.texts - 1, self.epochs, self.batch_size, self.pair_count) < 1 or self.learning_rate <= 0 or self.most_pairs < 0:
            raise InvalidInput("a small query tower needs 2 texts, 1 epoch, a batch of 1 or more, and a learning rate above 0")
