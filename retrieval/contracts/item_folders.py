"""Which files of a folder are catalogue files."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from retrieval.contracts.table_files import SUFFIXES, file_format
from retrieval.errors import InvalidInput

CATALOG_FILE, ITEMS_FOLDER = "catalog.json", "items"
OWN_FILE = re.compile(r"rejects(-\d+-of-\d+)?\.ndjson|manifest\.json|catalog\.json")
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
PHOTOS_AND_TEXTS = (*PHOTO_SUFFIXES, ".gif", ".md", ".txt", ".html", ".pdf")


@dataclass(frozen=True)
class FolderListing:
    """The files of a folder.

    Attributes:
        files: catalogue files, sorted by path.
        passed_over: other files and folders, each with the reason; photos and documents are not listed.
    """

    files: list[Path]
    passed_over: list[str] = field(default_factory=list)


def list_item_files(where: Path) -> FolderListing:
    """List the catalogue files at or below a path, by one rule.

    A file is taken itself. A folder is taken with all its sub-folders. Passed over are names that begin with ".", "_" or "~$" (such
    as .ipynb_checkpoints, _temporary and __MACOSX), links to folders, and Gavel's own files. Of a catalogue, only items/ is read.

    Raises:
        InvalidInput: the path does not exist, or has no file in a format that Gavel reads.
    """
    formats = ", ".join(SUFFIXES)
    if where.is_file():
        if not file_format(where):
            raise InvalidInput(f"{where} is not a catalogue file; Gavel reads {formats}")
        return FolderListing([where], [])
    if not where.is_dir():
        raise InvalidInput(f"{where} does not exist; name a catalogue file or a folder of them ({formats})")
    files: list[Path] = []
    passed_over: list[str] = []
    for name, folders, names in os.walk(where):
        folder = Path(name)
        if CATALOG_FILE in names and ITEMS_FOLDER in folders:
            folders[:] = [ITEMS_FOLDER]
            continue
        for other in sorted(folders):
            path = folder / other
            if reason := "a link to a folder" if path.is_symlink() else _hidden(other):
                folders.remove(other)
                passed_over.append(f"{path.relative_to(where)}/ ({reason})")
        for other in sorted(names):
            path = folder / other
            if OWN_FILE.fullmatch(other):
                continue
            if reason := _hidden(other) or ("" if file_format(path) else "no format that Gavel reads"):
                if not other.lower().endswith(PHOTOS_AND_TEXTS):
                    passed_over.append(f"{path.relative_to(where)} ({reason})")
            elif path.is_file():
                files.append(path)
    if not files:
        hidden = f"; passed over were {', '.join(passed_over[:5])}" if passed_over else ""
        photos = sum(1 for path in where.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
        remedy = f"; {photos:,} photos need one with the columns item_id, title and image (a path)" if photos else ""
        raise InvalidInput(f"{where} holds no catalogue file; put at least one of {formats} there{remedy}{hidden}")
    return FolderListing(sorted(files), passed_over)


def find_item_files(where: Path) -> list[Path]:
    """Return the files of list_item_files()."""
    return list_item_files(where).files


def _hidden(name: str) -> str:
    """Return why a name is passed over; empty if it is not."""
    if name.startswith(("~$", ".~lock")):
        return "a lock of a spreadsheet"
    return "hidden or temporary" if name.startswith((".", "_")) else ""
