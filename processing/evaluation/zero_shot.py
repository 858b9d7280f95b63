"""The untrained baseline: a pretrained sentence encoder over the same items, index and search."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from catalog.folder import CatalogFolder
from models.towers.config import PRESETS
from models.towers.joint_encoders import make_text_encoder
from models.towers.published import published_towers
from models.towers.tokenizer import make_tokenizer
from processing.evaluation.corpus import PublishedIndex, publish_corpus, split_items
from retrieval.contracts.documents import IndexedItem, document_of
from retrieval.contracts.items import item_text
from retrieval.contracts.tower_card import TOWER_ID_CHARS
from retrieval.encoders.query_encoder import prepare_tokenizer, tokenize
from retrieval.index.port import IndexStore
from retrieval.progress import Progress

MAX_LENGTH = 256  # tokens, as sentence encoders of this size are trained for
BATCH = 64


class SentenceEncoder:
    """A pretrained text encoder for items and queries, with unchanged weights.

    Attributes:
        model: name of a preset, hub name, or local folder.
        dimensions: length of the vectors.
        tower_id: id of the encoder in an index.
    """

    def __init__(self, model: str, max_length: int = MAX_LENGTH) -> None:
        """Load the encoder.

        Args:
            model: name of a preset, hub name, or local folder.
            max_length: largest number of tokens read of a text.

        Raises:
            TowerError: the model is neither a local folder nor available from the hub.
        """
        preset = PRESETS[model].text if model in PRESETS else None
        spec = preset if preset and preset.model else published_towers(model).text
        self.model = spec.model
        self._tokenizer = make_tokenizer(replace(next(iter(PRESETS.values())), text=spec), ())
        self._encoder = make_text_encoder(spec).eval()
        self._max_length = min(max_length, self._encoder.max_positions)
        prepare_tokenizer(self._tokenizer, self._max_length)
        self.dimensions = self._encoder.width
        key = f"zero-shot {self.model}" + ("" if max_length == MAX_LENGTH else f" {max_length}")
        self.tower_id = hashlib.sha256(key.encode()).hexdigest()[:TOWER_ID_CHARS]

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], on_batch: Callable[[int], None] = lambda done: None) -> NDArray[np.float32]:
        """Encode texts.

        Args:
            texts: N cleaned texts.
            on_batch: called after each batch with the number of texts encoded so far.

        Returns:
            (N, dimensions) float32 of unit length, in the order of the texts.
        """
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # texts of like length need less padding
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            ids, mask = tokenize(self._tokenizer, [texts[row] for row in rows], self._max_length)  # (B, L)
            encoded = self._encoder(torch.from_numpy(ids), torch.from_numpy(mask))  # (B, D)
            vectors[rows] = F.normalize(encoded, dim=1).numpy()
            on_batch(start + len(rows))
        return vectors


def build_zero_shot_corpus(
    catalog: CatalogFolder,
    split: str,
    encoder: SentenceEncoder,
    store: IndexStore,
    progress: Progress | None = None,
) -> PublishedIndex:
    """Index the items of one split by their text; photos are not used.

    Args:
        catalog: source of the items.
        split: split whose corpus is indexed.
        encoder: encoder of the items.
        store: store that gets the index and makes it live.
        progress: called with (items encoded, items).
    """
    items = list({item.item_id: item for item in split_items(catalog, split)}.values())
    texts = [item_text(item.title, item.description) for item in items]
    vectors = encoder.encode(texts, lambda done: progress(done, len(items)) if progress else None)  # (N, D)
    indexed = [
        IndexedItem(
            item.item_id,
            item.version,
            document_of(item, has_image=False, tower_id=encoder.tower_id, release_id="zero-shot"),
            vector,
        )
        for item, vector in zip(items, vectors, strict=True)
    ]
    return publish_corpus(store, encoder.tower_id, encoder.dimensions, indexed)
