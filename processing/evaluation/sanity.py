"""Sanity checks of a tower: texts that must be alike or not, and buyers who must be shown items of one group."""

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from retrieval.buyers.vector import AVERAGE, BuyerTower, buyer_vector
from retrieval.contracts.events import Interaction
from retrieval.contracts.items import EPOCH, item_text
from retrieval.errors import InvalidInput
from retrieval.index.port import Candidate

CHECKS_FILE = Path(__file__).with_name("sanity.toml")
YAML_SUFFIXES = (".yaml", ".yml")
EncodeTexts = Callable[[Sequence[str]], NDArray[np.float32]]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1)]
Cosine = Annotated[float, Field(ge=-1, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PairCheck(_Strict):
    """A bound for the cosine of two queries; every text of `first` is compared with every text of `second`."""

    about: Text
    first: Texts
    second: Texts
    above: Cosine | None = None
    below: Cosine | None = None

    @model_validator(mode="after")
    def check_bounds(self) -> Self:
        """Check that there is a bound."""
        if self.above is None and self.below is None:
            raise ValueError("give above, below or both")
        return self

    def holds(self, cosine: float) -> bool:
        """True if a cosine is within the bounds."""
        return (self.above is None or cosine > self.above) and (self.below is None or cosine < self.below)

    @property
    def bounds(self) -> str:
        """The bounds in words."""
        return " and ".join(
            f"{name} {value:g}" for name, value in (("above", self.above), ("below", self.below)) if value is not None
        )


class BuyerCheck(_Strict):
    """A buyer of the items `bought`, whose `top` nearest other items must be of the group `expected`."""

    about: Text
    bought: Texts
    expected: Text
    top: Annotated[int, Field(ge=1)] = 5


class SanityChecks(_Strict):
    """A file of checks.

    Attributes:
        pairs: checks of two texts.
        buyers: checks of buyers.
        items: group -> titles of the items that buyers are shown.
    """

    pairs: list[PairCheck] = []
    buyers: list[BuyerCheck] = []
    items: dict[str, Texts] = {}

    @model_validator(mode="after")
    def check_groups(self) -> Self:
        """Check that there is something to check, and enough items for every buyer."""
        if not self.pairs and not self.buyers:
            raise ValueError("give at least one of [[pairs]] or [[buyers]]")
        for buyer in self.buyers:
            others = set(self.items.get(buyer.expected, [])) - set(buyer.bought)
            if len(others) < buyer.top:
                raise ValueError(
                    f"{buyer.about!r} expects {buyer.top} items of the group {buyer.expected!r}, and [items] has {len(others)} "
                    "that the buyer has not bought; add titles or lower top"
                )
        return self

    @classmethod
    def load(cls, path: Path = CHECKS_FILE) -> Self:
        """Read a file of checks, TOML or, by its suffix, YAML.

        Raises:
            InvalidInput: the file cannot be read, or has another form; the message names the place and the fault.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
            values = yaml.safe_load(text) if path.suffix.lower() in YAML_SUFFIXES else tomllib.loads(text)
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise InvalidInput(
                f"{path}: {place}: {first['msg'].removeprefix('Value error, ')}; {CHECKS_FILE} is an example"
            ) from error
        except OSError as error:
            raise InvalidInput(f"{path} cannot be read: {error.strerror}; name a file of checks in TOML or YAML") from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
            kind = "YAML" if path.suffix.lower() in YAML_SUFFIXES else "TOML"
            raise InvalidInput(f"{path} is no {kind}: {' '.join(str(error).split())}; {CHECKS_FILE} is an example") from error


@dataclass(frozen=True)
class SanityModel:
    """The model to check.

    Attributes:
        name: tower_id, or name of a sentence encoder.
        encode_queries: N queries -> (N, D) float32 of unit length.
        encode_items: N texts of items -> (N, D) float32 of unit length.
        buyer_tower: encoder of buyers.
    """

    name: str
    encode_queries: EncodeTexts
    encode_items: EncodeTexts
    buyer_tower: BuyerTower = AVERAGE


@dataclass(frozen=True, slots=True)
class SanityResult:
    """One check and its outcome.

    Attributes:
        kind: "pair" or "buyer".
        about: the check in words, from the file.
        request: the two texts, or the titles that the buyer bought.
        answer: the cosine, or the titles that came back, best first, each with its group.
        required: the bounds, or the group that all titles must have.
        holds: True if the answer is as required.
    """

    kind: Literal["pair", "buyer"]
    about: str
    request: Sequence[str]
    answer: float | Sequence[Mapping[str, str]]
    required: str
    holds: bool


def run_sanity_checks(checks: SanityChecks, model: SanityModel) -> list[SanityResult]:
    """Run all checks on a model, in the order of the file.

    Raises:
        TowerError: the model cannot encode.
    """
    return [*_check_pairs(checks, model), *_check_buyers(checks, model)]


def _check_pairs(checks: SanityChecks, model: SanityModel) -> Iterator[SanityResult]:
    texts = list(dict.fromkeys(text for pair in checks.pairs for text in (*pair.first, *pair.second)))
    vectors = dict(zip(texts, model.encode_queries(texts), strict=True)) if texts else {}
    for pair in checks.pairs:
        for first, second in product(pair.first, pair.second):
            cosine = round(float(vectors[first] @ vectors[second]), 4)
            yield SanityResult("pair", pair.about, [first, second], cosine, pair.bounds, pair.holds(cosine))


def _check_buyers(checks: SanityChecks, model: SanityModel) -> Iterator[SanityResult]:
    groups = {title: group for group, titles in checks.items.items() for title in titles}
    titles = list(dict.fromkeys([*groups, *(title for buyer in checks.buyers for title in buyer.bought)]))
    if not checks.buyers:
        return
    encoded = model.encode_items([item_text(title, "") for title in titles])  # (N, D)
    vectors: dict[str, Any] = dict(zip(titles, encoded, strict=True))

    def fetch(item_ids: Sequence[str]) -> list[Candidate]:
        return [Candidate(item_id, 0.0, {}, vectors[item_id]) for item_id in item_ids]

    for check in checks.buyers:
        purchases = [Interaction("buyer", title, "purchase", EPOCH) for title in check.bought]
        vector = buyer_vector(purchases, fetch, model.buyer_tower).vector
        others = [title for title in groups if title not in check.bought]
        nearest = sorted(others, key=lambda title: (-float(vectors[title] @ vector), title))[: check.top]
        answer = [{"title": title, "group": groups[title]} for title in nearest]
        holds = all(groups[title] == check.expected for title in nearest)
        yield SanityResult("buyer", check.about, check.bought, answer, f"{check.top} of {check.expected}", holds)
