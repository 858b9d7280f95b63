"""Read photos as square arrays through Pillow, with checks of paths, formats and sizes.

Sellers and buyers send these bytes, so nothing in them can be trusted. A photo that is too large is rejected by its header, before
any pixel is decoded. The same rules hold for photos of items, thumbnails and photos of queries.
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
from retrieval.files import reason_of

MAX_PIXELS = 24_500_000  # phones and cameras of 24 megapixels write up to 5,712 x 4,284
MAX_SIDE = 65_535  # pixels, as in the JPEG format; limited because Pillow takes memory for every row
MAX_BYTES = 64_000_000  # bytes of a file; photos of 24 megapixels are smaller, except noise as a PNG
MAX_SCANS = 100  # scans of a JPEG; a progressive JPEG has about ten, and each scan is a pass over all pixels
FORMATS = ("JPEG", "PNG", "WEBP")
Photo = NDArray[np.uint8]

MAGIC = (b"\xff\xd8", b"\x89PNG", b"RIFF")  # first bytes of files in FORMATS
SCAN = b"\xff\xda"  # marker of a scan's start in a JPEG; it never occurs in compressed data

# EXIF orientation -> operation that turns the picture upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# exceptions that Pillow's decoders raise for damaged files
DAMAGED = (
    *(OSError, ValueError, SyntaxError, EOFError, ArithmeticError, LookupError, TypeError, AttributeError, AssertionError),
    *(RuntimeError, MemoryError, struct.error, zlib.error),
)


def locate_photo(image: str, folder: Path, opened: Sequence[Path] = ()) -> Path:
    """Return the path of an item's photo, if it is in an allowed folder. Sellers write the path, so it cannot be trusted.

    Links are followed if they lead into an allowed folder.

    Args:
        image: path in the item, absolute or relative to `folder`.
        folder: folder of the catalogue file, which is allowed.
        opened: further folders that the operator allows.

    Returns:
        The path without links, below an allowed folder; read_photo_file() checks if it can be read.

    Raises:
        InvalidPhoto: there is no such file, or it is outside the allowed folders.
    """
    try:
        path = (folder / image).resolve(strict=True)
        inside = any(path.is_relative_to(root.resolve()) for root in (folder, *opened))
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidPhoto(f"{image[:200]!r} is no file below {folder} ({reason_of(error)}); mend the path") from error
    if not inside:
        raise InvalidPhoto(f"{image[:200]!r} leads outside {folder}; move the photo there, or open its folder", "outside")
    return path


def read_photo_file(path: Path) -> bytes:
    """Return the bytes of a photo file, at most MAX_BYTES. A pipe or device is rejected without waiting for it.

    Args:
        path: path that locate_photo() returned.

    Raises:
        InvalidPhoto: the file is not a plain file (such as a folder, link or pipe), cannot be read, or is too large.
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
        raise InvalidPhoto(f"{path} cannot be read ({reason_of(error)}); mend its path or its permissions") from error


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for the writer of a pipe. A link is rejected, because it was put there after the check."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def read_photo(source: bytes | Path, size: int) -> Photo | None:
    """Decode the photo of an item; of an animated picture, the first frame.

    Args:
        source: bytes of a picture, or path of its file.
        size: side of the square in pixels, > 0.

    Returns:
        The square of decode_photo(); None if the picture cannot be read or is not allowed.
    """
    try:
        return decode_photo(read_photo_file(source.resolve()) if isinstance(source, Path) else source, size)
    except (InvalidPhoto, OSError, ValueError, RuntimeError):
        return None


def read_query_photo(data: bytes, size: int) -> Photo:
    """Decode the photo of a query into the same pixels as read_photo(), but reject an animated picture.

    Args:
        data: bytes of a still JPEG, PNG or WebP.
        size: side of the square in pixels, > 0.

    Returns:
        The square of decode_photo().

    Raises:
        InvalidPhoto: see decode_photo(); or the picture is animated.
    """
    return decode_photo(data, size, still=True)


def decode_photo(data: bytes, size: int, *, still: bool = False, enlarge: bool = True) -> Photo:
    """Decode a photo, turn it upright, and cut and scale its middle to a square.

    Args:
        data: bytes of a JPEG, PNG or WebP.
        size: side of the square in pixels, > 0.
        still: True rejects an animated picture; False takes its first frame.
        enlarge: True scales a smaller photo up; False returns a smaller square, with the photo's shorter side.

    Returns:
        (size, size, 3) uint8 RGB, with transparent parts on white.

    Raises:
        InvalidPhoto: the photo is empty, in another format, damaged, cut short, too large, or animated although `still` is True;
            the message names the reason.
    """
    if not data:
        raise InvalidPhoto("the photo is empty; send the bytes of a JPEG, PNG or WebP")
    if len(data) > MAX_BYTES:
        raise InvalidPhoto(f"the photo has more than {MAX_BYTES:,} bytes; scale it down", "too_large")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about odd files; real faults are exceptions
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_head(image, data)
                if still and image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
                    raise InvalidPhoto("the picture is animated; send one of its frames")
                side = size if enlarge else min(size, *image.size)
                image.draft("RGB", (side, side))  # decodes a JPEG at a fraction of its size, a large one 4x faster
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
    """Check size and number of scans in the header of a photo, before any pixel is decoded.

    Raises:
        InvalidPhoto: the photo has no pixels, or too many pixels or scans.
    """
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
    """Return the square of a picture, turned by the EXIF orientation of the picture; unreadable EXIF is ignored."""
    turn = None
    with suppress(*DAMAGED):  # not ImageOps.exif_transpose(), which rewrites all tags and fails at a tag of an odd type
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return square if turn is None else square.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":  # 16 bits per pixel, which Pillow would clip instead of scaling
        grey = (np.asarray(image) // 257).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
