"""Open text files as people save them: gzip or not, in UTF-8, UTF-16 or a named encoding."""

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from retrieval.errors import InvalidInput
from retrieval.files import reason_of

CHUNK_BYTES = 1 << 20
GZIP = b"\x1f\x8b"
GUESS = "cp1252"  # what Excel and most shops of Western Europe and the Americas write if not UTF-8
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# Characters of cp1252 that are no sign of Western Europe, because Polish, Czech, Turkish or Cyrillic texts have letters there:
# rare ones anywhere, marks inside words, and four letters beyond ASCII in a row
_OTHER = "[^\0-\x7fÀ-ÏÑ-ÖØ-Üß-ïñ-öø-üÿŒœŸ€‚„…‘’“”•–—™¡§©«®°±·»¿£¥ª²³º¼½¾´¨ \xad×]"
_NOT_WESTERN = re.compile(f"{_OTHER}|(?<=[A-Za-z])[²³¹¿¡£¥]+(?=[a-z])|[À-ÿ]{{4,}}")


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading; unpack it if its first bytes are those of gzip, whatever its name is.

    Raises:
        InvalidInput: the file is no whole gzip file, or cannot be read.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == GZIP
            raw.seek(0)
            if packed:
                with gzip.open(raw) as file:
                    yield io.BufferedReader(file)
            else:
                yield raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InvalidInput(f"{path} is no whole gzip file: {error}; fetch it again") from error
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {reason_of(error)}") from error


@contextmanager
def open_text(path: Path, encoding: str) -> Iterator[IO[str]]:
    """Open a text file without translation of its line ends.

    Raises:
        InvalidInput: as for open_bytes(), or a byte is not of the encoding.
    """
    try:
        with open_bytes(path) as raw, io.TextIOWrapper(raw, encoding=encoding, newline="") as file:
            yield file
    except UnicodeError as error:
        where = f" ({error.reason} at byte {error.start})" if isinstance(error, UnicodeDecodeError) else ""
        raise InvalidInput(
            f"{path} is not {_shown(encoding)} text{where}; save it as UTF-8, or name its encoding by --encoding"
        ) from error


def check_encoding(encoding: str) -> str:
    """Return the name of an encoding as Python writes it.

    Raises:
        InvalidInput: there is no such encoding.
    """
    try:
        if not codecs.lookup(encoding)._is_text_encoding:  # base64 and others turn bytes into bytes
            raise LookupError
        "".encode(encoding)
        name = codecs.lookup(encoding).name
        return "utf-8-sig" if name == "utf-8" else name  # which reads both
    except (LookupError, ValueError):
        raise InvalidInput(
            f"--encoding {encoding} is no encoding; write utf-8, utf-16, cp1252 or another that Python knows"
        ) from None


def find_encoding(path: Path) -> tuple[str, str]:
    """Find the encoding of a text file; the whole file is read, in chunks.

    Returns:
        The encoding, and a notice for the user if it is a guess, otherwise "". The guess is cp1252. It is made only if every byte
        that is not ASCII is a letter or mark of Western languages.

    Raises:
        InvalidInput: the file is neither UTF-8 nor UTF-16, and no certain guess can be made.
    """
    with open_bytes(path) as file:
        first = file.read(4_096)
        for mark, encoding in _BYTE_ORDER_MARKS:
            if first.startswith(mark):
                return encoding, ""
        if len(first) > 1 and b"\0" in first[:2] and first.count(b"\0") >= len(first) // 3:
            return ("utf-16-be" if first[0] == 0 else "utf-16-le"), ""
    try:
        with open_bytes(path) as file:
            decoder = codecs.getincrementaldecoder("utf-8")()
            while chunk := file.read(CHUNK_BYTES):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        return "utf-8", ""
    except UnicodeDecodeError as error:
        fault = error.reason
    example, line = _western(path)
    if not example:
        raise InvalidInput(
            f"{path} is not UTF-8 text ({fault}, line {line}); save it as UTF-8, or name its encoding by --encoding, such as cp1252"
        )
    return GUESS, f"is not UTF-8 and was read as {GUESS}: {example!r} in line {line}; --encoding names another"


def _western(path: Path) -> tuple[str, int]:
    """Return the first word beyond ASCII and its line if the whole file is cp1252 for certain, otherwise "" and the line."""
    example, first_line = "", 0
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            if line.isascii():
                continue
            try:
                text = line.decode(GUESS)
            except UnicodeDecodeError:
                return "", number
            if _NOT_WESTERN.search(text):
                return "", number
            if not example:
                word = next((word for word in re.findall(r"\w*[^\0-\x7f]+\w*", text)), "")
                example, first_line = word[:40], number
    return example, first_line


def _shown(encoding: str) -> str:
    return {"utf-8-sig": "UTF-8", "utf-8": "UTF-8"}.get(encoding, encoding)
