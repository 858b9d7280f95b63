"""Augmentation changes a photo as another photo of the same lot would differ."""

import torch

from models.data.images import Augmentation, augment

NOTHING = Augmentation(crop=1.0, stretch=1.0, flip=0.0, light=0.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_strength_is_no_change():
    photos = torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(augment(photos, 16, NOTHING, seeded()), photos, atol=1e-5, rtol=0)


def test_a_flip_is_a_mirror_image():
    photos = torch.rand(2, 3, 16, 16)
    flipped = augment(photos, 16, Augmentation(crop=1.0, stretch=1.0, flip=1.0, light=0.0), seeded())
    torch.testing.assert_close(flipped, photos.flip(3), atol=1e-5, rtol=0)


def test_pixels_stay_in_their_range_and_size_and_each_photo_goes_its_own_way():
    photo = torch.rand(1, 3, 20, 20).repeat(8, 1, 1, 1)
    strong = Augmentation(crop=0.3, stretch=1.5, rotate=20, light=0.5, erase=0.5)
    changed = augment(photo, 16, strong, seeded())
    assert changed.shape == (8, 3, 16, 16)
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert len({round(float(c.mean()), 6) for c in changed}) == 8


def test_hue_stays():
    red = torch.zeros(16, 3, 16, 16)
    red[:, 0] = 0.6
    changed = augment(red, 16, Augmentation(), seeded())
    assert (changed[:, 0] > changed[:, 1] + 0.3).all()
    torch.testing.assert_close(changed[:, 1], changed[:, 2])


def test_the_same_seed_gives_the_same_photos():
    photos = torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(augment(photos, 16, Augmentation(), seeded(3)), augment(photos, 16, Augmentation(), seeded(3)))
    assert not torch.equal(augment(photos, 16, Augmentation(), seeded(3)), augment(photos, 16, Augmentation(), seeded(4)))


def test_erasing_hides_a_part_in_grey():
    changed = augment(torch.ones(6, 3, 32, 32), 32, Augmentation(1.0, 1.0, 0.0, 0.0, 0.0, erase=1.0), seeded())
    hidden = (changed == 0.5).float().mean(dim=(1, 2, 3))
    assert (hidden > 0).all()
    assert (hidden <= 0.27).all()


def test_no_photos_come_out_as_no_photos():
    assert augment(torch.zeros(0, 3, 20, 20), 16, Augmentation(), seeded()).shape == (0, 3, 16, 16)
