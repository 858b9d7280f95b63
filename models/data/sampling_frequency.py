"""Streaming estimate of how often an item is sampled into a batch."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from retrieval.errors import InvalidInput

MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # the finaliser of splitmix64 (Steele et al. 2014)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class StreamingFrequency:
    """Streaming estimate of log q, q being the probability that a batch holds an item (Yi et al., RecSys 2019, algorithms 2, 3).

    Two arrays are addressed by a hash of the item id. The paper's array A stores the last step with the item. Its array B stores
    a moving average of the gaps between such steps. The item's sampling probability is 1 / gap. Memory does not grow with the
    items, and the estimate follows a drifting stream. Among several hashes the largest gap counts, because a collision can only
    shorten a gap. Unlike in the paper, the first 1 / alpha gaps of an item are averaged evenly. So early estimates do not depend
    on the arbitrary start value.
    """

    def __init__(self, buckets: int = 1 << 18, alpha: float = 0.01, hashes: int = 2) -> None:
        """Create an estimate that has counted no batch.

        Args:
            buckets: cells per hash, >= 1; several times the number of items makes collisions rare.
            alpha: weight of the newest gap in the moving average, in (0, 1].
            hashes: independent hashes, >= 1.

        Raises:
            InvalidInput: an argument is not in its range.
        """
        if buckets < 1 or hashes < 1 or not 0 < alpha <= 1:
            raise InvalidInput(f"buckets {buckets} and hashes {hashes} must be >= 1, and alpha {alpha} in (0, 1]")
        self._alpha = alpha
        self._step = 0
        self._last = np.zeros((hashes, buckets), dtype=np.int64)  # A: step of the last batch with the item; 0 before the first
        self._gap = np.zeros((hashes, buckets))  # B: moving average of the gaps, in steps
        self._gap_counts = np.zeros((hashes, buckets), dtype=np.int64)  # number of gaps in each average

    def update(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Count the items of one batch.

        Args:
            ids: (B,) integers, the items of the batch; repeated items are counted once.

        Returns:
            (B,) log of the probability that a batch holds each item, <= 0, estimated after this batch.
        """
        items = np.asarray(ids, dtype=np.int64)
        self._step += 1
        for row, cells in enumerate(self._cells(np.unique(items))):
            cells = np.unique(cells)
            self._gap_counts[row, cells] += 1
            rate = np.maximum(self._alpha, 1 / self._gap_counts[row, cells])
            self._gap[row, cells] += rate * (self._step - self._last[row, cells] - self._gap[row, cells])
            self._last[row, cells] = self._step
        return self.log_q(items)

    def log_q(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Return the log of the probability that a batch holds each item, (B,) <= 0.

        The probability of a new item is 1 / (steps so far + 1).
        """
        cells = self._cells(np.asarray(ids, dtype=np.int64))  # (hashes, B)
        rows = np.arange(len(cells))[:, None]
        gaps = np.where(self._gap_counts[rows, cells] > 0, self._gap[rows, cells], self._step + 1)  # (hashes, B)
        log_q: NDArray[np.float32] = -np.log(np.maximum(gaps.max(axis=0), 1)).astype(np.float32)
        return log_q

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of the state."""
        arrays = {"step": np.array(self._step), "last": self._last, "gap": self._gap, "seen": self._gap_counts}
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state of state_dict(), bit for bit.

        Raises:
            InvalidInput: the state has another number of buckets or hashes.
        """
        if tuple(state["gap"].shape) != self._gap.shape:
            raise InvalidInput(
                f"the state has (hashes, buckets) {tuple(state['gap'].shape)}, this estimate {self._gap.shape}; build it with those"
            )
        self._step = int(state["step"])
        self._last, self._gap, self._gap_counts = (state[name].numpy().copy() for name in ("last", "gap", "seen"))

    def _cells(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the cell of every id under every hash: (B,) -> (hashes, B)."""
        salts = np.arange(1, len(self._gap) + 1, dtype=np.uint64)[:, None] * GOLDEN
        mixed = ids.astype(np.uint64)[None, :] * GOLDEN + salts  # (hashes, B); numpy's integers wrap around
        for shift, factor in zip((30, 27), MIX, strict=True):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * factor
        mixed ^= mixed >> np.uint64(31)
        return (mixed % np.uint64(self._gap.shape[1])).astype(np.int64)
