"""What `gavel tune hybrid` chose for a tower: how its hybrid searches fuse, and what the fields of a lot count in BM25."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from retrieval.errors import InvalidInput, TowerError
from retrieval.files import replace_file, seal_json, shortage, unseal_json
from retrieval.index.fusion import Fusion

TUNING_FILE = "hybrid.json"  # beside the tower's card, and published with it


@dataclass(frozen=True, slots=True)
class FieldBoosts:
    """What a query's words count in single fields, beside the text of title and description, where they count 1.

    Each is a number >= 0 times the field's own BM25, added up as OpenSearch's `most_fields` does; 0 leaves the field out.

    Raises:
        InvalidInput: a boost is negative or no number.
    """

    title: float = 0.0
    brand: float = 0.0
    category: float = 0.0

    def __post_init__(self) -> None:
        for name, boost in asdict(self).items():
            if not (isinstance(boost, (int, float)) and math.isfinite(boost) and boost >= 0):
                raise InvalidInput(f"the boost of {name} is {boost!r}; give a number >= 0")

    @property
    def given(self) -> dict[str, float]:
        """Field -> boost of the fields that count."""
        return {name: boost for name, boost in asdict(self).items() if boost}


@dataclass(frozen=True, slots=True)
class Tuning:
    """How an index answers keyword and hybrid searches where the request does not say otherwise.

    Attributes:
        fusion: of hybrid searches.
        boosts: of keyword and hybrid searches.
    """

    fusion: Fusion = field(default_factory=Fusion)
    boosts: FieldBoosts = field(default_factory=FieldBoosts)

    def __str__(self) -> str:
        return f"{self.fusion}{''.join(f', {name} ^{boost:g}' for name, boost in self.boosts.given.items())}"

    def save(self, folder: Path) -> Path:
        """Write it into a tower's folder, in one step."""
        return replace_file(folder / TUNING_FILE, seal_json({"tower_id": folder.name, **asdict(self)}, indent=2))

    @classmethod
    def load(cls, folder: Path) -> "Tuning":
        """Read what was tuned for the tower of a folder; equal weights and no boosts where nothing was.

        Raises:
            TowerError: the file is damaged, or another tower's.
        """
        path = folder / TUNING_FILE
        try:
            read = unseal_json(path.read_bytes())
            if (tower_id := read.get("tower_id", folder.name)) != folder.name:
                raise ValueError(f"it was tuned for tower {tower_id}")
            fusion = {**read["fusion"], "weights": tuple(read["fusion"]["weights"])}
            return cls(Fusion(**fusion), FieldBoosts(**read["boosts"]))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, InvalidInput) as error:
            told = shortage(path, error)
            message = told or f"{path} is damaged ({error!r}); delete it, or write it anew with `gavel tune hybrid`"
            raise TowerError(message) from error


def untuned(tower_id: str) -> Tuning:
    """What holds for a tower that nothing was tuned for."""
    return Tuning()
