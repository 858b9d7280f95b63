"""Read photos as square arrays through Pillow, with checks of paths, formats and sizes.

Sellers and buyers send these bytes. A photo is rejected by its head, before any pixel is decoded. The same rules hold for photos of
lots, thumbnails and photos of queries.
"""

import io
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from retrieval.errors import InvalidPhoto, PhotoFault

MAX_PIXELS = 24_500_000  # phones and cameras of 24 megapixels write up to 5,712 x 4,284
MAX_SIDE = 65_535  # of a JPEG, too; Pillow spends memory on every row
MAX_BYTES = 64_000_000  # of a file; 24 megapixels of noise as a PNG are larger, photos are not
MAX_SCANS = 100  # of a JPEG: a progressive one has about ten, and each is a pass over all pixels
FORMATS = ("JPEG", "PNG", "WEBP")
Photo = NDArray[np.uint8]

MAGIC = (b"\xff\xd8", b"\x89PNG", b"RIFF")  # how they begin
SCAN = b"\xff\xda"  # start of a scan; among compressed data a byte of 255 is never followed by this one

# EXIF orientation -> how the picture is turned upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# what Pillow's decoders raise on damaged files
DAMAGED = (
    *(OSError, ValueError, SyntaxError, EOFError, ArithmeticError, LookupError, TypeError, AttributeError, AssertionError),
    *(RuntimeError, MemoryError, struct.error, zlib.error),
)


def locate_photo(image: str, folder: Path, opened: Sequence[Path] = ()) -> Path:
    """Find the file that a lot names as its photo. Sellers write that name, so it may lead nowhere else.

    Links that stay inside are followed.

    Args:
        image: a path, absolute or relative to `folder`.
        folder: of the file that named it.
        opened: further folders whose photos the operator lets be read.

    Returns:
        The path without links, below `folder` or one of `opened`; read_photo_file() says whether it can be read.

    Raises:
        InvalidPhoto: there is no such file, or it lies outside.
    """
    try:
        path = (folder / image).resolve(strict=True)
        inside = any(path.is_relative_to(root.resolve()) for root in (folder, *opened))
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidPhoto(f"{image[:200]!r} is no file below {folder} ({error}); mend the path") from error
    if not inside:
        raise InvalidPhoto(f"{image[:200]!r} leads outside {folder}; move the photo there, or open its folder", "outside")
    return path


def read_photo_file(path: Path) -> bytes:
    """Read the bytes of a photo; a pipe, a device, a folder and a link are no photos, and nothing waits for them.

    Args:
        path: as locate_photo() found it.

    Returns:
        At most MAX_BYTES bytes.

    Raises:
        InvalidPhoto: this is no plain file, cannot be read or is too large.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InvalidPhoto(f"{path} is no plain file; put the photo itself there")
            if status.st_size > MAX_BYTES:
                raise InvalidPhoto(f"{path} has {status.st_size:,} bytes, at most {MAX_BYTES:,} are taken", "too_large")
            return file.read(MAX_BYTES)
    except (OSError, ValueError) as error:
        raise InvalidPhoto(f"{path} cannot be read ({error}); mend its path or its permissions") from error


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for the writer of a pipe, and no link: there was none when the path was located."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def read_photo(source: bytes | Path, size: int) -> Photo | None:
    """Decode a lot's photo as decode_photo() does; an animated one by its first frame.

    Args:
        source: the bytes of a picture, or the path of one.
        size: side of the square in pixels, > 0.

    Returns:
        As decode_photo(); None for a picture that is not taken.
    """
    try:
        return decode_photo(read_photo_file(source.resolve()) if isinstance(source, Path) else source, size)
    except (InvalidPhoto, OSError, ValueError, RuntimeError):
        return None


def read_query_photo(data: bytes, size: int) -> Photo:
    """Decode a photo that is searched by into the very pixels that read_photo() makes of it.

    Args:
        data: the bytes of a still JPEG, PNG or WebP.
        size: side of the square in pixels, > 0.

    Returns:
        As decode_photo().

    Raises:
        InvalidPhoto: as decode_photo(), or it is animated.
    """
    return decode_photo(data, size, still=True)


def decode_photo(data: bytes, size: int, *, still: bool = False, enlarge: bool = True) -> Photo:
    """Decode a photo, turn it upright, and cut and scale its middle to a square.

    Args:
        data: the bytes of a JPEG, PNG or WebP.
        size: side of the square in pixels, > 0.
        still: refuse an animated picture instead of taking its first frame.
        enlarge: scale a smaller photo up; else its shorter side is the square's.

    Returns:
        (size, size, 3) uint8 RGB, transparency on white.

    Raises:
        InvalidPhoto: it is empty, of another format, damaged, cut short, animated or has too many pixels; the message says which.
    """
    if not data:
        raise InvalidPhoto("the photo is empty; send the bytes of a JPEG, PNG or WebP")
    if len(data) > MAX_BYTES:
        raise InvalidPhoto(f"the photo has more than {MAX_BYTES:,} bytes; scale it down", "too_large")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warnings on odd files; what matters comes as an exception
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_head(image, data)
                if still and image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
                    raise InvalidPhoto("the picture is animated; send one of its frames")
                side = size if enlarge else min(size, *image.size)
                image.draft("RGB", (side, side))  # JPEG: decode at a fraction of the size, a large photo 4x faster
                square = _turn_upright(image, ImageOps.fit(_to_rgb(image), (side, side), Image.Resampling.BILINEAR))
    except UnidentifiedImageError:
        formats = ", ".join(FORMATS)
        fault: PhotoFault = "unreadable" if data.startswith(MAGIC) else "format"
        raise InvalidPhoto(f"this is no readable picture in one of the formats {formats}; save it as one of them", fault) from None
    except Image.DecompressionBombError as error:
        raise InvalidPhoto(f"the photo is too large to be decoded ({error}); scale it down", "too_large") from error
    except DAMAGED as error:
        raise InvalidPhoto(f"the photo is damaged or cut short ({error}); save it again") from error
    return np.asarray(square)


def _check_head(image: Image.Image, data: bytes) -> None:
    """Check the values of the file's head against the limits, before any pixel is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        most = f"at most {MAX_PIXELS:,}, {MAX_SIDE:,} a side"
        raise InvalidPhoto(f"the photo has {width} x {height} pixels, {most} are taken; scale it down", "too_large")
    if not width * height:
        raise InvalidPhoto(f"the photo has {width} x {height} pixels; send one that shows something")
    scans = data.count(SCAN) if image.format in ("JPEG", "MPO") else 0
    if scans > MAX_SCANS:
        raise InvalidPhoto(f"the JPEG has {scans} scans, at most {MAX_SCANS} are taken; save it again", "too_large")


def _turn_upright(image: Image.Image, square: Image.Image) -> Image.Image:
    """Turn the square of a picture by the picture's EXIF orientation; unreadable EXIF is ignored."""
    turn = None
    with suppress(*DAMAGED):  # not ImageOps.exif_transpose(), which writes all tags anew and ends at one of an odd type
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return square if turn is None else square.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":  # 16 bits a pixel: Pillow would clip, not scale
        grey = (np.asarray(image) // 257).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
