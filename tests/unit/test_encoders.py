"""Pretrained encoders: from a local folder as from the hub, and what is said when neither is there."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from transformers import DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast

from models.encoders import ImageEncoder, TextEncoder
from models.presets import ImageEncoderSpec, TextEncoderSpec, preset
from models.tokenizer import make_tokenizer, train_wordpiece
from models.towers import TwoTowers
from retrieval.errors import InvalidInput, TowerError

SMALL = ImageEncoderSpec(name="small-resnet", width=4, blocks=(1, 1))


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory):
    """A small DistilBERT with its tokenizer, saved as the hub's models are."""
    folder = tmp_path_factory.mktemp("distilbert")
    tokenizer = train_wordpiece(["a red vase", "a blue watch"], 100)
    config = DistilBertConfig(vocab_size=100, dim=24, n_layers=1, n_heads=2, hidden_dim=48, max_position_embeddings=32)
    torch.manual_seed(3)
    DistilBertModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


def test_a_local_folder_brings_its_weights_and_its_tokenizer(distilbert):
    spec = TextEncoderSpec(model=str(distilbert))
    encoder = TextEncoder(spec).eval()
    expected = DistilBertModel.from_pretrained(distilbert).eval()
    ids = torch.tensor([[2, 7, 8, 3]])
    with torch.inference_mode():
        found = encoder(ids, torch.ones_like(ids))
        torch.testing.assert_close(found, expected(input_ids=ids).last_hidden_state[:, 0])
    assert encoder.width == 24
    tokenizer = make_tokenizer(replace(preset("compact"), text=spec), ["ignored"])
    assert tokenizer.encode("red vase").tokens == ["[CLS]", "red", "vase", "[SEP]"]


def test_towers_of_a_pretrained_encoder_can_be_built_again_without_it(distilbert):
    config = replace(preset("compact"), text=TextEncoderSpec(model=str(distilbert)), image=SMALL, shared_text_encoder=False)
    towers = TwoTowers(config)
    again = TwoTowers(towers.config)
    assert towers.config.text.model == ""
    assert {n: p.shape for n, p in again.state_dict().items()} == {n: p.shape for n, p in towers.state_dict().items()}


def test_mean_pooling_is_over_the_tokens_that_are_there(distilbert):
    encoder = TextEncoder(TextEncoderSpec(model=str(distilbert), pooling="mean")).eval()
    short, long = torch.tensor([[2, 7, 3]]), torch.tensor([[2, 7, 3, 0, 0]])
    with torch.inference_mode():
        torch.testing.assert_close(encoder(long, (long > 0).long()), encoder(short, torch.ones_like(short)))


def test_a_model_out_of_reach_is_named_with_the_ways_out(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TowerError, match=r"text encoder 'no-such/model'.*give the path.*compact"):
        TextEncoder(TextEncoderSpec(model="no-such/model"))
    with pytest.raises(TowerError, match=r"tokenizer 'no-such/model'"):
        make_tokenizer(replace(preset("compact"), text=TextEncoderSpec(model="no-such/model")), ["a"])


def test_image_weights_out_of_reach_are_named_with_the_ways_out(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(TowerError, match=r"image encoder 'resnet18 IMAGENET1K_V1'.*Name or service not known.*give the path"):
        ImageEncoder(ImageEncoderSpec(name="resnet18", weights="IMAGENET1K_V1"))
    with pytest.raises(TowerError, match="resnet18 NO_SUCH_WEIGHTS"):
        ImageEncoder(ImageEncoderSpec(name="resnet18", weights="NO_SUCH_WEIGHTS"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_image_weights_come_from_a_local_state_dict(tmp_path, suffix):
    donor, path = ImageEncoder(SMALL), tmp_path / f"weights{suffix}"
    state = {name: value.contiguous() for name, value in donor.resnet.state_dict().items()}
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    encoder = ImageEncoder(replace(SMALL, weights=str(path)))
    photo = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(encoder.eval()(photo), donor.eval()(photo))


def test_a_classifier_in_a_state_dict_is_left_behind(tmp_path):
    import torchvision

    donor, path = torchvision.models.resnet18(), tmp_path / "resnet18.pth"
    torch.save(donor.state_dict(), path)
    encoder = ImageEncoder(ImageEncoderSpec(name="resnet18", weights=str(path)))
    assert encoder.width == 512
    torch.testing.assert_close(encoder.resnet.conv1.weight, donor.conv1.weight)


def test_image_weights_that_do_not_fit_or_are_missing_are_refused(tmp_path):
    other = ImageEncoder(replace(SMALL, width=8))
    save_file({n: v.contiguous() for n, v in other.resnet.state_dict().items()}, tmp_path / "other.safetensors")
    (tmp_path / "noise.pth").write_bytes(b"noise")
    for name, message in (("other.safetensors", "do not fit"), ("noise.pth", "noise.pth"), ("absent.pth", "missing")):
        with pytest.raises(TowerError, match=message):
            ImageEncoder(replace(SMALL, weights=str(tmp_path / name)))


def test_a_tokenizer_needs_text():
    with pytest.raises(InvalidInput, match="titles"):
        train_wordpiece(["", ""], 100)


def test_a_word_of_the_catalogue_is_one_piece_and_any_other_is_spelt():
    tokenizer = train_wordpiece(["Art Deco vases", "vase of glass"], 200)
    assert tokenizer.encode("ART deco vase").tokens == ["[CLS]", "art", "deco", "vase", "[SEP]"]
    assert tokenizer.encode("save").tokens == ["[CLS]", "s", "##a", "##v", "##e", "[SEP]"]
    assert tokenizer.encode("花").tokens == ["[CLS]", "[UNK]", "[SEP]"]
    assert tokenizer.encode("[SEP]").ids.count(tokenizer.token_to_id("[SEP]")) <= 2


def test_a_full_vocabulary_keeps_the_frequent_words_and_every_character():
    texts = [f"vase number{n}" for n in range(50)]
    tokenizer = train_wordpiece(texts, 60)
    assert tokenizer.get_vocab_size() == 60
    assert tokenizer.encode("vase number7").tokens[:2] == ["[CLS]", "vase"]
    assert "[UNK]" not in tokenizer.encode("number49 seven").tokens[:2]


def test_the_same_texts_make_the_same_tokenizer():
    texts = [f"lot {n} of {word}" for n in range(40) for word in ("glass", "brass", "oak", "silver")]
    assert train_wordpiece(texts, 100).to_str() == train_wordpiece(texts, 100).to_str()
