"""The colours of a photo as numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_tower import small_config

from models.data.encoding_cache import encode_photo_table
from models.data.images import normalise, to_unit
from models.data.tables import PhotoTable
from models.towers.colours import ColourHistogram
from models.towers.config import ImageEncoderSpec
from models.towers.encoders import ImageEncoder
from retrieval.errors import InvalidInput

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def histogram(pixels: np.ndarray, bins: int) -> np.ndarray:
    """The shares of the pixels (B, S, S, 3) in each cell, counted by numpy."""
    cells = np.minimum(pixels.reshape(len(pixels), -1, 3) / 255 * bins, bins - 1).astype(int)
    places = (cells[..., 0] * bins + cells[..., 1]) * bins + cells[..., 2]
    return np.stack([np.bincount(row, minlength=bins**3) / len(row) for row in places])


@pytest.mark.parametrize("bins", [1, 4, 8])
def test_each_number_is_the_root_of_the_share_of_the_pixels_in_a_cell(bins):
    every = np.arange(256, dtype=np.uint8)
    pixels = np.random.default_rng(0).choice(every, (3, 16, 16, 3))
    pixels[0, :, :, 0] = every.reshape(16, 16)  # every value, so the edges of the cells, too
    found = ColourHistogram(bins, MEAN, STD)(normalise(to_unit(torch.from_numpy(pixels)), MEAN, STD))
    np.testing.assert_allclose(found.numpy() ** 2, histogram(pixels, bins), atol=1e-6)
    np.testing.assert_allclose(found.norm(dim=1).numpy(), 1, atol=1e-6)


def test_an_encoder_with_colours_tells_photos_apart_that_differ_in_colour_alone(tmp_path):
    config = replace(small_config(), image=replace(small_config().image, colour_bins=4, trainable="none"))
    encoder = ImageEncoder(config.image).eval()
    plain = encoder.width - 64
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    pixels[0, :, :, 0], pixels[1, :, :, 2] = 200, 200
    table = PhotoTable(pixels, np.ones(2, bool))
    vectors = encode_photo_table(encoder, table, config, tmp_path, torch.device("cpu")).vectors
    assert vectors.shape == (2, plain + 64)
    assert vectors[:, plain:].argmax(axis=1).tolist() == [3 * 16, 3]
    other = replace(config, image=replace(config.image, colour_bins=0))
    without = ImageEncoder(other.image).eval()
    without.load_state_dict(encoder.state_dict())
    np.testing.assert_array_equal(
        encode_photo_table(without, table, other, tmp_path, torch.device("cpu")).vectors, vectors[:, :plain]
    )


def test_a_number_of_bins_that_cannot_be_is_refused():
    with pytest.raises(InvalidInput, match="colour_bins is 9; it must be 0 to 8"):
        ImageEncoderSpec(colour_bins=9)
