"""Photos as arrays: decoding that survives whatever sellers upload."""

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

MAX_PIXELS = 100_000_000  # a larger picture is taken for a decompression bomb
Photo = NDArray[np.uint8]


def read_photo(source: bytes | Path, size: int) -> Photo | None:
    """Decode a photo, turn it upright, and cut and scale its middle to a square.

    Args:
        source: the bytes of a picture in any format that Pillow reads, or the path of one.
        size: side of the square in pixels, > 0.

    Returns:
        (size, size, 3) uint8 RGB, transparency on white; None for a missing, broken, truncated or monstrous picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warnings on odd files; what matters comes as an exception
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                if image.width * image.height > MAX_PIXELS:
                    return None
                image.draft("RGB", (size, size))  # JPEG: decode at a fraction of the size, a large photo 4x faster
                upright = ImageOps.exif_transpose(image)
                square = ImageOps.fit(_to_rgb(upright), (size, size), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, EOFError, ArithmeticError, IndexError, KeyError, TypeError, RuntimeError):
        return None  # Pillow's decoders raise all of these on damaged files
    except (Image.DecompressionBombError, MemoryError):
        return None
    return np.asarray(square)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":  # 16 bits a pixel: Pillow would clip, not scale
        grey = (np.asarray(image).astype(np.float64) / 257.0).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
