"""Pretrained encoders: from a local folder as from the hub, and what is said when neither is there."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from small_tower import save_small_encoder
from transformers import DistilBertModel

from models.towers.config import ImageEncoderSpec, TextEncoderSpec, TowerConfig, preset
from models.towers.encoders import ImageEncoder, TextEncoder
from models.towers.tokenizer import make_tokenizer, train_wordpiece
from models.towers.two_towers import TwoTowers
from retrieval.errors import InvalidInput, TowerError

SMALL = ImageEncoderSpec(name="small-resnet", width=4, blocks=(1, 1))


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory):
    """A small DistilBERT with its tokenizer, saved as the hub's models are."""
    return save_small_encoder(tmp_path_factory.mktemp("distilbert"), ["a red vase", "a blue watch"])


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


SIZES = {"num_hidden_layers": 3, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32, "vocab_size": 50}
KINDS = {
    "distilbert": {"n_layers": 3, "n_heads": 2, "dim": 16, "hidden_dim": 32, "vocab_size": 50},
    "bert": SIZES,
    "xlm-roberta": {**SIZES, "pad_token_id": 1, "max_position_embeddings": 34},
}


@pytest.fixture(params=KINDS)
def text_spec(request) -> TextEncoderSpec:
    """A small fresh encoder of each kind."""
    return TextEncoderSpec(config={"model_type": request.param, **KINDS[request.param]}, pooling="mean")


def layers_of(names) -> set[str]:
    return {name.split("layer.")[1].split(".")[0] if "layer." in name else "embeddings" for name in names}


@pytest.mark.parametrize(("trainable", "expected"), [("last-1", {"2"}), ("last-3", {"0", "1", "2"}), ("none", set())])
def test_only_the_last_layers_take_gradients(text_spec, trainable, expected):
    encoder = TextEncoder(replace(text_spec, trainable=trainable)).train()
    ids = torch.tensor([[2, 7, 8, 3]])
    vectors = encoder(ids, torch.ones_like(ids))
    assert vectors.requires_grad == bool(expected)
    if expected:
        vectors.square().sum().backward()
    assert layers_of([name for name, parameter in encoder.named_parameters() if parameter.grad is not None]) == expected


def test_every_parameter_of_a_whole_encoder_takes_a_gradient(text_spec):
    encoder = TextEncoder(text_spec).train()
    ids = torch.tensor([[2, 7, 8, 3]])
    encoder(ids, torch.ones_like(ids)).square().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_a_frozen_text_encoder_says_the_same_in_training_as_in_serving(text_spec):
    encoder = TextEncoder(replace(text_spec, trainable="none"))
    ids = torch.tensor([[2, 7, 8, 3]])
    torch.testing.assert_close(encoder.train()(ids, torch.ones_like(ids)), encoder.eval()(ids, torch.ones_like(ids)))


def test_more_layers_than_there_are_is_refused_with_their_number(text_spec):
    with pytest.raises(InvalidInput, match=r"'last-4', but the encoder has 3 layers"):
        TextEncoder(replace(text_spec, trainable="last-4"))
    with pytest.raises(InvalidInput, match=r"'last-3', but the encoder has 2 stages"):
        ImageEncoder(replace(SMALL, trainable="last-3"))
    for wrong in ("some", "last-0", "last-", "last-2x"):
        with pytest.raises(InvalidInput, match="trainable"):
            TextEncoderSpec(trainable=wrong)


def test_the_longest_text_fits_the_positions(text_spec):
    encoder = TextEncoder(text_spec).eval()
    length = min(encoder.max_positions, 64)
    ids = torch.full((1, length), 7)
    with torch.inference_mode():
        assert torch.isfinite(encoder(ids, torch.ones_like(ids))).all()
    if text_spec.config["model_type"] == "xlm-roberta":
        assert encoder.max_positions == 32


@pytest.mark.parametrize(("trainable", "learns"), [("none", False), ("last-1", True)])
def test_frozen_batch_norms_keep_their_statistics_and_the_last_stage_learns(trainable, learns):
    spec = ImageEncoderSpec(name="resnet18", trainable=trainable)
    encoder = ImageEncoder(spec).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    out = encoder(torch.rand(2, 3, 32, 32))
    changed = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert out.requires_grad == learns
    assert all("layer4" in name for name in changed | trained)
    assert bool(changed) == bool(trained) == learns


def test_the_stages_of_a_small_resnet_are_its_groups_of_blocks():
    encoder = ImageEncoder(replace(SMALL, blocks=(1, 2), trainable="last-1")).train()
    blocks = {name.split(".")[1] for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert blocks == {"5", "6"}, "stem 0 to 3, first stage 4, second stage 5 and 6"


def test_towers_read_no_more_of_a_text_than_the_encoder_has_positions_for(distilbert):
    assert TwoTowers(TowerConfig.of_encoder(str(distilbert), max_length=128)).config.max_length == 32
    assert TwoTowers(TowerConfig.of_encoder(str(distilbert), max_length=16)).config.max_length == 16
