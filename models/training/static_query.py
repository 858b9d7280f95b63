"""Training of a static query encoder: a text's vector is the sum of vectors of its tokens and token pairs.

It learns to reproduce the vectors of a full query tower. Static embeddings are distilled from sentence encoders in the same way
(Model2Vec, Tulkens and van Dongen 2024; Gupta and Jaggi, ACL 2021). The tokens are the tower's own. Pairs of neighbouring tokens
have vectors, too, as in fastText's classifier (Joulin et al., EACL 2017), because a "laptop bag" is not halfway between a laptop
and a bag. The length of a token's vector is the token's weight.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from models.artefacts.run_record import hash_of
from models.config.distillation import StaticQueryConfig
from models.data.shuffle import Shuffle
from models.training.checkpoints import Checkpoints
from models.training.loop import LoopSettings, StepMetrics, TrainingLoop, TrainingTask
from retrieval.encoders.static_query_encoder import Int8Table, SmallQueryTower, find_pairs, pair_keys, token_ids
from retrieval.progress import Progress, ignore_progress

RIDGE = 1e-3  # share of the mean variance that is added to every variance, because a catalogue's texts leave some directions unused


class StaticQueryModule(nn.Module):
    """The encoder during training, with float tables."""

    def __init__(self, tokens: Tensor, pairs: int) -> None:
        """Start with the given token vectors (V, D) and with pair vectors of zero."""
        super().__init__()
        self.tokens = nn.EmbeddingBag.from_pretrained(tokens, mode="sum", sparse=True, freeze=False)
        self.pairs = nn.EmbeddingBag.from_pretrained(torch.zeros(pairs, tokens.shape[1]), mode="sum", sparse=True, freeze=False)
        self.bias = nn.Parameter(torch.zeros(tokens.shape[1]))

    def forward(self, tokens: Sequence[NDArray[np.int64]], pairs: Sequence[NDArray[np.int64]]) -> Tensor:
        """Return unit vectors (B, D) of B texts, given as rows of the token table and of the pair table."""
        total = self.bias + self.tokens(*_bags(tokens)) + self.pairs(*_bags(pairs))  # (B, D)
        return F.normalize(total, dim=1)


def train_static_query_encoder(
    tower_id: str,
    tokenizer: Tokenizer,
    max_length: int,
    texts: Sequence[str],
    targets: NDArray[np.float32],
    token_embeddings: NDArray[np.float32],
    config: StaticQueryConfig,
    progress: Progress = ignore_progress,
    checkpoints: Checkpoints | None = None,
) -> "StaticQueryReport":
    """Train a static query encoder on the vectors of texts.

    Args:
        tower_id: id of the full tower.
        tokenizer: tokenizer of the full tower, as load_tokenizer() returns it.
        max_length: largest number of tokens that the full tower reads.
        texts: N >= 2 cleaned texts.
        targets: (N, D) unit vectors of the texts, by the full tower.
        token_embeddings: (V, W) token embeddings of the full tower's text encoder, from which the token vectors start.
        config: settings.
        progress: called with (steps done, steps in all).
        checkpoints: checkpoints of this run, from which a stopped run resumes; the caller removes them. None writes none.
    """
    ids = [token_ids(tokenizer, text, max_length) for text in texts]
    keys = frequent_pairs(ids, config)
    places = [find_pairs(keys, row) for row in ids]
    tower = StaticQueryModule(torch.from_numpy(fit_token_vectors(ids, targets, token_embeddings)), len(keys))
    task = StaticQueryTask(tower, ids, places, torch.from_numpy(np.ascontiguousarray(targets)), config)
    settings = LoopSettings(config.epochs, task.steps_per_epoch, config.warmup, max_seconds=config.max_seconds)
    loop = TrainingLoop(task, settings, checkpoints)
    with _one_thread():
        loop.run(progress)
    losses = [record.loss for record in loop.history]
    tokens, pairs = (part.weight.detach().numpy() for part in (tower.tokens, tower.pairs))
    small = SmallQueryTower(tower_id, Int8Table.of(tokens), keys, Int8Table.of(pairs), tower.bias.detach().numpy())
    return StaticQueryReport(small, losses, loop.steps_run, loop.steps, loop.cut_by_clock)


@dataclass(frozen=True)
class StaticQueryReport:
    """Result of training a static query encoder.

    Attributes:
        tower: the encoder.
        losses: mean of 1 - cosine in each epoch.
        steps: number of steps that were run.
        planned_steps: number of steps in the schedule.
        cut_by_clock: True if max_seconds ended the run; the next one with the same checkpoints resumes it.
    """

    tower: SmallQueryTower
    losses: list[float]
    steps: int
    planned_steps: int
    cut_by_clock: bool


def frequent_pairs(ids: Sequence[NDArray[np.int64]], config: StaticQueryConfig) -> NDArray[np.int64]:
    """Return the pairs of neighbouring tokens that get a vector, encoded by pair_keys(), ascending."""
    counts = Counter(chain.from_iterable(pair_keys(row).tolist() for row in ids))
    ranked = sorted((key for key, count in counts.items() if count >= config.pair_count), key=lambda key: (-counts[key], key))
    return np.array(sorted(ranked[: config.most_pairs]), dtype=np.int64)


def fit_token_vectors(
    ids: Sequence[NDArray[np.int64]], targets: NDArray[np.float32], token_embeddings: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return initial token vectors: the linear map of the embeddings whose mean over a text is nearest to the text's vector.

    Args:
        ids: token ids of N texts.
        targets: (N, D) vectors of the texts.
        token_embeddings: (V, W) embeddings of all tokens.

    Returns:
        (V, D) float32; the map is found by ridge regression.
    """
    has_tokens = np.array([len(row) > 0 for row in ids])
    means = np.stack([token_embeddings[row].mean(axis=0) for row in ids if len(row)]).astype(np.float64)  # (M, W)
    centre, goal = means.mean(axis=0), targets[has_tokens].mean(axis=0, dtype=np.float64)
    spread = means - centre
    squares = spread.T @ spread  # (W, W)
    squares[np.diag_indices_from(squares)] += RIDGE * np.trace(squares) / len(squares) + 1e-12
    map_ = np.linalg.solve(squares, spread.T @ (targets[has_tokens] - goal))  # (W, D)
    return np.asarray((token_embeddings - centre) @ map_ + goal, dtype=np.float32)


class StaticQueryTask(TrainingTask[None]):
    """Training of a static query encoder on vectors of texts."""

    def __init__(
        self,
        model: StaticQueryModule,
        tokens: Sequence[NDArray[np.int64]],
        pairs: Sequence[NDArray[np.int64]],
        targets: Tensor,
        config: StaticQueryConfig,
    ) -> None:
        self.model = self._encoder = model
        self._tokens, self._pairs, self._targets = tokens, pairs, targets
        settings = asdict(replace(config, max_seconds=None))
        self.settings = {"data": hash_of([settings, targets.numpy(), *tokens, model.tokens.weight.detach().numpy()])}
        self.optimizers = {
            "tables": torch.optim.SparseAdam([model.tokens.weight, model.pairs.weight], lr=config.learning_rate),
            "bias": torch.optim.Adam([model.bias], lr=config.learning_rate),
        }
        self.steps_per_epoch = -(-len(tokens) // config.batch_size)
        self._shuffle = Shuffle(len(tokens), config.batch_size, self.steps_per_epoch, config.seed)

    def backward(self, step: int) -> StepMetrics:
        """Compute the gradients of one batch of texts; steps must be made in order."""
        rows = self._shuffle.batch(step)
        vectors = self._encoder([self._tokens[row] for row in rows], [self._pairs[row] for row in rows])  # (B, D)
        loss = 1 - (vectors * self._targets[torch.from_numpy(rows)]).sum(dim=1).mean()
        torch.autograd.backward(loss)
        return StepMetrics.of_loss(loss)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the batches."""
        return self._shuffle.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of state_dict()."""
        self._shuffle.load_state_dict(state)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread, because steps this small are slower with two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _bags(rows: Sequence[NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
    """Return the input of nn.EmbeddingBag: all rows in one tensor, and the start of each bag."""
    starts = np.cumsum([0, *map(len, rows[:-1])], dtype=np.int64)
    return torch.from_numpy(np.concatenate(rows)), torch.from_numpy(starts)
