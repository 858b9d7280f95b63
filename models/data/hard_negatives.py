"""Hard negatives on disk: the wrong items that a tower ranked highest, for each training query."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retrieval.errors import InvalidInput
from retrieval.files import reason_of, replacing

METADATA_KEY = b"gavel.negatives"
REMEDY = "mine it again with `gavel mine`"
ROWS_A_GROUP = 100_000  # rows per write and read

_SCHEMA = pa.schema({"query": pa.string(), "item_id": pa.string(), "rank": pa.int32(), "score": pa.float64()})


@dataclass(frozen=True)
class HardNegatives:
    """The hard negatives of a catalogue's training queries, with the settings and counts of the mining.

    Attributes:
        by_query: cleaned query text (retrieval.contracts.items.query_text) -> item ids, the highest score first; queries without
            negatives are left out.
        scores: cleaned query text -> cosines of the query and its negatives, in [-1, 1], in the order of by_query.
        settings: everything that decides the result: tower_id, index, the catalogue's hash, rules, counts.
        stats: counts of the mining, such as items left out by reason.
    """

    by_query: dict[str, list[str]]
    scores: dict[str, list[float]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    stats: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "HardNegatives":
        """Read a file that save() wrote.

        Raises:
            InvalidInput: the file is missing, damaged, or no file of negatives.
        """
        by_query: dict[str, list[str]] = {}
        scores: dict[str, list[float]] = {}
        interned: dict[str, str] = {}  # one string per id, which may be a negative of many queries
        try:
            with pq.ParquetFile(path) as file:
                notes = _notes(file)
                for batch in file.iter_batches(ROWS_A_GROUP):
                    columns = (batch.column(name).to_pylist() for name in ("query", "item_id", "score"))
                    for query, item_id, score in zip(*columns, strict=True):
                        by_query.setdefault(query, []).append(interned.setdefault(item_id, item_id))
                        scores.setdefault(query, []).append(score)
        except FileNotFoundError:
            raise InvalidInput(f"there is no file of negatives at {path}; {REMEDY}") from None
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise InvalidInput(f"{path} is not a file of negatives ({reason_of(error)}); {REMEDY}") from error
        return cls(by_query, scores, notes["settings"], notes["stats"])

    @classmethod
    def settings_of(cls, path: Path) -> Mapping[str, Any] | None:
        """Return the settings of a file without reading its rows; None if there is no usable file."""
        try:
            with pq.ParquetFile(path) as file:
                settings: Mapping[str, Any] = _notes(file)["settings"]
                return settings
        except (OSError, KeyError, ValueError, pa.ArrowException):
            return None

    def save(self, path: Path) -> None:
        """Write a parquet file with columns query, item_id, rank (from 1) and score; settings and stats are its metadata.

        The write is atomic and replaces an existing file.
        """
        notes = json.dumps({"settings": dict(self.settings), "stats": dict(self.stats)}).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        schema = _SCHEMA.with_metadata({METADATA_KEY: notes})
        with replacing(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for rows in self._row_groups():
                writer.write_table(pa.Table.from_pydict(rows, schema=writer.schema))

    def _row_groups(self) -> Iterator[dict[str, list[Any]]]:
        """Yield the columns of the file, for some queries at a time."""
        rows: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
        for query, item_ids in self.by_query.items():
            rows["query"] += [query] * len(item_ids)
            rows["item_id"] += item_ids
            rows["rank"] += range(1, len(item_ids) + 1)
            rows["score"] += self.scores.get(query) or [None] * len(item_ids)
            if len(rows["query"]) >= ROWS_A_GROUP:
                yield rows
                rows = {name: [] for name in _SCHEMA.names}
        yield rows


def _notes(file: pq.ParquetFile) -> dict[str, Any]:
    notes = json.loads((file.schema_arrow.metadata or {})[METADATA_KEY])
    if not isinstance(notes, dict) or not {"settings", "stats"} <= notes.keys():
        raise ValueError("its metadata lacks settings or stats")
    return notes
