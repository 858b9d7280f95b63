"""Assign queries to splits. All spellings of a query are in one split, whatever items they are judged on."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from catalog.folder import TrainingPair
from catalog.pseudo_queries import fold, plural


def query_key(text: str) -> str:
    """Return a key that all spellings of a query share: case, spaces and the plural of the last word do not count."""
    return plural(fold(text))


def shuffle_keys(keys: Iterable[str], seed: int) -> list[str]:
    """Return the distinct keys in a random order that depends on seed and keys only, not on their input order."""
    return sorted(set(keys), key=lambda key: (share_of(key, seed), key))


def share_of(key: str, seed: int) -> float:
    """Return a number in [0, 1) from a hash of seed and key; the numbers of many keys are uniform."""
    return int.from_bytes(hashlib.sha256(f"{seed}\x00{key}".encode()).digest()[:7]) / 256**7


def deal(keys: Iterable[str], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """Assign every key to one split, with fractions exact to the nearest key.

    Args:
        keys: keys to assign, such as query_key() of every query.
        fractions: split -> fraction of the keys; the fractions sum up to 1.
        seed: seed of the assignment.

    Returns:
        key -> split.
    """
    ordered = shuffle_keys(keys, seed)
    split_of: dict[str, str] = {}
    upto = 0.0
    for split, fraction in fractions.items():
        start, upto = round(upto * len(ordered)), upto + fraction
        split_of |= dict.fromkeys(ordered[start : round(upto * len(ordered))], split)
    return split_of


def without_held_out(pairs: Iterable[TrainingPair], held_out: Sequence[str]) -> list[TrainingPair]:
    """Return the pairs whose query is no spelling of a held-out query."""
    keys = {query_key(text) for text in held_out}
    return [pair for pair in pairs if query_key(pair.query) not in keys]
