"""`gavel towers …` and `gavel encode`: look at a tower and at the vectors that it makes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.markup import escape

from gavel.workspace.console import console, show_table, show_values
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, QueryTower, print_json
from retrieval.config.settings import Settings

EXAMPLES = ("gold ring", "gold necklace", "engine oil")
SHOWN_NUMBERS = 6

towers_app = typer.Typer(no_args_is_help=True, help="Look at towers.")


@towers_app.command()
def show(
    tower: Annotated[str | None, typer.Argument(help="tower_id; the newest tower by default.")] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", help="An example; give several. Without it three short titles are encoded.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a tower's inputs and outputs, and encode examples with the query and the item tower: shapes, norms, cosines."""
    from gavel.workspace.wiring import find_tower, load_encoder
    from models.artefacts.item_encoder import ItemEncoder
    from retrieval.contracts.items import query_text

    settings, texts = Settings.from_env(), [query_text(given) for given in text or EXAMPLES]
    tower_id = tower or Workspace(settings).tower(None).name
    folder = find_tower(settings, tower_id)
    items = ItemEncoder.load(folder)
    card = items.card
    vectors = {
        "query": load_encoder(settings, tower_id).encode(texts),
        "item": items.encode(texts, [None] * len(texts)),
    }
    values: dict[str, Any] = {
        "tower_id": tower_id,
        "preset": card.preset,
        "dimensions": list(card.served),
        "max_tokens": card.max_length,
        "photo": [card.image_size, card.image_size, 3] if card.image_size else None,
        "files": {name: (folder / name).stat().st_size for name in card.files if (folder / name).is_file()},
        "examples": texts,
        "towers": {name: _describe(encoded) for name, encoded in vectors.items()},
        "query_to_item": _cosines(vectors["query"], vectors["item"]),
    }
    print_json(values) if as_json else _show(values)


def encode(
    query: Annotated[str, typer.Argument(help="Text of the query.")],
    tower: Annotated[str, typer.Option(help="tower_id; by default the tower of the live index.")] = "",
    query_tower: QueryTower = None,
    as_json: Json = False,
) -> None:
    """Print the vector of a query, as `POST /encode_query` answers it."""
    from gavel.workspace.wiring import load_encoder, search_service
    from retrieval.search.request import check_query

    settings = Settings.from_env()
    settings = replace(settings, query_tower=query_tower or settings.query_tower)
    if tower:
        check_query(query)
        encoder = load_encoder(settings, tower)
        vector, tower_id = encoder.encode([query])[0], encoder.tower_id
    else:
        vector, tower_id = search_service(settings).encode_query(query)
    if as_json:
        print_json({"query_embedding": vector.tolist(), "dimension": len(vector), "tower_id": tower_id})
        return
    show_values(
        {
            "query": query,
            "tower_id": tower_id,
            "dimension": len(vector),
            "norm": f"{np.linalg.norm(vector):.6f}",
            "vector": _head(vector),
        }
    )


def _describe(vectors: NDArray[np.float32]) -> dict[str, Any]:
    """Return shape, type, norms, first numbers and cosines of the (N, D) vectors of N examples."""
    return {
        "shape": list(vectors.shape),
        "dtype": str(vectors.dtype),
        "norms": [round(float(norm), 6) for norm in np.linalg.norm(vectors, axis=1)],
        "first_numbers": [[round(float(number), 4) for number in vector[:SHOWN_NUMBERS]] for vector in vectors],
        "cosines": _cosines(vectors, vectors),
    }


def _cosines(rows: NDArray[np.float32], columns: NDArray[np.float32]) -> list[list[float]]:
    return [[round(float(cosine), 4) for cosine in row] for row in rows @ columns.T]  # (N, D) @ (D, N) -> (N, N)


def _head(numbers: Sequence[float] | NDArray[np.float32]) -> str:
    return ", ".join(f"{number:.4f}" for number in numbers[:SHOWN_NUMBERS]) + (", …" if len(numbers) > SHOWN_NUMBERS else "")


def _show(values: dict[str, Any]) -> None:
    photo = "none" if values["photo"] is None else " x ".join(map(str, values["photo"]))
    texts: list[str] = values["examples"]
    show_values(
        {
            "tower": f"{values['tower_id']} ({values['preset']})",
            "query": f"text of at most {values['max_tokens']} tokens",
            "item": f"text of at most {values['max_tokens']} tokens, photo: {photo}",
            "vectors": ", ".join(map(str, values["dimensions"])) + " float32, unit length",
            "files": ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in values["files"].items()),
        }
    )
    for name, encoded in values["towers"].items():
        rows = [
            (escape(text), f"{norm:.4f}", _head([*numbers, 0.0]), *(f"{cosine:.3f}" for cosine in cosines))
            for text, norm, numbers, cosines in zip(
                texts, encoded["norms"], encoded["first_numbers"], encoded["cosines"], strict=True
            )
        ]
        title = f"{name} tower: {len(texts)} texts -> {tuple(encoded['shape'])} {encoded['dtype']}"
        show_table(title, ("example", "norm", "first numbers", *(f"cos {n + 1}" for n in range(len(texts)))), rows, right_from=1)
    rows = [(escape(text), *(f"{c:.3f}" for c in cosines)) for text, cosines in zip(texts, values["query_to_item"], strict=True)]
    show_table("query (row) to item (column)", ("query", *(f"item {n + 1}" for n in range(len(texts)))), rows)
    console.print("Items are encoded without photos here.", style="dim", highlight=False)
