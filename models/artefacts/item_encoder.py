"""The item tower at embedding time. Collate, transfer and compute are separate steps, so that a job can overlap them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from models.artefacts.tower_files import load_towers
from models.data.images import normalise, to_unit
from models.towers.features import Features
from models.towers.item_features import item_row
from models.towers.two_towers import ItemTower, Photos, Tokens
from retrieval.contracts.items import Item
from retrieval.contracts.tower_card import TowerCard
from retrieval.encoders.photos import Photo
from retrieval.encoders.query_encoder import load_tokenizer, tokenize
from retrieval.errors import TowerError


class ItemBatch(NamedTuple):
    """The tensors of B items.

    Attributes:
        tokens: token ids and masks of the B texts.
        pixels: (P, S, S, 3) uint8 RGB of the P items that have a photo, in the order of the items; None if no item has a photo.
        has_image: (B,) bool, True for the P items that have a photo; None if no item has a photo.
        features: structured features of the B items; None if the tower reads none, or if no items were given.
    """

    tokens: Tokens
    pixels: Tensor | None
    has_image: Tensor | None
    features: Features | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "ItemBatch":
        """Return the batch with `change` applied to every tensor."""
        pixels, has_image = (None if tensor is None else change(tensor) for tensor in (self.pixels, self.has_image))
        features = None if self.features is None else Features(*map(change, self.features))
        return ItemBatch(Tokens(*map(change, self.tokens)), pixels, has_image, features)


BFLOAT16_SINCE = (8, 0)  # compute capability of the first GPUs that compute in bfloat16; on older ones torch emulates it, slowly


def choose_precision(device: torch.device, capability: tuple[int, int] | None = None) -> torch.dtype:
    """Return the type that a device computes in: float32 on a CPU; bfloat16 on a GPU, or float16 if the GPU is older than bfloat16.

    Args:
        device: device that computes.
        capability: compute capability of a GPU, (7, 0) for a V100; None reads it.
    """
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if (capability or torch.cuda.get_device_capability(device)) >= BFLOAT16_SINCE else torch.float16


class ItemEncoder:
    """An item tower with its tokenizer, which turns items into unit vectors.

    Attributes:
        card: card of the loaded tower; its dimensions are the length of the vectors.
        device: device that computes.
        precision: type that it computes in.
    """

    def __init__(self, card: TowerCard, tower: ItemTower, tokenizer: Tokenizer, device: torch.device) -> None:
        self.card = card
        self.device = device
        self.precision = choose_precision(device)
        self._tower = tower
        self._tokenizer = tokenizer
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @classmethod
    def load(cls, folder: Path, device: str | None = None, *, dimensions: int | None = None) -> "ItemEncoder":
        """Load the item tower of an artefact.

        Args:
            folder: `towers/<tower_id>`.
            device: name of a torch device; None takes the GPU if there is one.
            dimensions: length of the vectors, one of card.served; None takes the tower's full length.

        Raises:
            TowerError: a file is missing, damaged or not the one of the card; or vectors of `dimensions` are not served.
        """
        TowerCard.load(folder, verify=True)  # because vectors of other weights must not pass for this tower's
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        towers, card = load_towers(folder, where)
        return cls(card.at(dimensions), towers.item_tower, load_tokenizer(folder, card), where)

    @property
    def device_name(self) -> str:
        """Return the name of the device and the type that it computes in, such as "NVIDIA A10G, bfloat16"."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return f"{name}, {str(self.precision).removeprefix('torch.')}"

    def encode(
        self,
        texts: Sequence[str],
        photos: Sequence[Photo | None],
        items: Sequence[Item] | None = None,
        *,
        batch_size: int = 64,
    ) -> NDArray[np.float32]:
        """Encode items.

        Args:
            texts: N texts as item_text makes them.
            photos: N photos (image_size, image_size, 3) uint8 RGB as read_photo makes them; None for an item without one.
            items: N items, whose structured features are read if the tower has any; None counts all features as unknown.
            batch_size: items that are computed at once, > 0.

        Returns:
            (N, dimensions) float32 of unit length, in the order of the texts.

        Raises:
            TowerError: a photo has another size than the tower's.
        """
        vectors = np.empty((len(texts), self.card.dimensions), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # texts of like length together: less padding
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            chosen = None if items is None else [items[i] for i in rows]
            batch = self.collate([texts[i] for i in rows], [photos[i] for i in rows], chosen)
            vectors[rows] = self.compute(self.transfer(batch))
        return vectors

    def collate(self, texts: Sequence[str], photos: Sequence[Photo | None], items: Sequence[Item] | None = None) -> ItemBatch:
        """Turn items into the tensors of one batch; for a GPU they lie in pinned memory.

        Args:
            texts: B >= 1 texts as item_text makes them.
            photos: B photos as encode() takes them.
            items: B items as encode() takes them.

        Raises:
            TowerError: a photo has another size than the tower's.
        """
        ids, mask = tokenize(self._tokenizer, texts, self.card.max_length)
        tokens = Tokens(torch.from_numpy(ids), torch.from_numpy(mask))
        features = self._features(items)
        present = [photo for photo in photos if photo is not None]
        if not self.card.image_size or not present:
            return self._pinned(ItemBatch(tokens, None, None, features))
        side = self.card.image_size
        if any(photo.shape != (side, side, 3) for photo in present):
            raise TowerError(f"tower {self.card.tower_id} looks at photos of {side} x {side}; read them with read_photo(…, {side})")
        pixels = torch.from_numpy(np.stack(present))  # (P, S, S, 3)
        return self._pinned(ItemBatch(tokens, pixels, torch.tensor([photo is not None for photo in photos]), features))

    def transfer(self, batch: ItemBatch) -> ItemBatch:
        """Copy a batch to the device. A GPU copies on a separate stream, so that the previous batch computes meanwhile."""
        if self._copies is None:
            return batch.map(lambda tensor: tensor.to(self.device))
        with torch.cuda.stream(self._copies):
            moved = batch.map(lambda tensor: tensor.to(self.device, non_blocking=True))
        self._copies.synchronize()  # only this thread waits; the device goes on computing
        return moved

    @torch.inference_mode()
    def compute(self, batch: ItemBatch) -> NDArray[np.float32]:
        """Encode a batch that lies on the device into (B, dimensions) float32 of unit length."""
        photos = None
        if batch.pixels is not None and batch.has_image is not None:
            pixels = normalise(to_unit(batch.pixels), self.card.image_mean, self.card.image_std)  # (P, 3, S, S)
            photos = Photos(pixels, batch.has_image)
        vectors = self._vectors(batch, photos, self.precision)
        if self.precision is torch.float16 and not vectors.isfinite().all():  # a number was too large for it
            vectors = self._vectors(batch, photos, torch.float32)
        if vectors.shape[1] > self.card.dimensions:
            vectors = F.normalize(vectors[:, : self.card.dimensions], dim=1)
        return vectors.cpu().numpy()

    def _vectors(self, batch: ItemBatch, photos: Photos | None, precision: torch.dtype) -> Tensor:
        with torch.autocast(self.device.type, dtype=precision, enabled=precision is not torch.float32):
            vectors: Tensor = self._tower(batch.tokens, photos, batch.features)
        return vectors.float()  # (B, D)

    def _features(self, items: Sequence[Item] | None) -> Features | None:
        encoder = self._tower.feature_encoder
        if encoder is None or items is None:
            return None
        return Features.of(encoder.spec, [item_row(item) for item in items])

    def _pinned(self, batch: ItemBatch) -> ItemBatch:
        return batch if self._copies is None else batch.map(Tensor.pin_memory)
