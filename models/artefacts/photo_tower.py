"""The item tower for a photo that comes without a text: what a search by photo encodes with."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.data.pixels import normalise, to_unit
from models.towers.config import TowerConfig
from models.towers.two_towers import ItemTower


class PhotoTower(nn.Module):
    """The image encoder and the projection of an item tower; what is not known of a photo is constant.

    A lot without a photo has a learnt stand-in, a photo without a text has none, for no lot lacks its title. An encoding of
    zeros takes its place: the projection then sees the photo alone. Features are those of a lot of which nothing is known.
    """

    def __init__(self, tower: ItemTower, config: TowerConfig) -> None:
        """Take the parts of an item tower that has eyes.

        Args:
            tower: its modules are shared, not copied.
            config: the one that it was built with.
        """
        super().__init__()
        assert tower.image_encoder is not None
        self.image_encoder = tower.image_encoder
        self.projection = tower.projection
        self.mean, self.std = config.image_mean, config.image_std
        self.register_buffer("text", torch.zeros(1, tower.text_encoder.width))
        self.register_buffer("features", _unknown_features(tower))

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode photos (B, S, S, 3) uint8 RGB into (B, dimensions) of unit length."""
        photos = pixels.shape[0]  # len() would fix the number of photos in an export
        image = self.image_encoder(normalise(to_unit(pixels), self.mean, self.std))  # (B, 2048)
        encoded = torch.cat([self.text.expand(photos, -1), image, self.features.expand(photos, -1)], dim=1)  # (B, 2816)
        return F.normalize(self.projection(encoded).float(), dim=1)  # (B, 512) -> (B, 128), unit length


@torch.no_grad()
def _unknown_features(tower: ItemTower) -> Tensor:
    """(1, F), with F = 0 for a tower without features."""
    encoder = tower.feature_encoder
    device = next(tower.parameters()).device
    if encoder is None:
        return torch.zeros(1, 0, device=device)
    training = encoder.training
    encoded: Tensor = encoder.eval().encode(*encoder.spec.encode([{}]).to(device))
    encoder.train(training)
    return encoded
