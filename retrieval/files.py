"""Durable replacement of files and folders, and checksums: the one place that commits what Gavel writes to a disk."""

import errno
import hashlib
import json
import os
import sys
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retrieval.errors import FileUnwritable

BLOCK_BYTES = 1 << 20
SEAL = "sha256"  # key under which JSON carries its own checksum
PARTIAL = ".partial"  # no reader, bucket event or upload takes a name that ends so for a whole file
# errors that say nothing against a file: space, memory, descriptors or permissions are wanting
SHORT_OF = (
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOLCK),
)
SQLITE_SHORT_OF = ("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_NOMEM", "SQLITE_IOERR")
SQLITE_TORN = ("SQLITE_IOERR_READ", "SQLITE_IOERR_SHORT_READ", "SQLITE_IOERR_CORRUPTFS", "SQLITE_IOERR_DATA")
_being_written: set[Path] = set()  # by this process


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a new file that takes the place of `path`, durably and in one step, when the block ends.

    The file has another name in the same folder. It is removed if the block raises. Files that killed processes left behind for the
    same `path` are removed, too.

    Args:
        path: file to write; its folder exists.

    Raises:
        FileUnwritable: the disk is full, or the folder is missing or may not be written.
    """
    for left in path.parent.glob(f"{path.name}.*{PARTIAL}"):
        if left not in _being_written and not _runs(left.suffixes[-2][1:].partition("-")[0]):
            left.unlink(missing_ok=True)
    partial = partial_path(path)
    _being_written.add(partial)
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    except OSError as error:
        if isinstance(error, FileUnwritable) or error.filename not in (None, str(partial), str(path), partial, path):
            raise
        raise unwritable(path, error) from error
    finally:
        partial.unlink(missing_ok=True)
        _being_written.discard(partial)


def partial_path(path: Path) -> Path:
    """Return the temporary name of `path` for this thread: <name>.<process>-<thread>.partial."""
    return path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{PARTIAL}")


def replace_file(path: Path, content: bytes | str) -> Path:
    """Write a file in place of another, durably and in one step; text is written as UTF-8.

    Raises:
        FileUnwritable: see replacing().
    """
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def commit_folder(building: Path, folder: Path) -> None:
    """Give a finished folder its name, once all its files are on the disk.

    Args:
        building: folder of finished files, on the disk of `folder`.
        folder: the name; nothing stands there.

    Raises:
        FileUnwritable: the disk is full, or the folder may not be written.
    """
    try:
        for path in (*building.rglob("*"), building):
            _sync(path)
        building.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(path: Path, error: OSError) -> FileUnwritable:
    """Make the error of a file that the disk does not take, with the remedy."""
    return FileUnwritable(f"{path} cannot be written ({error.strerror or error}); free space on its disk or mend its permissions")


def shortage(path: Path, error: object) -> str | None:
    """Say that a file cannot be used now though it may be whole, with the remedy; None where it is missing or damaged.

    Args:
        path: of the file.
        error: what using it raised, an OSError or one of SQLite's; any other is no shortage.
    """
    name = str(getattr(error, "sqlite_errorname", ""))
    short = isinstance(error, OSError) and error.errno in SHORT_OF
    short = short or (name.startswith(SQLITE_SHORT_OF) and not name.startswith(SQLITE_TORN))
    if short or (name.startswith("SQLITE_CANTOPEN") and os.path.isfile(path)):  # noqa: PTH113 -- raises nothing
        return f"{path} cannot be used now ({error}); free space, memory or descriptors, raise their limits or mend permissions"
    return None


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def crc32_of(path: Path, length: int = sys.maxsize) -> int:
    """CRC-32 of the first `length` bytes of a file, or of all.

    Raises:
        OSError: the file cannot be read.
    """
    checksum = 0
    with path.open("rb") as file:
        while length > 0 and (block := file.read(min(length, BLOCK_BYTES))):
            checksum = zlib.crc32(block, checksum)
            length -= len(block)
    return checksum


def seal_json(values: Mapping[str, Any], indent: int | None = None) -> str:
    """Write an object as JSON with its own checksum under the key "sha256"."""
    return json.dumps({**values, SEAL: _digest(values)}, indent=indent, ensure_ascii=False) + "\n"


def unseal_json(text: str | bytes) -> dict[str, Any]:
    """Read seal_json()'s text; an object without a checksum was written by an older version and is taken as it is.

    Raises:
        ValueError: it is no JSON object, or not the one that was written.
    """
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    if (digest := values.pop(SEAL, None)) is not None and digest != _digest(values):
        raise ValueError("its checksum does not hold")
    return values


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    """Put a file's bytes, or a folder's names, on the disk, so that they outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _runs(pid: str) -> bool:
    """True if another process of this number runs; in a container one that was killed had the number of this one."""
    if pid == str(os.getpid()):
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:  # of another user
        return True
    return True
