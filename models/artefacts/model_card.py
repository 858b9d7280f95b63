"""MODEL_CARD.md of a tower: purpose, training data, quality and limits (Mitchell et al., FAT* 2019).

Every number in the file comes from the tower card, the training record or an evaluation.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from models.artefacts.run_record import RECORD_FILE, cut_of
from retrieval.contracts.tower_card import TowerCard
from retrieval.errors import TowerError
from retrieval.files import reason_of, replace_file

MODEL_CARD_FILE = "MODEL_CARD.md"
EVALUATIONS_FILE = "evaluations.json"
SMALL_QUERY_RECORD_FILE = "query_tower_small.json"  # record of the small query tower, if there is one
STORED_FIELDS = ("catalog", "split", "queries", "moment", "release_id", "zero_shot", "baseline", "hardware")
MEASURES_SHOWN = ("recall@10", "recall@50", "ndcg@10", "mrr")
Json = Mapping[str, Any]


def write_model_card(folder: Path, evaluation: Json | None = None) -> Path:
    """Write MODEL_CARD.md into the folder of a tower.

    Args:
        folder: `towers/<tower_id>`; training.json is read if it exists.
        evaluation: result of Evaluation.to_dict(). It is stored in evaluations.json, in place of an earlier evaluation of the same
            catalogue and split. None uses only the stored evaluations.

    Returns:
        The path of the file.

    Raises:
        TowerError: the folder has no tower, or its training record or evaluations cannot be read.
    """
    card = TowerCard.load(folder)
    evaluations = _read(folder / EVALUATIONS_FILE)
    if evaluation is not None:
        evaluations[f"{evaluation['catalog']} {evaluation['split']}"] = _stored_evaluation(evaluation)
        replace_file(folder / EVALUATIONS_FILE, json.dumps(evaluations, indent=2, ensure_ascii=False) + "\n")
    path = folder / MODEL_CARD_FILE
    replace_file(path, model_card(card, _read(folder / RECORD_FILE), evaluations, _read(folder / SMALL_QUERY_RECORD_FILE)))
    return path


def model_card(card: TowerCard, record: Json, evaluations: Mapping[str, Json], small_query: Json | None = None) -> str:
    """Return the text of MODEL_CARD.md.

    Args:
        card: card of the tower.
        record: content of training.json; empty if the tower has none.
        evaluations: "<catalogue> <split>" -> evaluation.
        small_query: record of the small query tower; None or empty if the tower has none.
    """
    sections = [
        f"# Model card: tower `{card.tower_id}`",
        _purpose(card),
        "## Architecture\n\n" + _table(("", ""), _architecture(card)),
        "## Training data\n\n" + (_trained_on(record) if record else NO_RECORD),
        "## Training\n\n" + (_training(record) if record else NO_RECORD),
        *(["## What validation chose\n\n" + _choice(record["choice"])] if record.get("choice") else []),
        "## How good it is\n\n" + _metrics(record, evaluations),
        *(["## Small query tower\n\n" + _small_query(small_query)] if small_query else []),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in _limits(card, record, evaluations)),
    ]
    return "\n\n".join(sections) + "\n"


NO_RECORD = "Unknown: this tower came without a training record."


def _purpose(card: TowerCard) -> str:
    parts = [
        "text",
        *(["photo"] if card.image_size else []),
        *(["structured features"] if card.architecture.get("features") else []),
    ]
    reads = " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
    return (
        "## Intended use\n\n"
        f"An item tower ({reads} to {card.dimensions} numbers) and a query tower (text to {card.dimensions} numbers), both of unit "
        "length: the first stage of a search for auction lots, before keyword fusion and re-ranking. Not meant to decide anything "
        "about people, nor to tell whether a lot is genuine or lawful."
    )


def _architecture(card: TowerCard) -> Iterable[tuple[str, str]]:
    how = card.architecture
    text, image = how.get("text", {}), how.get("image", {})
    kind = text.get("config", {}).get("model_type", "")
    yield "preset", card.preset
    yield "text encoder", ", ".join(filter(None, (text.get("model") or kind, text.get("pooling") and f"{text['pooling']} pooling")))
    yield "one text encoder for both towers", "yes" if how.get("shared_text_encoder") else "no"
    yield "photo encoder", f"{image.get('name', '')}, {card.image_size} px" if card.image_size else "none"
    features = how.get("features") or {"categories": {}, "numbers": {}}
    categories = (f"{name} ({len(values):,} values)" for name, values in features["categories"].items())
    yield "structured features", ", ".join((*categories, *features["numbers"])) or "none"
    yield "hidden, vector", f"{how.get('hidden', '')}, {', '.join(map(str, card.served))}"
    yield "tokens read", str(card.max_length)


def _trained_on(record: Json) -> str:
    if record.get("weights"):
        return f"None of Gavel's: these are the vectors of {record['start_from']} as published."
    return _table(("", ""), _data(record))


def _data(record: Json) -> Iterable[tuple[str, str]]:
    data = record.get("data", {})
    yield "catalogue", str(data.get("catalog", "unknown"))
    yield "sha256 of its tables", f"`{data.get('sha256', 'unknown')}`"
    for name in ("lots", "photos", "queries", "pairs"):
        if name in data:
            yield name, f"{data[name]:,}"


def _training(record: Json) -> str:
    settings = {name: value for name, value in record.get("settings", {}).items() if not isinstance(value, Mapping | list)}
    hardware = ", ".join(f"{name} {_inline(value)}" for name, value in record.get("hardware", {}).items() if value)
    about = [
        ("stage", str(record.get("stage", ""))),
        ("went on from", str(record.get("start_from") or "nothing: these are its first weights")),
        ("started", str(record.get("started", ""))),
        ("took", f"{record.get('seconds', 0):,.0f} s, {_length(record)}"),
        ("numbers" if record.get("weights") else "trained numbers", f"{record.get('parameters', 0):,}"),
        ("hardware", hardware),
        ("gavel", f"{record.get('gavel', '')}, commit {record.get('git_commit') or 'unknown'}"),
    ]
    table = _table(("", ""), about)
    return f"{table}\n\nSettings:\n\n{_table(('', ''), [(n, f'`{v}`') for n, v in settings.items()])}" if settings else table


def _length(record: Json) -> str:
    if record.get("weights"):
        return "no training"
    length = f"{len(record['losses'])} steps" if "losses" in record else f"{len(record.get('history', ()))} epochs"
    return f"{length}{_cut(record)}"


def _cut(record: Json) -> str:
    steps = cut_of(record.get("steps"))
    return f", **cut by the clock after {steps[0]:,} of {steps[1]:,} steps**" if steps else ""


def _choice(choice: Json) -> str:
    lines = "\n".join(f"- {line}" for line in choice["lines"])
    rows = [
        (system, *(f"{values[name]:.3f}" for name in ("recall_at_10", "recall_at_50", "ndcg_at_10")))
        for system, values in choice["metrics"].items()
    ]
    return f"{lines}\n\n{_table(('val queries', 'Recall@10', 'Recall@50', 'nDCG@10'), rows)}" if rows else lines


def _metrics(record: Json, evaluations: Mapping[str, Json]) -> str:
    parts = []
    best = {name: value for name, value in record.get("best", {}).items() if isinstance(value, int | float)}
    if best:
        parts.append(
            f"Selected epoch, on the validation queries: {', '.join(f'{name} {value:.4g}' for name, value in best.items())}."
        )
    for name, evaluation in evaluations.items():
        against = f", zero-shot encoder `{evaluation['zero_shot']}`" if evaluation.get("zero_shot") else ""
        parts.append(f"### {name}\n\n{evaluation['queries']} queries, release `{evaluation['release_id']}`{against}.")
        parts.append(_table(("system", *MEASURES_SHOWN, "p95 ms"), _evaluation_rows(evaluation)))
        tests = [
            f"{system} against {evaluation['baseline']}, {measure}: {test['difference']:+.3f} "
            f"(95 % interval {test['low']:+.3f} to {test['high']:+.3f}, p {_p(test['p_value'])})"
            for system, by_measure in evaluation["comparisons"].items()
            for measure, test in by_measure.items()
        ]
        parts.append("\n".join(f"- {test}" for test in tests))
    return "\n\n".join(parts) or "Not measured yet; run `gavel evaluate`."


def _small_query(record: Json) -> str:
    full, small = record["quality"]["full"], record["quality"]["small"]
    rows = [(name, f"{full[name]:.3f}", f"{small[name]:.3f}") for name in full]
    return (
        f"Vectors of tokens and of {record['pairs']:,} pairs of tokens, {record['file_bytes'] / 1e6:.1f} MB, learnt from the full "
        f"query tower's vectors of {record['texts']:,} texts of the catalogue {record['data']['catalog']}; no judgment went in. By "
        f"vectors alone on the {record['split']} queries it finds {record['share']:.1%} of the full one's Recall@50:\n\n"
        + _table(("", "full", "small"), rows)
        + (f"\n\nIts training ended early{_cut(record)}." if _cut(record) else "")
        + "\n\nIt knows no order of words beyond neighbours, and of words outside that catalogue only what their pieces tell."
    )


def _evaluation_rows(evaluation: Json) -> Iterable[Sequence[str]]:
    for system, result in evaluation["results"].items():
        metrics = (f"{result['quality'][m]:.3f}" if m in result["quality"] else "–" for m in MEASURES_SHOWN)
        yield (system, *metrics, f"{result['latency']['p95_ms']:.1f}")


def _limits(card: TowerCard, record: Json, evaluations: Mapping[str, Json]) -> Iterable[str]:
    data = record.get("data", {})
    yield f"Of every text the first {card.max_length} tokens are read; the rest is cut."
    if not card.image_size:
        yield "It does not look at photos."
    elif data.get("lots"):
        yield f"{data.get('photos', 0):,} of the {data['lots']:,} lots that it learnt from had a photo."
    if data:
        yield (
            f"It learnt from {data.get('queries', 0):,} queries of one catalogue ({data.get('catalog')}); other wares, other words "
            "and other languages were not tried."
        )
    if data.get("catalog") == "synthetic":
        yield "That catalogue is synthetic: rendered photos, templated text. Its figures say nothing about real shops."
    if _cut(record):
        yield "Its training was cut by a time limit before its end; the same command again goes on with it and makes another tower."
    if not evaluations:
        yield "No evaluation on test queries stands behind it yet."
    yield "A query that it knows no word of is placed somewhere, not refused; keyword search beside it is the net."


def _stored_evaluation(evaluation: Json) -> dict[str, Any]:
    results = {
        system: {"quality": dict(result["quality"]), "latency": dict(result["latency"])}
        for system, result in evaluation["results"].items()
    }
    return {**{name: evaluation[name] for name in STORED_FIELDS}, "results": results, "comparisons": evaluation["comparisons"]}


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _inline(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("not an object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TowerError(f"{path} cannot be read ({reason_of(error)}); remove it and evaluate or train again") from error
    return values


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
