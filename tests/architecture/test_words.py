"""Names in the code use the field's words: participles and private terms do not come back."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("retrieval", "catalog", "models", "processing", "lambdas", "infra", "gavel", "benchmarks")
WORDS = {
    "absorb": "merge",
    "act": "interaction",
    "acts": "interactions",
    "admission": "filters",
    "admits": "matches",
    "asked": "request, n_queries or requested",
    "bury": "delete",
    "contender": "candidate",
    "dead": "deleted",
    "delta": "buffer",
    "drawn": "sample",
    "eyes": "has_image_encoder",
    "figures": "metrics",
    "found": "items, results or top_k",
    "gone": "deleted",
    "judge": "selection_metric",
    "kept": "stored",
    "ledger": "step_cache",
    "made": "report, or the name of what was built",
    "outgrown": "needs_retraining",
    "overdue": "merge_due",
    "renewal": "rebuild",
    "renewed": "rebuilt",
    "said": "message",
    "seen": "observed, or the name of what was read",
    "shelf": "files",
    "standing": "result",
    "survey": "scan_inputs",
    "told": "message",
    "tombstone": "deletion",
    "tombstones": "deletions",
    "wanted": "target",
    "way": "retrieval_mode or system",
    "ways": "retrieval_modes or systems",
    "worn": "needs_rebuild",
}
ELSEWHERE = {  # names of the standard library, of other packages, of AWS and of HTTP
    "ArrivalsDeadLetters",
    "StatesDeadLetters",
    "DeadLetterQueue",
    "FileNotFoundError",
    "ModuleNotFoundError",
    "NOT_FOUND",
    "NotFoundError",
    "PackageNotFoundError",
    "connection_made",
    "dead_letter_queue",
    "dead_letters",
    "dead_timeout",
    "mark_process_dead",
    "not_found",
    "timedelta",
}
PUBLISHED = {  # keys of JSON that others read, and of files that older versions wrote
    ("gavel/cli/train_buyers.py", "acts"),
    ("gavel/cost/bill.py", "seen"),
    ("gavel/cost/price_table.py", "seen"),
    ("lambdas/query_api/answers.py", "acts"),
    ("lambdas/query_api/buyers.py", "acts"),
    ("models/config/training.py", "judge"),
    ("processing/training/buyers.py", "acts"),
    ("retrieval/index/ann/storage.py", "told"),
    ("retrieval/index/ann/vector_index.py", "told"),
}


def old_words(source: str) -> Iterator[tuple[str, str]]:
    """Yield each name in `source` that contains an old word, and the word."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and token.string not in ELSEWHERE:
            for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", token.string):
                if part.lower() in WORDS:
                    yield token.string, part.lower()


@pytest.mark.parametrize("room", ROOMS)
def test_no_name_contains_an_old_word(room: str) -> None:
    modules = sorted((ROOT / room).rglob("*.py"))
    assert modules
    faults = {
        f"{file}: {name} contains {word!r}; say {WORDS[word]}"
        for file, source in ((str(module.relative_to(ROOT)), module.read_text()) for module in modules)
        for name, word in old_words(source)
        if (file, name) not in PUBLISHED
    }
    assert not faults, "\n".join(sorted(faults))


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("n_found = 3", ["n_found"]),
        ("class DeadRows: pass", ["DeadRows"]),
        ("_kept_days = made = 1", ["_kept_days", "made"]),
        ("raise FileNotFoundError('found and kept')  # made", []),
        ("playback = always + actual + foundation", []),
    ],
)
def test_only_whole_words_of_names_count(source: str, names: list[str]) -> None:
    assert [name for name, _ in old_words(source)] == names
