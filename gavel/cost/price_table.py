"""prices.yaml: what AWS asks for each unit, and what is assumed about use; every number with where it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from retrieval.errors import GavelError, InvalidInput

PRICES = Path(__file__).with_name("prices.yaml")


class Unpriced(GavelError):
    """The table has no price for something that a template asks for."""


@dataclass(frozen=True, slots=True)
class Price:
    """One price, on demand, without free tiers and discounts.

    Attributes:
        name: such as "sqs.requests".
        usd: for one unit.
        unit: what is counted.
        source: where the price stands.
        seen: date at which it was seen there.
    """

    name: str
    usd: float
    unit: str
    source: str
    seen: str


@dataclass(frozen=True)
class PriceTable:
    """The table.

    Attributes:
        region: for which the prices are.
        prices: by name.
        free: resource type -> why it costs nothing by itself.
        assumed: section -> name -> what is assumed about use.
    """

    region: str
    prices: Mapping[str, Price]
    free: Mapping[str, str]
    assumed: Mapping[str, Mapping[str, Any]]

    def price(self, name: str) -> Price:
        """The price of that name.

        Raises:
            Unpriced: there is none.
        """
        if name not in self.prices:
            raise Unpriced(f"{PRICES.name} has no price {name!r}; add it with its source and date")
        return self.prices[name]

    def is_free(self, kind: str) -> bool:
        """Whether resources of a type cost nothing; an entry such as "Custom::*" stands for all that begin so."""
        return kind in self.free or f"{kind.partition('::')[0]}::*" in self.free

    def number(self, name: str) -> float:
        """An assumption of the section `numbers`."""
        return float(self.assumed["numbers"][name]["value"])

    def use_of(self, section: str, logical_id: str) -> Mapping[str, Any]:
        """What is assumed about a resource, by the beginning of its logical id; empty for one that is not named."""
        named = self.assumed[section]
        return next((named[prefix] for prefix in sorted(named, key=len, reverse=True) if logical_id.startswith(prefix)), {})


def load_prices(path: Path = PRICES) -> PriceTable:
    """Read the table.

    Raises:
        InvalidInput: the file is no such table.
    """
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
        sources = said["sources"]
        prices = {
            name: Price(name, float(p["usd"]), p["unit"], sources[p["source"]]["where"], str(sources[p["source"]]["seen"]))
            for name, p in said["prices"].items()
        }
        return PriceTable(said["region"], prices, said["free"], said["assumed"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"{path} is no table of prices ({error!r})") from error
