"""Files of two feature towers: weights, and the card with everything that encodes a row as training did.

<folder>/weights.safetensors    weights of both towers and the temperature
<folder>/feature_towers.json    card; written last
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from models.config.features import FeatureTrainingConfig
from models.towers.features import Features
from models.training.features import FeatureTowers
from retrieval.contracts.documents import Vector
from retrieval.encoders.feature_spec import FeatureSpec, Row
from retrieval.errors import TowerError
from retrieval.files import reason_of, replace_file, sha256_of

CARD_FILE = "feature_towers.json"
WEIGHTS_FILE = "weights.safetensors"
REMEDY = "train towers again with `gavel train users-items`"
ID_CHARS = 12
BLOCK = 8192  # rows encoded at once


@dataclass(frozen=True)
class StoredFeatureTowers:
    """Two feature towers from their folder.

    Attributes:
        tower_id: hash of weights, specs and settings, 12 hexadecimal digits.
        towers: the towers, in eval mode.
        card: content of the card: settings, specs, tables and metrics of the training.
    """

    tower_id: str
    towers: FeatureTowers
    card: Mapping[str, Any]

    @property
    def dimensions(self) -> int:
        """Return the length of the vectors."""
        return int(self.card["settings"]["dimensions"])

    def encode_users(self, rows: Sequence[Row]) -> Vector:
        """Return the vectors of users, (N, D) float32 of unit length; a new user has the vector of an unknown id."""
        return _encode(self.towers.user_tower, rows)

    def encode_items(self, rows: Sequence[Row]) -> Vector:
        """Return the vectors of items, likewise."""
        return _encode(self.towers.item_tower, rows)


def save_feature_towers(
    root: Path, towers: FeatureTowers, config: FeatureTrainingConfig, facts: Mapping[str, Any]
) -> StoredFeatureTowers:
    """Write towers to <root>/<tower_id>.

    Args:
        root: folder of all feature towers.
        towers: trained towers, on the CPU.
        config: their settings.
        facts: further content of the card.
    """
    content = save({name: value.contiguous() for name, value in towers.state_dict().items()})
    settings, specs = asdict(config), {"users": towers.user_tower.spec.to_json(), "items": towers.item_tower.spec.to_json()}
    digest = hashlib.sha256(content + json.dumps([settings, specs], sort_keys=True).encode()).hexdigest()
    tower_id = digest[:ID_CHARS]
    folder = root / tower_id
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / WEIGHTS_FILE, content)
    card = {
        "tower_id": tower_id,
        "sha256": hashlib.sha256(content).hexdigest(),
        "settings": settings,
        "specs": specs,
        **facts,
    }
    replace_file(folder / CARD_FILE, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    return StoredFeatureTowers(tower_id, towers.eval(), card)


def load_feature_towers(folder: Path) -> StoredFeatureTowers:
    """Read towers that save_feature_towers() wrote.

    Raises:
        TowerError: a file is missing or damaged.
    """
    try:
        card = json.loads((folder / CARD_FILE).read_bytes())
        users, items = (FeatureSpec.from_json(card["specs"][name]) for name in ("users", "items"))
        if sha256_of(folder / WEIGHTS_FILE) != card["sha256"]:
            raise ValueError(f"{WEIGHTS_FILE} is not the file that was saved")
        towers = FeatureTowers(users, items, FeatureTrainingConfig(**card["settings"]))
        towers.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return StoredFeatureTowers(card["tower_id"], towers.eval(), card)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise TowerError(f"{folder} holds no feature towers that can be read ({reason_of(error)}); {REMEDY}") from error


@torch.no_grad()
def _encode(tower: torch.nn.Module, rows: Sequence[Row]) -> Vector:
    spec: FeatureSpec = tower.spec  # type: ignore[assignment]
    blocks = [tower(*Features.of(spec, rows[start : start + BLOCK])) for start in range(0, len(rows), BLOCK)]
    vectors: Vector = torch.cat(blocks).numpy() if blocks else torch.zeros(0, 0).numpy()
    return vectors
