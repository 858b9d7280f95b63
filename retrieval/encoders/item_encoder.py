"""The item encoder of a tower for serving, with only ONNX Runtime, tokenizers and numpy."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from retrieval.contracts.items import Item, item_text
from retrieval.contracts.tower_card import COPY, ITEM_FUSION_FILE, ITEM_PHOTO_FILE, ITEM_TEXT_FILE, TowerCard
from retrieval.encoders.feature_spec import FeatureSpec
from retrieval.encoders.image_encoder import PIXELS
from retrieval.encoders.photos import Photo
from retrieval.encoders.query_encoder import TOKEN_INPUTS, UNRUNNABLE, load_session, load_tokenizer, to_unit_length, tokenize
from retrieval.errors import InvalidInput, TowerError

# names of inputs and outputs of the ONNX graphs
TEXT, PHOTO, HAS_PHOTO, CATEGORIES, NUMBERS = "text", "photo", "has_photo", "categories", "numbers"
ENCODED, ITEM_VECTOR = "encoded", "item_vector"


class ItemEncoder:
    """An encoder of items as the unit vectors that the embedding job computes, but without torch. Threads may share it.

    Attributes:
        card: card of the tower.
    """

    def __init__(
        self,
        card: TowerCard,
        tokenizer: Tokenizer,
        text: onnxruntime.InferenceSession,
        photo: onnxruntime.InferenceSession | None,
        fusion: onnxruntime.InferenceSession,
        features: FeatureSpec | None,
    ) -> None:
        self.card = card
        self._tokenizer, self._text, self._photo, self._fusion, self._features = tokenizer, text, photo, fusion, features

    @classmethod
    def load(cls, folder: Path, dimensions: int | None = None) -> "ItemEncoder":
        """Load the item encoder of an artefact.

        Args:
            folder: folder of the artefact, `towers/<tower_id>`.
            dimensions: length of the vectors, one of card.served; None is the tower's own.

        Raises:
            TowerError: the artefact has no item encoder, a file is missing or damaged, or the tower does not serve vectors of this
                length.
        """
        card = TowerCard.load(folder)
        if not card.has_item_encoder:
            raise TowerError(f"tower {card.tower_id} has no item encoder for serving; `gavel export item {card.tower_id}` adds it")
        photo = load_session(folder, ITEM_PHOTO_FILE, card) if card.image_size else None
        text, fusion = (load_session(folder, name, card) for name in (ITEM_TEXT_FILE, ITEM_FUSION_FILE))
        if fusion.get_outputs()[0].shape[-1] != card.dimensions:
            raise TowerError(f"{folder / ITEM_FUSION_FILE} is not the one of its card; {COPY}")
        features = card.architecture.get("features")
        try:
            spec = FeatureSpec.from_json(features) if features else None
        except InvalidInput as error:
            raise TowerError(f"the card of tower {card.tower_id} cannot be used: {error}; {COPY}") from error
        return cls(card.at(dimensions), load_tokenizer(folder, card), text, photo, fusion, spec)

    @property
    def tower_id(self) -> str:
        """Return the id of the tower that encodes these vectors."""
        return self.card.tower_id

    @property
    def image_size(self) -> int:
        """Return the side of the square photos in pixels; 0 if the tower reads only text."""
        return self.card.image_size

    def encode(self, items: Sequence[Item], photos: Sequence[Photo | None]) -> NDArray[np.float32]:
        """Encode items.

        Args:
            items: N >= 1 items, which are computed at once.
            photos: N photos (image_size, image_size, 3) uint8 RGB as decode_photo() returns them; None for an item without one. A
                tower that reads only text ignores them.

        Returns:
            (N, dimensions) float32 of unit length, in the order of the items.

        Raises:
            TowerError: the model cannot be run.
        """
        texts = [item_text(item.title, item.description) for item in items]
        tokens = dict(zip(TOKEN_INPUTS, tokenize(self._tokenizer, texts, self.card.max_length), strict=True))
        try:
            inputs = {TEXT: _run(self._text, tokens), **self._photo_inputs(photos), **self._feature_inputs(items)}
            vectors = _run(self._fusion, inputs)  # (N, D)
        except UNRUNNABLE as error:
            raise TowerError(f"the item encoder of tower {self.tower_id} cannot be run: {error}; {COPY}") from error
        return to_unit_length(vectors[:, : self.card.dimensions])

    def _photo_inputs(self, photos: Sequence[Photo | None]) -> dict[str, NDArray[np.generic]]:
        """Return the encodings of the photos (N, W), zeros for an item without one, and which items have one (N,)."""
        if self._photo is None:
            return {}
        has_photo = np.array([photo is not None for photo in photos])
        encoded = np.zeros((len(photos), self._photo.get_outputs()[0].shape[-1]), dtype=np.float32)
        if has_photo.any():
            encoded[has_photo] = _run(self._photo, {PIXELS: np.stack([photo for photo in photos if photo is not None])})
        return {PHOTO: encoded, HAS_PHOTO: has_photo}

    def _feature_inputs(self, items: Sequence[Item]) -> dict[str, NDArray[np.generic]]:
        if self._features is None:
            return {}
        names = (*self._features.categories, *self._features.numbers)
        categories, numbers = self._features.encode([{name: getattr(item, name) for name in names} for item in items])
        return {CATEGORIES: categories, NUMBERS: numbers}


def _run(session: onnxruntime.InferenceSession, inputs: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    output: NDArray[np.float32] = session.run(None, dict(inputs))[0]
    return output
