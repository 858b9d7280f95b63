"""Photos of the lots of this machine's catalogues, for the page."""

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
from processing.embedding.photos import yield_to_searches
from processing.embedding.thumbnails import Side, Thumbnails
from retrieval.encoders.photos import locate_photo
from retrieval.errors import InvalidInput, InvalidPhoto

logger = logging.getLogger(__name__)

PATIENCE_S = 30.0  # how long a request waits for a thumbnail to be drawn; the first ones, until the process that draws has started


def _prepare_drawing() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the server ends this one
    yield_to_searches()


class PhotoFiles:
    """Finds the photo that a lot names, and nothing else.

    Sellers write that name. So a path must stay within the folder of the lot's catalogue, or within one that the operator opened,
    and what leaves the machine is a picture drawn anew from the file, never the file.

    `gavel embed` has drawn them. What it has not, of releases from before, is drawn once, one photo at a time, in a process of its
    own with a bound on its memory: searches wait for none of it.
    """

    def __init__(self, workspace: Workspace, opened: Sequence[Path] = ()) -> None:
        """Look at nothing yet.

        Args:
            workspace: knows the folders of each release.
            opened: further folders whose photos may be shown.
        """
        self._workspace = workspace
        self._opened = list(opened)
        self._thumbnails = Thumbnails(workspace.thumbnails)
        self._told: set[str] = set()
        self._turn = asyncio.Lock()
        self._drawer: ProcessPoolExecutor | None = None

    async def jpeg(self, document: Mapping[str, Any], side: Side) -> bytes | None:
        """The photo of a lot as a square JPEG; None when it has none, or none that may be shown.

        Raises:
            TimeoutError: it is still to be drawn, and others are before it.
        """
        path = await asyncio.to_thread(self._locate, document)
        if path is None:
            return None
        try:
            drawn = await asyncio.to_thread(self._thumbnails.read, path, side)
            if drawn is None:
                async with asyncio.timeout(PATIENCE_S), self._turn:
                    drawn = self._thumbnails.read(path, side)  # which who was before may have drawn
                    if drawn is None:
                        await self._draw(path)
                        drawn = self._thumbnails.read(path, side)
        except InvalidPhoto:
            return None
        return drawn

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Start the process that draws before its first photo is asked for, where nothing is drawn yet; end it with the server."""
        if not self._thumbnails.folder.exists():
            self._drawing().submit(os.getpid)
        yield
        if self._drawer:
            await asyncio.to_thread(self._drawer.shutdown, cancel_futures=True)
            self._drawer = None

    def _drawing(self) -> ProcessPoolExecutor:
        if self._drawer is None:
            context = multiprocessing.get_context("forkserver")  # not fork: this process holds threads
            self._drawer = ProcessPoolExecutor(1, mp_context=context, initializer=_prepare_drawing)
        return self._drawer

    async def _draw(self, path: Path) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._drawing(), self._thumbnails.draw, path)
        except BrokenProcessPool:
            self._drawer = None
            self._thumbnails.refuse(path, "the photo ended the process that drew it")
        except OSError as error:
            logger.warning("no thumbnail can be stored: %s", error)

    def _locate(self, document: Mapping[str, Any]) -> Path | None:
        image = str(document.get("image") or "")
        if not image or "://" in image:
            return None
        own = self._sources(str(document.get("release_id") or ""))
        for folder in [*own, *self._opened]:
            with suppress(InvalidPhoto):
                return locate_photo(image, folder, [*self._opened, *own, *photo_folders(folder)])
        return None

    def _sources(self, release_id: str) -> list[Path]:
        """Look up the folders of a release; none where the file that names them is damaged, which is told once."""
        try:
            return self._workspace.sources(release_id)
        except InvalidInput as error:
            if release_id not in self._told:
                self._told.add(release_id)
                logger.warning("%s", error)
            return []
