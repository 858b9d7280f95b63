"""Encodings by frozen encoders, computed once and stored on disk, so that heads train in seconds.

The name of a file of encodings is a hash of everything that its numbers depend on: the encoder's weights, the tokens or
pixels, and the pooling or normalisation. Files of other names are ignored; a damaged file is made again.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.data.images import normalise, to_unit
from models.data.tables import PhotoTable, TokenTable
from models.towers.config import TowerConfig
from models.towers.encoders import ImageEncoder, TextEncoder
from models.towers.two_towers import TextEncodings, Texts, Tokens, TwoTowers
from retrieval.files import replacing
from retrieval.progress import Progress

log = logging.getLogger(__name__)

FORMAT = 1  # version of the files; another number makes all stored files invalid
TEXTS_AT_ONCE, PHOTOS_AT_ONCE = 64, 64
BLOCK = 2_048  # encodings that are stored at a time, from which an interrupted run resumes


@dataclass(frozen=True)
class EncodingTable:
    """Encoded texts, in place of a TokenTable.

    Attributes:
        vectors: (N, width) float32, the encodings.
    """

    vectors: NDArray[np.float32]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Lengths (N,) of the texts, all 1, because encodings need no padding."""
        return np.ones(len(self.vectors), dtype=np.int64)

    def rows(self, rows: NDArray[np.int64]) -> "EncodingTable":
        """Return a table of some of the texts."""
        return EncodingTable(self.vectors[rows])


@dataclass(frozen=True)
class PhotoEncodings:
    """Encoded photos, in place of a PhotoTable.

    Attributes:
        vectors: (N, width) float32, zero where there is no photo.
        has_image: (N,) bool, True where there is a photo.
    """

    vectors: NDArray[np.float32]
    has_image: NDArray[np.bool_]


TextTable = TokenTable | EncodingTable


def is_frozen(encoder: nn.Module) -> bool:
    """Return True if no part of an encoder is trained."""
    return not any(parameter.requires_grad for parameter in encoder.parameters())


def encode_text_table(
    encoder: TextEncoder, texts: TokenTable, cache: Path, device: torch.device, progress: Progress | None = None
) -> EncodingTable:
    """Encode texts, or read the encodings from the cache, which is valid until the encoder's weights or the tokens change.

    Args:
        encoder: text encoder, which is moved to the device; its mode does not change.
        texts: N tokenised texts.
        cache: folder of the files; it may be deleted at any time.
        device: device that computes.
        progress: called with (texts encoded, texts); not called if the cache is valid.

    Returns:
        The N encodings, memory-mapped from the file.
    """
    # in each block texts of similar length together, to save padding; not in all of them, so that progress tells the time
    blocks = [start + np.argsort(texts.lengths[start : start + BLOCK], kind="stable") for start in range(0, len(texts.ids), BLOCK)]
    order = np.concatenate(blocks) if blocks else np.empty(0, np.int64)

    def encode(rows: NDArray[np.int64]) -> Tensor:
        return encoder(*(torch.from_numpy(array).to(device) for array in texts.take(rows)))  # type: ignore[no-any-return]

    key = _key(encoder, ["text", encoder.pooling], [texts.ids, texts.lengths])
    shape = (len(order), encoder.width)
    return EncodingTable(
        _load_or_encode(cache / f"texts-{key}.npy", shape, encoder.to(device), order, TEXTS_AT_ONCE, encode, progress)
    )


def encode_photo_table(
    encoder: ImageEncoder,
    photos: PhotoTable,
    config: TowerConfig,
    cache: Path,
    device: torch.device,
    progress: Progress | None = None,
) -> PhotoEncodings:
    """Encode photos, or read the encodings from the cache, which is valid until the encoder's weights or a pixel change.

    Args:
        encoder: image encoder, which is moved to the device; its mode does not change.
        photos: N photos at the input size of the tower, not augmented.
        config: configuration with the means and deviations of the normalisation.
        cache: folder of the files; it may be deleted at any time.
        device: device that computes.
        progress: called with (photos encoded, photos); not called if the cache is valid.
    """
    present = np.flatnonzero(photos.has_image)

    def encode(rows: NDArray[np.int64]) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(photos.pixels[rows])).to(device)
        return encoder(normalise(to_unit(pixels), config.image_mean, config.image_std))  # type: ignore[no-any-return]

    settings = ["photo", config.image_mean, config.image_std, *([config.image.colour_bins] if config.image.colour_bins else [])]
    key = _key(encoder, settings, [photos.has_image, photos.pixels])
    file, shape = cache / f"photos-{key}.npy", (len(photos.has_image), encoder.width)
    vectors = _load_or_encode(file, shape, encoder.to(device), present, PHOTOS_AT_ONCE, encode, progress)
    return PhotoEncodings(vectors, photos.has_image)


def encode_frozen(
    towers: TwoTowers,
    items: TextTable,
    queries: TextTable,
    photos: PhotoTable | PhotoEncodings | None,
    config: TowerConfig,
    cache: Path,
    device: torch.device,
) -> tuple[TextTable, TextTable, PhotoTable | PhotoEncodings | None]:
    """Replace the tables that frozen encoders read by tables of encodings; return items, queries and photos.

    Args:
        towers: towers; the table of an encoder that is trained stays as it is.
        items: texts of the items.
        queries: texts of the queries.
        photos: photos at the input size of the tower; None for a tower without an image encoder.
        config: as for encode_photo_table().
        cache: as for encode_text_table().
        device: device that computes.
    """
    item_encoder, query_encoder = towers.item_tower.text_encoder, towers.query_tower.text_encoder
    image_encoder = towers.item_tower.image_encoder
    if is_frozen(item_encoder) and isinstance(items, TokenTable):
        items = encode_text_table(item_encoder, items, cache, device)
    if is_frozen(query_encoder) and isinstance(queries, TokenTable):
        queries = encode_text_table(query_encoder, queries, cache, device)
    if image_encoder is not None and is_frozen(image_encoder) and isinstance(photos, PhotoTable):
        photos = encode_photo_table(image_encoder, photos, config, cache, device)
    return items, queries, photos


def text_inputs(table: TextTable, rows: NDArray[np.int64], device: torch.device) -> Texts:
    """Return some texts of a table as the input of a tower, on a device."""
    if isinstance(table, EncodingTable):
        return TextEncodings(torch.from_numpy(table.vectors[rows]).to(device))
    ids, mask = table.take(rows)
    return Tokens(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device))


def _load_or_encode(
    file: Path,
    shape: tuple[int, int],
    encoder: nn.Module,
    order: NDArray[np.int64],
    at_once: int,
    encode: Callable[[NDArray[np.int64]], Tensor],
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Load the encodings of a file, or encode the rows of `order`, `at_once` at a time; an interrupted call resumes by blocks."""
    stored = _load(file, shape)
    if stored is not None:
        return stored
    log.info("encoding %d for %s, once", shape[0], file.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    blocks = {file.with_name(f"{file.stem}.{start}.block"): order[start : start + BLOCK] for start in range(0, len(order), BLOCK)}

    def encode_block(path: Path, rows: NDArray[np.int64], done: int) -> NDArray[np.float32]:
        block = np.empty((len(rows), shape[1]), np.float32)
        for start in range(0, len(rows), at_once):
            block[start : start + at_once] = encode(rows[start : start + at_once]).float().cpu().numpy()
            if progress:
                progress(done + min(start + at_once, len(rows)), len(order))
        with replacing(path) as part, part.open("wb") as opened:
            np.save(opened, block)
        return block

    training, done = encoder.training, 0
    encoder.eval()
    try:
        with replacing(file) as partial, torch.inference_mode():
            vectors = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
            for path, rows in blocks.items():
                block = _load(path, (len(rows), shape[1]))
                vectors[rows] = encode_block(path, rows, done) if block is None else block
                done += len(rows)
            vectors.flush()
    finally:
        encoder.train(training)
    for path in blocks:
        path.unlink(missing_ok=True)
    return np.asarray(np.load(file, mmap_mode="r"))


def _load(file: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    try:
        vectors = np.asarray(np.load(file, mmap_mode="r"))
    except (OSError, ValueError, EOFError):  # missing or truncated
        return None
    return vectors if vectors.shape == shape and vectors.dtype == np.float32 else None


def _key(encoder: nn.Module, settings: list[Any], arrays: Sequence[NDArray[Any]]) -> str:
    digest = hashlib.sha256(repr([FORMAT, torch.__version__, *settings]).encode())
    for name, value in encoder.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        for start in range(0, len(array), 1_024):  # in parts, because a table on disk may be larger than the memory
            digest.update(np.ascontiguousarray(array[start : start + 1_024]).tobytes())
    return digest.hexdigest()[:16]
