"""The artefact of a published encoder as it is: towers that are stored, embedded with and served like trained ones."""

import hashlib
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from models.artefacts.model_card import write_model_card
from models.artefacts.run_record import read_record, write_record
from models.artefacts.tower_files import is_whole, save_towers
from models.towers.config import PRESETS
from models.towers.published import published_towers
from models.towers.tokenizer import make_tokenizer
from models.towers.two_towers import TwoTowers
from retrieval.contracts.tower_card import CARD_FILE
from retrieval.errors import InvalidInput

STAGE = "published"  # stage of the run record, in place of a training's


def save_published_towers(model: str, out: Path) -> Path:
    """Write the artefact of a published encoder, without training.

    Args:
        model: hub name or local folder of a sentence encoder or of a model for words and pictures, or a preset of one.
        out: folder of the artefacts.

    Returns:
        `out/<tower_id>`; one of the same weights that is there already is left as it is.

    Raises:
        InvalidInput: the preset has no published vectors, or the model has a step that the towers lack.
        TowerError: there is no such model.
    """
    started, began = time.monotonic(), datetime.now(UTC)
    config = published_towers(model)
    if config.hidden or not config.text.model:
        presets = ", ".join(name for name, known in PRESETS.items() if known.text.model and not known.hidden)
        raise InvalidInput(f"preset {model!r} is no published encoder of its own; take {presets}, or a model by name or folder")
    towers = TwoTowers(config).eval()
    weights = _hash_of(towers)
    known = (card.parent for card in sorted(out.glob(f"*/{CARD_FILE}")) if read_record(card.parent).get("weights") == weights)
    folder = next(filter(is_whole, known), None)
    if folder is None:
        folder = save_towers(towers, make_tokenizer(config, ()), out)
        parameters = sum(parameter.numel() for parameter in towers.parameters())
        record = {"stage": STAGE, "start_from": model, "weights": weights, "parameters": parameters}
        write_record(folder, {**record, "seconds": round(time.monotonic() - started, 1)}, began)
        write_model_card(folder)
    return folder


def _hash_of(towers: TwoTowers) -> str:
    """Return a hash of the weights and the architecture, by which an artefact is known before its export."""
    digest = hashlib.sha256(repr([towers.config, torch.__version__]).encode())
    for name, value in towers.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
