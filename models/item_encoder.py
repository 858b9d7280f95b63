"""The item tower at embedding time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.artefact import load_towers
from models.photos import Photo
from models.pixels import normalise, to_unit
from models.towers import ItemTower, Photos, Tokens
from retrieval.encoder import load_tokenizer, tokenize
from retrieval.errors import TowerError
from retrieval.tower import TowerCard


class ItemEncoder:
    """Turns lots into unit vectors.

    Attributes:
        card: the tower that it is.
        device: where it computes.
    """

    def __init__(self, card: TowerCard, tower: ItemTower, tokenizer: Tokenizer, device: torch.device) -> None:
        self.card = card
        self.device = device
        self._tower = tower
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path, device: str | None = None) -> "ItemEncoder":
        """Load the item tower of an artefact.

        Args:
            folder: `towers/<tower_id>`.
            device: a torch device name; None takes the GPU when there is one.

        Raises:
            TowerError: a file is missing, damaged or not the one of the card.
        """
        TowerCard.load(folder, verify=True)  # else vectors of other weights would pass for this tower's
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        towers, card = load_towers(folder, where)
        return cls(card, towers.item_tower, load_tokenizer(folder, card.max_length), where)

    def encode(self, texts: Sequence[str], photos: Sequence[Photo | None], *, batch_size: int = 64) -> NDArray[np.float32]:
        """Encode lots.

        Args:
            texts: N texts as item_text makes them.
            photos: N photos (image_size, image_size, 3) uint8 RGB as read_photo makes them; None for a lot without one.
            batch_size: lots that are computed at once, > 0; half precision (bfloat16) on a GPU.

        Returns:
            (N, dimensions) float32 of unit length, in the order of the texts.

        Raises:
            TowerError: a photo has another size than the tower's.
        """
        vectors = np.empty((len(texts), self.card.dimensions), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # texts of like length together: less padding
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            vectors[rows] = self._encode_batch([texts[i] for i in rows], [photos[i] for i in rows])
        return vectors

    @torch.inference_mode()
    def _encode_batch(self, texts: list[str], photos: list[Photo | None]) -> NDArray[np.float32]:
        ids, mask = tokenize(self._tokenizer, texts, self.card.max_length)
        tokens = Tokens(torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            vectors = self._tower(tokens, self._photos(photos))  # (B, D)
        return vectors.float().cpu().numpy()

    def _photos(self, photos: list[Photo | None]) -> Photos | None:
        seen = [photo for photo in photos if photo is not None]
        if not self.card.image_size or not seen:
            return None
        side = self.card.image_size
        if any(photo.shape != (side, side, 3) for photo in seen):
            raise TowerError(f"tower {self.card.tower_id} looks at photos of {side} x {side}; read them with read_photo(…, {side})")
        pixels = normalise(to_unit(torch.from_numpy(np.stack(seen)).to(self.device)), self.card.image_mean, self.card.image_std)
        return Photos(pixels, torch.tensor([photo is not None for photo in photos], device=self.device))
