"""Export of the query tower as quantised ONNX, and of the item tower and its image branch as float32 ONNX."""

import logging
import re
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from torch import Tensor, nn
from torch.nn import functional as F

from models.data.images import normalise, to_unit
from models.towers.config import TowerConfig
from models.towers.encoders import ImageEncoder, TextEncoder
from models.towers.features import Features
from models.towers.two_towers import ItemTower, QueryTower, TwoTowers
from retrieval.contracts.tower_card import ITEM_FUSION_FILE, ITEM_PHOTO_FILE, ITEM_TEXT_FILE
from retrieval.encoders.image_encoder import PHOTO_VECTOR, PIXELS
from retrieval.encoders.item_encoder import CATEGORIES, ENCODED, HAS_PHOTO, ITEM_VECTOR, NUMBERS, PHOTO, TEXT
from retrieval.encoders.query_encoder import OUTPUT, TOKEN_INPUTS

QUANTISED_NODES = ("MatMul", "Gemm", "Gather")  # Gather looks up the embeddings of tokens and positions
BLOCK = 32  # numbers of an activation that share one range, because a single range for all would flatten them
SMALL_BLOCK = 32  # weights of 4 bits that share one range
TABLE_BLOCK = 64  # word embeddings of 4 bits that share one range
WIDE_BLOCK = 128  # weights of 8 bits that share one range in a model with 4-bit weights
MIN_TABLE_ROWS = 256  # smaller tables, such as that of segments, stay float
SHRINKS = np.linspace(1.0, 0.7, 7)  # shares of a block's range that are tried, because outliers widen it for all other numbers
SCOPES = "pkg.torch.onnx.name_scopes"  # metadata key under which the exporter notes the modules of a node
FIRST_LAYER = re.compile(r"'[\w.]*\blayers?\.0'")
ATTENTION_INPUT = re.compile(r"[\w.]*\b(?:[qkv]_lin|query|key|value|q|k|v)'")  # modules of DistilBERT, BERT and RoBERTa, MPNet
CONTRIB = "com.microsoft"  # domain of ONNX Runtime's own operators


def export_query_tower(tower: QueryTower, path: Path, bits: int = 8) -> None:
    """Write the query tower as quantised ONNX with free batch and length axes.

    With 4 bits the file is a quarter smaller, see _quantise_to_4_bits(). The rest describes 8 bits.

    Weights are quantised per output channel to 7 of the 8 bits, because processors without VNNI add two products in 16 bits, which
    8 bits would overflow: the lowest cosine of all-MiniLM-L6-v2 would be .985 there, and is .991 on all. Activations are quantised
    at run time (dynamic quantisation), and token embeddings in one range.

    In the first layer's feed-forward block, the output of the activation function has outliers. A single 8-bit range would
    flatten the other numbers, and every later layer would inherit the error. So the matrix after that function takes its
    activations in blocks of 32, each with its own range. On all-MiniLM-L6-v2 this raises the lowest cosine to the float vector,
    over 200 texts, from .988 to .991.

    Args:
        tower: the query tower, on any device; its mode (training or eval) and its device are restored.
        path: the file to write. Its inputs are input_ids and attention_mask (B, L) int64, its output is query_vector (B, D).
        bits: bits of the weights: 8, or 4 for those that lose least.
    """
    with tempfile.TemporaryDirectory() as scratch:
        float_model = Path(scratch) / "query_tower.float.onnx"
        export_float(tower, float_model)
        graph = onnx.load(float_model)
        del graph.graph.value_info[:]  # the quantiser transposes Gemm weights and trips over their recorded shapes
        narrowing = _narrowing_of_first_layer(graph)
        if bits == 4:
            _quantise_to_4_bits(graph, path)
            return
        _remove_metadata(graph)
        with _quiet():
            quantize_dynamic(
                graph,
                path,
                op_types_to_quantize=list(QUANTISED_NODES),
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
                nodes_to_exclude=narrowing,
                extra_options={"MatMulConstBOnly": True},  # products of two activations gain nothing
            )
            _quantise_in_blocks(path, narrowing)
    onnx.checker.check_model(str(path))


def export_float(tower: QueryTower, path: Path) -> None:
    """Write the query tower as float32 ONNX with free batch and length axes; arguments as for export_query_tower()."""
    with _on_cpu(tower):
        _export(tower, path, _token_inputs(tower.text_encoder), OUTPUT)


def export_image_tower(towers: TwoTowers, path: Path) -> None:
    """Write the item tower's image branch, for photos without a text, as float32 ONNX with a free batch axis.

    The weights stay float: dynamic quantisation skips convolutions, and static quantisation needs photos for calibration,
    which an artefact does not contain.

    Args:
        towers: towers with an image encoder, on any device; the item tower's mode and device are restored.
        path: the file to write. Its input is pixels (B, S, S, 3) uint8 RGB, not normalised; its output is photo_vector (B, D).
    """
    with _on_cpu(towers.item_tower):
        _export(PhotoTower(towers.item_tower, towers.config).eval(), path, _pixel_inputs(towers.config), PHOTO_VECTOR)
    _clean(path)


def export_item_tower(towers: TwoTowers, folder: Path) -> None:
    """Write the item tower as float32 ONNX with free batch axes: a file for the texts, one for the photos, one that joins them.

    So photos are encoded only of the items that have one. The weights stay float, because vectors of single items must equal those
    that the embedding job computes.

    Args:
        towers: the towers, on any device; the item tower's mode and device are restored.
        folder: folder that gets ITEM_TEXT_FILE, ITEM_FUSION_FILE and, with an image encoder, ITEM_PHOTO_FILE.
    """
    tower = towers.item_tower
    with _on_cpu(tower):
        _export(tower.text_encoder, folder / ITEM_TEXT_FILE, _token_inputs(tower.text_encoder), ENCODED)
        if tower.image_encoder is not None:
            _export(
                PhotoPart(tower.image_encoder, towers.config).eval(),
                folder / ITEM_PHOTO_FILE,
                _pixel_inputs(towers.config),
                ENCODED,
            )
        inputs: dict[str, Input] = {TEXT: Input(torch.zeros(2, tower.text_encoder.width))}
        if tower.image_encoder is not None:
            inputs |= {PHOTO: Input(torch.zeros(2, tower.image_encoder.width)), HAS_PHOTO: Input(torch.tensor([True, False]))}
        if tower.feature_encoder is not None:
            categories, numbers = Features.of(tower.feature_encoder.spec, [{}, {}])
            inputs |= {CATEGORIES: Input(categories), NUMBERS: Input(numbers)}
        _export(Fusion(tower).eval(), folder / ITEM_FUSION_FILE, inputs, ITEM_VECTOR)
    for path in folder.glob("*.onnx"):
        _clean(path)


class Input(NamedTuple):
    """An input of a graph that is exported.

    Attributes:
        example: tensor of two or more rows.
        axes: axis -> its name and largest size, beside the first axis, the batch.
    """

    example: Tensor
    axes: Mapping[int, tuple[str, int]] = MappingProxyType({})


def _token_inputs(encoder: TextEncoder) -> dict[str, Input]:
    # a tensor each, because the exporter merges inputs that are the same object
    examples = torch.ones(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64)
    return {
        name: Input(example, {1: ("length", encoder.max_positions)}) for name, example in zip(TOKEN_INPUTS, examples, strict=True)
    }


def _pixel_inputs(config: TowerConfig) -> dict[str, Input]:
    side = config.image_size
    return {PIXELS: Input(torch.zeros(2, side, side, 3, dtype=torch.uint8))}


@contextmanager
def _on_cpu(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode on the CPU, and restore its mode and device."""
    training, device = module.training, next(module.parameters()).device
    module.eval().cpu()
    try:
        yield
    finally:
        module.train(training).to(device)


def _export(module: nn.Module, path: Path, inputs: Mapping[str, Input], output: str) -> None:
    """Write a module as ONNX; the names of the inputs are those of its arguments."""
    batch = torch.export.Dim("batch")
    dims = {name: torch.export.Dim(name, max=most) for each in inputs.values() for name, most in each.axes.values()}
    axes = {name: {0: batch, **{axis: dims[dim] for axis, (dim, _) in each.axes.items()}} for name, each in inputs.items()}
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            module,
            (),
            path,
            kwargs={name: each.example for name, each in inputs.items()},
            dynamo=True,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=axes,
            external_data=False,
            verbose=False,
        )


def _clean(path: Path) -> None:
    """Remove the exporter's metadata from a model file, and check the file."""
    graph = onnx.load(path)
    _remove_metadata(graph)
    onnx.save(graph, path)
    onnx.checker.check_model(str(path))


class PhotoPart(nn.Module):
    """The image encoder of an item tower, with the preparation of the pixels."""

    def __init__(self, encoder: ImageEncoder, config: TowerConfig) -> None:
        super().__init__()
        self.image_encoder = encoder
        self.mean, self.std = config.image_mean, config.image_std

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode photos (B, S, S, 3) uint8 RGB into (B, width)."""
        encoded: Tensor = self.image_encoder(normalise(to_unit(pixels), self.mean, self.std))
        return encoded


class Fusion(nn.Module):
    """The parts of an item tower behind its encoders of texts and photos."""

    def __init__(self, tower: ItemTower) -> None:
        super().__init__()
        self.no_image, self.feature_encoder, self.projection = tower.no_image, tower.feature_encoder, tower.projection

    def forward(
        self,
        text: Tensor,
        photo: Tensor | None = None,
        has_photo: Tensor | None = None,
        categories: Tensor | None = None,
        numbers: Tensor | None = None,
    ) -> Tensor:
        """Encode B items.

        Args:
            text: (B, W) encodings of the texts.
            photo: (B, P) encodings of the photos, any numbers for an item without one; None if the tower has no image encoder.
            has_photo: (B,) bool, True for the items with a photo; None likewise.
            categories: (B, C) int64 of FeatureSpec.encode(); None if the tower has no features.
            numbers: (B, 2 N) float of FeatureSpec.encode(); None likewise.

        Returns:
            (B, dimensions) float of unit length.
        """
        parts = [text]
        if photo is not None and has_photo is not None:
            parts.append(torch.where(has_photo.unsqueeze(1), photo, self.no_image))
        if self.feature_encoder is not None and categories is not None and numbers is not None:
            parts.append(self.feature_encoder.encode(categories, numbers))
        return F.normalize(self.projection(torch.cat(parts, dim=1)).float(), dim=1)


class PhotoTower(nn.Module):
    """The image encoder and the projection of an item tower; the missing inputs of a photo are constant.

    There is a learnt vector for a missing photo, but none for a missing text, because every item has a title. The text encoding
    is zero, so the projection sees only photo and features. The features are encoded as unknown.
    """

    text: Tensor
    features: Tensor

    def __init__(self, tower: ItemTower, config: TowerConfig) -> None:
        """Take the parts of an item tower that has an image encoder.

        Args:
            tower: item tower, whose modules are shared, not copied.
            config: configuration that the item tower was built with.
        """
        super().__init__()
        assert tower.image_encoder is not None
        self.image_encoder = tower.image_encoder
        self.projection = tower.projection
        self.mean, self.std = config.image_mean, config.image_std
        self.register_buffer("text", torch.zeros(1, tower.text_encoder.width))
        self.register_buffer("features", _unknown_features(tower))

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode photos (B, S, S, 3) uint8 RGB into (B, dimensions) of unit length."""
        photos = pixels.shape[0]  # len() would fix the number of photos in an export
        image = self.image_encoder(normalise(to_unit(pixels), self.mean, self.std))  # (B, 2048)
        encoded = torch.cat([self.text.expand(photos, -1), image, self.features.expand(photos, -1)], dim=1)  # (B, 2816)
        return F.normalize(self.projection(encoded).float(), dim=1)  # (B, 512) -> (B, 128), unit length


@torch.no_grad()
def _unknown_features(tower: ItemTower) -> Tensor:
    """Return the encoding (1, F) of unknown features, with F = 0 for a tower without features."""
    encoder = tower.feature_encoder
    device = next(tower.parameters()).device
    if encoder is None:
        return torch.zeros(1, 0, device=device)
    training = encoder.training
    encoded: Tensor = encoder.eval().encode(*Features.of(encoder.spec, [{}]).to(device))
    encoder.train(training)
    return encoded


def _narrowing_of_first_layer(model: onnx.ModelProto) -> list[str]:
    """Return the names of the first layer's products with a matrix of more rows than columns: the feed-forward block's second."""
    shapes = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    first = _first_layer(model)
    products = [node for node in model.graph.node if node.op_type == "MatMul" and node.name in first]
    return [node.name for node in products for rows, columns in [shapes.get(node.input[1], (0, 0))] if rows > columns]


def _quantise_to_4_bits(model: onnx.ModelProto, path: Path) -> None:
    """Write a float model with weights of 4 and 8 bits, all in blocks.

    4 bits have the embeddings of words and positions, the second matrix of each feed-forward block, and the projections to
    attention queries, keys and values. On all-MiniLM-L6-v2 these cost the least cosine per byte. All other matrices have 8 bits.
    Activations of matrix products are quantised to 8 bits in blocks, too, which wins back what the 4-bit weights lose
    (docs/performance.md, "A query encoded").

    Args:
        model: float model with the exporter's metadata, which is removed.
        path: the file to write.
    """
    weights = {weight.name: weight for weight in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMul" and len(_shape(weights, node.input[1])) == 2]
    scopes = {node.name: " ".join(prop.value for prop in node.metadata_props if prop.key == SCOPES) for node in products}
    small: list[str] = []
    large: list[str] = []
    for node in products:
        rows, columns = _shape(weights, node.input[1])
        if rows % SMALL_BLOCK:
            continue  # no whole number of blocks: stays float
        (small if rows > columns or ATTENTION_INPUT.search(scopes[node.name]) else large).append(node.name)
    _remove_metadata(model)
    with _quiet():  # before the others, because this quantiser cannot read their operators
        quantize_dynamic(
            model, path, op_types_to_quantize=["Gemm"], weight_type=QuantType.QInt8, per_channel=True, reduce_range=True
        )
    model = onnx.load(path)
    weights = {weight.name: weight for weight in model.graph.initializer}
    for node in list(model.graph.node):
        if node.name in small:
            _replace_product(model, node, weights[node.input[1]])
        elif node.op_type == "Gather" and (table := weights.get(node.input[0])) is not None and _is_large_table(table):
            _replace_table(model, node, table)
    if not any(opset.domain == CONTRIB for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(CONTRIB, 1))
    onnx.save(model, path)
    with _quiet():
        _quantise_in_blocks(path, large, WIDE_BLOCK)


def _shape(weights: Mapping[str, onnx.TensorProto], name: str) -> tuple[int, ...]:
    """Return the shape of a constant weight; () for an activation."""
    return tuple(weights[name].dims) if name in weights else ()


def _is_large_table(table: onnx.TensorProto) -> bool:
    """True for a two-dimensional float table with many rows of whole blocks."""
    shape = tuple(table.dims)
    return len(shape) == 2 and shape[0] >= MIN_TABLE_ROWS and shape[1] % (2 * TABLE_BLOCK) == 0


def _replace_product(model: onnx.ModelProto, node: onnx.NodeProto, weight: onnx.TensorProto) -> None:
    """Replace a product with a constant (K, N) matrix by MatMulNBits with 4-bit weights."""
    matrix = onnx.numpy_helper.to_array(weight)
    rows, columns = matrix.shape
    codes, scales, zeros = quantise_blocks(np.ascontiguousarray(matrix.T), SMALL_BLOCK)
    tensors = [
        onnx.numpy_helper.from_array(pack(codes).reshape(columns, rows // SMALL_BLOCK, SMALL_BLOCK // 2), f"{weight.name}_codes"),
        onnx.numpy_helper.from_array(scales.reshape(-1), f"{weight.name}_scales"),
        onnx.numpy_helper.from_array(np.concatenate([pack(row) for row in zeros]), f"{weight.name}_zeros"),
    ]
    values = {"K": rows, "N": columns, "bits": 4, "block_size": SMALL_BLOCK, "accuracy_level": 4}
    _replace(model, node, weight, "MatMulNBits", [node.input[0], *(tensor.name for tensor in tensors)], tensors, values)


def _replace_table(model: onnx.ModelProto, node: onnx.NodeProto, table: onnx.TensorProto) -> None:
    """Replace a lookup in a constant (V, D) table by GatherBlockQuantized with 4-bit numbers."""
    codes, scales, zeros = quantise_blocks(onnx.numpy_helper.to_array(table), TABLE_BLOCK)
    names = [f"{table.name}_codes", f"{table.name}_scales", f"{table.name}_zeros"]
    tensors = [
        onnx.helper.make_tensor(names[0], onnx.TensorProto.UINT4, codes.shape, pack(codes).tobytes(), raw=True),
        onnx.numpy_helper.from_array(scales, names[1]),
        onnx.helper.make_tensor(names[2], onnx.TensorProto.UINT4, zeros.shape, pack(zeros).tobytes(), raw=True),
    ]
    inputs = [names[0], node.input[1], *names[1:]]
    values = {"gather_axis": 0, "quantize_axis": 1, "block_size": TABLE_BLOCK}
    _replace(model, node, table, "GatherBlockQuantized", inputs, tensors, values)


def _replace(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    weight: onnx.TensorProto,
    kind: str,
    inputs: list[str],
    tensors: list[onnx.TensorProto],
    attributes: Mapping[str, Any],
) -> None:
    """Put an operator of ONNX Runtime in the place of a node, and its tensors in the place of the node's weight."""
    model.graph.initializer.remove(weight)
    model.graph.initializer.extend(tensors)
    position = list(model.graph.node).index(node)
    replacement = onnx.helper.make_node(kind, inputs, list(node.output), name=node.name, domain=CONTRIB, **attributes)
    model.graph.node.remove(node)
    model.graph.node.insert(position, replacement)


def quantise_blocks(matrix: NDArray[np.float32], block: int) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Quantise a matrix to 4 bits in blocks along its rows, with the range of each block that has the least squared error.

    Args:
        matrix: (R, C) float32; C is a multiple of the block.
        block: number of neighbours in a row that share scale and zero point.

    Returns:
        codes: (R, C) uint8 in 0 … 15.
        scales: (R, C / block) float32.
        zeros: (R, C / block) uint8 in 0 … 15. A number is (code - zero) * scale.
    """
    rows, columns = matrix.shape
    blocks = matrix.reshape(rows, columns // block, block)
    low, high = np.minimum(blocks.min(2), 0), np.maximum(blocks.max(2), 0)  # 0 must be a code
    codes, scales, zeros = np.zeros(blocks.shape, np.uint8), np.ones(low.shape, np.float32), np.zeros(low.shape, np.uint8)
    least = np.full(low.shape, np.inf, np.float32)
    for shrink in SHRINKS:
        scale = np.maximum((high - low) * shrink / 15, 1e-8).astype(np.float32)
        zero = np.clip(np.round(-low * shrink / scale), 0, 15)
        code = np.clip(np.round(blocks / scale[..., None]) + zero[..., None], 0, 15)
        error = np.square((code - zero[..., None]) * scale[..., None] - blocks).sum(2)
        better = error < least
        codes[better], scales[better], zeros[better], least[better] = code[better], scale[better], zero[better], error[better]
    return codes.reshape(rows, columns), scales, zeros


def pack(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack 4-bit codes of any shape into (⌈n / 2⌉,) bytes, the first of two codes in the lower half."""
    flat = codes.reshape(-1)
    padded = np.concatenate([flat, np.zeros(len(flat) % 2, np.uint8)])
    packed: NDArray[np.uint8] = padded[0::2] | padded[1::2] << 4
    return packed


def _first_layer(model: onnx.ModelProto) -> set[str]:
    """Return the names of the nodes of the text encoder's first layer."""
    scopes = ((node.name, prop.value) for node in model.graph.node for prop in node.metadata_props if prop.key == SCOPES)
    return {name for name, scope in scopes if FIRST_LAYER.search(scope)}


def _quantise_in_blocks(path: Path, names: Collection[str], block: int = BLOCK) -> None:
    """Quantise the named products of a model file to int8, weights and activations in blocks along the summed axis."""
    model = onnx.load(path)
    others = [node.name for node in model.graph.node if node.name not in names]
    quantiser = MatMulNBitsQuantizer(
        model, bits=8, block_size=block, is_symmetric=True, accuracy_level=4, nodes_to_exclude=others
    )  # accuracy level 4 computes in int8
    quantiser.process()
    quantiser.model.save_model_to_file(str(path))


def _remove_metadata(model: onnx.ModelProto) -> None:
    """Remove the exporter's stack traces, because they name folders of this machine, and a tower_id must not depend on them."""
    for described in (model, model.graph, *model.graph.node, *model.functions):
        del described.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings of the exporter and the quantiser; errors are still raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
