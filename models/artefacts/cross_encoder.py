"""A pretrained cross-encoder, which reads query and item together: sequence classification, as sentence-transformers publishes."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from retrieval.errors import RankerUnavailable

MAX_LENGTH = 256  # tokens of query and item together
BATCH = 8  # pairs between two looks at the clock


class PretrainedCrossEncoder:
    """A cross-encoder with one output, or with two or more of which the last one means relevant."""

    def __init__(self, model: str) -> None:
        """Load the model.

        Args:
            model: hub name or folder of a model for sequence classification with its tokenizer.

        Raises:
            RankerUnavailable: the model is neither a local folder nor available from the hub, or is of another kind.
        """
        self.name = model
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model)
            self._model, loading = AutoModelForSequenceClassification.from_pretrained(model, output_loading_info=True)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise RankerUnavailable(
                f"the cross-encoder {model!r} cannot be loaded: {reason}; name a hub model or a folder"
            ) from error
        if loading["missing_keys"]:  # transformers fills a missing head with random numbers
            raise RankerUnavailable(
                f"{model!r} has no weights of a sequence classification ({sorted(loading['missing_keys'])[0]} is missing), so it "
                "is no cross-encoder; name one such as cross-encoder/ms-marco-MiniLM-L6-v2"
            )
        self._model.eval()
        limit = getattr(self._model.config, "max_position_embeddings", MAX_LENGTH)
        self._max_length = min(MAX_LENGTH, limit)

    @torch.inference_mode()
    def score_pairs(self, query: str, texts: Sequence[str], timeout_s: float) -> NDArray[np.float32]:
        """Score the texts of items for a query; see retrieval.ranker.port.CrossEncoder."""
        ends = time.monotonic() + timeout_s
        scores = np.empty(len(texts), dtype=np.float32)
        for start in range(0, len(texts), BATCH):
            if time.monotonic() >= ends:
                raise RankerUnavailable(f"the cross-encoder scored {start} of {len(texts)} items within {timeout_s:g} s")
            batch = list(texts[start : start + BATCH])
            inputs = self._tokenizer(
                [query] * len(batch),
                batch,
                padding=True,
                truncation="longest_first",
                max_length=self._max_length,
                return_tensors="pt",
            )
            try:
                logits = self._model(**inputs).logits  # (B, C)
            except (RuntimeError, IndexError, ValueError) as error:
                raise RankerUnavailable(f"the cross-encoder {self.name!r} cannot be run: {error}") from error
            scores[start : start + BATCH] = logits[:, -1].float().numpy()
        if time.monotonic() >= ends:
            raise RankerUnavailable(f"the cross-encoder took more than {timeout_s:g} s")
        return scores
