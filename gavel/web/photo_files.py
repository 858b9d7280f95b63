"""Photos of items in this machine's catalogues, for the page."""

import asyncio
import logging
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from catalog.folder import photo_folders
from gavel.workspace.folders import Workspace
from processing.embedding.downloads import Downloads, is_address
from processing.embedding.photos import yield_to_searches
from processing.embedding.thumbnails import Side, Thumbnails
from retrieval.encoders.photos import locate_photo
from retrieval.errors import InvalidInput, InvalidPhoto

logger = logging.getLogger(__name__)

DRAW_TIMEOUT_S = 30.0  # includes the start of the drawing process


def _prepare_drawing() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the server stops this one
    yield_to_searches()


class PhotoFiles:
    """Serves thumbnails of the photos that items name.

    Sellers write that name. So the path must stay within a folder of the item's catalogue, or within a folder that the operator
    opened. Only a thumbnail drawn from the file leaves the machine, never the file itself.

    `gavel embed` draws thumbnails. Thumbnails that an older release lacks are drawn here, one at a time. A separate process
    with bounded memory draws them, so that searches do not wait.
    """

    def __init__(self, workspace: Workspace, opened: Sequence[Path] = ()) -> None:
        """Prepare the look-up of photos; no file is opened yet.

        Args:
            workspace: workspace that knows the photo folders of each release.
            opened: further folders whose photos may be shown.
        """
        self._workspace = workspace
        self._opened = list(opened)
        self._thumbnails, self._downloads = Thumbnails(workspace.thumbnails), Downloads(workspace.downloads)
        self._warned: set[str] = set()
        self._draw_lock = asyncio.Lock()
        self._drawer: ProcessPoolExecutor | None = None

    async def jpeg(self, document: Mapping[str, Any], side: Side, number: int = 0) -> bytes | None:
        """Return a photo of an item as a square JPEG, or None if the item has no such photo that may be shown.

        Args:
            document: document of the item.
            side: side of the square in pixels.
            number: number of the photo, from 0.

        Raises:
            TimeoutError: the thumbnail could not be drawn in time, because others are drawn first.
        """
        path = await asyncio.to_thread(self._locate, document, number)
        if path is None:
            return None
        try:
            jpeg = await asyncio.to_thread(self._thumbnails.read, path, side)
            if jpeg is None:
                async with asyncio.timeout(DRAW_TIMEOUT_S), self._draw_lock:
                    jpeg = self._thumbnails.read(path, side)  # a request before may have drawn it
                    if jpeg is None:
                        await self._draw(path)
                        jpeg = self._thumbnails.read(path, side)
        except InvalidPhoto:
            return None
        return jpeg

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Start the drawing process ahead of the first photo if no thumbnail exists, and stop it with the server."""
        if not self._thumbnails.folder.exists():
            self._drawing_process().submit(os.getpid)
        yield
        if self._drawer:
            await asyncio.to_thread(self._drawer.shutdown, cancel_futures=True)
            self._drawer = None

    def _drawing_process(self) -> ProcessPoolExecutor:
        if self._drawer is None:
            context = multiprocessing.get_context(
                "spawn"
            )  # not fork: this process has threads; not forkserver: its socket needs a short TMPDIR
            self._drawer = ProcessPoolExecutor(1, mp_context=context, initializer=_prepare_drawing)
        return self._drawer

    async def _draw(self, path: Path) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._drawing_process(), self._thumbnails.draw, path)
        except BrokenProcessPool:
            self._drawer = None
            self._thumbnails.refuse(path, "the photo ended the process that drew it")
        except OSError as error:
            logger.warning("no thumbnail can be stored: %s", error)

    def _locate(self, document: Mapping[str, Any], number: int) -> Path | None:
        photos = [document.get("image"), *document.get("more_images", ())]
        image = str(photos[number] or "") if number < len(photos) else ""
        if is_address(image):
            fetched = self._downloads.path(image)
            return fetched.resolve() if fetched.is_file() else None
        if not image or "://" in image:
            return None
        own = self._sources(str(document.get("release_id") or ""))
        for folder in [*own, *self._opened]:
            with suppress(InvalidPhoto):
                return locate_photo(image, folder, [*self._opened, *own, *photo_folders(folder)])
        return None

    def _sources(self, release_id: str) -> list[Path]:
        """Return the folders of a release. If the file that lists them is damaged, warn once and return no folder."""
        try:
            return self._workspace.sources(release_id)
        except InvalidInput as error:
            if release_id not in self._warned:
                self._warned.add(release_id)
                logger.warning("%s", error)
            return []
