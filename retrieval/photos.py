"""Photos as arrays, through Pillow: what sellers upload and what buyers search by become the same pixels."""

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from retrieval.errors import InvalidPhoto

MAX_PIXELS = 100_000_000  # of a lot's photo; a larger one is taken for a decompression bomb
MAX_QUERY_PIXELS = 25_000_000  # of a photo that is searched by: a 24-megapixel camera's, decoded in the memory of a Lambda
QUERY_FORMATS = ("JPEG", "PNG", "WEBP")
Photo = NDArray[np.uint8]

# what Pillow's decoders raise on damaged files
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, ArithmeticError, IndexError, KeyError, TypeError, RuntimeError, MemoryError)


def read_photo(source: bytes | Path, size: int) -> Photo | None:
    """Decode a photo, turn it upright, and cut and scale its middle to a square; it survives whatever sellers upload.

    Args:
        source: the bytes of a picture in any format that Pillow reads, or the path of one.
        size: side of the square in pixels, > 0.

    Returns:
        (size, size, 3) uint8 RGB, transparency on white; None for a missing, broken, truncated or monstrous picture.
    """
    try:
        return _decode(source, size, None, MAX_PIXELS)
    except InvalidPhoto:
        return None


def read_query_photo(data: bytes, size: int) -> Photo:
    """Decode a photo that is searched by into the very pixels that read_photo() makes of it.

    Args:
        data: the bytes of a still JPEG, PNG or WebP.
        size: as read_photo()'s.

    Returns:
        As read_photo().

    Raises:
        InvalidPhoto: it is empty, of another format, animated, damaged, cut short or has too many pixels; the message says which.
    """
    if not data:
        raise InvalidPhoto("the photo is empty; send the bytes of a JPEG, PNG or WebP")
    return _decode(data, size, QUERY_FORMATS, MAX_QUERY_PIXELS)


def _decode(source: bytes | Path, size: int, formats: tuple[str, ...] | None, most_pixels: int) -> Photo:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warnings on odd files; what matters comes as an exception
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
                _check_size(image, most_pixels)
                if formats and image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
                    raise InvalidPhoto("the picture is animated; send one of its frames")
                image.draft("RGB", (size, size))  # JPEG: decode at a fraction of the size, a large photo 4x faster
                upright = ImageOps.exif_transpose(image)
                square = ImageOps.fit(_to_rgb(upright), (size, size), Image.Resampling.BILINEAR)
    except UnidentifiedImageError:
        known = ", ".join(formats) if formats else "any format that Pillow reads"
        raise InvalidPhoto(f"this is no readable picture in one of the formats {known}; save it as one of them") from None
    except Image.DecompressionBombError as error:
        raise InvalidPhoto(f"the photo is too large to be decoded ({error}); scale it down") from error
    except DAMAGED as error:
        raise InvalidPhoto(f"the photo is damaged or cut short ({error}); save it again") from error
    return np.asarray(square)


def _check_size(image: Image.Image, most_pixels: int) -> None:
    """Hold the size that the file's head tells against the limit, before a pixel is decoded."""
    width, height = image.size
    if width * height > most_pixels:
        raise InvalidPhoto(f"the photo has {width} x {height} pixels, at most {most_pixels:,} are taken; scale it down")
    if not width * height:
        raise InvalidPhoto(f"the photo has {width} x {height} pixels; send one that shows something")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":  # 16 bits a pixel: Pillow would clip, not scale
        grey = (np.asarray(image).astype(np.float32) / np.float32(257.0)).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
