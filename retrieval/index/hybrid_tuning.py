"""The result of `gavel tune hybrid` for a tower: the fusion of hybrid searches, and the weights of fields in BM25."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from retrieval.errors import InvalidInput, TowerError
from retrieval.files import replace_file, seal_json, shortage, unseal_json
from retrieval.index.fusion import Fusion

TUNING_FILE = "hybrid.json"  # beside the tower's card, and published with it


@dataclass(frozen=True, slots=True)
class FieldBoosts:
    """Weights of single fields in BM25, beside the text of title and description, which has the weight 1.

    The score is the weighted sum of the fields' BM25 scores, like OpenSearch's `most_fields`.

    Attributes:
        title: weight of the title, >= 0; 0 leaves it out.
        brand: weight of the brand, likewise.
        category: weight of the category, likewise.

    Raises:
        InvalidInput: a boost is negative or not a number.
    """

    title: float = 0.0
    brand: float = 0.0
    category: float = 0.0

    def __post_init__(self) -> None:
        for name, boost in asdict(self).items():
            if not (isinstance(boost, (int, float)) and math.isfinite(boost) and boost >= 0):
                raise InvalidInput(f"the boost of {name} is {boost!r}; give a number >= 0")

    @property
    def nonzero(self) -> dict[str, float]:
        """Return field -> boost, without zeros."""
        return {name: boost for name, boost in asdict(self).items() if boost}


@dataclass(frozen=True, slots=True)
class Tuning:
    """The defaults of an index for keyword and hybrid searches; a request may override them.

    Attributes:
        fusion: fusion of hybrid searches.
        boosts: weights of fields in keyword and hybrid searches.
    """

    fusion: Fusion = field(default_factory=Fusion)
    boosts: FieldBoosts = field(default_factory=FieldBoosts)

    def __str__(self) -> str:
        return f"{self.fusion}{''.join(f', {name} ^{boost:g}' for name, boost in self.boosts.nonzero.items())}"

    def save(self, folder: Path) -> Path:
        """Write the tuning into a tower's folder, in one step, and return the path of the file."""
        return replace_file(folder / TUNING_FILE, seal_json({"tower_id": folder.name, **asdict(self)}, indent=2))

    @classmethod
    def load(cls, folder: Path) -> "Tuning":
        """Read the tuning in a tower's folder; if there is none, return equal weights and no boosts.

        Raises:
            TowerError: the file is damaged or belongs to another tower.
        """
        path = folder / TUNING_FILE
        try:
            values = unseal_json(path.read_bytes())
            if (tower_id := values.get("tower_id", folder.name)) != folder.name:
                raise ValueError(f"it was tuned for tower {tower_id}")
            fusion = {**values["fusion"], "weights": tuple(values["fusion"]["weights"])}
            return cls(Fusion(**fusion), FieldBoosts(**values["boosts"]))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, InvalidInput) as error:
            message = (
                shortage(path, error) or f"{path} is damaged ({error!r}); delete it, or write it anew with `gavel tune hybrid`"
            )
            raise TowerError(message) from error


def untuned(tower_id: str) -> Tuning:
    """Return the default tuning, for any tower."""
    return Tuning()
