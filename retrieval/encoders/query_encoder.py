"""The query encoder of a tower for serving, with only ONNX Runtime, tokenizers and numpy."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from tokenizers import Tokenizer

from retrieval.contracts.items import query_text
from retrieval.contracts.tower_card import COPY, QUERY_TOWER_FILE, TOKENIZER_FILE, TowerCard
from retrieval.errors import TowerError

MAX_WORD_CHARS = 100  # WordPiece reads a longer word as [UNK], so texts are cut at 100 characters per token
PAD_TOKEN = "[PAD]"
PAD_TOKENS = (PAD_TOKEN, "<pad>")  # padding tokens of BERT and of RoBERTa
TOKEN_INPUTS = ("input_ids", "attention_mask")
OUTPUT = "query_vector"  # not "embedding", because DistilBERT has a node of that name, which would break the graph

# exceptions of onnxruntime for a damaged model, which have no common base class
ORT_ERRORS = tuple(kind for kind in vars(ort_errors).values() if isinstance(kind, type) and issubclass(kind, Exception))
UNRUNNABLE: tuple[type[Exception], ...] = (*ORT_ERRORS, RuntimeError, ValueError, IndexError)


class QueryEncoder:
    """An encoder of query texts as unit vectors in the space of the items.

    Attributes:
        card: card of the tower.
    """

    def __init__(self, card: TowerCard, tokenizer: Tokenizer, session: onnxruntime.InferenceSession) -> None:
        self.card = card
        self._tokenizer = tokenizer
        self._session = session

    @classmethod
    def load(cls, folder: Path, dimensions: int | None = None) -> "QueryEncoder":
        """Load the query encoder of an artefact.

        Args:
            folder: folder of the artefact, `towers/<tower_id>`.
            dimensions: length of the vectors, one of card.served; None is the tower's own.

        Raises:
            TowerError: a file is missing or damaged, the model makes vectors of another length than that in the card, or the tower
                does not serve vectors of length `dimensions`.
        """
        card = TowerCard.load(folder)
        tokenizer = load_tokenizer(folder, card)
        session = load_session(folder, QUERY_TOWER_FILE, card)
        have = session.get_outputs()[0].shape[-1]
        if have != card.dimensions:
            raise TowerError(f"{folder / QUERY_TOWER_FILE} makes vectors of {have}, its card says {card.dimensions}; {COPY}")
        return cls(card.at(dimensions), tokenizer, session)

    @property
    def tower_id(self) -> str:
        """Return the id of the tower that encodes these vectors."""
        return self.card.tower_id

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode queries.

        The model runs once per text. It computes int8 ranges per run, so in a batch a vector would depend on the other texts.

        Args:
            texts: N texts as typed; they are cleaned by query_text() and cut at card.max_length tokens.

        Returns:
            (N, dimensions) float32 of unit length, in the order of the texts.

        Raises:
            TowerError: the model cannot be run.
        """
        vectors = np.empty((len(texts), self.card.dimensions), dtype=np.float32)
        for row, text in enumerate(texts):
            ids, mask = tokenize(self._tokenizer, [query_text(text)], self.card.max_length)  # (1, L)
            try:
                whole = self._session.run([OUTPUT], dict(zip(TOKEN_INPUTS, (ids, mask), strict=True)))[0]  # (1, D)
            except UNRUNNABLE as error:
                raise TowerError(f"the query tower {self.tower_id} cannot be run: {error}; {COPY}") from error
            vectors[row] = whole[0, : self.card.dimensions]
        return to_unit_length(vectors)


def to_unit_length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (N, D) vectors scaled to unit length; a vector of zeros stays zero."""
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))  # (N, 1)
    unit: NDArray[np.float32] = vectors / lengths
    return unit


def load_tokenizer(folder: Path, card: TowerCard) -> Tokenizer:
    """Load the tokenizer of an artefact, and prepare it with prepare_tokenizer().

    Raises:
        TowerError: the file is missing or damaged.
    """
    content = card.read_file(folder, TOKENIZER_FILE)
    try:
        tokenizer = Tokenizer.from_str(content.decode())
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        raise TowerError(f"{folder / TOKENIZER_FILE} is not a tokenizer: {error}; {COPY}") from error
    return prepare_tokenizer(tokenizer, card.max_length)


def prepare_tokenizer(tokenizer: Tokenizer, max_length: int) -> Tokenizer:
    """Set a tokenizer to cut texts at `max_length` tokens and to pad them to the longest text of a call, and return it."""
    tokenizer.enable_truncation(max_length)
    pad_token = next((token for token in PAD_TOKENS if tokenizer.token_to_id(token) is not None), PAD_TOKEN)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(pad_token) or 0, pad_token=pad_token)
    return tokenizer


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Convert texts to token ids.

    Args:
        tokenizer: tokenizer that prepare_tokenizer() prepared.
        texts: N >= 1 cleaned texts of any length.
        max_length: maximum number of tokens per text.

    Returns:
        The ids and the mask, both (N, L) int64 with L <= max_length; the mask is 1 for tokens and 0 for padding.
    """
    readable = [text[: max_length * MAX_WORD_CHARS] for text in texts]
    encodings = tokenizer.encode_batch(readable)
    ids = np.array([e.ids for e in encodings], dtype=np.int64)
    mask = np.array([e.attention_mask for e in encodings], dtype=np.int64)
    return ids, mask


def load_session(folder: Path, name: str, card: TowerCard) -> onnxruntime.InferenceSession:
    """Return a session of an artefact's ONNX model, which runs on one thread.

    Raises:
        TowerError: the file is missing or damaged.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # leaves the other cores to other requests
    options.log_severity_level = 3
    content = card.read_file(folder, name)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except UNRUNNABLE as error:
        raise TowerError(f"{folder / name} is not a readable ONNX model: {str(error).splitlines()[0]}; {COPY}") from error
