"""Synthetic lots: random traits, a listing that mentions some of the traits, and price, bids and rating."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.random import Generator

from catalog.photos import COLOURS, CONDITIONS
from catalog.silhouettes import SILHOUETTES
from catalog.vocabulary import ERAS, KINDS, MAKERS, REMARKS, STYLES, WRITTEN, makers_of, wordings
from retrieval.contracts.items import Item

COLOUR_MENTIONED = 0.15  # share of sellers who mention the colour
NOUN_OMITTED = 0.10  # share of titles without the noun of the category
PLAIN_WORDING = 0.6  # share of traits that are written in their plain word
ENDED = 0.03
NEVER_ENDS = 0.15
UNRATED = 0.05
GOOD_RATING = 4.0


@dataclass(frozen=True)
class Lot:
    """A generated lot with its hidden traits.

    Attributes:
        item: the seller's listing.
        traits: trait -> value; "category" is one of the traits.
        live: True if the auction has not ended.
        attractive: True if the seller rating is >= 4 and the price is below the median price of the category.
        price_ratio: price divided by the median price of the category.
    """

    item: Item
    traits: dict[str, str]
    live: bool
    attractive: bool
    price_ratio: float


def draw_lots(count: int, rng: Generator, now: datetime) -> list[Lot]:
    """Draw lots with about equal numbers of every category.

    Args:
        count: number of lots, >= 1.
        rng: random generator.
        now: moment in UTC; about three lots in a hundred ended before this moment.
    """
    listings = []
    for number in range(count):
        traits = _traits(list(KINDS)[number % len(KINDS)], rng)
        listings.append((traits, _item(number, traits, rng, now)))
    medians = {category: _median_price(category, listings) for category in KINDS}
    return [_lot(traits, item, medians[traits["category"]], now) for traits, item in listings]


def _traits(category: str, rng: Generator) -> dict[str, str]:
    choices: dict[str, Sequence[str]] = {
        "maker": makers_of(category),
        "era": list(ERAS),
        "material": KINDS[category].materials,
        "style": list(STYLES),
        "colour": list(COLOURS),
        "shape": list(SILHOUETTES[category]),
    }
    traits = {"category": category} | {trait: str(rng.choice(values)) for trait, values in choices.items()}
    traits["condition"] = str(rng.choice(CONDITIONS, p=(0.5, 0.25, 0.25)))
    return traits


def _item(number: int, traits: dict[str, str], rng: Generator, now: datetime) -> Item:
    title, description = _listing(traits, rng)
    price = KINDS[traits["category"]].median_price * _worth(traits) * float(rng.lognormal(0, 0.45))
    rating = None if rng.random() < UNRATED else round(float(np.clip(5 - rng.exponential(0.9), 1, 5)), 1)
    listed_at = now - timedelta(hours=float(rng.uniform(1, 30 * 24)))
    ends_at: datetime | None = now + timedelta(hours=float(rng.uniform(30 * 24, 120 * 24)))
    draw = rng.random()
    if draw < ENDED:
        ends_at = now - timedelta(hours=float(rng.uniform(1, 72)))
        listed_at = ends_at - timedelta(days=float(rng.uniform(5, 20)))
    elif draw < ENDED + NEVER_ENDS:
        ends_at = None
    return Item(
        item_id=f"lot-{number:05}",
        title=title,
        description=description,
        image=f"photos/lot-{number:05}.jpg",
        category=traits["category"],
        brand=traits["maker"],
        current_price=round(price, 2),
        bid_count=int(rng.poisson(4 * (rating or 3) / 4 * float(rng.lognormal(0, 0.6)))),
        seller_rating=rating,
        listed_at=_whole_seconds(listed_at),
        ends_at=ends_at and _whole_seconds(ends_at),
        updated_at=_whole_seconds(listed_at + timedelta(minutes=float(rng.uniform(0, 55)))),
    )


def _listing(traits: dict[str, str], rng: Generator) -> tuple[str, str]:
    """Return title and description. Each trait of WRITTEN is in one of the two; sometimes the description names the colour."""
    noun = str(rng.choice(KINDS[traits["category"]].nouns))
    wording = {trait: word(trait, traits[trait], rng) for trait in WRITTEN}
    in_title = {trait for trait in wording if rng.random() < 0.55} or {"maker"}
    words = [wording[trait] for trait in ("era", "style", "material") if trait in in_title]
    ending = noun if rng.random() >= NOUN_OMITTED else ""
    title = " ".join([*words, ending]).strip()
    if "maker" in in_title:
        maker = wording["maker"]
        title = f"{title} by {maker}" if title and rng.random() < 0.5 else f"{maker} {title}".strip()
    sentences = [_sentence(trait, wording[trait], rng) for trait in wording if trait not in in_title]
    if rng.random() < COLOUR_MENTIONED:
        sentences.append(f"The colour is {word('colour', traits['colour'], rng)}.")
    sentences += [str(remark) for remark in rng.choice(REMARKS, size=rng.integers(0, 3), replace=False)]
    rng.shuffle(sentences)
    return title[0].upper() + title[1:], " ".join(sentences)


def _sentence(trait: str, wording: str, rng: Generator) -> str:
    patterns = {
        "maker": ("Made by {}.", "Signed {}.", "Studio mark of {}."),
        "era": ("Period: {}.", "I date it as {}.", "Sold to me as {}."),
        "material": ("Made with {}.", "Material: {}.", "Lovely {} work."),
        "style": ("Very {} look.", "In a {} taste.", "Style: {}."),
    }[trait]
    return str(rng.choice(patterns)).format(wording)


def word(trait: str, value: str, rng: Generator) -> str:
    """Draw a wording of a trait's value, mostly the plain one."""
    plain, *others = wordings(trait, value)
    return plain if not others or rng.random() < PLAIN_WORDING else str(rng.choice(others))


def _worth(traits: dict[str, str]) -> float:
    style = {"luxury": 1.8, "art deco": 1.3, "baroque": 1.2}.get(traits["style"], 0.9)
    era = {"antique": 1.3, "vintage": 1.1}.get(traits["era"], 0.85)
    condition = {"scratched": 0.85, "cracked": 0.65}.get(traits["condition"], 1.1)
    return style * era * condition * (0.7 + 0.6 * MAKERS.index(traits["maker"]) / len(MAKERS))


def _median_price(category: str, listings: list[tuple[dict[str, str], Item]]) -> float:
    prices = [item.current_price for traits, item in listings if traits["category"] == category and item.current_price is not None]
    return float(np.median(prices)) if prices else KINDS[category].median_price


def _lot(traits: dict[str, str], item: Item, median: float, now: datetime) -> Lot:
    ratio = (item.current_price or 0.0) / median
    attractive = (item.seller_rating or 0.0) >= GOOD_RATING and ratio < 1
    return Lot(item, traits, item.ends_at is None or item.ends_at > now, attractive, ratio)


def _whole_seconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)
