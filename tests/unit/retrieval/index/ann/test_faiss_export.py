"""A release as plain files, read back by numpy, json and faiss alone."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest
from judged_lots import TITLES, write_release
from lots import WordEncoder
from typer.testing import CliRunner

from gavel.cli.main import app
from retrieval.config.index_spec import IndexSpec
from retrieval.contracts.items import Item, item_text, parse_time
from retrieval.contracts.parts import read_part
from retrieval.contracts.release import load_release
from retrieval.errors import InvalidInput, ReleaseError
from retrieval.index.ann.export import export_release
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.ingestion import index_release
from retrieval.search.service import SearchModels, SearchRequest, SearchService

LOTS = [Item(f"lot-{number}", title) for number, title in enumerate(TITLES)]
QUERIES = ("red vase", "old gold watch", "silver ring", "lamp")


@pytest.fixture
def release(tmp_path):
    return write_release(tmp_path / "home" / "embeddings" / "release-1", LOTS)


def ids_of(folder):
    return np.load(folder / "product_ids.npy").tolist()


@pytest.mark.parametrize("spec", ["hnsw", "flat"])
def test_plain_faiss_finds_what_the_embedded_index_finds(release, tmp_path, spec):
    export_release(release, tmp_path / "export", IndexSpec(spec))
    store = EmbeddedStore(tmp_path / "index")
    index_release(release, store)
    index, item_ids = faiss.read_index(str(tmp_path / "export" / "product_index.faiss")), ids_of(tmp_path / "export")
    for query in QUERIES:
        found = SearchService(store, SearchModels(WordEncoder)).search(SearchRequest(query, 5, "semantic"))
        scores, rows = index.search(WordEncoder().encode([query]), len(item_ids))
        cosines = {item_ids[row]: score for row, score in zip(rows[0], scores[0], strict=True) if row >= 0}
        assert len(found.results) == 5
        assert [cosines[lot.item_id] for lot in found.results] == pytest.approx([lot.score for lot in found.results], abs=1e-5)
        assert sorted(cosines.values(), reverse=True)[:5] == pytest.approx([lot.score for lot in found.results], abs=1e-5)


def test_vectors_ids_and_rows_say_the_same_as_the_release(release, tmp_path):
    made = export_release(release, tmp_path / "export", IndexSpec("hnsw"))
    vectors, item_ids = np.load(tmp_path / "export" / "product_embeddings.npy"), ids_of(tmp_path / "export")
    entries = {e.item_id: e.vector for part in load_release(release).parts for e in read_part(release / part.name)}
    assert (vectors.dtype, vectors.shape) == (np.float32, (made.lots, made.dimensions))
    assert item_ids == list(entries)
    assert all((vectors[row] == entries[item_id]).all() for row, item_id in enumerate(item_ids))
    assert json.loads((tmp_path / "export" / "product_id_to_index.json").read_text()) == {i: n for n, i in enumerate(item_ids)}
    index = faiss.read_index(str(tmp_path / "export" / "product_index.faiss"))
    assert (index.ntotal, index.metric_type) == (made.lots, faiss.METRIC_INNER_PRODUCT)
    assert (index.reconstruct(made.lots - 1) == vectors[-1]).all()


def test_a_lot_that_comes_twice_has_the_row_of_the_first_and_the_vector_of_the_newest(tmp_path):
    items = LOTS[:3]
    newer = replace(items[0], title="silver ring", updated_at=parse_time("updated_at", "2026-11-21"))
    older = replace(items[1], title="silver ring", updated_at=parse_time("updated_at", "2001-01-01"))
    current = replace(items[1], updated_at=parse_time("updated_at", "2026-11-20"))
    release = write_release(tmp_path / "release", [items[0], current, items[2], newer, older])
    made = export_release(release, tmp_path / "export", IndexSpec("flat"))
    vectors = np.load(tmp_path / "export" / "product_embeddings.npy")
    assert ids_of(tmp_path / "export") == [item.item_id for item in items]
    assert made.lots == 3
    assert vectors[0] == pytest.approx(WordEncoder().encode(["silver ring"])[0], abs=1e-6)
    assert vectors[1] == pytest.approx(WordEncoder().encode([item_text(items[1].title, "")])[0], abs=1e-6)


def test_the_last_file_vouches_for_the_others_and_names_the_tower(release, tmp_path):
    export_release(release, tmp_path / "export", IndexSpec("hnsw"))
    told = json.loads((tmp_path / "export" / "export.json").read_text())
    assert (told["release_id"], told["tower_id"]) == ("release-1", load_release(release).tower_id)
    for name, digest in told["files"].items():
        assert hashlib.sha256((tmp_path / "export" / name).read_bytes()).hexdigest() == digest
    assert {p.name for p in (tmp_path / "export").iterdir()} == {*told["files"], "export.json"}


def test_an_export_that_is_broken_off_vouches_for_nothing_and_leaves_no_halves(release, tmp_path):
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    export_release(release, tmp_path / "export", IndexSpec("hnsw"))
    with pytest.raises(KeyboardInterrupt):
        export_release(release, tmp_path / "export", IndexSpec("hnsw"), on_built=interrupt)
    assert not [p for p in (tmp_path / "export").iterdir() if p.suffix == ".partial"]
    assert export_release(release, tmp_path / "export", IndexSpec("hnsw")).lots == load_release(release).lots


def test_a_damaged_release_is_refused_before_anything_is_written(release, tmp_path):
    part = release / "part-00000.ndjson.gz"
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(ReleaseError, match="is damaged"):
        export_release(release, tmp_path / "export", IndexSpec("hnsw"))
    assert not (tmp_path / "export").exists()


def test_lots_too_few_to_train_an_index_are_refused_before_anything_is_written(release, tmp_path):
    with pytest.raises(InvalidInput, match="lots cannot train pq"):
        export_release(release, tmp_path / "export", IndexSpec("pq", pq_m=1))
    assert not (tmp_path / "export").exists()


def test_the_command_writes_below_home_and_says_where(release, tmp_path, monkeypatch):
    monkeypatch.setenv("GAVEL_HOME", str(tmp_path / "home"))
    told = json.loads(CliRunner().invoke(app, ["export", "faiss", "--spec", "flat", "--json"]).stdout)
    assert Path(told["folder"]) == tmp_path / "home" / "exports" / "release-1"
    assert told["lots"] == len(ids_of(Path(told["folder"])))
    assert CliRunner().invoke(app, ["export", "faiss", "nowhere"]).exit_code != 0
