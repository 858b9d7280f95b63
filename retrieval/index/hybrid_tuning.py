"""The result of `gavel tune hybrid` for a tower: the fusion of hybrid searches, and the weights of fields in BM25."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from retrieval.errors import InvalidInput, TowerError
from retrieval.files import reason_of, replace_file, seal_json, shortage, unseal_json
from retrieval.index.fusion import Fusion

BOOSTED_FIELDS = ("title", "brand", "category", "attributes")
TUNING_FILE = "hybrid.json"  # beside the tower's card, and published with it


@dataclass(frozen=True, slots=True)
class FieldBoosts:
    """Weights of single fields in BM25, beside the text of title and description, which has the weight 1.

    The score is the weighted sum of the fields' BM25 scores, like OpenSearch's `most_fields`. Attributes have BM25 parameters of
    their own, because they repeat no words and are of any length. On OpenSearch these are fixed when an index is created.

    Attributes:
        title: weight of the title, >= 0; 0 leaves it out.
        brand: weight of the brand, likewise.
        category: weight of the category, likewise.
        attributes: weight of the attributes, likewise.
        attributes_k1: saturation of term frequency in attributes, > 0.
        attributes_b: length normalisation of attributes, 0 to 1.

    Raises:
        InvalidInput: a boost is negative or not a number, or a BM25 parameter is not in its range.
    """

    title: float = 0.0
    brand: float = 0.0
    category: float = 0.0
    attributes: float = 0.2
    attributes_k1: float = 0.6
    attributes_b: float = 0.75

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
                raise InvalidInput(f"the boost of {name} is {value!r}; give a number >= 0")
        if not self.attributes_k1 or self.attributes_b > 1:
            raise InvalidInput(f"k1 of attributes is {self.attributes_k1:g} and b {self.attributes_b:g}; give k1 > 0 and b 0 to 1")

    @property
    def weights(self) -> dict[str, float]:
        """Return field -> boost."""
        return {name: getattr(self, name) for name in BOOSTED_FIELDS}

    @property
    def nonzero(self) -> dict[str, float]:
        """Return field -> boost, without zeros."""
        return {name: boost for name, boost in self.weights.items() if boost}


DEFAULT_BOOSTS = FieldBoosts()


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
        standard = DEFAULT_BOOSTS
        boosts = {name: boost for name, boost in self.boosts.weights.items() if boost != getattr(standard, name)}
        text = f"{self.fusion}{''.join(f', {name} ^{boost:g}' for name, boost in boosts.items())}"
        k1, b = self.boosts.attributes_k1, self.boosts.attributes_b
        of_attributes = f" (k1 {k1:g}, b {b:g})" if (k1, b) != (standard.attributes_k1, standard.attributes_b) else ""
        return text + (of_attributes if "attributes" in boosts or not of_attributes else f", attributes{of_attributes}")

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
                shortage(path, error)
                or f"{path} is damaged ({reason_of(error)}); delete it, or write it anew with `gavel tune hybrid`"
            )
            raise TowerError(message) from error


def untuned(tower_id: str) -> Tuning:
    """Return the default tuning, for any tower."""
    return Tuning()
