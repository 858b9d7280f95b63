"""The file of buyers' recent acts on one machine: damaged, locked, shared, erased."""

import resource
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from shortages import limited

from retrieval.buyers.sqlite_history import BuyerEvents
from retrieval.contracts.events import Interaction
from retrieval.errors import FeedbackUnavailable

NOW = datetime(2026, 11, 21, 20, tzinfo=UTC)


def events(path: Path) -> BuyerEvents:
    return BuyerEvents(path, 90, lambda: NOW)


def act(item_id: str = "v1", buyer_id: str = "buyer-1", minutes_ago: float = 0) -> Interaction:
    return Interaction(buyer_id, item_id, "view", NOW - timedelta(minutes=minutes_ago))


def test_asking_makes_no_file(tmp_path: Path) -> None:
    store = events(tmp_path / "home" / "buyers.sqlite")
    assert store.recent("buyer-1") == []
    assert store.erase("buyer-1") == 0
    assert not (tmp_path / "home").exists()


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    events(tmp_path / "buyers.sqlite").append([act()])
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_an_erased_buyer_stands_in_no_byte_of_the_files(tmp_path: Path) -> None:
    store = events(tmp_path / "buyers.sqlite")
    store.append([act(f"v{n}", "somebody-unmistakable", n) for n in range(150)])
    store.append([act("v1", "somebody-else")])
    assert store.erase("somebody-unmistakable") == 150
    assert not any(b"unmistakable" in path.read_bytes() for path in tmp_path.iterdir())
    assert store.recent("somebody-else")


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_file_is_named_with_the_way_out(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "buyers.sqlite"
    path.write_bytes(damage)
    store = events(path)
    for call in (lambda: store.append([act()]), lambda: store.recent("buyer-1"), lambda: store.erase("buyer-1")):
        with pytest.raises(FeedbackUnavailable, match=r"buyers\.sqlite is damaged.*delete it"):
            call()
    path.unlink()
    assert store.append([act()]) == 1
    assert len(store.recent("buyer-1")) == 1, "a server that runs goes on with the new file"


def test_a_file_that_another_process_holds_is_told_soon_and_read_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.buyers.sqlite_history.BUSY_TIMEOUT_S", 0.05)
    store = events(tmp_path / "buyers.sqlite")
    store.append([act()])
    other = sqlite3.connect(tmp_path / "buyers.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(FeedbackUnavailable, match="locked"):
        store.append([act("v2")])
    assert [one.item_id for one in store.recent("buyer-1")] == ["v1"]
    other.close()
    assert store.append([act("v2")]) == 1


@pytest.mark.parametrize(("kind", "soft"), [(resource.RLIMIT_FSIZE, 2_000), (resource.RLIMIT_NOFILE, 0)])
def test_a_full_quota_and_a_want_of_file_descriptors_are_no_damage(kind: int, soft: int, tmp_path: Path) -> None:
    store = events(tmp_path / "buyers.sqlite")
    store.append([act(f"v{n}", minutes_ago=n) for n in range(50)])
    calls = [lambda: store.append([act(f"w{n}", minutes_ago=n) for n in range(200)]), lambda: store.erase("buyer-1")]
    with limited(kind, soft):
        for call in calls:
            with pytest.raises(FeedbackUnavailable, match=r"buyers\.sqlite cannot be used now .*free space, .*descriptors") as told:
                call()
            assert "delete" not in str(told.value)
            assert "damaged" not in str(told.value)
    assert len(store.recent("buyer-1")) == 50
    assert store.append([act("x")]) == 1


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(FeedbackUnavailable, match="cannot be opened"):
        events(tmp_path / "home" / "buyers.sqlite").append([act()])


def test_many_threads_lose_nothing(tmp_path: Path) -> None:
    store = events(tmp_path / "buyers.sqlite")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: store.append([act(f"v{n:03}", minutes_ago=n)]), range(100)))
    assert len(store.recent("buyer-1")) == 100


def test_acts_of_all_buyers_go_when_they_are_too_old(tmp_path: Path) -> None:
    path = tmp_path / "buyers.sqlite"
    events(path).append([act(buyer_id="of-long-ago")])
    BuyerEvents(path, 90, lambda: NOW + timedelta(days=91)).append(
        [Interaction("of-today", "v1", "view", NOW + timedelta(days=91))]
    )
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT buyer_id FROM acts").fetchall() == [("of-today",)]
