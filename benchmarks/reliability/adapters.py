"""Compare the embedded index and OpenSearch on the same release and queries.

gavel demo && gavel up && GAVEL_INDEX=opensearch gavel index && python -m benchmarks.reliability.adapters
"""

from dataclasses import replace
from itertools import islice
from typing import Annotated

import numpy as np
import typer

from catalog.folder import CatalogFolder
from gavel.workspace.console import progress, show_table
from gavel.workspace.entry import run_command
from gavel.workspace.folders import Workspace
from gavel.workspace.wiring import load_encoder, open_store
from retrieval.config.settings import Settings
from retrieval.contracts.items import query_text
from retrieval.errors import InvalidInput
from retrieval.index.filters import Filter
from retrieval.index.port import VectorIndex

K = 50


def ids(index: VectorIndex, vector: np.ndarray, filters: Filter, *, exact: bool) -> list[str]:
    """Return the item ids of the K nearest items, best first."""
    return [candidate.item_id for candidate in index.semantic(vector, K, filters, exact=exact)]


def main(queries: Annotated[int, typer.Option(min=1, help="Number of the catalogue's queries to search for.")] = 200) -> None:
    """Print the number of exact answers with equal ids in equal order, and the overlap of the HNSW answers."""
    settings = Settings.from_env()
    faiss, opensearch = (open_store(replace(settings, index=kind)).live() for kind in ("faiss", "opensearch"))
    if faiss.tower_id != opensearch.tower_id:
        raise InvalidInput(
            f"the live indexes are of towers {faiss.tower_id} and {opensearch.tower_id}; index one release into both"
        )
    catalog = CatalogFolder.load(Workspace(settings).catalog(None))
    texts = list(islice((text for split in ("test", "val") for text in catalog.qrels(split).queries.values()), queries))
    vectors = load_encoder(settings, faiss.tower_id).encode([query_text(text) for text in texts])  # (N, D)
    filters, equal, overlaps = Filter(), 0, []
    with progress("queries") as step:
        for done, vector in enumerate(vectors, 1):
            equal += ids(faiss, vector, filters, exact=True) == ids(opensearch, vector, filters, exact=True)
            hnsw_ids = [set(ids(index, vector, filters, exact=False)) for index in (faiss, opensearch)]
            overlaps.append(len(hnsw_ids[0] & hnsw_ids[1]) / max(1, len(hnsw_ids[0])))
            step(done, len(vectors))
    rows = [
        ("exact search: answers equal in ids and order", f"{equal} of {len(vectors)}"),
        (f"HNSW: overlap at k = {K}, mean", f"{np.mean(overlaps):.4f}"),
        (f"HNSW: overlap at k = {K}, least", f"{np.min(overlaps):.4f}"),
    ]
    show_table(f"FAISS and OpenSearch, {faiss.count()} lots, tower {faiss.tower_id}", ("", ""), rows)


if __name__ == "__main__":
    run_command(lambda: typer.run(main), "benchmarks.reliability.adapters")
