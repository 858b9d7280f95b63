"""Photos of the lots of this machine's catalogues, for the page."""

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from local.home import Home
from retrieval.photos import read_photo

SIDE = 480  # pixels; a card is half as wide, on a screen of twice the density
QUALITY = 82
CACHED = 512  # photos of about 20 kB


class PhotoShelf:
    """Finds the photo that a lot names, and nothing else.

    Sellers write that name. So a path must stay within the folder of the lot's catalogue, or within one that the operator opened,
    and what leaves the machine is a picture drawn anew from the file, never the file.
    """

    def __init__(self, home: Home, opened: Sequence[Path] = ()) -> None:
        """Look at nothing yet.

        Args:
            home: knows the folders of each release.
            opened: further folders whose photos may be shown.
        """
        self._home = home
        self._opened = [_plain(folder) for folder in opened]

    def jpeg(self, document: Mapping[str, Any]) -> bytes | None:
        """The photo of a lot as a square JPEG; None when it has none, or none that may be shown."""
        for path in self._places(document):
            try:
                changed = path.stat().st_mtime_ns
            except (OSError, ValueError):
                continue
            return _drawn(path, changed)
        return None

    def _places(self, document: Mapping[str, Any]) -> Iterable[Path]:
        image = str(document.get("image") or "")
        if not image or "\0" in image or "://" in image:
            return
        own = [_plain(folder) for folder in self._home.sources(str(document.get("release_id") or ""))]
        for folder in [*own, *self._opened]:
            path = _plain(folder / image)
            if any(path.is_relative_to(allowed) for allowed in (folder, *self._opened)):
                yield path


def _plain(path: Path) -> Path:
    """The path without `..`; links stay, for who lays a catalogue out may lead elsewhere, and a seller cannot make one."""
    return Path(os.path.normpath(path.absolute()))


@lru_cache(maxsize=CACHED)
def _drawn(path: Path, changed: int) -> bytes | None:
    pixels = read_photo(path, SIDE)
    if pixels is None:
        return None
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
