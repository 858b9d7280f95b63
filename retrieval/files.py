"""Replace files and folders durably, lock folders against a second process, and compute checksums."""

import errno
import fcntl
import glob
import hashlib
import json
import os
import shlex
import shutil
import sys
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from retrieval.errors import AlreadyRunning, FileUnwritable

BLOCK_BYTES = 1 << 20
COMMAND_CHARS = 200  # a longer command line is cut in a message
SEAL = "sha256"  # key of an object's own checksum in its JSON
PARTIAL = ".partial"  # ending of unfinished files, which no reader, bucket event or upload takes
# errors that do not mean that a file is damaged: space, memory, descriptors or permissions are missing
SHORT_OF = (
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOLCK),
)
SQLITE_SHORT_OF = ("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_NOMEM", "SQLITE_IOERR")
SQLITE_TORN = ("SQLITE_IOERR_READ", "SQLITE_IOERR_SHORT_READ", "SQLITE_IOERR_CORRUPTFS", "SQLITE_IOERR_DATA")
_REMEDIES = (
    ((errno.ENOSPC, errno.EDQUOT), "free space on its disk, or name a folder on another (GAVEL_HOME)"),
    ((errno.EACCES, errno.EPERM, errno.EROFS), "mend its permissions, or name another folder"),
    (
        (errno.ENOTDIR, errno.EEXIST),
        "a file lies where a folder is needed; name another folder, or move the file",
    ),
    ((errno.EISDIR,), "this is a folder where a file is needed; name a file"),
    ((errno.ENOENT,), "check the path"),
    ((errno.EMFILE, errno.ENFILE), "allow more open files, such as ulimit -n 4096"),
    ((errno.ENOMEM,), "free memory, or take a smaller part of the work at once"),
    ((errno.EFBIG,), "raise the limit of the size of a file (ulimit -f)"),
)
_being_written: set[Path] = set()  # temporary paths that this process writes now


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a new file that replaces `path`, durably and in one step, when the block ends.

    The new file has a temporary name in the same folder. It is removed if the block raises. Temporary files that killed processes
    left behind for the same `path` are removed, too.

    Args:
        path: file to write; its folder exists.

    Raises:
        FileUnwritable: the disk is full, or the folder is missing or may not be written.
    """
    with _temporary(path) as partial:
        try:
            yield partial
            _sync(partial)
            partial.replace(path)
            _sync(path.parent)
        except OSError as error:
            if isinstance(error, FileUnwritable) or error.filename not in (None, str(partial), str(path), partial, path):
                raise
            raise unwritable(path, error) from error


@contextmanager
def creating(path: Path) -> Iterator[Path]:
    """Yield the path of a new file that becomes `path` when the block ends, unless another process created `path` first.

    Only its owner may read the file. Temporary names and leftovers are handled as in replacing().

    Raises:
        OSError: the disk is full, or the folder is missing or may not be written.
    """
    with _temporary(path) as partial:
        os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        yield partial
        _sync(partial)
        with suppress(FileExistsError):  # unlike a rename, a link replaces nothing
            os.link(partial, path)
        _sync(path.parent)


@contextmanager
def building_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder that becomes `folder`, durably and in one step, when the block ends.

    The new folder has a hidden temporary name beside `folder`. It is removed if the block raises, or if another process put
    `folder` there first. Folders that killed processes left behind for the same `folder` are removed, too.

    Args:
        folder: name of the finished folder; its parent exists.

    Raises:
        FileUnwritable: the disk is full, or the parent may not be written.
    """
    with _temporary(folder.with_name(f".{folder.name}")) as partial:
        partial.mkdir()
        yield partial
        try:
            commit_folder(partial, folder)
        except FileUnwritable:
            if not folder.is_dir():
                raise


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield a temporary name of `path` for this thread: <name>.<process>-<thread>.partial.

    Whatever has this name is removed afterwards. Leftovers of killed processes are removed first.
    """
    for left in path.parent.glob(f"{glob.escape(path.name)}.*{PARTIAL}"):
        if left not in _being_written and not _runs(left.suffixes[-2][1:].partition("-")[0]):
            _remove(left)
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{PARTIAL}")
    _being_written.add(partial)
    try:
        yield partial
    finally:
        _remove(partial)
        _being_written.discard(partial)


def _remove(path: Path) -> None:
    """Remove a file or a folder if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes | str) -> Path:
    """Write a file in place of another, durably and in one step, and return its path; text is written as UTF-8.

    Raises:
        FileUnwritable: see replacing().
    """
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def former_path(path: Path) -> Path:
    """Return the path where the content of a file is stored before the file is replaced, such as `a.former.ubj` for `a.ubj`."""
    return path.with_suffix(f".former{path.suffix}")


def commit_folder(building: Path, folder: Path) -> None:
    """Rename a finished folder once all its files are on the disk.

    Args:
        building: folder of finished files, on the same disk as `folder`.
        folder: new path; nothing exists there.

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


@contextmanager
def exclusive(lock: Path, work: str) -> Iterator[None]:
    """Hold a lock while the block runs, so that only one process, and one thread of it, does the work at a time.

    The operating system releases the lock when the process ends, even if it is killed. A lock file that is left behind blocks
    nobody.

    Args:
        lock: path of the lock file; its folder is created if it is missing.
        work: description of the block, such as "embeds release r in /data/embeddings", for the message of AlreadyRunning.

    Raises:
        AlreadyRunning: another process or thread holds the lock; the message names it and the remedy.
        FileUnwritable: the lock file cannot be created.
    """
    try:
        descriptor = _acquire(lock, work)
    except BlockingIOError as error:
        raise AlreadyRunning(_who_holds(lock)) from error
    except OSError as error:
        raise unwritable(lock, error) from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # before the release, because _acquire() checks for it
        os.close(descriptor)


def _acquire(lock: Path, work: str) -> int:
    """Lock a file, write the holder into it, and return its descriptor. Closing the descriptor releases the lock.

    Raises:
        BlockingIOError: the file is locked already.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:COMMAND_CHARS]
    since = datetime.now(UTC).isoformat(" ", timespec="seconds")
    holder = json.dumps({"pid": os.getpid(), "command": command, "since": since, "work": work})
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)  # no child process that runs another program inherits it
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                os.truncate(descriptor, 0)
                os.write(descriptor, holder.encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the last holder removed the file between open() and flock(): lock a new file


def _who_holds(lock: Path) -> str:
    """Describe the process that holds a lock, with the remedy."""
    try:
        holder = json.loads(lock.read_bytes())
        pid, command, since, work = (holder[name] for name in ("pid", "command", "since", "work"))
    except (OSError, ValueError, KeyError, TypeError):  # the holder has not written the file yet, or has just ended
        return f"another process holds {lock}; run the same command again when it has ended"
    return (
        f"process {pid} ({command}) {work} since {since}; run the same command again when it has ended, "
        f"or end it first with `kill {pid}`"
    )


def unwritable(path: Path, error: OSError) -> FileUnwritable:
    """Return the error for a file that cannot be written, with the remedy."""
    return FileUnwritable(f"{path} cannot be written ({error.strerror or error}); free space on its disk or mend its permissions")


def reason_of(error: object) -> str:
    """Return what an error says, without the number and the path that an OSError adds; for the brackets of a message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    if isinstance(error, KeyError):
        return f"no {error}"
    return str(error) or type(error).__name__


def explain_os_error(error: OSError) -> str:
    """Return one sentence for an error of the operating system that nothing nearer explained: the path, the reason and a remedy."""
    paths = " -> ".join(
        os.fsdecode(path) for path in (error.filename, error.filename2) if isinstance(path, str | bytes | os.PathLike)
    )
    remedy = next((text for numbers, text in _REMEDIES if error.errno in numbers), "")
    return f"{f'{paths}: ' if paths else ''}{reason_of(error)}{f'; {remedy}' if remedy else ''}"


def shortage(path: Path, error: object) -> str | None:
    """Return a message if an error means that something was short, not that a file is damaged; None for other errors.

    Short are space, memory, descriptors, locks or permissions. The message names the remedy.

    Args:
        path: path of the file, for the message.
        error: error of using the file; only an OSError or an error of SQLite can mean a shortage.
    """
    name = str(getattr(error, "sqlite_errorname", ""))
    short = isinstance(error, OSError) and error.errno in SHORT_OF
    short = short or (name.startswith(SQLITE_SHORT_OF) and not name.startswith(SQLITE_TORN))
    if short or (name.startswith("SQLITE_CANTOPEN") and os.path.isfile(path)):  # noqa: PTH113 -- raises nothing
        remedy = "free space, memory or descriptors, raise their limits or mend permissions"
        return f"{path} cannot be used now ({reason_of(error)}); {remedy}"
    return None


def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's bytes.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def crc32_of(file: Path | int, length: int = sys.maxsize) -> int:
    """Return the CRC-32 of the first `length` bytes of a file, by default of all.

    Args:
        file: path of the file, or a descriptor, which stays open.
        length: number of bytes.

    Raises:
        OSError: the file cannot be read.
    """
    checksum = 0
    with open(file, "rb", closefd=isinstance(file, Path)) as content:
        content.seek(0)
        while length > 0 and (block := content.read(min(length, BLOCK_BYTES))):
            checksum = zlib.crc32(block, checksum)
            length -= len(block)
    return checksum


def seal_json(values: Mapping[str, Any], indent: int | None = None) -> str:
    """Return an object as JSON with its own checksum under the key "sha256"."""
    return json.dumps({**values, SEAL: _digest(values)}, indent=indent, ensure_ascii=False) + "\n"


def unseal_json(text: str | bytes) -> dict[str, Any]:
    """Return the object in a text of seal_json(), without the checksum. Older versions wrote none, so it may be missing.

    Raises:
        ValueError: the text is no JSON object, or its checksum is wrong.
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
    """Put the bytes of a file, or the names in a folder, on the disk, so that they outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _runs(pid: str) -> bool:
    """True if another process with this id runs."""
    if pid == str(os.getpid()):  # in a container, a killed process had the same id as this one
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:  # it is a process of another user
        return True
    return True
