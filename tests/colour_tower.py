"""An image branch that a reader can follow: a photo is the colour that it is nearest to."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from painted_lots import COLOURS

from retrieval.contracts.tower_card import IMAGE_TOWER_FILE, ITEM_TOWER_FILE, QUERY_TOWER_FILE, TOKENIZER_FILE, TowerCard
from retrieval.encoders.image_encoder import PHOTO_VECTOR, PIXELS, ImageEncoder
from retrieval.encoders.query_encoder import load_session

SIDE = 32
SHARPNESS = 0.001  # of the choice between two colours, per squared step of 255


def write_colour_branch(folder: Path, directions: Mapping[str, NDArray[np.float32]], side: int = SIDE) -> None:
    """Write image_tower.onnx into the folder of a tower.

    Args:
        folder: of the tower.
        directions: name of a colour of painted_lots -> its (D,) vector of unit length.
        side: of the photos.
    """
    wanted = np.array([COLOURS[name] for name in directions], dtype=np.float32)  # (C, 3)
    vectors = np.stack(list(directions.values())).astype(np.float32)  # (C, D)
    nodes = [
        helper.make_node("Cast", [PIXELS], ["floats"], to=TensorProto.FLOAT),  # (B, S, S, 3)
        helper.make_node("ReduceMean", ["floats", "across"], ["mean"], keepdims=1),  # (B, 1, 1, 3)
        helper.make_node("Squeeze", ["mean", "middle"], ["rows"]),  # (B, 1, 3)
        helper.make_node("Sub", ["rows", "wanted"], ["off"]),  # (B, C, 3)
        helper.make_node("Mul", ["off", "off"], ["squares"]),
        helper.make_node("ReduceSum", ["squares", "colours"], ["distances"], keepdims=0),  # (B, C)
        helper.make_node("Mul", ["distances", "sharpness"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["shares"], axis=1),
        helper.make_node("MatMul", ["shares", "vectors"], [PHOTO_VECTOR]),  # (B, D)
    ]
    constants = {
        "across": np.array([1, 2]),
        "middle": np.array([1]),
        "wanted": wanted,
        "colours": np.array([2]),
        "sharpness": np.array(-SHARPNESS, dtype=np.float32),
        "vectors": vectors,
    }
    given = helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["B", side, side, 3])
    made = helper.make_tensor_value_info(PHOTO_VECTOR, TensorProto.FLOAT, ["B", vectors.shape[1]])
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "colours", [given], [made], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / IMAGE_TOWER_FILE)


def save_colour_tower(folder: Path, directions: Mapping[str, NDArray[np.float32]], *, image_size: int = SIDE) -> TowerCard:
    """Save a tower of which the image branch alone is real; with directions for no colour it has none."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (QUERY_TOWER_FILE, TOKENIZER_FILE, ITEM_TOWER_FILE):
        (folder / name).touch()
    if directions:
        write_colour_branch(folder, directions, image_size)
    card = TowerCard.create(
        folder,
        preset="colours",
        dimensions=len(next(iter(directions.values()))) if directions else 13,
        max_length=64,
        image_size=image_size,
        image_mean=(0.0, 0.0, 0.0),
        image_std=(1.0, 1.0, 1.0),
        architecture={},
    )
    card.save(folder)
    return card


def colour_branch(folder: Path, directions: Mapping[str, NDArray[np.float32]], tower_id: str) -> ImageEncoder:
    """The image branch of a tower of colours, under the id that an index of a test names."""
    card = save_colour_tower(folder, directions)
    return ImageEncoder(replace(card, tower_id=tower_id), load_session(folder, IMAGE_TOWER_FILE, card))
