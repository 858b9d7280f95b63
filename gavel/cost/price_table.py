"""Read prices.yaml: AWS's unit prices and assumptions about use, each with its source."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from retrieval.errors import GavelError, InvalidInput
from retrieval.files import reason_of

PRICES = Path(__file__).with_name("prices.yaml")


class Unpriced(GavelError):
    """The table has no price for a resource of a template."""


@dataclass(frozen=True, slots=True)
class Price:
    """One price, on demand, without free tiers and discounts.

    Attributes:
        name: name of the price, such as "sqs.requests".
        usd: dollars per unit.
        unit: unit of the quantity.
        source: web page that states the price.
        seen: date on which the price was read there.
    """

    name: str
    usd: float
    unit: str
    source: str
    seen: str


@dataclass(frozen=True)
class PriceTable:
    """Prices and assumptions.

    Attributes:
        region: AWS region of the prices.
        prices: name -> price.
        free: resource type -> reason why it costs nothing by itself.
        assumed: section -> name -> assumption about use.
    """

    region: str
    prices: Mapping[str, Price]
    free: Mapping[str, str]
    assumed: Mapping[str, Mapping[str, Any]]

    def price(self, name: str) -> Price:
        """Return a price by name.

        Raises:
            Unpriced: the table has no price of this name.
        """
        if name not in self.prices:
            raise Unpriced(f"{PRICES.name} has no price {name!r}; add it with its source and date")
        return self.prices[name]

    def is_free(self, kind: str) -> bool:
        """True if resources of a type cost nothing. An entry such as "Custom::*" covers all types with the prefix "Custom::"."""
        return kind in self.free or f"{kind.partition('::')[0]}::*" in self.free

    def number(self, name: str) -> float:
        """Return an assumption of the section `numbers`."""
        return float(self.assumed["numbers"][name]["value"])

    def use_of(self, section: str, logical_id: str) -> Mapping[str, Any]:
        """Return the assumptions with the longest name that begins the logical id; empty if there are none."""
        uses = self.assumed[section]
        return next((uses[prefix] for prefix in sorted(uses, key=len, reverse=True) if logical_id.startswith(prefix)), {})


def load_prices(path: Path = PRICES) -> PriceTable:
    """Read the price table.

    Raises:
        InvalidInput: the file is not a price table.
    """
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
        sources = table["sources"]
        prices = {
            name: Price(name, float(p["usd"]), p["unit"], sources[p["source"]]["where"], str(sources[p["source"]]["seen"]))
            for name, p in table["prices"].items()
        }
        return PriceTable(table["region"], prices, table["free"], table["assumed"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"{path} is no table of prices ({reason_of(error)})") from error
