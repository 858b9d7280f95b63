"""gavel.toml as its user meets it: what it sets, what outranks it, and what it says of a mistake."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gavel.workspace import pipeline
from gavel.workspace.config_file import SECTIONS, ConfigFile, check_config, configured, use_config
from gavel.workspace.config_text import all_settings, config_text
from models.config.buyers import BuyerTrainingConfig
from models.config.training import Stage, TrainingConfig
from processing.training.mining_rules import MiningRules
from retrieval.config.settings import EventWeights, ScoringParameters, Settings
from retrieval.errors import InvalidSettings
from retrieval.ranker.parameters import BoosterParameters, FewQueries

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working directory, with no variable of Gavel set."""
    for name in os.environ:
        if name.startswith("GAVEL_"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("OPENSEARCH_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str, name: str = "gavel.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def environment(**given: str) -> dict[str, str]:
    """A process's environment after gavel.toml of the working directory has spoken."""
    env = dict(given)
    use_config(None, env)
    return env


def gavel(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GAVEL_")}
    command = [sys.executable, "-m", "gavel.cli.main", *arguments]
    given = {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "300", **env}
    return subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, timeout=120, check=False)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(InvalidSettings) as refused:
        check_config(ConfigFile.read(write(folder, text)))
    return str(refused.value)


def test_without_a_file_everything_stays_as_it_is(folder):
    assert environment() == {}
    assert configured(MiningRules(), "mining") == MiningRules()


def test_the_file_speaks_where_no_variable_does(folder):
    write(
        folder,
        """
        [service]
        home = ".shop"
        candidates = 80
        [retrieval]
        buyer_share = 0.3
        event_weights = { purchase = 20 }
        """,
    )
    env = environment(GAVEL_CANDIDATES="90", GAVEL_HOME="")
    assert Settings.from_env(env) == Settings(home=Path(".shop"), candidates=90)
    assert ScoringParameters.from_env(env) == ScoringParameters(buyer_share=0.3, event_weights=EventWeights(purchase=20.0))


def test_the_common_name_of_opensearchs_address_outranks_the_file_too(folder):
    write(folder, '[service]\nopensearch_url = "http://file:1"\n')
    assert Settings.from_env(environment(OPENSEARCH_URL="http://common:1")).opensearch_url == "http://common:1"
    assert Settings.from_env(environment()).opensearch_url == "http://file:1"


def test_gavel_config_names_another_file_than_that_of_the_working_directory(folder):
    write(folder, "[service]\ncandidates = 80\n")
    other = write(folder, "[service]\ncandidates = 70\n", "other.toml")
    assert environment(GAVEL_CONFIG=str(other))["GAVEL_CANDIDATES"] == "70"


def test_training_takes_from_the_file_what_it_gives_and_keeps_the_rest(folder):
    write(
        folder,
        """
        [training]
        learning_rate = 0.002
        patience = 3
        features = "auto"
        batch_hard = 0.5
        gradient_checkpointing = true
        log_with = "wandb"
        [training.tower]
        max_length = 100
        dropout = 0.1
        text = { pooling = "cls" }
        [training.augmentation]
        flip = 0
        [[training.stages]]
        name = "mined"
        hard_negatives = 2
        [training.buyers]
        heads = 2
        [reranker]
        max_depth = 6
        few_queries = { depths = [1, 2, 3] }
        [mining]
        margin = "none"
        """,
    )
    chosen = TrainingConfig.for_catalog("synthetic", seed=3)
    made = configured(chosen, "training")
    assert (made.learning_rate, made.patience, made.seed) == (0.002, 3, 3)
    assert (made.features, made.batch_hard, made.gradient_checkpointing, made.log_with) == ("auto", 0.5, True, "wandb")
    assert made.epochs == chosen.epochs
    assert made.tower == replace(chosen.tower, dropout=0.1, max_length=100, text=replace(chosen.tower.text, pooling="cls"))
    assert made.augmentation == replace(chosen.augmentation, flip=0.0)
    assert made.stages == (Stage("mined", hard_negatives=2),)
    assert configured(BuyerTrainingConfig(), "training.buyers") == BuyerTrainingConfig(heads=2)
    assert configured(BoosterParameters(), "reranker") == BoosterParameters(max_depth=6, few_queries=FewQueries(depths=(1, 2, 3)))
    assert configured(MiningRules(), "mining").margin is None


def test_a_flag_outranks_the_file(folder):
    write(folder, "[mining]\ndepth = 40\nper_query = 5\n[training]\nepochs = 3\nbatch_size = 16\n")
    assert pipeline.mining_rules(depth=20, per_query=None, no_margin=True) == MiningRules(depth=20, per_query=5, margin=None)
    catalog: Any = SimpleNamespace(name="synthetic")
    made = pipeline.training_config(
        catalog, seed=3, text_only=True, max_length=40, train_text="last-1", changes={"epochs": 9, "batch_size": None}
    )
    assert (made.epochs, made.batch_size, made.tower.use_image) == (9, 16, False)
    assert (made.tower.max_length, made.tower.text.trainable) == (40, "last-1")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[trainning]\nepochs = 1", "gavel.toml:1 has no section [trainning]; did you mean 'training'? allowed are service, retr"),
        ("[training]\n\nlearning_rat = 1", "gavel.toml:3: [training] has no key 'learning_rat'; did you mean 'learning_rate'? all"),
        ('[training]\nepochs = "20"', "gavel.toml:2: [training] epochs is '20'; input should be a valid integer"),
        ("[training]\nepochs = true", "gavel.toml:2: [training] epochs is True; input should be a valid integer"),
        ("[training]\nepochs = 0", "gavel.toml:1: [training]: a training run needs epochs >= 1"),
        ("[training]\nlearning_rate = -1", "[training]: learning_rate must be above 0, not -1.0"),
        ('[training]\nweigh = "x"', "gavel.toml:2: [training] weigh is 'x'; input should be 'draw' or 'loss'"),
        ("[training]\nbatch_hard = -1.0", "gavel.toml:1: [training]: batch_hard is a weight of 0 or more, not -1"),
        ('[training]\nfeatures = "colour"', "[training]: there is no feature 'colour'; give auto, none, all, or some of category"),
        (
            '[training.tower]\nfeatures = "all"',
            "gavel.toml:2: [training.tower] features is fitted to the catalogue; set features in",
        ),
        ("[training]\nseed = 3", "[training] has no key 'seed'; it is a flag: --seed"),
        (
            '[[training.stages]]\nname = "a"\nepochz = 2',
            "gavel.toml:3: [training.stages] has no key 'epochz'; did you mean 'epochs'?",
        ),
        ("[[training.stages]]\nepochs = 2", "a table of [[training.stages]] lacks name"),
        ("[training]\nstages = [3]", "[training] stages holds 3; it must be a list of tables: write [[training.stages]]"),
        (
            '[training.augmentation]\ncrop = "a"',
            "gavel.toml:2: [training.augmentation] crop is 'a'; input should be a valid number",
        ),
        ("[service]\ncandidates = true", "gavel.toml:2: [service] candidates is True; allowed are whole numbers from 1"),
        ("[service]\ncandidates = 0", "gavel.toml:2: [service] candidates is 0; allowed are whole numbers from 1"),
        ("[service]\ndeadline_s = 0", "[service] deadline_s is 0; allowed are seconds above 0"),
        ("[service]\nhome = 3", "[service] home is 3; allowed are a path"),
        ('[service]\nindex = "nmslib"', "gavel.toml:2: [service] index is 'nmslib'; allowed are faiss, opensearch"),
        ("[retrieval]\nbuyer_share = 2", "gavel.toml:2: [retrieval] buyer_share is 2; allowed are numbers from 0 to 1"),
        ("[retrieval.event_weights]\nlook = 2", "gavel.toml:1: [retrieval] event_weights has no 'look'; allowed are view=<number>"),
        ("[retrieval]\nevent_weights = 2", "[retrieval] event_weights is 2; allowed are view=<number>, add_to_cart=<number>"),
        ('[retrieval]\nbuyer_half_life_days = "soon"', "buyer_half_life_days is 'soon'; allowed are numbers above 0 or none"),
        ("[reranker]\neta = 3", "[reranker]: eta is 3.0; allowed are numbers above 0 and up to 1"),
        ("service = 3", "gavel.toml:1: service must be a section: write [service] with its keys below"),
        ("[service\n", "gavel.toml is no TOML"),
    ],
)
def test_a_mistake_is_told_with_its_line_its_key_and_what_is_allowed(folder, text, told):
    assert told in refusal(folder, text)


def test_a_file_with_a_byte_order_mark_and_windows_line_ends_is_read(folder):
    (folder / "gavel.toml").write_bytes(b"\xef\xbb\xbf[service]\r\ncandidates = 80\r\n")
    assert environment()["GAVEL_CANDIDATES"] == "80"


def test_a_file_that_cannot_be_read_is_refused(folder):
    with pytest.raises(InvalidSettings, match="cannot be read: No such file"):
        use_config(folder / "nowhere.toml", {})
    (folder / "gavel.toml").write_bytes(b"[service]\nhome = '\xff'\n")
    with pytest.raises(InvalidSettings, match="is not UTF-8 text"):
        environment()


def test_what_is_printed_as_a_file_reads_back_to_the_same(folder):
    text = """
    [retrieval]
    bm25_b = 0.5
    [training]
    max_grad_norm = 2.5
    [training.tower.text]
    config = { model_type = "bert", hidden_size = 64 }
    """
    file = ConfigFile.read(write(folder, text))
    before = [(s.section, s.key, s.value) for s in all_settings(file)]
    printed = ConfigFile.read(write(folder, config_text(all_settings(file)), "printed.toml"))
    assert [(s.section, s.key, s.value) for s in all_settings(printed)] == before
    assert "max_grad_norm = 2.5" in printed.text.splitlines()
    assert "#epochs = 20" in printed.text.splitlines()


def test_every_default_that_is_printed_may_be_set(folder):
    defaults = all_settings(None)
    lines = config_text(defaults).splitlines()
    text = "\n".join(line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in lines)
    file = ConfigFile.read(write(folder, text))
    assert check_config(file) >= len(defaults)
    env = environment()
    assert (Settings.from_env(env), ScoringParameters.from_env(env)) == (Settings(), ScoringParameters())
    assert [s.value for s in all_settings(file)] == [s.value for s in defaults]
    assert {s.origin for s in all_settings(file) if s.section not in ("service", "retrieval")} == {"file"}


def test_every_key_says_what_it_means():
    assert [f"{s.section}.{s.key}" for s in all_settings(None) if not s.about] == []


def test_the_documentation_names_every_variable():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    missing = [name for cls in (Settings, ScoringParameters) for name in cls().to_env() if f"`{name}`" not in page]
    assert missing == []
    assert [section.name for section in SECTIONS if f"`[{section.name}]`" not in page] == []


def test_the_command_prints_what_is_in_force_and_who_says_so(folder):
    write(folder, '[service]\ncandidates = 80\nhome = ".shop"\n[mining]\ndepth = 40\n')
    told: Any = json.loads(gavel(folder, "config", "show", "--json", GAVEL_CANDIDATES="90", GAVEL_BUYER_SHARE="0.4").stdout)
    settings = told["settings"]
    assert told["file"] == "gavel.toml"
    assert settings["service"]["candidates"] == {"value": 90, "origin": "GAVEL_CANDIDATES"}
    assert settings["service"]["home"] == {"value": ".shop", "origin": "file"}
    assert settings["retrieval"]["buyer_share"] == {"value": 0.4, "origin": "GAVEL_BUYER_SHARE"}
    assert settings["mining"]["depth"] == {"value": 40, "origin": "file"}
    assert settings["mining"]["skip"] == {"value": 0, "origin": "default"}
    shown = gavel(folder, "config", "show").stdout.splitlines()
    assert any(line.split() == ["service.candidates", "80", "(file)"] for line in shown)


def test_every_command_reads_the_file_and_refuses_a_wrong_one(folder):
    write(folder, "[service]\ncandidats = 80\n", "wrong.toml")
    run = gavel(folder, "--config", "wrong.toml", "search", "vase")
    assert run.returncode == 2
    assert "wrong.toml:2: [service] has no key 'candidats'; did you mean 'candidates'?" in " ".join(run.stderr.split())
    assert "Traceback" not in run.stderr
    checked = gavel(folder, "config", "check", "wrong.toml")
    assert checked.returncode == 2
