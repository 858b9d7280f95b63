"""Training settings of models that learn from other models; without torch."""

from dataclasses import dataclass

from retrieval.errors import InvalidInput


@dataclass(frozen=True)
class DistillationConfig:
    """Settings of the linear heads that learn from the teacher.

    Attributes:
        steps: of gradient descent, >= 1.
        queries: of each step, >= 1.
        lots: items of the catalogue that are ranked at most; a larger catalogue is sampled.
        min_weight: queries are those of the training pairs that weigh as much; the item of a pair is ignored.
        keyword_share: what a query's best BM25 score adds to a cosine, >= 0.
        teacher_temperature: of the teacher's distribution; lower is sharper.
        temperature: of the student's.
        learning_rate: peak of AdamW's.
        warmup: share of the steps over which the learning rate rises.
        seed: of the draws.
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
    seed: int = 7

    def __post_init__(self) -> None:
        if min(self.steps, self.queries, self.lots) < 1 or min(self.teacher_temperature, self.temperature) <= 0:
            raise InvalidInput("distillation needs 1 step, query and lot or more, and temperatures above 0")


@dataclass(frozen=True)
class StaticQueryConfig:
    """Settings of a static query encoder.

    Attributes:
        texts: that it learns from at most, >= 2.
        epochs: passes over them, >= 1.
        batch_size: texts of a step, >= 1.
        learning_rate: peak of Adam's, > 0.
        warmup: share of the steps over which it rises.
        pair_count: times that a pair of tokens must occur in the texts to get a vector of its own, >= 1.
        most_pairs: that get one, the most frequent ones.
        seed: of everything random.
    """

    texts: int = 30_000
    epochs: int = 20
    batch_size: int = 256
    learning_rate: float = 2e-3
    warmup: float = 0.05
    pair_count: int = 2
    most_pairs: int = 65_536
    seed: int = 7

    def __post_init__(self) -> None:
        if min(self.texts - 1, self.epochs, self.batch_size, self.pair_count) < 1 or self.learning_rate <= 0 or self.most_pairs < 0:
            raise InvalidInput("a small query tower needs 2 texts, 1 epoch, a batch of 1 or more, and a learning rate above 0")
