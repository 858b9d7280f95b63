"""A tower that is real in every part but its size and its training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from models.towers.config import TowerConfig

WORDS = "red blue green steel gold watch ring vase lamp chair old new luxury vintage . , and the a of"


def small_config(*, use_image: bool = True) -> "TowerConfig":
    """Compact towers of 16 dimensions that look at photos of 32 pixels."""
    from models.towers.config import PRESETS, ImageEncoderSpec

    compact = PRESETS["compact"]
    text = {**compact.text.config, "dim": 32, "hidden_dim": 64, "n_layers": 1, "n_heads": 2}
    return replace(
        compact,
        text=replace(compact.text, config=text),
        image=ImageEncoderSpec(name="small-resnet", width=8, blocks=(1, 1)),
        hidden=32,
        dimensions=16,
        max_length=24,
        image_size=32,
        use_image=use_image,
        vocabulary=300,
    )


def save_small_item_tower(out: Path, *, seed: int = 0, use_image: bool = True, **changes: Any) -> Path:
    """Save an item tower of small_config(), changed as given, with random weights; of what serves queries the files are left empty.

    Returns:
        `out/<tower_id>`.
    """
    import torch

    from models.artefacts.tower_files import save_towers
    from models.towers.tokenizer import train_wordpiece
    from models.towers.two_towers import TwoTowers

    torch.manual_seed(seed)
    config = replace(small_config(use_image=use_image), **changes)
    tokenizer = train_wordpiece([WORDS], config.vocabulary)
    text = replace(config.text, config={**config.text.config, "vocab_size": tokenizer.get_vocab_size()})
    empty = {name: lambda tower, path, *bits: path.touch() for name in ("export_query_tower", "export_image_tower")}
    with patch.multiple("models.artefacts.tower_files", **empty):  # the exports take seconds
        return save_towers(TwoTowers(replace(config, text=text)), tokenizer, out)


def save_small_encoder(folder: Path, texts: list[str]) -> Path:
    """Save a small DistilBERT with random weights and a tokenizer of some texts, as the hub's models are saved.

    Returns:
        The folder.
    """
    import torch
    from transformers import DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast

    from models.towers.tokenizer import train_wordpiece

    tokenizer = train_wordpiece(texts, 100)
    config = DistilBertConfig(vocab_size=100, dim=24, n_layers=1, n_heads=2, hidden_dim=48, max_position_embeddings=32)
    torch.manual_seed(3)
    DistilBertModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


def save_small_joint_encoder(folder: Path, texts: list[str], kind: str = "clip", side: int = 16) -> Path:
    """Save a small CLIP or SigLIP with random weights, a tokenizer of some texts and the normalisation of its photos.

    Args:
        folder: folder to save into.
        texts: texts of the tokenizer.
        kind: "clip" or "siglip".
        side: side of the photos in pixels.

    Returns:
        The folder.
    """
    import torch
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    from models.towers.tokenizer import train_wordpiece

    tokenizer = train_wordpiece(texts, 100)
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    ids = {"bos_token_id": 2, "eos_token_id": tokenizer.token_to_id("[SEP]"), "pad_token_id": 0}
    text = {**layers, "hidden_size": 32, "vocab_size": 100, "max_position_embeddings": 20, **ids}
    vision = {**layers, "hidden_size": 32 if kind == "siglip" else 24, "image_size": side, "patch_size": side // 2}
    sizes = {"projection_dim": 28} if kind == "clip" else {}
    torch.manual_seed(4)
    config = AutoConfig.for_model(kind, text_config=text, vision_config=vision, **sizes)
    AutoModel.from_config(config).save_pretrained(folder)
    ends = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}))
    return folder


def save_small_cross_encoder(folder: Path, outputs: int = 1) -> Path:
    """Save a small BERT for sequence classification with random weights, as sentence-transformers saves a cross-encoder.

    Returns:
        The folder.
    """
    import torch
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    from models.towers.tokenizer import train_wordpiece

    torch.manual_seed(5)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    config = BertConfig(vocab_size=100, max_position_embeddings=32, num_labels=outputs, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer = train_wordpiece([WORDS], 100)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


def save_spread_tower(texts: list[str], out: Path, *, use_image: bool = False) -> Path:
    """Save a compact tower with random weights for a vocabulary of some texts, its query tower exported.

    Returns:
        `out/<tower_id>`.
    """
    import torch

    from models.artefacts.tower_files import save_towers
    from models.towers.config import preset
    from models.towers.tokenizer import train_wordpiece
    from models.towers.two_towers import TwoTowers
    from models.training.two_towers import fit_vocabulary

    tokenizer = train_wordpiece(texts, 500)
    torch.manual_seed(0)
    towers = TwoTowers(
        fit_vocabulary(replace(preset("compact"), use_image=use_image, matryoshka=(64,)), tokenizer.get_vocab_size())
    )
    with torch.no_grad():  # spread the vectors, as training does: near the middle of a cone everything is alike
        for projection in (towers.query_tower.projection, towers.item_tower.projection):
            projection[3].bias.copy_(-projection[3].weight @ projection[0].bias.relu())
    return save_towers(towers, tokenizer, out)
