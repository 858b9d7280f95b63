"""Every file of an embedded index and of a release, damaged in every way: the right answer, or one sentence whose remedy works."""

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from judged_lots import write_release
from lots import WordEncoder

from gavel.workspace import pipeline
from gavel.workspace.folders import Workspace
from retrieval.config.settings import Settings
from retrieval.contracts.documents import IndexedItem
from retrieval.contracts.items import Item
from retrieval.errors import GavelError, IndexUnavailable
from retrieval.index.embedded.database import ItemDatabase
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter
from retrieval.ingestion import index_release

LISTED = datetime(2026, 11, 20, tzinfo=UTC)
OPEN = Filter(now=LISTED)
WORDS = ("red vase", "blue lamp", "gold ring", "old watch", "silver clock")
QUERIES = ("gold ring", "red", "old watch", "lamp number7")
LOTS = 80

Damage = Callable[[Path, Path], None]  # of a file, and the file of that name in another home


def lots(first: int) -> list[Item]:
    """Lots whose titles, prices and ends differ."""
    return [
        Item(
            f"lot-{n}",
            f"{WORDS[n % 5]} number{n}",
            current_price=float(n),
            listed_at=LISTED,
            ends_at=LISTED + timedelta(days=n + 1),
        )
        for n in range(first, first + LOTS)
    ]


def write_home(folder: Path, first: int, shards: int = 1) -> Path:
    """A home with one release, indexed and searched once."""
    release = write_release(folder / "embeddings" / "night", lots(first))
    with opened(folder, shards) as store:
        index_release(release, store)
        ask(store)
    return folder


@contextmanager
def opened(home: Path, shards: int = 1) -> Iterator[EmbeddedStore]:
    """The store of a home, as a process that has just started sees it."""
    store = EmbeddedStore(home / "index", exact_below=0, shards=shards)
    try:
        yield store
    finally:
        store.close()


def ask(store: EmbeddedStore) -> list[object]:
    """What the live index answers to questions of every kind."""
    index = store.live()
    encoder = WordEncoder()
    answers: list[object] = [index.count()]
    shown = ("title", "current_price")
    for query in QUERIES:
        vector = encoder.encode([query])[0]
        for found in (index.semantic(vector, 5, OPEN), index.keyword(query, 5, OPEN), index.hybrid(query, vector, 5, OPEN)):
            answers.append([(hit.item_id, round(hit.score, 5), *(hit.document[name] for name in shown)) for hit in found])
    answers.append(index.corrections(["goldd", "silvre"]))
    answers.append([hit.document["ends_at"] for hit in index.fetch([f"lot-{n}" for n in range(LOTS)])])
    answers.append([hit.item_id for hit in index.top("listed_at", 7, OPEN)])
    return answers


def flip(bits: int, seed: int) -> Damage:
    def damage(path: Path, other: Path) -> None:
        content, chance = bytearray(path.read_bytes()), random.Random(seed)
        for _ in range(bits if content else 0):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)

    return damage


def cut(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def swap(path: Path, other: Path) -> None:
    if other.is_file():
        shutil.copy(other, path)


DAMAGES: dict[str, Damage] = {
    "one bit": flip(1, 1),
    "another bit": flip(1, 2),
    "64 bits": flip(64, 3),
    "64 others": flip(64, 4),
    "cut": cut,
    "emptied": lambda path, other: path.write_bytes(b""),
    "deleted": lambda path, other: path.unlink(),
    "another index's": swap,
}


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A home, and another one of the same tower with other lots."""
    folder = tmp_path_factory.mktemp("homes")
    return write_home(folder / "ours", 0), write_home(folder / "theirs", 40)


def same_file(path: Path, ours: Path, theirs: Path) -> Path:
    """The file of another home that stands where a file of ours does; indices are named by the moment."""
    index = next((theirs / "index").glob("auction-items-*"))
    parts = [index.name if part.startswith("auction-items-") else part for part in path.relative_to(ours).parts]
    return theirs.joinpath(*parts)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_of_an_index_changes_no_answer_or_is_told_with_a_remedy_that_works(
    homes: tuple[Path, Path], kind: str, tmp_path: Path
) -> None:
    ours, theirs = homes
    with opened(ours) as store:
        expected = ask(store)
    files = sorted(path for path in (ours / "index").rglob("*") if path.is_file() and not path.name.endswith("-shm"))
    for number, original in enumerate(files):
        home = tmp_path / str(number)
        shutil.copytree(ours, home)
        path = home / original.relative_to(ours)
        DAMAGES[kind](path, same_file(original, ours, theirs))
        try:
            with opened(home) as store:
                answers, left_out = ask(store), store.live().damaged()
            assert answers == expected or left_out, f"{path.relative_to(home)} changes answers in silence"
        except GavelError as error:
            left_out = 1
            message = str(error)
        else:
            message = ""
        assert not message or "`gavel index" in message, path
        if left_out:
            pipeline.rebuild(Settings(home=home), None, progress=lambda *_: None)
        with opened(home) as store:
            assert ask(store) == expected, f"{path.relative_to(home)} is not mended"


@pytest.mark.parametrize(
    ("column", "value"), [("document", "{"), ("document", "null"), ("vector", b"\0\0"), ("vector", None), ("version", 7)]
)
def test_one_damaged_lot_is_left_out_and_the_others_are_found(tmp_path: Path, column: str, value: object) -> None:
    home = write_home(tmp_path / "home", 0)
    path = next(home.glob("index/*/lots.sqlite"))
    with closing(sqlite3.connect(path)) as database, database:
        if value is not None:
            database.execute(f"UPDATE lots SET {column} = ? WHERE item_id = 'lot-7'", (value,))
        else:
            database.execute("UPDATE lots SET vector = zeroblob(length(vector)) WHERE item_id = 'lot-7'")
    with opened(home) as store:
        index = store.live()
        found = index.keyword("number7", 3, OPEN) + index.keyword("number8", 3, OPEN)
        found += index.semantic(WordEncoder().encode(["old watch"])[0], LOTS, OPEN)
        assert {hit.item_id for hit in found} == {f"lot-{n}" for n in range(LOTS)} - {"lot-7"}
        assert (index.count(), index.damaged()) == (LOTS - 1, 1)
        index_release(home / "embeddings" / "night", store)
        if column != "version":
            assert ([hit.item_id for hit in index.fetch(["lot-7"])], index.damaged()) == (["lot-7"], 0)


def test_an_older_database_beside_a_newer_seal_is_told_with_the_remedy(tmp_path: Path) -> None:
    home = write_home(tmp_path / "home", 0)
    path = next(home.glob("index/*/lots.sqlite"))
    shutil.copy(path, tmp_path / "older.sqlite")
    with opened(home) as store:
        index_release(write_release(tmp_path / "later", lots(40)), store)
        store.live().prepare()
    shutil.copy(tmp_path / "older.sqlite", path)
    with opened(home) as store, pytest.raises(IndexUnavailable, match=r"lacks the last \d+ commits.*`gavel index --rebuild`"):
        store.live()


@pytest.mark.parametrize(
    "damage", [None, cut, DAMAGES["deleted"], DAMAGES["emptied"], flip(1, 1)], ids=["whole", "cut", "deleted", "emptied", "bit"]
)
def test_a_damaged_log_of_what_was_published_while_another_process_read_is_told(tmp_path: Path, damage: Damage | None) -> None:
    path = tmp_path / "made" / "lots.sqlite"
    path.parent.mkdir()
    ItemDatabase.create(path, "tower", 2)
    store = ItemDatabase(path)
    store.write([IndexedItem("a", 1, {"title": "vase"}, np.array([1.0, 0.0], np.float32))])
    with store.snapshot() as reading:
        assert reading.count() == 1
        store.write([IndexedItem("b", 1, {"title": "lamp"}, np.array([1.0, 0.0], np.float32))])
        store.seal()
        copied = tmp_path / "copied" / "lots.sqlite"
        shutil.copytree(path.parent, copied.parent, ignore=shutil.ignore_patterns("*-shm"))
    store.close()
    if damage is not None:
        damage(copied.with_name("lots.sqlite-wal"), copied)
        with pytest.raises(IndexUnavailable, match="`gavel index --rebuild`"):
            ItemDatabase(copied)
    else:
        with closing(ItemDatabase(copied)) as again:
            assert again.count() == 2


def test_commits_after_the_seal_that_only_the_log_holds_are_found(tmp_path: Path) -> None:
    path = tmp_path / "made" / "lots.sqlite"
    path.parent.mkdir()
    ItemDatabase.create(path, "tower", 2)
    with closing(ItemDatabase(path)) as store:
        store.seal()
        store.write([IndexedItem("a", 1, {"title": "vase"}, np.array([1.0, 0.0], np.float32))])
        shutil.copytree(path.parent, tmp_path / "killed", ignore=shutil.ignore_patterns("*-shm"))
    with closing(ItemDatabase(tmp_path / "killed" / "lots.sqlite")) as again:
        assert again.count() == 1


def test_a_damaged_shard_is_told_with_the_remedy(tmp_path: Path) -> None:
    home = write_home(tmp_path / "home", 0, shards=2)
    path = next(home.glob("index/*/shard-01/lots.sqlite"))
    DAMAGES["64 bits"](path, path)
    with opened(home) as store, pytest.raises(IndexUnavailable, match=r"shard-01/lots\.sqlite .*`gavel index --rebuild`"):
        store.live()
    flip(1, 1)(path.parent.parent / "shards.json", path)
    with opened(home) as store, pytest.raises(IndexUnavailable, match=r"shards\.json .*`gavel index --rebuild`"):
        store.live()


def test_a_database_that_another_version_made_without_checksums_is_searched_and_mended(tmp_path: Path) -> None:
    home = write_home(tmp_path / "home", 0)
    folder = next(home.glob("index/auction-items-*"))
    with opened(home) as store:
        expected = ask(store)
    (folder / "lots.json").unlink()
    with closing(sqlite3.connect(folder / "lots.sqlite")) as database, database:
        database.execute("ALTER TABLE lots DROP COLUMN checksum")
        database.execute("ALTER TABLE meta DROP COLUMN language")
    with opened(home) as store:
        assert ask(store) == expected
    (folder / "language.txt").write_text("klingon")
    with opened(home) as store, pytest.raises(IndexUnavailable, match=r"language\.txt .*`gavel index --rebuild`"):
        store.live()


def test_workers_that_start_together_over_a_database_of_an_older_version_all_open_it(tmp_path: Path) -> None:
    path, workers = tmp_path / "lots.sqlite", 4
    for _ in range(10):
        ItemDatabase.create(path, "tower", 8)
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("ALTER TABLE lots DROP COLUMN checksum")
            database.execute("ALTER TABLE meta DROP COLUMN language")
        together = Barrier(workers)
        with ThreadPoolExecutor(workers) as pool:
            openings = [pool.submit(lambda: (together.wait(), ItemDatabase(path))) for _ in range(workers)]  # noqa: B023
            stores = [opening.result()[1] for opening in openings]
        assert [store.tower_id for store in stores] == ["tower"] * workers
        for store in stores:
            store.close()
        path.unlink()


def test_a_rebuild_without_a_whole_release_says_how_to_make_one_and_leaves_the_index(tmp_path: Path) -> None:
    home = write_home(tmp_path / "home", 0)
    settings = Settings(home=home)
    with opened(home) as store:
        before, tower_id = store.live().name, store.live_tower()
    cut(home / "embeddings" / "night" / "part-00000.ndjson.gz", home)
    remedy = f"no whole release of tower {tower_id}; embed the lots again with `gavel embed --tower {tower_id}`"
    with pytest.raises(GavelError, match=remedy):
        pipeline.rebuild(settings, None, progress=lambda *_: None)
    with opened(home) as store:
        assert store.live().name == before
    assert len(list(Workspace(settings).index.glob("auction-items-*"))) == 1


def test_a_rebuild_that_is_broken_off_leaves_the_live_index_and_nothing_else(tmp_path: Path) -> None:
    home = write_home(tmp_path / "home", 0)
    write_release(home / "embeddings" / "later", lots(40))
    settings = Settings(home=home)

    def break_off(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.rebuild(settings, None, progress=break_off)
    with opened(home) as store:
        assert store.live().count() == LOTS
    assert len(list(Workspace(settings).index.glob("auction-items-*"))) == 1
    made, releases = pipeline.rebuild(settings, None, progress=lambda *_: None)
    assert (made.lots, [release.name for release in releases]) == (120, ["night", "later"])
