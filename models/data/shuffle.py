"""The rows of each batch, in a new random order in each epoch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class Shuffle:
    """Batches of row numbers. Batches must be taken in order; the state resumes them in mid-epoch.

    Attributes:
        random: generator of the orders, which may serve for other draws of a step, too.
    """

    def __init__(self, count: int, batch_size: int, steps_per_epoch: int, seed: int) -> None:
        """Prepare the batches of rows 0 to count - 1; an epoch of fewer steps than the rows need leaves the rest out."""
        self._count, self._batch_size, self._steps = count, batch_size, steps_per_epoch
        self.random, self._order = np.random.default_rng(seed), np.empty(0, np.int64)

    def batch(self, step: int) -> NDArray[np.int64]:
        """Return the rows of a step; steps count from 0 through all epochs."""
        place = step % self._steps
        if place == 0:
            self._order = self.random.permutation(self._count)
        return self._order[place * self._batch_size :][: self._batch_size]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generator and the epoch's order."""
        return {"random": self.random.bit_generator.state, "order": torch.from_numpy(self._order)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of state_dict()."""
        self.random.bit_generator.state, self._order = state["random"], state["order"].numpy()
