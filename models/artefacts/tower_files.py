"""A tower artefact on disk: weights of both towers, query tower and image branch for serving, the tokenizer and the card."""

import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from models.artefacts.onnx_export import export_image_tower, export_item_tower, export_query_tower
from models.towers.config import TowerConfig
from models.towers.two_towers import TwoTowers
from retrieval.contracts.tower_card import (
    COPY,
    IMAGE_TOWER_FILE,
    ITEM_ENCODER_FILES,
    ITEM_TOWER_FILE,
    QUERY_TOWER_FILE,
    TOKENIZER_FILE,
    TowerCard,
)
from retrieval.errors import NoImageBranch, TowerError
from retrieval.files import commit_folder, replace_file, replacing

SHARED_PREFIX = "query_tower.text_encoder."


def save_towers(towers: TwoTowers, tokenizer: Tokenizer, out: Path) -> Path:
    """Write an artefact atomically: its folder appears whole or not at all.

    Args:
        towers: both towers, trained.
        tokenizer: tokenizer that the towers were trained with.
        out: folder of the artefacts.

    Returns:
        `out/<tower_id>`; an undamaged folder of this name is left as it is.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tower-", dir=out) as scratch:
        folder = Path(scratch) / "tower"
        folder.mkdir()
        save_file(_weights(towers), folder / ITEM_TOWER_FILE)
        tokenizer.save(str(folder / TOKENIZER_FILE))
        export_query_tower(towers.query_tower, folder / QUERY_TOWER_FILE, towers.config.query_bits)
        if towers.config.use_image:
            export_image_tower(towers, folder / IMAGE_TOWER_FILE)
        card = _card(towers.config, folder)
        card.save(folder)
        target = out / card.tower_id
        if target.exists() and not is_whole(target):
            shutil.rmtree(target)
        if not target.exists():
            commit_folder(folder, target)
    return target


def add_image_tower(folder: Path) -> bool:
    """Add the image branch, which search by photo needs, to an artefact of an older version; the tower_id stays.

    Args:
        folder: `towers/<tower_id>`.

    Returns:
        True if the branch was added, False if the artefact has one already.

    Raises:
        NoImageBranch: the tower reads no photos.
        TowerError: a file is missing or damaged.
    """
    card = TowerCard.load(folder, verify=True)
    if card.has_image_encoder:
        return False
    if not card.image_size:
        raise NoImageBranch(f"tower {card.tower_id} reads text alone; train one without --text-only on lots with photos")
    towers, _ = load_towers(folder)
    with replacing(folder / IMAGE_TOWER_FILE) as partial:
        export_image_tower(towers, partial)
    card.with_files(folder, IMAGE_TOWER_FILE).save_again(folder)
    return True


def add_item_encoder(folder: Path) -> bool:
    """Add the item tower as ONNX to an artefact, so that a server can encode single items; the tower_id stays.

    Args:
        folder: `towers/<tower_id>`.

    Returns:
        True if the files were added, False if the artefact has them already.

    Raises:
        TowerError: a file is missing or damaged.
    """
    if TowerCard.load(folder, verify=True).has_item_encoder:
        return False
    towers, _ = load_towers(folder)
    with tempfile.TemporaryDirectory(prefix=".item-", dir=folder) as scratch:
        export_item_tower(towers, Path(scratch))
        names = [name for name in ITEM_ENCODER_FILES if (Path(scratch) / name).is_file()]
        for name in names:
            replace_file(folder / name, (Path(scratch) / name).read_bytes())
    TowerCard.load(folder).with_files(folder, *names).save_again(folder)
    return True


def load_towers(folder: Path, device: str | torch.device = "cpu") -> tuple[TwoTowers, TowerCard]:
    """Rebuild the towers of an artefact; no hub is asked.

    Args:
        folder: `towers/<tower_id>`.
        device: device of the weights.

    Returns:
        The towers in eval mode, and their card.

    Raises:
        TowerError: a file is missing or damaged, or the weights do not fit the card's architecture.
    """
    card = TowerCard.load(folder)
    path = folder / ITEM_TOWER_FILE
    card.check_file(folder, ITEM_TOWER_FILE)
    try:
        weights = load_file(path, device=str(device))
    except SafetensorError as error:
        raise TowerError(f"{path} is damaged ({error}); {COPY}") from error
    towers = TwoTowers(TowerConfig.from_architecture(card.architecture))
    shared = {name for name in towers.state_dict() if _is_shared(name, towers.config)}
    try:
        missing, unexpected = towers.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise TowerError(f"{path} does not fit its card: {str(error).splitlines()[-1].strip()}; {COPY}") from error
    if unexpected or set(missing) - shared:
        wrong = sorted([*unexpected, *(set(missing) - shared)])[0]
        raise TowerError(f"{path} does not fit its card (first difference: {wrong}); {COPY}")
    return towers.to(device).eval(), card


def _weights(towers: TwoTowers) -> dict[str, torch.Tensor]:
    """Return every weight once; a shared text encoder is stored only under the item tower."""
    state = towers.state_dict()
    return {name: value.detach().cpu().contiguous() for name, value in state.items() if not _is_shared(name, towers.config)}


def _is_shared(name: str, config: TowerConfig) -> bool:
    return config.shared_text_encoder and name.startswith(SHARED_PREFIX)


def _card(config: TowerConfig, folder: Path) -> TowerCard:
    return TowerCard.create(
        folder,
        preset=config.preset,
        dimensions=config.dimensions,
        max_length=config.max_length,
        image_size=config.image_size if config.use_image else 0,
        image_mean=config.image_mean,
        image_std=config.image_std,
        architecture=config.to_architecture(),
        matryoshka=config.matryoshka,
    )


def is_whole(folder: Path) -> bool:
    """Return True if a folder holds an artefact whose files are those of its card."""
    try:
        TowerCard.load(folder, verify=True)
    except TowerError:
        return False
    return True
