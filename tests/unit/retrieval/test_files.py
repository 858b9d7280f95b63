"""Files are replaced durably and in one step, or not at all."""

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from retrieval.errors import FileUnwritable, GavelError
from retrieval.files import commit_folder, replace_file, replacing, seal_json, shortage, unseal_json


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
    assert f"card.json cannot be used now ([Errno {code}] {os.strerror(code)}); free space" in told


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
