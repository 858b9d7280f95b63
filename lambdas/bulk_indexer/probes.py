"""Vectors of a release that its index must find again before it goes live."""

from collections.abc import Callable
from itertools import islice
from math import ceil
from typing import BinaryIO

from retrieval.index.base import IndexedItem, Vector
from retrieval.indexing import PROBES, PartReader
from retrieval.release import Manifest


def release_probes(manifest: Manifest, open_part: Callable[[str], BinaryIO]) -> list[Vector]:
    """Vectors from the heads of parts all over the release; no part is read to its end.

    Args:
        manifest: of the whole release.
        open_part: opens a part by its name.
    """
    parts = manifest.parts[:: max(1, len(manifest.parts) // PROBES)][:PROBES]
    vectors: list[Vector] = []
    for part in parts:
        lots = (entry for entry in PartReader(open_part(part.name)) if isinstance(entry, IndexedItem))
        vectors += [lot.vector for lot in islice(lots, ceil(PROBES / len(parts)))]
    return vectors
