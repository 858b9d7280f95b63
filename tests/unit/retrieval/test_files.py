"""Files are replaced durably and in one step, or not at all."""

import errno
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from retrieval.errors import AlreadyRunning, FileUnwritable, GavelError
from retrieval.files import (
    building_folder,
    commit_folder,
    creating,
    exclusive,
    explain_os_error,
    reason_of,
    replace_file,
    replacing,
    seal_json,
    shortage,
    unseal_json,
)

HOLD = """
import sys
from pathlib import Path
from retrieval.files import exclusive
with exclusive(Path(sys.argv[1]), "embeds release r"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process_holds(lock: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process holds a lock until its standard input ends."""
    python = [sys.executable, "-c", HOLD, str(lock), "--flag"]
    with subprocess.Popen(python, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_replaced_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "card.json"
    replace_file(path, "old")
    synced: list[tuple[str, str]] = []

    def watch(descriptor: int, sync=os.fsync) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink().name.split(".")[0], path.read_text()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    replace_file(path, "new")
    assert synced == [("card", "old"), (tmp_path.name, "new")]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_a_disk_that_takes_nothing_leaves_the_old_file_and_names_file_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = replace_file(tmp_path / "card.json", "old")

    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(
        FileUnwritable, match=r"card\.json cannot be written .*free space on its disk or mend its permissions"
    ) as told:
        replace_file(path, "new")
    assert isinstance(told.value, GavelError)
    assert (path.read_text(), [other.name for other in tmp_path.iterdir()]) == ("old", ["card.json"])


def test_an_error_while_a_file_is_written_leaves_nothing_of_it(tmp_path: Path) -> None:
    def write_half() -> None:
        with replacing(tmp_path / "card.json") as partial:
            partial.write_text("half")
            (tmp_path / "elsewhere").read_text()

    with pytest.raises(FileNotFoundError, match="elsewhere"):
        write_half()
    assert not list(tmp_path.iterdir())


def test_a_finished_folder_gets_its_name(tmp_path: Path) -> None:
    (tmp_path / "building" / "sub").mkdir(parents=True)
    replace_file(tmp_path / "building" / "sub" / "file", b"bytes")
    commit_folder(tmp_path / "building", tmp_path / "done")
    assert (tmp_path / "done" / "sub" / "file").read_bytes() == b"bytes"
    with pytest.raises(FileUnwritable, match="done cannot be written"):
        commit_folder(tmp_path / "missing", tmp_path / "done")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"), building_folder(tmp_path / "done") as partial:
        (partial / "elsewhere").read_text()
    assert not list(tmp_path.iterdir())
    with building_folder(tmp_path / "done") as partial:
        (partial / "file").write_text("whole")
        assert [path.name.startswith(f".done.{os.getpid()}-") for path in tmp_path.iterdir()] == [True]
    assert [(path.name, (path / "file").read_text()) for path in tmp_path.iterdir()] == [("done", "whole")]


def test_a_folder_that_another_process_built_first_stays(tmp_path: Path) -> None:
    with building_folder(tmp_path / "done") as partial:
        (partial / "file").write_text("second")
        (tmp_path / "done").mkdir()
        (tmp_path / "done" / "file").write_text("first")
    assert [(path.name, (path / "file").read_text()) for path in tmp_path.iterdir()] == [("done", "first")]


def test_what_a_killed_process_left_of_a_folder_is_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".done.{dead.pid}-1.partial").mkdir()
    (tmp_path / f".done.{os.getppid()}-1.partial").mkdir()
    with building_folder(tmp_path / "done"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"done", f".done.{os.getppid()}-1.partial"}


def test_of_two_that_create_a_file_the_first_one_wins_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    with creating(tmp_path / "keys") as partial:
        partial.write_text("second")
        (tmp_path / "keys").write_text("first")
    with creating(tmp_path / "other") as partial:
        partial.write_text("alone")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"keys": "first", "other": "alone"}
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o600


def test_a_second_process_is_told_who_is_at_work_and_what_to_do(tmp_path: Path) -> None:
    lock = tmp_path / "home" / ".embed.lock"
    with another_process_holds(lock) as process, pytest.raises(AlreadyRunning) as refusal, exclusive(lock, "embeds release r"):
        pass
    assert str(refusal.value).startswith(f"process {process.pid} (-c {lock} --flag) embeds release r since 20")
    assert str(refusal.value).endswith(f"; run the same command again when it has ended, or end it first with `kill {process.pid}`")


def test_a_lock_is_free_again_when_its_process_ends_or_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / ".embed.lock"
    with another_process_holds(lock) as process:
        process.communicate()
    assert not lock.exists()
    with another_process_holds(lock) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert lock.exists()
        with exclusive(lock, "embeds release r"):
            assert f'"pid": {os.getpid()}' in lock.read_text()
    assert not lock.exists()


def test_a_thread_of_the_same_process_is_kept_out_too(tmp_path: Path) -> None:
    lock = tmp_path / ".embed.lock"
    with exclusive(lock, "embeds"), pytest.raises(AlreadyRunning, match=f"process {os.getpid()} "), exclusive(lock, "embeds"):
        pass


def test_a_lock_whose_holder_cannot_be_read_still_blocks(tmp_path: Path) -> None:
    lock = tmp_path / ".embed.lock"
    with another_process_holds(lock):
        lock.write_text("")
        with pytest.raises(AlreadyRunning, match=r"another process holds .*\.embed\.lock; run the same"), exclusive(lock, "x"):
            pass


def test_a_lock_that_cannot_be_made_names_file_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(FileUnwritable, match=r"lock cannot be written .*mend its permissions"),
        exclusive(tmp_path / "file" / "lock", "x"),
    ):
        pass


def test_json_tells_when_it_is_not_what_was_written() -> None:
    values = {"name": "Übung", "numbers": [1, 2.5, None], "nested": {"b": 1, "a": True}}
    sealed = seal_json(values)
    assert unseal_json(sealed) == values
    assert unseal_json('{"name": "older"}') == {"name": "older"}
    for damaged in (sealed.replace("2.5", "2.6"), sealed[:-5], "[]", ""):
        with pytest.raises(ValueError, match=r"."):
            unseal_json(damaged)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EDQUOT])
def test_what_the_system_lacks_is_said_of_no_file(tmp_path: Path, code: int) -> None:
    told = shortage(tmp_path / "card.json", OSError(code, os.strerror(code)))
    assert told is not None
    assert f"card.json cannot be used now ({os.strerror(code).lower()}); free space" in told.lower()


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "x"), OSError(errno.EIO, "x"), ValueError("x"), "it is another's"]
)
def test_what_is_missing_or_damaged_is_no_shortage(tmp_path: Path, error: object) -> None:
    assert shortage(tmp_path / "card.json", error) is None


@pytest.mark.parametrize(
    ("name", "there", "short"),
    [
        ("SQLITE_IOERR_NOMEM", True, True),
        ("SQLITE_IOERR_SHMSIZE", True, True),
        ("SQLITE_CANTOPEN", True, True),
        ("SQLITE_CANTOPEN", False, False),
        ("SQLITE_CORRUPT", True, False),
        ("SQLITE_NOTADB", True, False),
        ("SQLITE_IOERR_SHORT_READ", True, False),
        ("SQLITE_ERROR", True, False),
    ],
)
def test_an_error_of_sqlite_is_a_shortage_or_damage(tmp_path: Path, name: str, there: bool, short: bool) -> None:
    path = tmp_path / "lots.sqlite"
    if there:
        path.touch()
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = name
    assert (shortage(path, error) is not None) == short


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "GAVEL_HOME"),
        (errno.EROFS, "permissions"),
        (errno.ENOTDIR, "a file lies where a folder is needed"),
        (errno.EISDIR, "name a file"),
        (errno.ENOENT, "check the path"),
        (errno.EMFILE, "ulimit -n"),
    ],
)
def test_an_error_of_the_system_is_told_with_path_and_remedy_and_without_its_number(number: int, says: str) -> None:
    told = explain_os_error(OSError(number, os.strerror(number), "shop/lots.csv"))
    assert told.startswith("shop/lots.csv: ")
    assert says in told
    assert "Errno" not in told
    assert str(number) not in told


def test_a_reason_has_no_number_path_or_class_name() -> None:
    assert reason_of(FileNotFoundError(errno.ENOENT, "No such file or directory", "x")) == "no such file or directory"
    assert reason_of(KeyError("tower_id")) == "no 'tower_id'"
    assert reason_of(ValueError("not a number")) == "not a number"
    assert reason_of(TimeoutError()) == "TimeoutError"
