"""Decoding: what sellers upload comes out as a square, or as None, and never as an exception."""

from contextlib import suppress

import numpy as np
import pytest
from hostile_photos import HOSTILE, encoded, plain, two_in_one_jpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from retrieval import photos
from retrieval.errors import InvalidPhoto
from retrieval.photos import MAX_QUERY_PIXELS, QUERY_FORMATS, read_photo, read_query_photo

RED_JPEG = encoded(Image.new("RGB", (300, 200), (250, 10, 10)), "JPEG")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_every_common_format_becomes_a_square_of_bytes(format):
    photo = read_photo(encoded(Image.new("RGB", (90, 60), (10, 200, 10)), format), 32)
    assert photo.shape == (32, 32, 3)
    assert photo.dtype == np.uint8
    assert np.abs(photo.astype(int) - (10, 200, 10)).max() <= 12


@pytest.mark.parametrize(
    ("mode", "format"),
    [("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("I;16", "PNG"), ("CMYK", "JPEG"), ("F", "TIFF")],
)
def test_every_colour_mode_becomes_rgb(mode, format):
    grey = Image.new("L", (40, 40), 200)
    source = (
        grey.convert("I").convert(mode)
        if mode == "I;16"
        else grey.convert("RGB").convert(mode)
        if mode != "F"
        else grey.convert(mode)
    )
    assert read_photo(encoded(source, format), 16).shape == (16, 16, 3)


def test_sixteen_bits_a_pixel_are_scaled_not_clipped():
    grey = Image.fromarray(np.full((20, 20), 32_768, np.uint16))
    assert abs(int(read_photo(encoded(grey), 8)[0, 0, 0]) - 127) <= 1


def test_transparency_lies_on_white():
    assert read_photo(encoded(Image.new("RGBA", (20, 20), (0, 0, 0, 0))), 8).min() == 255


def test_a_photo_is_turned_as_its_camera_was_held():
    sideways = Image.new("RGB", (40, 40), "red")
    sideways.paste("blue", (0, 0, 40, 20))  # blue on top
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    photo = read_photo(encoded(sideways, "JPEG", exif=exif, quality=95), 8)
    assert photo[0, 4, 0] > 200, "red, the lower half, is on top now"


def test_the_middle_of_a_wide_photo_is_kept():
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("blue", (100, 0, 200, 100))
    photo = read_photo(encoded(wide), 10)
    assert (photo[:, 1:-1, 2] > 200).all()


@pytest.mark.parametrize("length", [0, 1, 20, 200, len(RED_JPEG) - 200])
def test_a_truncated_photo_is_no_photo(length):
    assert read_photo(RED_JPEG[:length], 16) is None


def test_a_missing_file_a_folder_and_a_text_are_no_photos(tmp_path):
    (tmp_path / "note.jpg").write_text("not a photo")
    assert read_photo(tmp_path / "absent.jpg", 16) is None
    assert read_photo(tmp_path, 16) is None
    assert read_photo(tmp_path / "note.jpg", 16) is None


def test_a_decompression_bomb_is_not_decoded(monkeypatch):
    monkeypatch.setattr(photos, "MAX_PIXELS", 50_000)
    assert read_photo(RED_JPEG, 16) is None
    assert read_photo(encoded(Image.new("RGB", (200, 200))), 16) is not None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, len(RED_JPEG) - 1), junk=st.binary(min_size=1, max_size=20), png=st.booleans())
def test_damage_anywhere_never_raises(place, junk, png):
    data = encoded(Image.new("RGB", (50, 50), "red")) if png else RED_JPEG
    place %= len(data)
    photo = read_photo(data[:place] + junk + data[place + len(junk) :], 16)
    assert photo is None or photo.shape == (16, 16, 3)


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_one_may_search_by_is_refused_for_its_reason(name):
    data, reason = HOSTILE[name]
    with pytest.raises(InvalidPhoto, match=reason):
        read_query_photo(data, 32)


def test_a_bomb_is_refused_before_a_pixel_of_it_is_decoded(monkeypatch):
    monkeypatch.setattr(Image.Image, "draft", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(InvalidPhoto, match="at most"):
        read_query_photo(HOSTILE["bomb"][0], 32)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [(1, 1), (90, 60), (3, 700)])
def test_a_photo_to_search_by_has_the_pixels_of_a_lots_photo(format, size):
    data = plain(format, size=size)
    np.testing.assert_array_equal(read_query_photo(data, 32), read_photo(data, 32))


@pytest.mark.parametrize(
    ("mode", "format"), [("RGBA", "PNG"), ("RGBA", "WEBP"), ("P", "PNG"), ("LA", "PNG"), ("CMYK", "JPEG"), ("1", "PNG")]
)
def test_every_colour_mode_may_be_searched_by(mode, format):
    data = encoded(Image.new("L", (40, 40), 200).convert("RGB").convert(mode), format)
    assert read_query_photo(data, 16).shape == (16, 16, 3)
    np.testing.assert_array_equal(read_query_photo(data, 16), read_photo(data, 16))


def test_sixteen_bits_a_pixel_may_be_searched_by():
    grey = Image.fromarray(np.full((20, 20), 32_768, np.uint16))
    assert abs(int(read_query_photo(encoded(grey), 8)[0, 0, 0]) - 127) <= 1


def test_of_a_phones_two_pictures_in_one_the_first_is_searched_by():
    red, _, blue = read_query_photo(two_in_one_jpeg(), 16)[8, 8]
    assert (red > 200, blue < 60) == (True, True)


def test_a_photo_to_search_by_is_turned_upright():
    sideways = Image.new("RGB", (40, 40), "red")
    sideways.paste("blue", (0, 0, 20, 40))  # blue on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    photo = read_query_photo(encoded(sideways, "JPEG", exif=exif, quality=95), 8)
    assert (photo[0, 4, 2] > 200, photo[7, 4, 0] > 200) == (True, True)


def test_a_picture_of_the_most_pixels_is_taken():
    side = int(MAX_QUERY_PIXELS**0.5)
    assert read_query_photo(encoded(Image.new("1", (side, side), 1)), 8).min() == 255


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, len(RED_JPEG) - 1), junk=st.binary(min_size=1, max_size=20), format=st.sampled_from(QUERY_FORMATS))
def test_damage_anywhere_is_a_bad_photo_at_worst(place, junk, format):
    data = plain(format)
    place %= len(data)
    with suppress(InvalidPhoto):
        assert read_query_photo(data[:place] + junk + data[place + len(junk) :], 16).shape == (16, 16, 3)
