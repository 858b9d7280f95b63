"""Training in rounds: each mines what the tower before it confuses, and a run that was killed goes on where it was."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from small_tower import small_config

from catalog.folder import CatalogFolder
from catalog.synthetic import generate
from models.config.training import Stage, TrainingConfig
from models.data.hard_negatives import HardNegatives
from processing.training import mining as job
from processing.training import rounds as training_rounds
from processing.training.mining_rules import MiningRules
from processing.training.round_index import open_store
from processing.training.rounds import RoundsReport, in_stages, train_rounds
from retrieval.contracts.items import EPOCH
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.errors import InvalidInput
from retrieval.index.filters import Filter

LOTS = 80
STAGES = (
    Stage("in-batch", 2, random_negatives=1),
    Stage("hard-negatives", 1, hard_negatives=2, random_negatives=1),
    Stage("weak-positives", 1, rate=0.1, hard_negatives=1),
)
CONFIG = TrainingConfig(tower=small_config(use_image=False), stages=STAGES, batch_size=32, validate_every=1, learning_rate=2e-3)
RULES = MiningRules(per_query=5, depth=40)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> CatalogFolder:
    return generate(tmp_path_factory.mktemp("catalog") / "synthetic", lots=LOTS, photo_size=8)


def rounds_of(catalog: CatalogFolder, home: Path, rounds: int, **options) -> RoundsReport:
    return train_rounds(catalog, CONFIG, home / "towers", home / "rounds", rounds=rounds, rules=RULES, **options)


class Killed(BaseException):
    """What stops a run in the test, as Ctrl-C would."""


@pytest.fixture(scope="module")
def killed_then_finished(catalog: CatalogFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], RoundsReport]:
    """A home with a run of one round that was killed as it embedded the second tower, and then ran on to its end.

    Returns:
        The home, the labels of the steps that ran in the second part, and its report.
    """
    home, labels = tmp_path_factory.mktemp("home"), []

    def killing(label: str):
        if label == "round 1: embed val":
            raise Killed
        return quiet(label)

    def quiet(label: str):
        labels.append(label)
        return training_rounds.nullcontext(lambda done, total: None)

    with pytest.raises(Killed):
        rounds_of(catalog, home, 1, steps=killing)
    labels.clear()
    return home, labels, rounds_of(catalog, home, 1, steps=quiet)


def test_a_killed_run_goes_on_with_the_step_where_it_was(killed_then_finished) -> None:
    _, labels, report = killed_then_finished
    assert labels[0] == "round 1: embed val"
    assert not [label for label in labels if label.startswith("round 0") or label in ("round 1: mine", "round 1: train")]
    assert [made.stage for made in report.rounds] == ["in-batch", "hard-negatives", "weak-positives"]
    assert report.rounds[1].started_from == report.rounds[0].tower_id


def test_a_finished_run_is_read_and_more_rounds_go_on_from_it(killed_then_finished, catalog: CatalogFolder) -> None:
    home, _, report = killed_then_finished
    labels: list[str] = []

    def note(label: str):
        labels.append(label)
        return training_rounds.nullcontext(lambda done, total: None)

    assert rounds_of(catalog, home, 1, steps=note) == report
    assert labels == []


def test_every_round_has_its_figures_and_negatives_that_no_query_is_answered_by(
    killed_then_finished, catalog: CatalogFolder
) -> None:
    _, _, report = killed_then_finished
    answers = {(pair.query, pair.item_id) for pair in catalog.pairs("train")}
    for made in report.rounds:
        assert made.quality.keys() == made.build_seconds.keys() == {"flat", "hnsw"}
        assert 0 < made.quality["flat"]["recall@50"] <= 1
        if made.number:
            mined = HardNegatives.load(report.folder / str(made.number) / "negatives.parquet")
            assert mined.stats == made.mining
            assert 0 < max(map(len, mined.by_query.values())) <= RULES.per_query
            assert not {(query, item_id) for query, ids in mined.by_query.items() for item_id in ids} & answers
    assert report.best == max(report.rounds, key=lambda made: made.score).number
    written = json.loads((report.folder / "rounds.json").read_text())
    assert written == json.loads(json.dumps(report.to_dict()))
    assert written["tower_id"] == report.tower.name


def test_the_baselines_index_still_answers_beside_the_new_ones(killed_then_finished) -> None:
    home, _, report = killed_then_finished
    for made in report.rounds:
        vector = QueryEncoder.load(home / "towers" / made.tower_id).encode(["red vase"])[0]
        answers = []
        for kind in ("flat", "hnsw"):
            index = open_store(report.folder / str(made.number) / "val" / "index", kind).live()
            assert (index.tower_id, index.count()) == (made.tower_id, LOTS)
            answers.append([hit.item_id for hit in index.semantic(vector, 10, Filter(now=EPOCH))])
            index.close()
        assert len(answers[0]) == 10
        assert len(set(answers[0]) & set(answers[1])) >= 9


def test_the_best_tower_is_the_newest_one(killed_then_finished) -> None:
    home, _, report = killed_then_finished
    newest = max((home / "towers").glob("[!.]*/tower.json"), key=lambda card: card.stat().st_mtime)
    assert newest.parent == report.tower


def test_the_mining_job_writes_its_file_once(killed_then_finished, catalog: CatalogFolder, tmp_path: Path, capsys) -> None:
    home, _, report = killed_then_finished
    baseline = report.rounds[0].tower_id
    release = next((report.folder / "0" / "val" / "embeddings").iterdir())
    flags = ["--catalog", str(catalog.path), "--tower", str(home / "towers" / baseline), "--release", str(release)]
    flags += ["--output", str(tmp_path / "n.parquet"), "--per-query", "5", "--depth", "40"]
    assert job.main(flags) == 0
    first, written = json.loads(capsys.readouterr().out), (tmp_path / "n.parquet").stat().st_mtime_ns
    assert first["settings"]["tower_id"] == baseline
    assert job.main(flags) == 0
    assert (tmp_path / "n.parquet").stat().st_mtime_ns == written
    assert job.main([*flags, "--per-query", "500"]) == 2
    assert "per_query" in capsys.readouterr().err


def test_rounds_need_a_number_and_val_queries(catalog: CatalogFolder, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="1 round or more"):
        rounds_of(catalog, tmp_path, 0)
    shutil.copytree(catalog.path, tmp_path / "unjudged")
    qrels = tmp_path / "unjudged" / "training" / "qrels.parquet"
    table = pq.read_table(qrels)
    pq.write_table(table.filter(pc.not_equal(table["split"], "val")), qrels)
    with pytest.raises(InvalidInput, match="val queries"):
        rounds_of(CatalogFolder(tmp_path / "unjudged"), tmp_path, 1)


def test_one_stage_is_made_into_three() -> None:
    assert [stage.epochs for stage in in_stages(replace(CONFIG, stages=(Stage("only"),), epochs=12)).stages] == [12, 6, 3]
    assert in_stages(CONFIG) is CONFIG
