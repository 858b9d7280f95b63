"""Synthetic queries with their judgments: what buyers ask for, in their words, and which lots answer it how well."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from catalog.folder import Qrels, TrainingPair
from catalog.lots import Lot, word
from catalog.vocabulary import KINDS

Wish = tuple[tuple[str, str], ...]  # (trait, value) pairs, "category" first: what a query asks for

# which traits buyers ask for together with the category, and how often
ASKED: Mapping[tuple[str, ...], float] = {
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
ORDER = ("condition", "era", "style", "colour", "shape", "material")  # of adjectives before the noun


@dataclass(frozen=True)
class Question:
    """A query and the judgments that it gets.

    Attributes:
        text: what the buyer types.
        grades: item_id -> 1 (at least half of what was asked), 2 (all), 3 (all, and attractive); others are 0.
    """

    text: str
    grades: dict[str, int]


def draw_questions(lots: Sequence[Lot], counts: Mapping[str, int], rng: Generator) -> dict[str, list[Question]]:
    """Draw queries for every split; no two queries, of whatever splits, ask for the same combination of traits.

    Args:
        lots: the corpus; ended lots are never an answer.
        counts: split -> queries wanted; a small corpus yields proportionally fewer.
        rng: source of chance.

    Returns:
        Split -> its queries, each with at least one lot that matches in full.
    """
    live = [lot for lot in lots if lot.live]
    by_category = {category: [lot for lot in live if lot.traits["category"] == category] for category in KINDS}
    wishes = _draw_wishes(live, sum(counts.values()), rng)
    share = len(wishes) / sum(counts.values())
    questions: dict[str, list[Question]] = {}
    for split in sorted(counts, key=lambda name: name == "train"):  # train last: it takes what the rounding leaves
        size = len(wishes) if split == "train" else max(1, int(counts[split] * share))
        taken, wishes = wishes[:size], wishes[size:]
        questions[split] = [Question(phrase(wish, rng), _grades(wish, by_category[wish[0][1]])) for wish in taken]
    if "train" in questions:  # the bare words, so that every category is known on its own
        bare = [((("category", category),), noun) for category in KINDS for noun in _nouns(category) if by_category[category]]
        questions["train"] += [Question(noun, _grades(wish, by_category[wish[0][1]])) for wish, noun in bare]
    return questions


def _draw_wishes(lots: Sequence[Lot], count: int, rng: Generator) -> list[Wish]:
    """Draw different wishes that at least one lot fulfils; those that several fulfil come more often."""
    chances: dict[Wish, float] = {}
    for traits, weight in ASKED.items():
        matches: dict[Wish, int] = {}
        for lot in lots:
            wish = tuple((trait, lot.traits[trait]) for trait in ("category", *traits))
            matches[wish] = matches.get(wish, 0) + 1
        total = sum(min(n, 3) for n in matches.values())
        chances |= {wish: weight * min(n, 3) / total for wish, n in matches.items()}
    if not chances:
        return []
    wishes, weights = list(chances), np.array(list(chances.values()))
    chosen = rng.choice(len(wishes), size=min(count, len(wishes)), replace=False, p=weights / weights.sum())
    return [wishes[i] for i in chosen]


def phrase(wish: Wish, rng: Generator) -> str:
    """Word a wish as one of several buyers would."""
    asked = dict(wish)
    told = {trait: word(trait, value, rng) for trait, value in wish[1:]}
    tail = [told.pop("condition")] if told.get("condition", "").startswith("with ") else []
    maker = told.pop("maker", None)
    if maker and rng.random() < 0.5:
        tail.insert(0, f"by {maker}")
        maker = None
    adjectives = [*([maker] if maker else []), *(told[trait] for trait in ORDER if trait in told)]
    kind = KINDS[asked["category"]]
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
        met = sum(lot.traits[trait] == value for trait, value in wish)
        if met == len(wish):
            grades[lot.item.item_id] = 3 if lot.attractive else 2
        elif 2 * met >= len(wish):
            grades[lot.item.item_id] = 1
    return grades


def qrels_of(questions: Sequence[Question], split: str) -> Qrels:
    """The judgments of a split's queries under ids such as "test-0007"."""
    ids = [f"{split}-{number:04}" for number in range(len(questions))]
    return Qrels(
        {query_id: question.text for query_id, question in zip(ids, questions, strict=True)},
        {query_id: question.grades for query_id, question in zip(ids, questions, strict=True)},
    )


def pairs_of(questions: Sequence[Question], rng: Generator) -> list[TrainingPair]:
    """Pair every query with lots that match it in full, a sample where there are many; attractive lots weigh more."""
    pairs = []
    for question in questions:
        full = [item_id for item_id, grade in question.grades.items() if grade >= 2]
        for i in rng.permutation(len(full))[:PAIRS_PER_QUERY]:
            weight = ATTRACTIVE_WEIGHT if question.grades[full[i]] == 3 else 1.0
            pairs.append(TrainingPair(question.text, full[i], weight))
    return pairs
