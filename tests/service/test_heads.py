import numpy as np
import onnx
import onnx.shape_inference
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.plans import heads

PIXELS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
CONSTANTS = {
    "first": np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32),
    "weight": np.random.default_rng(2).normal(size=(6, 4)).astype(np.float32),
    "turned": np.random.default_rng(3).normal(size=(4, 6)).astype(np.float32),
    "bias": np.arange(4, dtype=np.float32),
    "row": np.arange(4, dtype=np.float32)[None],
    "one": np.ones(1, np.float32),
    "axis": np.array([1]),
    "column": np.ones((5, 1), np.float32),
    "short": np.random.default_rng(4).normal(size=(3, 4)).astype(np.float32),
}
HIDDEN = [
    helper.make_node("MatMul", ["pixels", "first"], ["before"]),
    helper.make_node("Relu", ["before"], ["h"]),
]
MATRIX = [
    [*HIDDEN, helper.make_node("MatMul", ["h", "weight"], ["scores"])],
    [helper.make_node("MatMul", ["pixels", "short"], ["scores"])],
    [*HIDDEN, helper.make_node("Gemm", ["h", "weight"], ["scores"])],
    [*HIDDEN, helper.make_node("Gemm", ["h", "turned", "row"], ["scores"], transB=1, alpha=0.5, beta=2.0)],
    [
        *HIDDEN,
        helper.make_node("MatMul", ["h", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1),
    ],
    [
        *HIDDEN,
        helper.make_node("MatMul", ["h", "weight"], ["product"]),
        helper.make_node("Add", ["row", "product"], ["sum"]),
        helper.make_node("Identity", ["sum"], ["scores"]),
    ],
]
OTHER = [
    [
        *HIDDEN,
        helper.make_node("MatMul", ["h", "weight"], ["z"]),
        helper.make_node("Relu", ["z"], ["scores"]),
    ],
    [*HIDDEN, helper.make_node("Gemm", ["h", "weight", "one"], ["scores"])],
    [*HIDDEN, helper.make_node("Gemm", ["h", "weight", "column"], ["scores"])],
    [
        helper.make_node("Transpose", ["pixels"], ["t"]),
        helper.make_node("Gemm", ["t", "short"], ["scores"], transA=1),
    ],
    [
        helper.make_node("Unsqueeze", ["pixels", "axis"], ["deep"]),
        helper.make_node("MatMul", ["deep", "short"], ["scores"]),
    ],
]


def model(nodes):
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in CONSTANTS.items()],
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(whole)


def run(found, output):
    session = ort.InferenceSession(found.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([output], {"pixels": PIXELS})[0]


@pytest.mark.parametrize("nodes", MATRIX)
def test_body_and_matrix_are_the_model(nodes):
    whole = model(nodes)
    head = heads.take_off(whole, "scores")
    scores = run(head.body, heads.HIDDEN) @ head.weight + (0 if head.bias is None else head.bias)
    np.testing.assert_allclose(scores, run(whole, "scores"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("nodes", OTHER)
def test_what_is_no_matrix_stays(nodes):
    whole = model(nodes)
    assert run(whole, "scores").shape[-1] == 4
    assert heads.take_off(whole, "scores") is None


def test_a_layer_that_an_inner_graph_may_name_stays():
    whole = model(MATRIX[0])
    scores = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    inner = helper.make_graph([helper.make_node("Neg", ["scores"], ["inner"])], "inner", [], [scores])
    whole.graph.node.append(helper.make_node("If", ["yes"], ["more"], then_branch=inner, else_branch=inner))
    assert heads.take_off(whole, "scores") is None
