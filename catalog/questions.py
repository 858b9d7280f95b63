"""Synthetic queries in buyers' words, with the grades of all lots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from catalog.folder import Qrels, TrainingPair
from catalog.lots import Lot, word
from catalog.vocabulary import KINDS

Wish = tuple[tuple[str, str], ...]  # (trait, value) pairs of a query, "category" first

# traits that a query combines with the category -> relative frequency
TRAIT_WEIGHTS: Mapping[tuple[str, ...], float] = {
    ("colour",): 2.5,
    ("shape",): 1.5,
    ("condition",): 1.0,
    ("colour", "shape"): 3.0,
    ("colour", "condition"): 2.0,
    ("shape", "condition"): 1.5,
    ("colour", "shape", "condition"): 0.7,
    ("colour", "style"): 2.0,
    ("colour", "era"): 2.0,
    ("colour", "material"): 2.0,
    ("colour", "maker"): 1.5,
    ("shape", "material"): 1.5,
    ("shape", "maker"): 1.0,
    ("shape", "style"): 1.0,
    ("condition", "maker"): 0.7,
    ("condition", "era"): 0.7,
    ("era", "style"): 1.5,
    ("style",): 0.7,
    ("material", "style"): 1.0,
    ("maker", "material"): 0.5,
}
PAIRS_PER_QUERY = 24
ATTRACTIVE_WEIGHT = 1.5
ORDER = ("condition", "era", "style", "colour", "shape", "material")  # order of the adjectives before the noun


@dataclass(frozen=True)
class Question:
    """A query with its grades.

    Attributes:
        text: query as typed.
        grades: item_id -> grade. 1: at least half of the traits match. 2: all match. 3: all match, and the lot is attractive. Other
            lots have grade 0.
    """

    text: str
    grades: dict[str, int]


def draw_questions(lots: Sequence[Lot], counts: Mapping[str, int], rng: Generator) -> dict[str, list[Question]]:
    """Draw queries for every split. No two have the same combination of traits, except bare nouns, which train gets in addition.

    Args:
        lots: the corpus; ended lots are never an answer.
        counts: split -> number of queries; a small corpus yields proportionally fewer.
        rng: random generator.

    Returns:
        Split -> queries, each with at least one full match.
    """
    live = [lot for lot in lots if lot.live]
    by_category = {category: [lot for lot in live if lot.traits["category"] == category] for category in KINDS}
    wishes = _draw_wishes(live, sum(counts.values()), rng)
    share = len(wishes) / sum(counts.values())
    questions: dict[str, list[Question]] = {}
    for split in sorted(counts, key=lambda name: name == "train"):  # train last: it gets the remainder of the rounding
        size = len(wishes) if split == "train" else max(1, int(counts[split] * share))
        part, wishes = wishes[:size], wishes[size:]
        questions[split] = [Question(phrase(wish, rng), _grades(wish, by_category[wish[0][1]])) for wish in part]
    if "train" in questions:  # the bare nouns, so that every category is also trained without other traits
        bare = [((("category", category),), noun) for category in KINDS for noun in _nouns(category) if by_category[category]]
        questions["train"] += [Question(noun, _grades(wish, by_category[wish[0][1]])) for wish, noun in bare]
    return questions


def _draw_wishes(lots: Sequence[Lot], count: int, rng: Generator) -> list[Wish]:
    """Draw distinct wishes that at least one lot matches. Wishes with more matches are more likely, up to three matches."""
    chances: dict[Wish, float] = {}
    for traits, weight in TRAIT_WEIGHTS.items():
        matches: dict[Wish, int] = {}
        for lot in lots:
            wish = tuple((trait, lot.traits[trait]) for trait in ("category", *traits))
            matches[wish] = matches.get(wish, 0) + 1
        total = sum(min(n, 3) for n in matches.values())
        chances |= {wish: weight * min(n, 3) / total for wish, n in matches.items()}
    if not chances:
        return []
    wishes, weights = list(chances), np.array(list(chances.values()))
    rows = rng.choice(len(wishes), size=min(count, len(wishes)), replace=False, p=weights / weights.sum())
    return [wishes[i] for i in rows]


def phrase(wish: Wish, rng: Generator) -> str:
    """Phrase a wish by one of several templates."""
    wording = {trait: word(trait, value, rng) for trait, value in wish[1:]}
    tail = [wording.pop("condition")] if wording.get("condition", "").startswith("with ") else []
    maker = wording.pop("maker", None)
    if maker and rng.random() < 0.5:
        tail.insert(0, f"by {maker}")
        maker = None
    adjectives = [*([maker] if maker else []), *(wording[trait] for trait in ORDER if trait in wording)]
    kind = KINDS[dict(wish)["category"]]
    plural = rng.random() < 0.4
    nouns = kind.plurals if plural else kind.nouns
    noun = nouns[0] if rng.random() < 0.75 else str(rng.choice(nouns))
    match rng.integers(4):
        case 0 if adjectives:
            return " ".join([noun, *tail, *adjectives])
        case 1 if not plural:
            words = " ".join([*adjectives, noun, *tail])
            return f"{'an' if words[0].lower() in 'aeiou' else 'a'} {words}"
        case _:
            return " ".join([*adjectives, noun, *tail])


def _nouns(category: str) -> tuple[str, ...]:
    return (*KINDS[category].nouns, *KINDS[category].plurals)


def _grades(wish: Wish, candidates: Sequence[Lot]) -> dict[str, int]:
    grades: dict[str, int] = {}
    for lot in candidates:
        matches = sum(lot.traits[trait] == value for trait, value in wish)
        if matches == len(wish):
            grades[lot.item.item_id] = 3 if lot.attractive else 2
        elif 2 * matches >= len(wish):
            grades[lot.item.item_id] = 1
    return grades


def qrels_of(questions: Sequence[Question], split: str) -> Qrels:
    """Return the judgments of a split's queries under ids such as "test-0007"."""
    ids = [f"{split}-{number:04}" for number in range(len(questions))]
    return Qrels(
        {query_id: question.text for query_id, question in zip(ids, questions, strict=True)},
        {query_id: question.grades for query_id, question in zip(ids, questions, strict=True)},
    )


def pairs_of(questions: Sequence[Question], rng: Generator) -> list[TrainingPair]:
    """Pair every query with its full matches, or with a sample of 24 if there are more; attractive lots weigh more."""
    pairs = []
    for question in questions:
        full = [item_id for item_id, grade in question.grades.items() if grade >= 2]
        for i in rng.permutation(len(full))[:PAIRS_PER_QUERY]:
            weight = ATTRACTIVE_WEIGHT if question.grades[full[i]] == 3 else 1.0
            pairs.append(TrainingPair(question.text, full[i], weight))
    return pairs
