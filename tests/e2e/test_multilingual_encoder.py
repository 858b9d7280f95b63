"""A multilingual encoder with the tokenizer of XLM-R through the whole chain: load, train, export, embed, index, search.

The encoders are small and have random weights; their files are laid out as those of the hub: a Unigram tokenizer with <s>, <pad>,
</s> and <unk>, for an XLM-R (whose positions are counted from behind its padding) and for a BERT (which is what
paraphrase-multilingual-MiniLM-L12-v2 is).
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bilingual_shop import lots, title, write_bilingual_catalog
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

from models.artefacts.tower_files import load_towers
from models.towers.config import MULTILINGUAL_MINILM, preset
from models.towers.tokenizer import make_tokenizer
from models.towers.two_towers import TwoTowers
from models.training.two_towers import TrainingConfig, train_towers
from processing.embedding.job import embed
from retrieval.contracts.items import query_text
from retrieval.contracts.parts import read_part
from retrieval.contracts.release import load_release
from retrieval.encoders.query_encoder import QueryEncoder, load_tokenizer, tokenize
from retrieval.errors import TowerError
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
PIECES, POSITIONS = 400, 34
TEXTS = [title(kind, variant, language) for _, kind, variant in lots() for language in ("en", "ar")]
SPELLINGS = ("خَاتَم من الذهب", "خاتـــم من الذهب", "خاتم من الذهب١٨", "gold خاتم 18", "\u200fقلادة", "")


def unigram() -> Tokenizer:
    """A SentencePiece tokenizer of the shop's words, as XLM-R's file has it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=PIECES, special_tokens=list(SPECIAL), unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(map(query_text, TEXTS), trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return tokenizer


def save_encoder(kind: str, folder: Path) -> Path:
    """Save an encoder of two layers and its tokenizer as transformers does."""
    tokenizer = unigram()
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    size |= {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": POSITIONS}
    torch.manual_seed(0)
    if kind == "xlm-roberta":
        XLMRobertaModel(XLMRobertaConfig(**size, pad_token_id=1, type_vocab_size=1)).save_pretrained(folder)
    else:
        BertModel(BertConfig(**size)).save_pretrained(folder)  # its pad_token_id is 0, its tokenizer's 1, as in the published one
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=POSITIONS, **names).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["xlm-roberta", "bert"])
def tower(request, tmp_path_factory) -> Path:
    """The artefact of a few steps of training, of vectors projected to 16 numbers."""
    encoder = save_encoder(request.param, tmp_path_factory.mktemp("encoder"))
    size = preset("multilingual")
    size = replace(size, text=replace(size.text, model=str(encoder)), dimensions=16)
    config = TrainingConfig(tower=size, epochs=2, batch_size=24, learning_rate=2e-3, pretrained_factor=1.0, validate_every=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        shop = write_bilingual_catalog(tmp_path_factory.mktemp("shop") / "catalog")
        return train_towers(shop, config, tmp_path_factory.mktemp("towers")).tower_folder
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def test_the_served_query_tower_agrees_with_torch_on_arabic_text(tower):
    towers, card = load_towers(tower)
    texts = [query_text(text) for text in (*TEXTS, *SPELLINGS)]
    ids, mask = tokenize(load_tokenizer(tower, card), texts, card.max_length)  # all padded to the longest
    trained = towers.query_tower(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    served = QueryEncoder.load(tower).encode(texts)  # each alone, without padding
    assert served.shape == (len(texts), 16)
    assert (served * trained).sum(axis=1).min() >= 0.99
    assert set(ids[mask == 0]) == {1}


def test_spellings_of_one_word_are_one_query(tower):
    vectors = QueryEncoder.load(tower).encode(["خاتم من الذهب", *SPELLINGS[:2]])
    np.testing.assert_array_equal(vectors[0], vectors[1])
    np.testing.assert_array_equal(vectors[0], vectors[2])


def test_texts_longer_than_the_encoder_has_positions_for_are_cut(tower):
    towers, card = load_towers(tower)
    reserved = 2 if towers.config.text.config["model_type"] == "xlm-roberta" else 0
    assert card.max_length == POSITIONS - reserved
    vectors = QueryEncoder.load(tower).encode(["خاتم من الذهب والفضة " * 60, "gold ring " * 300])
    assert np.isfinite(vectors).all()


def test_lots_of_both_languages_are_embedded_indexed_and_found(tower, tmp_path):
    shop = write_bilingual_catalog(tmp_path / "catalog")
    release_id = embed(shop.item_files("val"), tower, tmp_path / "embeddings").release_id
    release = tmp_path / "embeddings" / release_id
    index = EmbeddedStore(tmp_path / "index").create(tower.name, 16)
    for part in load_release(release).parts:
        index.upsert(read_part(release / part.name))
    index.refresh()
    vector = QueryEncoder.load(tower).encode(["مجوهرات"])[0]
    assert len(index.semantic(vector, 10, Filter())) == 10
    assert all("ring" in hit.document["title"] or "خاتم" in hit.document["title"] for hit in index.keyword("خَاتَم", 10, Filter()))


def test_without_a_network_the_preset_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for build in (TwoTowers, lambda config: make_tokenizer(config, [])):
        with pytest.raises(TowerError, match=rf"'{MULTILINGUAL_MINILM}'.*give the path of the copy"):
            build(preset("multilingual"))
