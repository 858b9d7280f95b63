"""The training on events over a real embedded index: what trains, what measures, when the booster that is there stays."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from judged_lots import write_release
from lots import TOWER_ID, WORDS, WordEncoder, lot, publish
from sklearn.metrics import ndcg_score
from trained_booster import trained_booster

from catalog.event_files import EventFiles
from catalog.folder import CatalogFolder, Click, Qrels, SplitData, write_catalog, write_items
from processing.command_line import EXIT_USAGE
from processing.ranking import train_from_events
from processing.ranking import train_job as train_reranker
from processing.ranking.impressions import PARTS, by_query_and_day, ndcg, part_of, source_of
from processing.ranking.train_from_events import MAX_GAIN, MIN_HELD_OUT, MIN_TOUCHED, SOURCE_SHARE, train_on_events
from retrieval.contracts.items import Item, Reject
from retrieval.errors import InvalidInput
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter
from retrieval.ranker.xgboost_ranker import BoosterRanker
from retrieval.search.service import SearchModels, SearchRequest, SearchService

NOW = datetime(2026, 11, 21, 20, tzinfo=UTC)
PRICES = (900.0, 800.0, 30.0, 700.0, 600.0, 20.0, 500.0, 950.0, 40.0, 850.0)
SESSIONS = 30  # a word


def item_ids(word: str) -> list[str]:
    return [f"{word}-{n}" for n in range(len(PRICES))]


def is_cheap(item_id: str) -> bool:
    return PRICES[int(item_id.split("-")[1])] < 100


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    """Ten lots a word, alike but for their price; half of them ended in the night after they were shown."""
    made = EmbeddedStore(tmp_path_factory.mktemp("index"))
    ends = {0: NOW + timedelta(hours=3), 1: None}
    lots = [lot(i, f"a {w}", current_price=PRICES[n], ends_at=ends[n % 2]) for w in WORDS for n, i in enumerate(item_ids(w))]
    publish(made, lots)
    return made


def service(store: EmbeddedStore, ranker: BoosterRanker | None = None) -> SearchService:
    return SearchService(store, SearchModels(WordEncoder, lambda tower_id: ranker))


def log(
    sessions: int = SESSIONS,
    words: Sequence[str] = WORDS,
    wanted: bool = True,
    *,
    noise: float = 0.0,
    name: str = "session",
    client: str = "",
) -> EventFiles:
    """Buyers who look everywhere, each in another order, and click what is cheap, or what is not; `noise` of them go wrong."""
    rng, chance = np.random.default_rng(3), np.random.default_rng(4)
    clicks = [
        Click(word, item_id, place, "view" if clicked else None, f"{name}-{word}-{number}", NOW, client)
        for word in words
        for number in range(sessions)
        for place, item_id in enumerate(rng.permutation(item_ids(word)).tolist(), 1)
        for clicked in [(is_cheap(item_id) is wanted) != (chance.random() < noise)]
    ]
    return EventFiles(clicks, len(clicks), len(clicks), 0, [], 1)


def first_three(store: EmbeddedStore, path: Path, query: str = "gold") -> set[str]:
    answer = service(store, BoosterRanker.load(path)).search(SearchRequest(query, 3, filters=Filter(now=NOW)))
    return {result.item_id for result in answer.results}


def test_what_was_clicked_comes_first_also_when_its_auction_has_ended_since(store: EmbeddedStore, tmp_path: Path) -> None:
    report = train_on_events(log(), service(store), tmp_path / "r.ubj")
    assert report.saved
    assert (report.before, report.held_out.new) == ("first stage", pytest.approx(1.0))
    assert report.not_found == 0
    assert all(is_cheap(item_id) for item_id in first_three(store, tmp_path / "r.ubj"))
    assert report.position_bias == pytest.approx(0.0, abs=0.1), "these buyers look everywhere"
    assert (report.sessions, report.lists, report.impressions) == (SESSIONS * len(WORDS),) * 2 + (SESSIONS * len(WORDS) * 10,)


def test_lots_that_the_first_stage_finds_no_more_are_counted(store: EmbeddedStore, tmp_path: Path) -> None:
    read = log()
    gone = [replace(click, item_id="gone") for click in read.clicks if click.item_id == "gold-0"]
    report = train_on_events(replace(read, clicks=[*read.clicks, *gone]), service(store), tmp_path / "r.ubj")
    assert report.not_found == len(gone) == SESSIONS


def test_a_better_one_replaces_what_is_there_and_a_worse_one_does_not(store: EmbeddedStore, tmp_path: Path) -> None:
    path = tmp_path / "r.ubj"
    train_on_events(log(wanted=False), service(store), path)
    assert not any(is_cheap(item_id) for item_id in first_three(store, path))
    better = train_on_events(log(noise=0.1), service(store), path)
    assert (better.before, better.saved) == ("re-ranker", True)
    assert better.held_out.difference > 0.2
    kept = path.read_bytes()
    same = train_on_events(log(noise=0.1), service(store), path)
    assert (same.saved, path.read_bytes()) == (False, kept)
    assert "stays" in same.reason


def test_a_gain_that_is_too_good_to_be_true_needs_force(store: EmbeddedStore, tmp_path: Path) -> None:
    path = tmp_path / "r.ubj"
    train_on_events(log(wanted=False), service(store), path)
    kept = path.read_bytes()
    unbelieved = train_on_events(log(), service(store), path)
    assert (unbelieved.saved, path.read_bytes()) == (False, kept)
    assert unbelieved.held_out.difference > MAX_GAIN
    assert "more than buyers' lists bring: look whether people stand behind the 360 lists of 360 sessions" in unbelieved.reason
    assert "what was there stays, --force would replace it" in unbelieved.reason
    assert train_on_events(log(), service(store), path, force=True).saved
    assert all(is_cheap(item_id) for item_id in first_three(store, path))


def test_a_client_teaches_its_share_however_many_sessions_it_makes_up(store: EmbeddedStore, tmp_path: Path) -> None:
    trains = next(client for client in map(str, range(20)) if part_of(client, seed=0) == "train")
    bots = log(wanted=False, name="bot", client=trains)
    both = replace(bots, clicks=[*log(noise=0.1).clicks, *bots.clicks])
    report = train_on_events(both, service(store), tmp_path / "r.ubj")
    assert (report.saved, report.clients) == (True, 1)
    assert report.lists - 360 == pytest.approx(SOURCE_SHARE * report.lists, abs=1)
    assert report.left_out == 360 + 360 - report.lists
    assert all(is_cheap(item_id) for item_id in first_three(store, tmp_path / "r.ubj"))
    unlimited = train_on_events(both, service(store), tmp_path / "r.ubj", source_share=1.0)
    assert (unlimited.left_out, unlimited.saved) == (0, False), "else the share does nothing"


def test_what_one_client_told_never_both_trains_and_measures() -> None:
    clicks = [*log(40, client="office").clicks, *log(40, client="cafe", name="other").clicks]
    assert {part_of(source_of(click), 7) for click in clicks if click.client == "office"} == {part_of("office", 7)}


def test_lists_of_too_few_sources_are_refused_with_the_way_to_let_each_teach_more(store: EmbeddedStore, tmp_path: Path) -> None:
    few = log(20)
    lists = [(n // 10, click) for n, click in enumerate(few.clicks)]
    of_16 = [replace(click, buyer_id=str(n % 16), timestamp=NOW + timedelta(minutes=n)) for n, click in lists]
    few = replace(few, clicks=of_16)
    with pytest.raises(InvalidInput, match=r"240 lists of too few sessions or clients.*20 of each.*--source-share above 0\.05"):
        train_on_events(few, service(store), tmp_path / "r.ubj")
    assert train_on_events(few, service(store), tmp_path / "r.ubj", source_share=0.1, force=True).saved


def test_a_booster_that_loses_on_judgments_needs_force_whatever_the_lists_say(store: EmbeddedStore, tmp_path: Path) -> None:
    path = tmp_path / "r.ubj"
    train_on_events(log(noise=0.2), service(store), path)
    kept = path.read_bytes()
    shop = [Item(i, f"a {w}", listed_at=NOW) for w in WORDS for i in item_ids(w)]
    write_items(tmp_path / "catalog" / "items" / "lots.parquet", shop)
    grades = {word: {item_id: 3 * is_cheap(item_id) for item_id in item_ids(word)} for word in WORDS}
    judged = {"val": SplitData(["lots.parquet"], qrels=Qrels({word: word for word in WORDS}, grades))}
    write_catalog(tmp_path / "catalog", name="shop", seed=0, splits=judged, example_queries=[])
    bots = log(wanted=False, noise=0.2)
    given = {"judgments": CatalogFolder(tmp_path / "catalog")}
    report = train_on_events(bots, service(store), path, **given)
    assert report.judged
    assert (report.saved, path.read_bytes(), report.judged.queries) == (False, kept, len(WORDS))
    assert 0 < report.held_out.difference < MAX_GAIN
    assert report.judged.high < 0
    assert "on 12 judged queries: what the lists say is not what the judges say; what was there stays" in report.reason
    assert train_on_events(bots, service(store), path, force=True, **given).saved
    assert train_on_events(log(noise=0.2), service(store), tmp_path / "new.ubj", **given).saved, "who agrees with the judges"


def test_a_booster_that_search_refuses_is_compared_as_if_it_were_not_there(store: EmbeddedStore, tmp_path: Path) -> None:
    path = tmp_path / "r.ubj"
    trained_booster().save(path)
    older = xgboost.Booster()
    older.load_model(path)
    older.set_attr(features=json.dumps(["colour"]), features_hash="0" * 12)
    older.save_model(path)
    report = train_on_events(log(), service(store), path)
    assert (report.before, report.saved) == ("first stage", True)
    BoosterRanker.load(path)


@pytest.mark.parametrize(
    ("few", "words"),
    [
        (log(2, WORDS[:3]), f"hold 6 lists with a click, bid or purchase; at least {MIN_TOUCHED} such lists"),
        (log(200, WORDS[:1]), f"1 queries that tell lots apart in held-out sessions; at least {MIN_HELD_OUT} such"),
    ],
)
def test_too_few_events_are_refused_with_how_many_are_needed(
    few: EventFiles, words: str, store: EmbeddedStore, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=words):
        train_on_events(few, service(store), tmp_path / "r.ubj", force=True)
    assert not (tmp_path / "r.ubj").exists()


def test_rejects_lie_beside_the_booster_and_go_when_there_are_none(store: EmbeddedStore, tmp_path: Path) -> None:
    read = replace(log(), rejects=[Reject("a.ndjson", 7, "the line is not JSON")])
    report = train_on_events(read, service(store), tmp_path / "tower.ubj")
    assert report.rejects_file is not None
    assert json.loads(report.rejects_file.read_text())["line"] == 7
    train_on_events(log(), service(store), tmp_path / "tower.ubj")
    assert not report.rejects_file.exists()


def test_a_training_repeats_to_the_byte(store: EmbeddedStore, tmp_path: Path) -> None:
    files = [train_on_events(log(), service(store), tmp_path / f"{n}.ubj", seed=3).path.read_bytes() for n in range(2)]
    assert files[0] == files[1]


def test_sessions_fall_into_parts_by_their_shares_whatever_else_there_is() -> None:
    parts = [part_of(f"session-{n}", 7) for n in range(4_000)]
    assert {part: parts.count(part) / 4_000 for part in PARTS} == pytest.approx(PARTS, abs=0.03)
    assert parts[17] == part_of("session-17", 7)


def test_spellings_of_a_query_are_one_query_and_days_are_two() -> None:
    clicks = [Click("Red  vase", "1", 1, None, "s", NOW), Click("red vase", "2", 2, None, "s", NOW)]
    found = by_query_and_day([*clicks, replace(clicks[1], timestamp=NOW + timedelta(days=1))])
    assert [(query, len(shown)) for (query, _), shown in found.items()] == [("Red  vase", 2), ("Red  vase", 1)]


@given(st.lists(st.floats(0, 10, width=32), min_size=2, max_size=30), st.integers(1, 20))
def test_ndcg_is_that_of_scikit_learn(gains: list[float], depth: int) -> None:
    gains = [*gains[1:], 1.0]
    scores = np.random.default_rng(len(gains)).permutation(len(gains)).astype(np.float32)
    expected = ndcg_score([gains], [scores], k=depth)
    assert ndcg(scores, np.array(gains, dtype=np.float32), depth) == pytest.approx(expected, abs=1e-5)


def test_the_job_reads_events_indexes_a_release_and_leaves_the_better_booster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_reranker.QueryEncoder, "load", lambda folder, dimensions=None: WordEncoder(folder.name))
    shop = [Item(i, f"a {w}", current_price=PRICES[n], updated_at=NOW) for w in WORDS for n, i in enumerate(item_ids(w))]
    write_release(tmp_path / "release", shop)
    events = [
        {"query": c.query, "item_id": c.item_id, "position": c.position, "event_type": c.event_type or "impression"}
        | {"buyer_id": c.buyer_id, "timestamp": c.timestamp.isoformat(), "query_id": c.buyer_id, "served": True}
        for c in log().clicks
    ]
    (tmp_path / "events" / "2026").mkdir(parents=True)
    (tmp_path / "events" / "2026" / "a.gz").write_bytes(gzip.compress("".join(map(json.dumps, events)).encode()))
    places = {"tower": TOWER_ID, "release": "release", "events": "events", "output": "out/r.ubj", "before": "none.ubj"}
    flags = [word for name, place in places.items() for word in (f"--{name}", str(tmp_path / place))]
    assert train_from_events.main(flags) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["saved"], first["events"], first["rejects"]) == (True, len(events), 0)
    assert train_from_events.main([*flags, "--before", first["path"], "--output", str(tmp_path / "again.ubj")]) == 0
    assert json.loads(capsys.readouterr().out)["saved"] is False
    assert (tmp_path / "again.ubj").read_bytes() == Path(first["path"]).read_bytes(), "the one before is the answer, too"
    assert train_from_events.main([*flags, "--events", str(tmp_path / "nothing")]) == EXIT_USAGE
    assert "does not exist" in capsys.readouterr().err
