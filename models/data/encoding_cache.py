"""Encodings by frozen encoders, computed once and stored on disk, so that heads train in seconds.

The name of a file of encodings is a hash of everything that its numbers depend on: the encoder's weights, the tokens or
pixels, and the pooling or normalisation. Files of other names are ignored; a damaged file is made again.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
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
TEXTS_PER_CHUNK = 4_096  # texts of one file of encode_in_chunks()


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
    order = np.argsort(texts.lengths, kind="stable")  # texts of similar length together, to save padding

    def encode(start: int) -> tuple[NDArray[np.int64], Tensor]:
        rows = order[start : start + TEXTS_AT_ONCE]
        if progress:
            progress(start + len(rows), len(order))
        return rows, encoder(*(torch.from_numpy(array).to(device) for array in texts.take(rows)))

    key = _key(encoder, ["text", encoder.pooling], [texts.ids, texts.lengths])
    starts = range(0, len(order), TEXTS_AT_ONCE)
    return EncodingTable(
        _load_or_encode(cache / f"texts-{key}.npy", (len(order), encoder.width), encoder.to(device), starts, encode)
    )


def encode_in_chunks(
    encoder: TextEncoder,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    max_length: int,
    cache: Path,
    device: torch.device,
    progress: Progress,
) -> NDArray[np.float32]:
    """Encode texts in chunks with a file each, so that a run that was stopped goes on with the next chunk.

    Args:
        encoder: as for encode_text_table().
        tokenizer: tokenizer that prepare_tokenizer() prepared.
        texts: N >= 1 cleaned texts.
        max_length: largest number of tokens read of a text.
        cache: as for encode_text_table().
        device: device that computes.
        progress: called with (texts encoded, texts).

    Returns:
        (N, width) float32, in the order of the texts.
    """
    parts = []
    for start in range(0, len(texts), TEXTS_PER_CHUNK):
        table = TokenTable.build(tokenizer, texts[start : start + TEXTS_PER_CHUNK], max_length)
        report = partial(_report_from, start, len(texts), progress)
        parts.append(np.array(encode_text_table(encoder, table, cache, device, report).vectors))
        report(len(table.lengths), len(table.lengths))
    return np.concatenate(parts)


def _report_from(start: int, count: int, progress: Progress, done: int, total: int) -> None:
    progress(start + done, count)


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

    def encode(start: int) -> tuple[NDArray[np.int64], Tensor]:
        rows = present[start : start + PHOTOS_AT_ONCE]
        if progress:
            progress(start + len(rows), len(present))
        pixels = torch.from_numpy(np.ascontiguousarray(photos.pixels[rows])).to(device)
        return rows, encoder(normalise(to_unit(pixels), config.image_mean, config.image_std))

    key = _key(encoder, ["photo", config.image_mean, config.image_std], [photos.has_image, photos.pixels])
    starts, shape = range(0, len(present), PHOTOS_AT_ONCE), (len(photos.has_image), encoder.width)
    return PhotoEncodings(_load_or_encode(cache / f"photos-{key}.npy", shape, encoder.to(device), starts, encode), photos.has_image)


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
    starts: Sequence[int],
    encode: Callable[[int], tuple[NDArray[np.int64], Tensor]],
) -> NDArray[np.float32]:
    stored = _load(file, shape)
    if stored is not None:
        return stored
    log.info("encoding %d for %s, once", shape[0], file.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    training = encoder.training
    encoder.eval()
    try:
        with replacing(file) as temporary, torch.inference_mode():
            vectors = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
            for start in starts:
                rows, encodings = encode(start)
                vectors[rows] = encodings.float().cpu().numpy()
            vectors.flush()
    finally:
        encoder.train(training)
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
