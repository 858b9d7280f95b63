"""Decoding: what sellers upload comes out as a square, or as None, and never as an exception."""

import io
import os
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hostile_photos import HOSTILE, animated, encoded, plain, two_in_one_jpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from retrieval.encoders import photos
from retrieval.encoders.photos import FORMATS, MAX_BYTES, MAX_PIXELS, locate_photo, read_photo, read_photo_file, read_query_photo
from retrieval.errors import InvalidPhoto

RED_JPEG = encoded(Image.new("RGB", (300, 200), (250, 10, 10)), "JPEG")


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_that_buyers_may_send_becomes_a_square_of_bytes(format):
    photo = read_photo(encoded(Image.new("RGB", (90, 60), (10, 200, 10)), format), 32)
    assert photo.shape == (32, 32, 3)
    assert photo.dtype == np.uint8
    assert np.abs(photo.astype(int) - (10, 200, 10)).max() <= 12


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "ICO", "PPM"])
def test_other_formats_are_no_photos_of_lots(format):
    assert read_photo(encoded(Image.new("RGB", (32, 32), "red"), format), 32) is None


@pytest.mark.parametrize(
    ("mode", "format"),
    [("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("I;16", "PNG"), ("CMYK", "JPEG")],
)
def test_every_colour_mode_becomes_rgb(mode, format):
    grey = Image.new("L", (40, 40), 200)
    source = grey.convert("I").convert(mode) if mode == "I;16" else grey.convert("RGB").convert(mode)
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


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_way_to_hold_a_camera_is_turned_upright_as_pillow_does(turn):
    corners = Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = turn
    photo = encoded(corners, exif=exif)
    with Image.open(io.BytesIO(photo)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(read_photo(photo, 2), upright)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("odd", [(0x10F, 5, 1, 8), (0x100, 11, 1, 0), (0x10F, 12, 9, 0), (0x8769, 4, 1, 2**31)])
def test_a_photo_with_a_tag_of_an_odd_type_is_turned_upright_too(odd, format):
    tags = [(0x112, 3, 1, 3), odd]
    written = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + written + bytes(64)
    upside_down = Image.new("RGB", (16, 16), "blue")
    upside_down.paste("red", (0, 0, 16, 8))
    photo = read_photo(encoded(upside_down, format, exif=exif), 8)
    assert photo[0, 0, 2] > 200 > 60 > photo[0, 0, 0]
    assert photo[-1, 0, 0] > 200 > 60 > photo[-1, 0, 2]


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense"])
def test_a_photo_whose_exif_cannot_be_read_stays_as_it_is(exif):
    assert read_photo(encoded(Image.new("RGB", (8, 8), "red"), "JPEG", exif=exif), 8) is not None


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


def test_a_pipe_a_device_and_a_folder_are_no_photos_and_nothing_waits_for_them(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", Path("/dev/zero"), tmp_path):
        with pytest.raises(InvalidPhoto, match=r"cannot be read|no plain file"):
            read_photo_file(path)


def test_a_file_is_too_large_before_it_is_read(tmp_path):
    with (tmp_path / "long.jpg").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(InvalidPhoto, match=r"64,000,001 bytes") as told:
        read_photo_file(tmp_path / "long.jpg")
    assert told.value.fault == "too_large"


@pytest.fixture
def shop(tmp_path):
    """A folder of lots with a photo, beside a file that is nobody's business."""
    (tmp_path / "shop" / "photos").mkdir(parents=True)
    for path in (tmp_path / "shop" / "photos" / "vase.png", tmp_path / "secret.png"):
        path.write_bytes(plain("PNG"))
    return tmp_path / "shop"


@pytest.mark.parametrize(
    "image", ["photos/vase.png", "./photos/../photos/vase.png", "{shop}/photos/vase.png", "link.png", "links/vase.png"]
)
def test_a_photo_within_the_folder_of_its_lots_is_found_also_through_links(shop, image):
    (shop / "link.png").symlink_to("photos/vase.png")
    (shop / "links").symlink_to(shop / "photos")
    assert locate_photo(image.replace("{shop}", str(shop)), shop) == shop.resolve() / "photos" / "vase.png"


@pytest.mark.parametrize(
    "image", ["../secret.png", "photos/../../secret.png", "{shop}/../secret.png", "out.png", "up/secret.png", "/etc/passwd"]
)
def test_a_photo_outside_is_refused_however_it_is_named(shop, image):
    (shop / "out.png").symlink_to("../secret.png")
    (shop / "up").symlink_to("..")
    with pytest.raises(InvalidPhoto, match="leads outside") as told:
        locate_photo(image.replace("{shop}", str(shop)), shop)
    assert told.value.fault == "outside"


def test_a_photo_in_a_folder_that_was_opened_is_found(shop):
    assert locate_photo("../secret.png", shop, [shop.parent]) == shop.parent.resolve() / "secret.png"


@pytest.mark.parametrize("image", ["lost.png", "a\0b.png", "x" * 5_000, "loop.png", "photos/vase.png/x", "\udcff.png"])
def test_a_name_that_no_file_can_have_is_refused(shop, image):
    (shop / "loop.png").symlink_to("loop.png")
    with pytest.raises(InvalidPhoto, match="no file"):
        locate_photo(image, shop)


def test_a_link_that_was_put_in_a_photos_place_meanwhile_is_not_followed(shop):
    located = locate_photo("photos/vase.png", shop)
    located.unlink()
    located.symlink_to(shop.parent / "secret.png")
    with pytest.raises(InvalidPhoto, match="cannot be read"):
        read_photo_file(located)


def test_a_decompression_bomb_is_not_decoded(monkeypatch):
    monkeypatch.setattr(photos, "MAX_PIXELS", 50_000)
    assert read_photo(RED_JPEG, 16) is None
    assert read_photo(encoded(Image.new("RGB", (200, 200))), 16) is not None


@pytest.mark.parametrize("name", [name for name in HOSTILE if not name.startswith("animated")])
def test_what_no_one_may_search_by_is_no_photo_of_a_lot_either(name):
    assert read_photo(HOSTILE[name][0], 32) is None


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_of_an_animated_photo_of_a_lot_the_first_frame_is_taken(format):
    red, _, blue = read_photo(animated(format), 16)[8, 8]
    assert (red > 200, blue < 60) == (True, True)


MEASURE = """
import resource, sys
from pathlib import Path
from retrieval.encoders.photos import read_photo
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert read_photo(Path(sys.argv[1]).read_bytes(), 640) is not None
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("name", ["RGBA.PNG", "progressive.JPEG", "RGB.WEBP"])
def test_the_largest_photo_of_any_kind_takes_less_than_half_a_gigabyte(tmp_path, name):
    mode, format = name.split(".")
    options = {"progressive": True} if mode == "progressive" else {"method": 0} if format == "WEBP" else {}
    photo = Image.new("RGB" if mode == "progressive" else mode, (5_712, 4_284))
    (tmp_path / "photo").write_bytes(encoded(photo, format, **options))
    done = subprocess.run([sys.executable, "-c", MEASURE, tmp_path / "photo"], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 500


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
    side = int(MAX_PIXELS**0.5)
    assert read_query_photo(encoded(Image.new("1", (side, side), 1)), 8).min() == 255


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, len(RED_JPEG) - 1), junk=st.binary(min_size=1, max_size=20), format=st.sampled_from(FORMATS))
def test_damage_anywhere_is_a_bad_photo_at_worst(place, junk, format):
    data = plain(format)
    place %= len(data)
    with suppress(InvalidPhoto):
        assert read_query_photo(data[:place] + junk + data[place + len(junk) :], 16).shape == (16, 16, 3)
