"""The items that each user took, as a sparse table."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class PairTable:
    """A sparse (U, I) table of booleans, True where a user took an item.

    Attributes:
        shape: (U, I).
    """

    def __init__(self, pairs: NDArray[np.int64], users: int, items: int) -> None:
        """Sort the pairs by user.

        Args:
            pairs: (N, 2) indices of a user and of an item.
            users: U.
            items: I.
        """
        self.shape = (users, items)
        ordered = pairs[np.argsort(pairs[:, 0], kind="stable")]
        self._items = torch.from_numpy(ordered[:, 1].copy())  # (N,) by user
        self._starts = torch.from_numpy(np.searchsorted(ordered[:, 0], np.arange(users + 1)))  # (U + 1,)

    @property
    def counts(self) -> Tensor:
        """Return the number of items of every user, (U,) int64."""
        return self._starts.diff()

    def items_of(self, user: int) -> Tensor:
        """Return the items of a user, (n,) int64."""
        return self._items[self._starts[user] : self._starts[user + 1]]

    def item_counts(self) -> Tensor:
        """Return the number of users of every item, (I,) int64."""
        return torch.bincount(self._items, minlength=self.shape[1])

    def rows(self, users: Tensor) -> Tensor:
        """Return whole rows of the table, (B,) -> (B, I) bool."""
        table = torch.zeros(len(users), self.shape[1], dtype=torch.bool)
        table[self._entries(users)] = True
        return table

    def table(self) -> Tensor:
        """Return the whole table, (U, I) bool."""
        return self.rows(torch.arange(self.shape[0]))

    def among(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the part of the table with these users and items, (B,), (N,) -> (B, N) bool; both may repeat."""
        different, column_of = torch.unique(items, return_inverse=True)  # (M,), (N,)
        columns = torch.full((self.shape[1],), -1)
        columns[different] = torch.arange(len(different))
        row, item = self._entries(users)
        column = columns[item]
        part = torch.zeros(len(users), len(different), dtype=torch.bool)
        part[row[column >= 0], column[column >= 0]] = True
        return part[:, column_of]

    def _entries(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Return the positions in `users` and the items of all entries of these users, (n,) each."""
        starts, counts = self._starts[users], self.counts[users]  # (B,)
        row = torch.arange(len(users)).repeat_interleave(counts)  # (n,)
        number = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]  # among the entries of its user
        return row, self._items[starts[row] + number]
