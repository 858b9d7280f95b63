"""The plan of an embedding run: input files, this instance's share of them, output folder and sizes."""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from processing.embedding.downloads import Downloads
from processing.embedding.parts import PartFolder
from processing.embedding.rows import input_files
from retrieval.contracts.item_files import DEFAULT_OPTIONS, ReadingLog, ReadOptions
from retrieval.contracts.release import REJECTS_FILE
from retrieval.errors import InvalidInput
from retrieval.files import exclusive

RELEASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
BATCH_SIZE = 64
PART_ITEMS = 5_000  # about 12 MB of gzip, which one Lambda indexes well within its time limit
INPUT_HASH_CHARS = 12


@dataclass(frozen=True)
class EmbeddingRun:
    """Inputs and settings of one run.

    Attributes:
        inputs: catalogue files, or folders of them; the same for every instance.
        output: folder of the releases; this release is written to `output/<release_id>/`.
        release_id: name of the release; None derives it from tower and input, so that equal runs have equal names.
        batch_size: number of items that the tower encodes at once, > 0.
        part_items: largest number of items in a part, > 0; two parts are held in memory.
        workers: number of processes that fetch and decode photos; 0 decodes in a thread of this process.
        instance: number of this instance, from 0.
        instances: number of instances that share the run, > 0.
        photos: folders whose photos items may name, besides those of the files and of their catalogue.
        thumbnails: folder of the page's thumbnails; None writes none.
        options: what the user says about the columns and values of the files.
        log: gets what the user should know about the files.
        downloads: where photos of http(s) addresses are fetched to; None fetches none.
    """

    inputs: Sequence[Path]
    output: Path
    release_id: str | None = None
    batch_size: int = BATCH_SIZE
    part_items: int = PART_ITEMS
    workers: int = 0
    instance: int = 0
    instances: int = 1
    photos: Sequence[Path] = ()
    thumbnails: Path | None = None
    options: ReadOptions = DEFAULT_OPTIONS
    log: ReadingLog = field(default_factory=ReadingLog, compare=False)
    downloads: Downloads | None = None

    def __post_init__(self) -> None:
        for name, minimum in (("batch_size", 1), ("part_items", 1), ("workers", 0)):
            if getattr(self, name) < minimum:
                raise InvalidInput(f"{name} is {getattr(self, name)}; allowed are whole numbers from {minimum}")
        if not 0 <= self.instance < self.instances:
            raise InvalidInput(
                f"instance {self.instance} is out of range; {self.instances} instances count from 0 to {self.instances - 1}"
            )

    def files(self) -> tuple[list[Path], frozenset[Path]]:
        """Return every file of the run in reading order, and the files that this instance embeds."""
        files = input_files(self.inputs, self.log)
        return files, frozenset(files[self.instance :: self.instances])

    def name(self, tower_id: str, inputs_hash: str) -> str:
        """Return the release_id.

        Raises:
            InvalidInput: the configured release_id cannot name a folder.
        """
        name = self.release_id or f"{tower_id}-{inputs_hash[:INPUT_HASH_CHARS]}"
        if not RELEASE_ID.fullmatch(name):
            raise InvalidInput(f"release_id {name!r} cannot name a folder; use 1 to 100 letters, digits, '.', '_' and '-'")
        return name

    def part_folder(self, name: str, tower_id: str) -> PartFolder:
        """Return the writer of this instance's parts; its folder is created if it is missing."""
        return PartFolder(self.output / name, name, tower_id, self.instance, self.instances)

    def exclusive(self, name: str) -> AbstractContextManager[None]:
        """Return a context manager that keeps other processes from writing this instance's parts; see files.exclusive()."""
        instance = "" if self.instances == 1 else f"-{self.instance:05}-of-{self.instances:05}"
        return exclusive(self.output / f".{name}{instance}.lock", f"writes release {name} into {self.output}")


def rejects_name(instance: int, instances: int, name: str = REJECTS_FILE) -> str:
    """Return rejects.ndjson, or rejects-00001-of-00003.ndjson for one of several instances; or so for another name."""
    return name if instances == 1 else f"{name.removesuffix('.ndjson')}-{instance:05}-of-{instances:05}.ndjson"
