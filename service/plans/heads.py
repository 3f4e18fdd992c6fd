"""A teacher's linear last layer, taken off: dividing what goes into it by T softens what comes out of it.

(h W + b) / T = (h / T) W + b / T, and h has hundreds of numbers where the scores have one for every class.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx
import onnx.utils
from onnx import TensorProto, helper, numpy_helper

from service.model import Array

HIDDEN = "soft_targets.hidden"


class Head(NamedTuple):
    """A linear last layer, scores = hidden @ weight + bias, and the model without it.

    Attributes:
        body: answers the hidden numbers ``[B, D]`` as ``HIDDEN``.
        weight: float32 ``[D, C]``.
        bias: float32 ``[C]``, or None.
    """

    body: onnx.ModelProto
    weight: Array
    bias: Array | None


class _Layer(NamedTuple):
    hidden: str
    weight: Array
    bias: Array | None


def take_off(model: onnx.ModelProto, output: str) -> Head | None:
    """Take the last layer off a copy of a model, where it is a matrix of float32 with or without a bias.

    Args:
        model: with shapes inferred and without local functions.
        output: the scores.

    Returns:
        The parts; None where the last layer is something else.
    """
    graph = model.graph
    if any(part.type in {part.GRAPH, part.GRAPHS} for node in graph.node for part in node.attribute):
        return None  # what is inside them may name the layer too
    layer = _layer({name: node for node in graph.node for name in node.output}, _constants(graph), output)
    if layer is None or not _is_matrix(graph, layer.hidden):
        return None
    inputs = [one.name for one in graph.input]
    body = onnx.utils.Extractor(model).extract_model(inputs, [layer.hidden])
    body.graph.node.append(helper.make_node("Identity", [layer.hidden], [HIDDEN]))
    del body.graph.output[:]
    shape = [None, len(layer.weight)]
    body.graph.output.append(helper.make_tensor_value_info(HIDDEN, TensorProto.FLOAT, shape))
    return Head(body, layer.weight, layer.bias)


def _constants(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    found = {one.name: one for one in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "Constant"]
    return found | {
        node.output[0]: part.t for node in nodes for part in node.attribute if part.name == "value"
    }


def _layer(
    made: Mapping[str, onnx.NodeProto], constants: Mapping[str, TensorProto], output: str
) -> _Layer | None:
    node = made.get(output)
    while node is not None and node.op_type == "Identity":
        node = made.get(node.input[0])
    if node is None or node.domain not in {"", "ai.onnx"}:
        return None
    if node.op_type == "Gemm":
        return _gemm(node, constants)
    if node.op_type == "MatMul":
        return _matmul(node, constants)
    if node.op_type == "Add":
        for product, other in (node.input, reversed(node.input)):
            under, bias = made.get(product), constants.get(other)
            if under is not None and under.op_type == "MatMul" and bias is not None:
                return _biased(_matmul(under, constants), numpy_helper.to_array(bias))
    return None


def _gemm(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> _Layer | None:
    said = {part.name: helper.get_attribute_value(part) for part in node.attribute}
    weight = constants.get(node.input[1])
    if weight is None or said.get("transA", 0):
        return None
    matrix = numpy_helper.to_array(weight)
    matrix = (matrix.T if said.get("transB", 0) else matrix) * np.float32(said.get("alpha", 1.0))
    layer = _sound(_Layer(node.input[0], matrix, None))
    if len(node.input) < 3 or not node.input[2]:  # noqa: PLR2004 - the bias
        return layer
    bias = constants.get(node.input[2])
    if bias is None:
        return None
    return _biased(layer, numpy_helper.to_array(bias) * np.float32(said.get("beta", 1.0)))


def _matmul(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> _Layer | None:
    weight = constants.get(node.input[1])
    return None if weight is None else _sound(_Layer(node.input[0], numpy_helper.to_array(weight), None))


def _sound(layer: _Layer) -> _Layer | None:
    weight = layer.weight
    return layer if weight.ndim == 2 and weight.dtype == np.float32 else None  # noqa: PLR2004 - a matrix


def _biased(layer: _Layer | None, bias: Array) -> _Layer | None:
    """With one number a class; a bias of another shape is left where it is."""
    if layer is None or bias.dtype != np.float32 or bias.size != layer.weight.shape[1]:
        return None
    return layer._replace(bias=bias.reshape(-1))


def _is_matrix(graph: onnx.GraphProto, name: str) -> bool:
    for one in (*graph.input, *graph.value_info):
        if one.name == name:
            given = one.type.tensor_type
            return given.elem_type == TensorProto.FLOAT and len(given.shape.dim) == 2  # noqa: PLR2004
    return False
