"""The small query encoder of a tower for serving. It has no network: it adds stored vectors of tokens and of token pairs."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from retrieval.contracts.items import query_text
from retrieval.contracts.tower_card import SMALL_QUERY_TOWER_FILE, TowerCard
from retrieval.encoders.query_encoder import MAX_WORD_CHARS, load_tokenizer, to_unit_length
from retrieval.errors import TowerError
from retrieval.files import replacing, shortage

DISTIL = "`gavel distill query`"
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
PAIR_SHIFT = 32  # a pair of tokens is one int64: the first id in the upper 32 bits, the second in the lower


@dataclass(frozen=True)
class Int8Table:
    """A table of float rows, stored in int8 with one scale per row.

    Attributes:
        rows: (N, D) int8 numbers.
        scales: (N,) float32 scales; row n is rows[n] * scales[n].
    """

    rows: NDArray[np.int8]
    scales: NDArray[np.float32]

    @classmethod
    def of(cls, rows: NDArray[np.float32]) -> "Int8Table":
        """Return a table of (N, D) float rows, each rounded to 255 steps between its largest absolute value and the negative."""
        scales = np.maximum(np.abs(rows).max(axis=1, initial=0.0), np.float32(1e-12)) / 127
        return cls(np.round(rows / scales[:, None]).astype(np.int8), scales.astype(np.float32))

    def sum(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the (D,) float32 sum of the rows with these indices; a repeated index counts each time."""
        total: NDArray[np.float32] = self.scales[places] @ self.rows[places]
        return total


@dataclass(frozen=True)
class SmallQueryTower:
    """The content of `query_tower_small.npz`.

    Attributes:
        tower_id: id of the tower whose query encoder it replaces.
        tokens: vectors of tokens, one row per token of the vocabulary.
        pairs: (P,) int64 keys of the pairs of neighbouring tokens that have a vector, ascending; see pair_keys().
        pair_vectors: vectors of these pairs, one row per pair.
        bias: (D,) float32 vector that is added to every query.
    """

    tower_id: str
    tokens: Int8Table
    pairs: NDArray[np.int64]
    pair_vectors: Int8Table
    bias: NDArray[np.float32]

    def save(self, folder: Path) -> Path:
        """Write the file into the folder of the tower, in one step, and return its path."""
        path = folder / SMALL_QUERY_TOWER_FILE
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez_compressed(
                file,
                tower_id=np.array(self.tower_id),
                tokens=self.tokens.rows,
                token_scales=self.tokens.scales,
                pairs=self.pairs,
                pair_vectors=self.pair_vectors.rows,
                pair_scales=self.pair_vectors.scales,
                bias=self.bias,
            )
        return path

    @classmethod
    def load(cls, folder: Path, card: TowerCard) -> "SmallQueryTower":
        """Read the file of a tower.

        Raises:
            TowerError: the tower has no small query tower, or the file is damaged or of another tower.
        """
        path = folder / SMALL_QUERY_TOWER_FILE
        if not path.is_file():
            raise TowerError(
                f"tower {card.tower_id} has no small query tower ({path} is missing); make one with {DISTIL}, or set "
                "GAVEL_QUERY_TOWER=full"
            )
        try:
            with np.load(path, allow_pickle=False) as arrays:
                tokens, pairs = Int8Table(arrays["tokens"], arrays["token_scales"]), arrays["pairs"]
                encoder = cls(
                    str(arrays["tower_id"]), tokens, pairs, Int8Table(arrays["pair_vectors"], arrays["pair_scales"]), arrays["bias"]
                )
            encoder.check(card)
        except UNREADABLE as error:
            raise TowerError(
                shortage(path, error)
                or f"{path} is not a small query tower: {error}; copy it again, or make it again with {DISTIL}"
            ) from error
        return encoder

    def check(self, card: TowerCard) -> None:
        """Check that the arrays fit each other and the tower of a card.

        Raises:
            ValueError: a shape or type is wrong, or the tower is another one.
        """
        if self.tower_id != card.tower_id:
            raise ValueError(f"it belongs to tower {self.tower_id}, not to {card.tower_id}")
        for table in (self.tokens, self.pair_vectors):
            if table.rows.dtype != np.int8 or table.rows.shape != (len(table.scales), card.dimensions):
                raise ValueError(f"vectors of {table.rows.shape} {table.rows.dtype} are not int8 of {card.dimensions}")
        if (
            self.bias.shape != (card.dimensions,)
            or len(self.pairs) != len(self.pair_vectors.scales)
            or self.pairs.dtype != np.int64
        ):
            raise ValueError("its arrays do not fit each other")


class SmallQueryEncoder:
    """An encoder of query texts by the small query tower of a tower, with the interface of QueryEncoder.

    Attributes:
        card: card of the tower.
    """

    def __init__(self, card: TowerCard, tokenizer: Tokenizer, tower: SmallQueryTower) -> None:
        self.card = card
        self._tokenizer = tokenizer
        self._tower = tower

    @classmethod
    def load(cls, folder: Path, dimensions: int | None = None) -> "SmallQueryEncoder":
        """Load the small query tower of an artefact.

        Args:
            folder: folder of the artefact, `towers/<tower_id>`.
            dimensions: length of the vectors, one of card.served; None is the tower's own.

        Raises:
            TowerError: a file is missing or damaged, or the tower does not serve vectors of this length.
        """
        card = TowerCard.load(folder)
        tower, tokenizer = SmallQueryTower.load(folder, card), load_tokenizer(folder, card)
        if tokenizer.get_vocab_size() > len(tower.tokens.scales):
            raise TowerError(
                f"{folder / SMALL_QUERY_TOWER_FILE} knows {len(tower.tokens.scales)} tokens, the tokenizer beside it "
                f"{tokenizer.get_vocab_size()}; make it again with {DISTIL}"
            )
        return cls(card.at(dimensions), tokenizer, tower)

    @property
    def tower_id(self) -> str:
        """Return the id of the tower in whose space these vectors are."""
        return self.card.tower_id

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode queries.

        Args:
            texts: N texts as typed; they are cleaned by query_text() and cut at card.max_length tokens.

        Returns:
            (N, dimensions) float32 of unit length, in the order of the texts.
        """
        vectors = np.empty((len(texts), self.card.dimensions), dtype=np.float32)
        for row, text in enumerate(texts):
            ids = token_ids(self._tokenizer, query_text(text), self.card.max_length)
            vectors[row] = self._sum(ids)[: self.card.dimensions]
        return to_unit_length(vectors)

    def _sum(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        tower = self._tower
        whole = tower.bias + tower.tokens.sum(ids)  # (D,)
        places = find_pairs(tower.pairs, ids)
        return whole + tower.pair_vectors.sum(places) if len(places) else whole


def token_ids(tokenizer: Tokenizer, text: str, max_length: int) -> NDArray[np.int64]:
    """Return the (L,) token ids of a cleaned text, L <= max_length, without special tokens such as those at its ends."""
    encoding = tokenizer.encode(text[: max_length * MAX_WORD_CHARS])
    special = np.array(encoding.special_tokens_mask, dtype=np.bool_)
    return np.array(encoding.ids, dtype=np.int64)[~special]


def pair_keys(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the keys of the pairs of neighbours in (L,) token ids, (L - 1,) int64; empty for fewer than two ids."""
    return (ids[:-1] << PAIR_SHIFT) | ids[1:]


def find_pairs(pairs: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows in `pairs` of the pairs of neighbours in (L,) token ids; pairs that are missing there are left out."""
    keys = pair_keys(ids)
    if not len(pairs) or not len(keys):
        return np.empty(0, dtype=np.int64)
    places = np.minimum(np.searchsorted(pairs, keys), len(pairs) - 1)
    rows: NDArray[np.int64] = places[pairs[places] == keys]
    return rows
