"""Splits by query: a query stands in one split, whatever lots it is judged on, and so does every spelling of it."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from catalog.folder import TrainingPair
from catalog.pseudo_queries import fold, plural


def query_key(text: str) -> str:
    """What two queries are the same by: case, spaces and the plural of the last word do not count."""
    return plural(fold(text))


def order_by_chance(keys: Iterable[str], seed: int) -> list[str]:
    """Different keys in an order that depends on seed and keys alone, not on how they came."""
    return sorted(set(keys), key=lambda key: (share_of(key, seed), key))


def share_of(key: str, seed: int) -> float:
    """A number in [0, 1) that is always the same for a key and a seed, evenly spread over keys."""
    return int.from_bytes(hashlib.sha256(f"{seed}\x00{key}".encode()).digest()[:7]) / 256**7


def deal(keys: Iterable[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Give every key to one split, by shares that are kept to the nearest key.

    Args:
        keys: such as query_key() of every query.
        shares: split -> its share; they sum up to 1.
        seed: decides which keys go where.

    Returns:
        key -> split.
    """
    ordered = order_by_chance(keys, seed)
    dealt: dict[str, str] = {}
    upto = 0.0
    for split, share in shares.items():
        start, upto = round(upto * len(ordered)), upto + share
        dealt |= dict.fromkeys(ordered[start : round(upto * len(ordered))], split)
    return dealt


def without_held_back(pairs: Iterable[TrainingPair], held_back: Sequence[str]) -> list[TrainingPair]:
    """The pairs whose query is none of the held-back queries, in no spelling of theirs."""
    keys = {query_key(text) for text in held_back}
    return [pair for pair in pairs if query_key(pair.query) not in keys]
