"""Frozen encoders: their encodings are computed once, kept by what they come from, and stand for the encoders in training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from painted_lots import write_painted_catalog
from safetensors.torch import load_file
from small_tower import small_config

from models.data.encoding_cache import encode_in_chunks, encode_photo_table, encode_text_table, is_frozen, text_inputs
from models.data.tables import PhotoTable, TokenTable
from models.towers.encoders import ImageEncoder, TextEncoder
from models.towers.tokenizer import train_wordpiece
from models.towers.two_towers import TextEncodings, Tokens, TwoTowers
from models.training.two_towers import TrainingConfig, fit_vocabulary, train_towers
from retrieval.contracts.tower_card import ITEM_TOWER_FILE
from retrieval.encoders.query_encoder import prepare_tokenizer

CPU = torch.device("cpu")
CONFIG = fit_vocabulary(small_config(), 60)
TOKENS = TokenTable(
    np.array([[2, 9, 3, 0, 0], [2, 8, 7, 6, 3], [2, 3, 0, 0, 0], [2, 5, 5, 3, 0]], dtype=np.int32), np.array([3, 5, 2, 4])
)


@pytest.fixture
def encoder() -> TextEncoder:
    torch.manual_seed(1)
    return TextEncoder(replace(CONFIG.text, trainable="none"))


@pytest.fixture
def photos() -> PhotoTable:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    return PhotoTable(pixels, np.array([True, False, True, True]))


def no_more_encoding(monkeypatch, encoder) -> None:
    def forward(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(encoder, "forward", forward)


def test_kept_encodings_are_what_the_encoder_says_in_the_order_of_the_texts(encoder, tmp_path):
    table = encode_text_table(encoder, TOKENS, tmp_path, CPU)
    assert table.vectors.shape == (4, encoder.width)
    for row in range(4):
        ids, mask = TOKENS.take(np.array([row]))
        with torch.inference_mode():
            expected = encoder.eval()(torch.from_numpy(ids), torch.from_numpy(mask))[0].numpy()
        np.testing.assert_allclose(table.vectors[row], expected, atol=1e-6)


def test_encodings_are_made_once_and_again_for_other_weights_or_texts(encoder, tmp_path, monkeypatch):
    first = encode_text_table(encoder, TOKENS, tmp_path, CPU)
    with monkeypatch.context() as patch:
        no_more_encoding(patch, encoder)
        np.testing.assert_array_equal(encode_text_table(encoder, TOKENS, tmp_path, CPU).vectors, first.vectors)
        with pytest.raises(AssertionError, match="encoded again"):
            encode_text_table(encoder, TOKENS.rows(np.array([0, 1])), tmp_path, CPU)
    with torch.no_grad():
        encoder.transformer.embeddings.word_embeddings.weight[9] += 1.0
    changed = encode_text_table(encoder, TOKENS, tmp_path, CPU)
    assert not np.allclose(changed.vectors[0], first.vectors[0])
    np.testing.assert_allclose(changed.vectors[2], first.vectors[2])


def test_an_interrupted_encoding_goes_on_with_the_next_chunk(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("models.data.encoding_cache.TEXTS_PER_CHUNK", 2)
    tokenizer = prepare_tokenizer(train_wordpiece(["red vase", "gold ring"], 60), 8)
    texts = ["red", "red vase", "ring", "gold ring", "vase"]
    seen: list[tuple[int, int]] = []

    def encode(stop_at: int) -> np.ndarray:
        def progress(done: int, total: int) -> None:
            if done == stop_at:
                raise KeyboardInterrupt
            seen.append((done, total))

        return encode_in_chunks(encoder, tokenizer, texts, 8, tmp_path, CPU, progress)

    with pytest.raises(KeyboardInterrupt):
        encode(4)
    assert len(list(tmp_path.iterdir())) == 1
    vectors = encode(-1)
    assert seen[-1] == (5, 5)
    with monkeypatch.context() as patch:
        no_more_encoding(patch, encoder)
        np.testing.assert_array_equal(encode(-1), vectors)


def test_a_file_that_was_cut_short_is_made_again_and_nothing_half_written_stays(encoder, tmp_path):
    first = np.array(encode_text_table(encoder, TOKENS, tmp_path, CPU).vectors)
    (file,) = tmp_path.iterdir()
    for damaged in (b"", b"noise", file.read_bytes()[:200]):
        file.unlink()
        file.write_bytes(damaged)
        np.testing.assert_array_equal(encode_text_table(encoder, TOKENS, tmp_path, CPU).vectors, first)
    assert list(tmp_path.iterdir()) == [file]


def test_encoding_leaves_the_encoder_in_its_mode(tmp_path):
    encoder = TextEncoder(CONFIG.text).train()
    encode_text_table(encoder, TOKENS, tmp_path, CPU)
    assert encoder.training
    assert encoder.transformer.training


def test_photos_are_encoded_where_there_are_any(photos, tmp_path, monkeypatch):
    torch.manual_seed(2)
    encoder = ImageEncoder(replace(CONFIG.image, trainable="none"))
    kept = encode_photo_table(encoder, photos, CONFIG, tmp_path, CPU)
    assert kept.vectors.shape == (4, encoder.width)
    assert not kept.vectors[1].any()
    assert kept.vectors[[0, 2, 3]].any(axis=1).all()
    no_more_encoding(monkeypatch, encoder)
    np.testing.assert_array_equal(encode_photo_table(encoder, photos, CONFIG, tmp_path, CPU).vectors, kept.vectors)
    with pytest.raises(AssertionError, match="encoded again"):
        encode_photo_table(encoder, photos, replace(CONFIG, image_mean=(0.0, 0.0, 0.0)), tmp_path, CPU)


def test_a_tower_reads_a_table_of_encodings_as_it_reads_its_tokens(tmp_path):
    torch.manual_seed(0)
    towers = TwoTowers(replace(CONFIG, text=replace(CONFIG.text, trainable="none"))).eval()
    table = encode_text_table(towers.query_tower.text_encoder, TOKENS, tmp_path, CPU)
    rows = np.array([3, 1])
    encoded, tokens = text_inputs(table, rows, CPU), text_inputs(TOKENS, rows, CPU)
    assert isinstance(encoded, TextEncodings)
    assert isinstance(tokens, Tokens)
    with torch.inference_mode():
        torch.testing.assert_close(towers.query_tower.encode(encoded), towers.query_tower.encode(tokens))
        torch.testing.assert_close(towers.item_tower(encoded), towers.item_tower(tokens))


@pytest.mark.parametrize(("trainable", "frozen"), [("none", True), ("last-1", False), ("all", False)])
def test_an_encoder_is_frozen_when_none_of_it_is_trained(trainable, frozen):
    assert is_frozen(TextEncoder(replace(CONFIG.text, trainable=trainable))) is frozen


def test_heads_train_on_what_frozen_encoders_made_and_the_encoders_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("models.artefacts.tower_files.export_query_tower", lambda tower, path, bits: path.touch())
    monkeypatch.setattr("models.artefacts.tower_files.export_image_tower", lambda towers, path: path.touch())
    catalog = write_painted_catalog(tmp_path / "catalog")
    tower = small_config()
    tower = replace(tower, text=replace(tower.text, trainable="none"), image=replace(tower.image, trainable="none"))
    config = TrainingConfig(tower=tower, epochs=3, batch_size=16, learning_rate=3e-3)
    calls = []
    forward = TextEncoder.forward
    monkeypatch.setattr(TextEncoder, "forward", lambda self, *given: calls.append(1) or forward(self, *given))
    report = train_towers(catalog, config, tmp_path / "towers")
    first = len(calls)
    assert first > 0
    again = train_towers(catalog, replace(config, learning_rate=2e-3), tmp_path / "towers")
    assert len(calls) == first, "the second run found the encodings of the first"
    weights, others = (load_file(r.tower_folder / ITEM_TOWER_FILE) for r in (report, again))
    for name, value in weights.items():
        if "_encoder." in name:
            torch.testing.assert_close(value, others[name], rtol=0, atol=0)
    assert not torch.equal(weights["item_tower.projection.0.weight"], others["item_tower.projection.0.weight"])
    assert report.history[-1].loss < report.history[0].loss
