"""The buyer tower of a tower artefact, in numpy, which encodes the items of a buyer's interactions as one vector."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from retrieval.buyers.vector import AVERAGE, BuyerTower, WeightedAverage
from retrieval.contracts.documents import Vector
from retrieval.contracts.tower_card import TowerCard, split_tower_id
from retrieval.errors import TowerError
from retrieval.files import reason_of, replacing, shortage

BUYER_TOWER_FILE = "buyer_tower.npz"  # trained after the others, or never, so the tower_id does not depend on it
AVERAGE_KIND, ATTENTION_KIND = "average", "attention"
FORMAT = 1
REMEDY = "train it again with `gavel train buyers`"

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Attention:
    """The sum of attention over a buyer's interactions and their weighted average, normalised to unit length.

    models.towers.buyer_tower.BuyerAttention trains it. It has H heads.

    Attributes:
        context: (H, D) query vector per head.
        weight_share: (H,) factor per head for log(weight of the interaction) in the logits.
        fade: (H,) number >= 0 per head that is subtracted from the logits per 30 days of age.
        blend: (D, H * D) matrix that maps the outputs of all heads to one vector.
        bias: (D,) vector that is added for every buyer.
        half_life_days: half-life of the average in days, see WeightedAverage.
    """

    context: Numbers
    weight_share: Numbers
    fade: Numbers
    blend: Numbers
    bias: Numbers
    half_life_days: float | None = None

    def encode(self, vectors: NDArray[np.float32], weights: NDArray[np.float64], ages_days: NDArray[np.float64]) -> Vector:
        """Encode one buyer as a unit vector; the arguments are those of BuyerTower.encode().

        Raises:
            TowerError: the vectors have another length than those of the tower.
        """
        if vectors.shape[1] != self.context.shape[1]:
            raise TowerError(
                f"the buyer tower encodes lots of {self.context.shape[1]} numbers, these have {vectors.shape[1]}; {REMEDY}"
            )
        items = vectors.astype(np.float64)  # (N, D)
        logits = items @ self.context.T + np.outer(np.log(weights), self.weight_share) - np.outer(ages_days / 30, self.fade)
        exponentials = np.exp(logits - logits.max(axis=0))  # (N, H)
        heads = _unit((exponentials / exponentials.sum(axis=0)).T @ items)  # (H, N) @ (N, D) -> (H, D)
        average = WeightedAverage(self.half_life_days).encode(vectors, weights, ages_days).astype(np.float64)  # (D,)
        mixed = _unit(average[None])[0] + self.blend @ heads.ravel() + self.bias  # (D,)
        unit: Vector = _unit(mixed[None])[0].astype(np.float32)
        return unit


def load_buyer_tower(folder: Path, tower_id: str = "") -> BuyerTower:
    """Load the buyer tower of an artefact, or the weighted average if none was trained.

    Args:
        folder: folder of the artefact, `towers/<tower_id>`.
        tower_id: tower_id of the index; empty takes the folder's name. If it names a shorter length of vectors, an attention is
            replaced by the weighted average with the same half-life, because it was not trained at that length.

    Raises:
        TowerError: the file is damaged, or belongs to another tower.
    """
    path = folder / BUYER_TOWER_FILE
    try:
        card, arrays = _read(path.read_bytes())
        tower = _tower(card, arrays)
    except FileNotFoundError:
        return AVERAGE
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise TowerError(shortage(path, error) or f"{path} is damaged ({reason_of(error)}); copy it again, or {REMEDY}") from error
    expected, shorter = split_tower_id(tower_id or folder.name)
    if card["tower_id"] != expected:
        raise TowerError(f"{path} belongs to tower {card['tower_id']}; copy that of {expected}, or {REMEDY}")
    if isinstance(tower, Attention) and shorter not in (None, card["dimensions"]):
        return WeightedAverage(tower.half_life_days)
    return tower


def save_buyer_tower(
    tower: WeightedAverage | Attention, folder: Path, tower_card: TowerCard, metrics: Mapping[str, Any] | None = None
) -> Path:
    """Write a buyer tower in one step into the folder of the tower that encoded its items.

    Args:
        tower: buyer tower to write.
        folder: folder of the artefact, `towers/<tower_id>`.
        tower_card: card of the artefact.
        metrics: metrics of the training, stored as `figures` for people to read.

    Returns:
        The path of the file.
    """
    arrays: dict[str, Numbers] = {}
    if isinstance(tower, Attention):
        arrays = {name: np.asarray(getattr(tower, name)) for name in ("context", "weight_share", "fade", "blend", "bias")}
    card = {
        "format": FORMAT,
        "kind": ATTENTION_KIND if arrays else AVERAGE_KIND,
        "heads": len(tower.context) if isinstance(tower, Attention) else 0,
        "half_life_days": tower.half_life_days,
        "dimensions": tower_card.dimensions,
        "tower_id": tower_card.tower_id,
        "figures": dict(metrics or {}),
    }
    path = folder / BUYER_TOWER_FILE
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, card=np.array(json.dumps(card)), **arrays)
    return path


def _read(content: bytes) -> tuple[dict[str, Any], dict[str, Numbers]]:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    card = json.loads(str(arrays.pop("card")))
    return card, {name: array.astype(np.float64) for name, array in arrays.items()}


def _tower(card: Mapping[str, Any], arrays: Mapping[str, Numbers]) -> WeightedAverage | Attention:
    if card["format"] != FORMAT:
        raise ValueError(f"its format is {card['format']}, not {FORMAT}")
    half_life = None if card["half_life_days"] is None else float(card["half_life_days"])
    if half_life is not None and not half_life > 0:
        raise ValueError(f"half_life_days is {half_life}")
    if card["kind"] == AVERAGE_KIND:
        return WeightedAverage(half_life)
    if card["kind"] != ATTENTION_KIND:
        raise ValueError(f"there is no kind {card['kind']!r}")
    tower = Attention(**arrays, half_life_days=half_life)
    heads, dimensions = int(card["heads"]), int(card["dimensions"])
    shapes = {
        "context": (heads, dimensions),
        "weight_share": (heads,),
        "fade": (heads,),
        "blend": (dimensions, heads * dimensions),
        "bias": (dimensions,),
    }
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != shape or not np.isfinite(array).all():
            raise ValueError(f"{name} is {array.shape}, or not finite; its card asks for {shape}")
    return tower


def _unit(rows: Numbers) -> Numbers:
    """Scale each row of (R, D) numbers to unit length; a row of zeros stays zero."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Numbers = rows / np.maximum(norms, 1e-12)
    return unit
