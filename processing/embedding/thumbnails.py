"""Thumbnails of items' photos, drawn once, so that the page never decodes a seller's upload."""

import hashlib
import io
import os
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from PIL import Image

from retrieval.encoders.photos import decode_photo, read_photo_file
from retrieval.errors import InvalidPhoto
from retrieval.text.analysis import readable

QUALITY = 82
JPEG_ENDS = (b"\xff\xd8", b"\xff\xd9")


class Side(IntEnum):
    """Side of a square thumbnail in pixels."""

    CARD = 256
    LARGE = 640  # for a card on a dense screen, and for the view of one item


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Square JPEGs of photos, keyed by the photo's path, size and modification time. A changed photo has none until draw().

    Attributes:
        folder: folder of the JPEGs; it may be deleted at any time.
    """

    folder: Path

    def read(self, photo: Path, side: Side) -> bytes | None:
        """Read a thumbnail; None if it is missing or damaged.

        Args:
            photo: path of the photo, as locate_photo() returned it.
            side: side of the square in pixels; a smaller photo is not enlarged.

        Raises:
            InvalidPhoto: draw() could not draw the photo.
        """
        with suppress(OSError):
            data = self._file(photo, f"{side}.jpg").read_bytes()
            if (data[:2], data[-2:]) == JPEG_ENDS:
                return data
        try:
            reason = self._file(photo, "refused").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None
        raise InvalidPhoto(reason)

    def draw(self, photo: Path, data: bytes | None = None) -> None:
        """Draw the missing thumbnails of a photo; if the photo cannot be decoded, record the reason.

        Args:
            photo: path of the photo, as locate_photo() returned it.
            data: bytes of the photo, if they have been read already.

        Raises:
            OSError: the photo is missing, or the folder cannot be written.
        """
        with suppress(InvalidPhoto):
            if all(self.read(photo, side) for side in Side):
                return
            try:
                largest = Image.fromarray(decode_photo(data or read_photo_file(photo), Side.LARGE, enlarge=False))
            except InvalidPhoto as error:
                return self.refuse(photo, str(error))
            for side in Side:
                smaller = largest if largest.width <= side else largest.resize((side, side), Image.Resampling.LANCZOS)
                out = io.BytesIO()
                smaller.save(out, "JPEG", quality=QUALITY)
                self._write(photo, f"{side}.jpg", out.getvalue())

    def refuse(self, photo: Path, reason: str) -> None:
        """Record that the photo has no thumbnail, and why; valid until the photo changes."""
        self._write(photo, "refused", readable(reason).encode())

    def _file(self, photo: Path, ending: str) -> Path:
        status = photo.stat()
        key = hashlib.sha256(repr((str(photo), status.st_size, status.st_mtime_ns)).encode(errors="surrogateescape")).hexdigest()
        return self.folder / key[:2] / f"{key[2:34]}-{ending}"

    def _write(self, photo: Path, ending: str, data: bytes) -> None:
        path = self._file(photo, ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{os.getpid()}-{path.name}")  # two workers may draw the same photo
        partial.write_bytes(data)
        partial.replace(path)
