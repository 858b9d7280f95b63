"""Pictures as buyers, and those who mean harm, send them."""

import io
import struct
import zlib

from PIL import Image


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    """The bytes of a picture."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def plain(format: str, colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (90, 60)) -> bytes:
    """A picture of one colour."""
    return encoded(Image.new("RGB", size, colour), format)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose head promises so many pixels; there are none behind it."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def bomb(side: int = 12_000) -> bytes:
    """A real PNG of a few kilobytes that unpacks to side x side pixels."""
    return encoded(Image.new("1", (side, side)), "PNG", optimize=True)


def animated(format: str) -> bytes:
    """Two frames that follow each other."""
    frames = [Image.new("RGB", (30, 30), colour) for colour in ("red", "blue")]
    return encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=100)


def two_in_one_jpeg() -> bytes:
    """What phones write: a JPEG with a second picture behind the first (MPO)."""
    return encoded(Image.new("RGB", (60, 40), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (60, 40), "blue")])


def many_scans(scans: int = 101) -> bytes:
    """A progressive JPEG of a few kilobytes that a decoder passes over again and again."""
    whole = encoded(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * (scans - whole.count(b"\xff\xda")) + whole[-2:]


def png_with_words(size: int) -> bytes:
    """A PNG with a compressed text of so many letters."""
    text = b"c\0\0" + zlib.compress(b"A" * size, 9)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    whole = plain("PNG")
    return whole[:33] + chunk + whole[33:]


JPEG = plain("JPEG", size=(300, 200))
HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty"),
    "svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', "no readable picture"),
    "html": (b"<!doctype html><script>alert(1)</script>", "no readable picture"),
    "pdf": (b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n%%EOF", "no readable picture"),
    "script": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n", "no readable picture"),
    "gif": (plain("GIF"), "no readable picture"),
    "tiff": (plain("TIFF"), "no readable picture"),
    "bmp": (plain("BMP"), "no readable picture"),
    "truncated jpeg": (JPEG[: len(JPEG) - 200], "damaged or cut short"),
    "jpeg of its head alone": (JPEG[:20], "no readable picture"),
    "truncated png": (plain("PNG")[:-40], "damaged or cut short"),
    "truncated webp": (plain("WEBP")[:-20], "cut short|no readable picture"),
    "bomb": (bomb(), r"12000 x 12000 pixels, at most 24,500,000"),
    "many scans": (many_scans(), "101 scans, at most 100"),
    "words that unpack to 20 MB": (png_with_words(20_000_000), "damaged"),
    "high": (png_of_size(1, 70_000), "65,535 a side"),
    "huge": (png_of_size(2**31 - 1, 2**31 - 1), "scale it down"),
    "wide": (png_of_size(2**30, 1), "scale it down"),
    "no pixels": (png_of_size(0, 10), "damaged|no readable|send one that shows something"),
    "no data": (png_of_size(10, 10), "damaged or cut short"),
    "animated png": (animated("PNG"), "animated"),
    "animated webp": (animated("WEBP"), "animated"),
}
