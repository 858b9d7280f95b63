"""The two towers: items and queries into one space of unit vectors.

    item    text -> DistilBERT ┐
           photo -> ResNet    ┼ concatenate -> hidden -> ReLU -> dropout -> dimensions -> L2
           features*          ┘
    query  text -> DistilBERT ─────────────── hidden -> ReLU -> dropout -> dimensions -> L2

* if the configuration names features: category, brand, price and so on, embedded or standardised. Encodings of a frozen
encoder may replace its input: TextEncodings replace Tokens, encoded photos replace pixels.

After DPR (Karpukhin et al. 2020) for the two encoders and CLIP (Radford et al. 2021) for the learnt temperature.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.towers.config import JOINT, TowerConfig
from models.towers.encoders import TextEncoder
from models.towers.features import Features, FeatureTower
from models.towers.joint_encoders import make_image_encoder, make_text_encoder
from retrieval.encoders.feature_spec import FeatureSpec

MAX_LOGIT_SCALE = math.log(100.0)  # CLIP's bound: a temperature of 0.01
UNKNOWN_RATE = 0.1  # share of categories and brands that training hides, so that a new brand gets a trained embedding


class Tokens(NamedTuple):
    """Token ids and their mask, both (B, L) int64, padded to the longest text of the batch."""

    input_ids: Tensor
    attention_mask: Tensor


class TextEncodings(NamedTuple):
    """Encodings of B texts by a frozen text encoder, (B, width) float."""

    vectors: Tensor


Texts = Tokens | TextEncodings


class Photos(NamedTuple):
    """The photos of a batch of items.

    Attributes:
        pixels: (P, 3, S, S) float, normalised pixels; or (P, width) float, encodings by a frozen image encoder. One row for each
            of the P items that have a photo, in the order of the items.
        has_image: (B,) bool, True for the P items that have a photo.
    """

    pixels: Tensor
    has_image: Tensor


class Projection(nn.Sequential):
    """Layers from the concatenated encodings to the vector: width -> hidden -> dimensions."""

    def __init__(self, width: int, config: TowerConfig) -> None:
        super().__init__(
            nn.Linear(width, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.dimensions),
        )


class Addition(nn.Module):
    """Projection without a hidden layer: the text encoding, or its linear map, plus a linear map of photo and features.

    The second map starts at zero, after the residual branches of Zhang et al. 2019 ("Fixup"). For encoders of one space for words
    and pictures it starts as the identity on the photo, so that an untrained item is the sum of its text and its photo.
    """

    def __init__(self, text_width: int, other_width: int, config: TowerConfig) -> None:
        super().__init__()
        self.text_width = text_width
        same = config.dimensions == text_width
        self.text: nn.Module = nn.Identity()
        if config.linear or not same:
            self.text = nn.Linear(text_width, config.dimensions, bias=False)
            if same:
                nn.init.eye_(self.text.weight)
        self.others = nn.Linear(other_width, config.dimensions) if other_width else None
        if self.others is not None:
            nn.init.zeros_(self.others.weight)
            nn.init.zeros_(self.others.bias)
            if config.use_image and config.image.name == JOINT and same:
                nn.init.eye_(self.others.weight)  # the photo comes before the features

    def forward(self, encoded: Tensor) -> Tensor:
        """Project encodings (B, text_width + other_width), text first, to (B, dimensions)."""
        vectors: Tensor = self.text(encoded[:, : self.text_width])  # (B, 384)
        if self.others is not None:
            vectors = vectors + self.others(encoded[:, self.text_width :])
        return vectors


def make_projection(text_width: int, other_width: int, config: TowerConfig) -> nn.Module:
    """Build the layer from the concatenated encodings, text first, to the vector."""
    if config.hidden:
        return Projection(text_width + other_width, config)
    return Addition(text_width, other_width, config)


class ItemTower(nn.Module):
    """A tower that encodes an item from text, photo and structured features; photo and features are optional parts."""

    def __init__(self, config: TowerConfig, text_encoder: TextEncoder) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.image_encoder = make_image_encoder(config) if config.use_image else None
        self.feature_encoder = _feature_encoder(config.features) if config.features else None
        self.hidden_text = config.hidden_text
        image_width = self.image_encoder.width if self.image_encoder else 0
        feature_width = self.feature_encoder.width if self.feature_encoder else 0
        self.no_image = nn.Parameter(torch.zeros(image_width))  # replaces a missing photo
        self.projection = make_projection(text_encoder.width, image_width + feature_width, config)

    def forward(self, text: Texts, photos: Photos | None = None, features: Features | None = None) -> Tensor:
        """Encode B items.

        Args:
            text: tokens of the B texts, or encodings of the texts by the frozen encoder.
            photos: photos of the items; None if no item has a photo. A tower without an image encoder ignores photos.
            features: features of the items, as Features.of() returns them; None if all are unknown. A tower without
                features ignores this argument.

        Returns:
            (B, dimensions) float of unit length.
        """
        parts = [self._hide_texts(encode_texts(self.text_encoder, text), photos)]  # (B, 768)
        if self.image_encoder is not None:
            parts.append(self._encode_photos(len(parts[0]), photos, parts[0].dtype))  # (B, 2048)
        if self.feature_encoder is not None:
            parts.append(self._encode_features(parts[0], features))  # (B, F)
        encoded = torch.cat(parts, dim=1)  # (B, 2816)
        return F.normalize(self.projection(encoded).float(), dim=1)  # (B, 512) -> (B, 128), unit length

    def _hide_texts(self, text: Tensor, photos: Photos | None) -> Tensor:
        """In training, replace some text encodings of items with a photo by zeros, as PhotoTower does for photos without text."""
        if not (self.training and self.hidden_text) or photos is None or self.image_encoder is None:
            return text
        hidden = photos.has_image & (torch.rand(len(text), device=text.device) < self.hidden_text)  # (B,)
        return text.masked_fill(hidden.unsqueeze(1), 0.0)

    def _encode_photos(self, items: int, photos: Photos | None, dtype: torch.dtype) -> Tensor:
        assert self.image_encoder is not None
        image = self.no_image.to(dtype).repeat(items, 1)  # (B, 2048)
        if photos is None or not len(photos.pixels):
            return image
        encoded = self.image_encoder(photos.pixels) if photos.pixels.ndim == 4 else photos.pixels  # (P, 2048)
        return image.index_put((photos.has_image.nonzero(as_tuple=True)[0],), encoded.to(dtype))

    def _encode_features(self, like: Tensor, features: Features | None) -> Tensor:
        assert self.feature_encoder is not None
        batch = features or Features.of(self.feature_encoder.spec, [{}] * len(like))
        return self.feature_encoder.encode(*batch.to(like.device)).to(like.dtype)


class QueryTower(nn.Module):
    """A tower that encodes a query from its text."""

    def __init__(self, config: TowerConfig, text_encoder: TextEncoder) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.projection = make_projection(text_encoder.width, 0, config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode tokens (B, L) into (B, dimensions) of unit length."""
        return self.encode(Tokens(input_ids, attention_mask))

    def encode(self, text: Texts) -> Tensor:
        """Encode B queries, given as tokens or as encodings by the frozen encoder, into (B, dimensions) of unit length."""
        encoded = encode_texts(self.text_encoder, text)  # (B, 768)
        return F.normalize(self.projection(encoded).float(), dim=1)  # (B, 512) -> (B, 128), unit length


def encode_texts(encoder: TextEncoder, text: Texts) -> Tensor:
    """Return the encodings (B, width) of texts, which may be precomputed."""
    return encoder(*text) if isinstance(text, Tokens) else text.vectors


def _feature_encoder(spec: FeatureSpec) -> FeatureTower:
    encoder = FeatureTower(spec, 0, 1, unknown_rate=UNKNOWN_RATE)
    encoder.projection = nn.Identity()  # the item tower has its own projection
    return encoder


class TwoTowers(nn.Module):
    """Both towers and their temperature.

    Attributes:
        config: configuration of the towers, from which they can be rebuilt without a hub. The text encoder's full configuration
            replaces its hub name, its width replaces 0 in `dimensions`, and its positions limit max_length.
    """

    def __init__(self, config: TowerConfig, temperature: float = 0.07) -> None:
        """Build the towers.

        Raises:
            TowerError: a pretrained encoder is not available.
        """
        super().__init__()
        text_encoder = make_text_encoder(config.text)
        length = min(config.max_length, text_encoder.max_positions)
        config = replace(config, dimensions=config.dimensions or text_encoder.width, max_length=length)
        query_text_encoder = text_encoder if config.shared_text_encoder else make_text_encoder(config.text)
        self.item_tower = ItemTower(config, text_encoder)
        self.query_tower = QueryTower(config, query_text_encoder)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1.0 / temperature)))
        image_encoder = self.item_tower.image_encoder
        image = image_encoder.resolved() if image_encoder else replace(config.image, weights="")
        self.config = replace(config, text=text_encoder.resolved(), image=image)
        if config.shared_text_encoder:
            _align(self.query_tower.projection, self.item_tower.projection)

    @property
    def scale(self) -> Tensor:
        """1 / temperature, at most 100."""
        return self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()

    def forward(
        self, queries: Texts, items: Texts, photos: Photos | None = None, features: Features | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the vectors of Q queries (Q, dimensions) and of B items (B, dimensions), and the scale of their similarity."""
        return self.query_tower.encode(queries), self.item_tower(items, photos, features), self.scale


def _align(query: nn.Module, item: nn.Module) -> None:
    """Set both projections equal on text, so that an untrained query lies near the items that share its words."""
    with torch.no_grad():
        if isinstance(query, Addition) and isinstance(item, Addition):
            query.text.load_state_dict(item.text.state_dict())
        elif isinstance(query, Projection) and isinstance(item, Projection):
            weights = item[0].state_dict()
            width = query[0].state_dict()["weight"].shape[1]  # the text's part of the item tower's input comes first
            query[0].load_state_dict({**weights, "weight": weights["weight"][:, :width]})
            query[3].load_state_dict(item[3].state_dict())
