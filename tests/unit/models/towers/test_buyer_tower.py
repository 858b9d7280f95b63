"""The buyer tower: torch and numpy agree, it starts as the weighted average, and a file that is not its own is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.towers.buyer_tower import BuyerAttention, InteractionBatch
from models.training.buyers import to_numpy
from retrieval.buyers.attention import BUYER_TOWER_FILE, Attention, load_buyer_tower, save_buyer_tower
from retrieval.buyers.vector import AVERAGE, WeightedAverage, unit_vector
from retrieval.contracts.tower_card import LENGTH_MARK, TowerCard
from retrieval.errors import TowerError

DIMENSIONS = 16
CARD = TowerCard(
    tower_id="0123456789abcdef",
    preset="compact",
    dimensions=DIMENSIONS,
    max_length=8,
    image_size=0,
    image_mean=(0.0, 0.0, 0.0),
    image_std=(1.0, 1.0, 1.0),
    files={},
    architecture={},
)


def shaken(heads: int, half_life: float | None = None, seed: int = 0, dimensions: int = DIMENSIONS) -> BuyerAttention:
    """A tower as after training: no parameter is where it started."""
    torch.manual_seed(seed)
    tower = BuyerAttention(dimensions, heads, half_life)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return tower.eval()


def acts_of(count: int, seed: int, dimensions: int = DIMENSIONS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(count, dimensions))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), random.choice([1.0, 5.0, 10.0], count), np.sort(random.uniform(0, 400, count))[::-1]


def in_torch(tower: BuyerAttention, vectors: np.ndarray, weights: np.ndarray, ages: np.ndarray, padding: int = 0) -> np.ndarray:
    filled = [np.pad(array, (0, padding)).astype(np.float32)[None] for array in (weights, ages)]
    places = np.pad(np.arange(len(vectors)), (0, padding))[None]
    with torch.inference_mode():
        return tower(torch.from_numpy(vectors), InteractionBatch(*map(torch.from_numpy, (places, *filled))))[0].numpy()


def saved(folder: Path, tower: Attention | WeightedAverage) -> Path:
    home = folder / CARD.tower_id
    home.mkdir()
    save_buyer_tower(tower, home, CARD)
    return home


@pytest.mark.parametrize("heads", [0, 1, 2, 4])
@pytest.mark.parametrize("count", [1, 2, 200])
@pytest.mark.parametrize("half_life", [None, 30.0])
def test_numpy_serves_what_torch_trained(tmp_path: Path, heads: int, count: int, half_life: float | None) -> None:
    trained, acts = shaken(heads, half_life), acts_of(count, seed=count)
    served = load_buyer_tower(saved(tmp_path, to_numpy(trained)))
    np.testing.assert_allclose(unit_vector(served.encode(*acts)), in_torch(trained, *acts), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(2, 48), st.integers(0, 10_000))
def test_numpy_and_torch_agree_whatever_the_shape(heads: int, count: int, dimensions: int, seed: int) -> None:
    trained, acts = shaken(heads, 60.0, seed, dimensions), acts_of(count, seed, dimensions)
    np.testing.assert_allclose(to_numpy(trained).encode(*acts), in_torch(trained, *acts), atol=1e-5)


@pytest.mark.parametrize("half_life", [None, 20.0])
def test_an_untrained_tower_is_the_weighted_average(half_life: float | None) -> None:
    acts = acts_of(30, seed=1)
    start = in_torch(BuyerAttention(DIMENSIONS, 2, half_life), *acts)
    np.testing.assert_allclose(start, unit_vector(WeightedAverage(half_life).encode(*acts)), atol=1e-5)


def test_padding_changes_nothing() -> None:
    trained, acts = shaken(2), acts_of(5, seed=3)
    np.testing.assert_allclose(in_torch(trained, *acts, padding=7), in_torch(trained, *acts), atol=1e-6)


def test_what_was_trained_tells_a_buyers_old_acts_from_new_ones() -> None:
    vectors, weights, ages = acts_of(6, seed=4)
    tower = to_numpy(shaken(2))
    assert not np.allclose(tower.encode(vectors, weights, ages), tower.encode(vectors[::-1], weights, ages), atol=1e-3)


def test_a_folder_without_a_buyer_tower_has_the_weighted_average(tmp_path: Path) -> None:
    assert load_buyer_tower(tmp_path) is AVERAGE


def test_a_half_life_alone_is_kept_too(tmp_path: Path) -> None:
    assert load_buyer_tower(saved(tmp_path, WeightedAverage(45.0))) == WeightedAverage(45.0)


def test_a_shorter_index_takes_the_half_life_alone(tmp_path: Path) -> None:
    folder = saved(tmp_path, to_numpy(shaken(1, 45.0)))
    assert load_buyer_tower(folder, CARD.tower_id + LENGTH_MARK + "8") == WeightedAverage(45.0)
    assert isinstance(load_buyer_tower(folder, CARD.tower_id), Attention)


def test_a_damaged_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = saved(tmp_path, to_numpy(shaken(1)))
    path = folder / BUYER_TOWER_FILE
    content = path.read_bytes()
    for broken in (b"", b"not a file of numpy", content[: len(content) // 2], content[:-30]):
        path.write_bytes(broken)
        with pytest.raises(TowerError, match="gavel train buyers"):
            load_buyer_tower(folder)


@pytest.mark.parametrize(
    "change", [{"dimensions": 8}, {"heads": 3}, {"kind": "lstm"}, {"half_life_days": 0}, {"format": 2}, {"half_life_days": "soon"}]
)
def test_a_card_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    folder = saved(tmp_path, to_numpy(shaken(1)))
    with np.load(folder / BUYER_TOWER_FILE) as file:
        arrays = {name: file[name] for name in file.files}
    card = json.loads(str(arrays.pop("card"))) | change
    np.savez(folder / BUYER_TOWER_FILE, card=np.array(json.dumps(card)), **arrays)
    with pytest.raises(TowerError, match="damaged"):
        load_buyer_tower(folder)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, to_numpy(shaken(1)))
    with np.load(folder / BUYER_TOWER_FILE) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(folder / BUYER_TOWER_FILE, **(arrays | {"bias": np.full(DIMENSIONS, np.nan)}))
    with pytest.raises(TowerError, match="bias"):
        load_buyer_tower(folder)


def test_another_towers_file_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, to_numpy(shaken(1)))
    with pytest.raises(TowerError, match="belongs to tower 0123456789abcdef"):
        load_buyer_tower(folder, "fedcba9876543210")


def test_lots_of_another_length_are_refused() -> None:
    with pytest.raises(TowerError, match="16 numbers, these have 8"):
        to_numpy(shaken(1)).encode(*acts_of(3, seed=0, dimensions=8))
