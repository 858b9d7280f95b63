"""Count a catalogue's rows from its tables without building records."""

from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog.folder import REJECTS_FILE, TRAINING_FOLDER, CatalogFolder


def summarise(catalog: CatalogFolder) -> dict[str, Any]:
    """Count items and rejects, and for each split judged queries, judgments, pairs and impressions.

    Returns:
        "items" -> number, "rejects" -> number, "splits" -> split -> "queries", "judgments", "pairs" and "clicks" -> number.
    """
    rejects = catalog.path / REJECTS_FILE
    return {
        "items": sum(pq.read_metadata(path).num_rows for path in catalog.item_files()),
        "rejects": len(rejects.read_text(encoding="utf-8").splitlines()) if rejects.is_file() else 0,
        "splits": {split: _counts(catalog, split) for split in catalog.splits},
    }


def _counts(catalog: CatalogFolder, split: str) -> dict[str, int]:
    qrels = _column(catalog, "qrels", "query_id", split)
    counts = {"queries": pc.count_distinct(qrels).as_py(), "judgments": len(qrels)}
    return counts | {table: len(_column(catalog, table, "query", split)) for table in ("pairs", "clicks")}


def _column(catalog: CatalogFolder, table: str, column: str, split: str) -> Any:
    path = catalog.path / TRAINING_FOLDER / f"{table}.parquet"
    return pq.read_table(path, columns=[column], filters=[("split", "=", split)])[column]
