"""Hard negatives on disk."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.data.hard_negatives import HardNegatives
from retrieval.errors import InvalidInput

MINED = HardNegatives(
    {"red vase": ["a", "b"], "ring": ["b"]}, {"red vase": [0.75, 0.5], "ring": [0.25]}, {"tower_id": "t"}, {"queries": 3}
)


def test_what_was_saved_comes_back_with_its_settings(tmp_path: Path) -> None:
    MINED.save(tmp_path / "new" / "n.parquet")
    assert HardNegatives.load(tmp_path / "new" / "n.parquet") == MINED
    assert HardNegatives.settings_of(tmp_path / "new" / "n.parquet") == {"tower_id": "t"}
    rows = pq.read_table(tmp_path / "new" / "n.parquet").to_pylist()
    assert rows[1] == {"query": "red vase", "item_id": "b", "rank": 2, "score": 0.5}


def test_no_negatives_are_a_file_too(tmp_path: Path) -> None:
    HardNegatives({}).save(tmp_path / "n.parquet")
    assert HardNegatives.load(tmp_path / "n.parquet").by_query == {}


def test_more_rows_than_a_group_come_back_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.data.hard_negatives.ROWS_A_GROUP", 4)
    many = HardNegatives({f"q{n}": ["a", "b", "c"] for n in range(9)}, {f"q{n}": [0.5, 0.25, 0.0] for n in range(9)})
    many.save(tmp_path / "n.parquet")
    assert HardNegatives.load(tmp_path / "n.parquet") == many


def test_an_interrupted_save_keeps_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MINED.save(tmp_path / "n.parquet")

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", interrupt)
    with pytest.raises(KeyboardInterrupt):
        HardNegatives({"other": ["x"]}, {"other": [0.1]}).save(tmp_path / "n.parquet")
    assert HardNegatives.load(tmp_path / "n.parquet") == MINED
    assert [path.name for path in tmp_path.iterdir()] == ["n.parquet"]


@pytest.mark.parametrize("content", [b"", b"PAR1 but not really", None, "another table"])
def test_what_is_no_file_of_negatives_is_refused_with_the_way_out(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "n.parquet"
    if isinstance(content, str):
        pq.write_table(pa.table({"query": [content]}), path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInput, match="gavel mine"):
        HardNegatives.load(path)
    assert HardNegatives.settings_of(path) is None
