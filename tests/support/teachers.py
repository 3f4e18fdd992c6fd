"""Small ONNX teachers, written node by node, and the float64 arithmetic they stand for."""

from pathlib import Path

import numpy as np
import onnx
import spox
import spox.opset.ai.onnx.v21 as op
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import RandomForestClassifier

OPSET = 21


def save(path, nodes, inputs, outputs, initializers=(), *, opset=OPSET):
    """Write a checked model: inputs and outputs are (name, element type, shape)."""
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        [numpy_helper.from_array(array, name) for name, array in initializers],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return Path(path)


def linear(path, weight, bias, *, input_name="pixels", output_name="logits", kind="logits"):
    """``x @ weight + bias``, as logits, log_probs or probs."""
    last = {"logits": "Identity", "log_probs": "LogSoftmax", "probs": "Softmax"}[kind]
    nodes = [
        helper.make_node("Gemm", [input_name, "weight", "bias"], ["scores"]),
        helper.make_node(last, ["scores"], [output_name]),
    ]
    return save(
        path,
        nodes,
        [(input_name, TensorProto.FLOAT, ["batch", weight.shape[0]])],
        [(output_name, TensorProto.FLOAT, ["batch", weight.shape[1]])],
        [("weight", weight.astype(np.float32)), ("bias", bias.astype(np.float32))],
    )


def random_linear(path, seed, *, features=6, classes=4, scale=2.0, **options):
    """A seeded linear teacher; returns its weight and bias in float64."""
    random = np.random.default_rng(seed)
    weight = (random.normal(size=(features, classes)) * scale).astype(np.float32)
    bias = random.normal(size=classes).astype(np.float32)
    linear(path, weight, bias, **options)
    return weight.astype(np.float64), bias.astype(np.float64)


def log_softmax(scores):
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def two_inputs(path):
    """Logits ``(2 * image summed over its rows + number + (text == "yes")) * (1, -1, 0.5)``."""
    nodes = [
        helper.make_node("ReduceSum", ["image", "axis"], ["summed"], keepdims=0),
        helper.make_node("Mul", ["summed", "two"], ["doubled"]),
        helper.make_node("Cast", ["number"], ["float_number"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["float_number", "axis"], ["column"]),
        helper.make_node("Equal", ["text", "yes"], ["same"]),
        helper.make_node("Cast", ["same"], ["float_same"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["doubled", "column"], ["one"]),
        helper.make_node("Add", ["one", "float_same"], ["two_"]),
        helper.make_node("Mul", ["two_", "scale"], ["logits"]),
    ]
    return save(
        path,
        nodes,
        [
            ("image", TensorProto.FLOAT, ["batch", 2, 3]),
            ("number", TensorProto.INT64, ["batch"]),
            ("text", TensorProto.STRING, ["batch", 1]),
        ],
        [("logits", TensorProto.FLOAT, ["batch", 3])],
        [
            ("axis", np.array([1])),
            ("two", np.array(2, dtype=np.float32)),
            ("yes", np.array(["yes"], dtype=object)),
            ("scale", np.array([1, -1, 0.5], dtype=np.float32)),
        ],
    )


def moody(path):
    """Logits like ``linear``, but NaN where the first pixel is above 100, and raising where it is above 1000.

    It raises by gathering an index that is out of range.
    """
    nodes = [
        helper.make_node("Slice", ["pixels", "zero", "one", "one"], ["first"]),
        helper.make_node("Greater", ["first", "hundred"], ["nan_here"]),
        helper.make_node("Where", ["nan_here", "nan", "nothing"], ["noise"]),
        helper.make_node("ReduceMax", ["first"], ["highest"], keepdims=0),
        helper.make_node("Greater", ["highest", "thousand"], ["raise_here"]),
        helper.make_node("Cast", ["raise_here"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["nothing_list", "index"], ["offset"]),
        helper.make_node("Add", ["pixels", "noise"], ["noisy"]),
        helper.make_node("Add", ["noisy", "offset"], ["logits"]),
    ]
    return save(
        path,
        nodes,
        [("pixels", TensorProto.FLOAT, ["batch", 3])],
        [("logits", TensorProto.FLOAT, ["batch", 3])],
        [
            ("zero", np.array([0])),
            ("one", np.array([1])),
            ("hundred", np.array(100, dtype=np.float32)),
            ("thousand", np.array(1000, dtype=np.float32)),
            ("nan", np.array(np.nan, dtype=np.float32)),
            ("nothing", np.array(0, dtype=np.float32)),
            ("nothing_list", np.array([0], dtype=np.float32)),
        ],
    )


def flattened(path, seed, *, classes, input_name, kind):
    """A seeded linear teacher over images [3, 32, 32]."""
    weight = np.random.default_rng(seed).normal(size=(3 * 32 * 32, classes)).astype(np.float32) / 20
    last = {"logits": "Identity", "probs": "Softmax"}[kind]
    output = {"logits": "logits", "probs": "probabilities"}[kind]
    return save(
        path,
        [
            helper.make_node("Flatten", [input_name], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["scores"]),
            helper.make_node(last, ["scores"], [output]),
        ],
        [(input_name, TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [(output, TensorProto.FLOAT, ["batch", classes])],
        [("weight", weight)],
    )


def labelled(path, labels):
    """Seeded probabilities, and the text label of the largest, as scikit-learn's exports have."""
    weight = np.random.default_rng(0).normal(size=(6, len(labels))).astype(np.float32)
    return save(
        path,
        [
            helper.make_node("MatMul", ["pixels", "weight"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"]),
            helper.make_node("ArgMax", ["probabilities"], ["best"], axis=1, keepdims=0),
            helper.make_node("Gather", ["names", "best"], ["label"]),
        ],
        [("pixels", TensorProto.FLOAT, ["batch", 6])],
        [
            ("label", TensorProto.STRING, ["batch"]),
            ("probabilities", TensorProto.FLOAT, ["batch", len(labels)]),
        ],
        [("weight", weight), ("names", np.array(labels, dtype=object))],
    )


def zipmap(path):
    """Probabilities as a map from class to number, as scikit-learn's exports have by default."""
    value = helper.make_map_type_proto(
        TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    output = onnx.ValueInfoProto(name="probabilities", type=helper.make_sequence_type_proto(value))
    graph = helper.make_graph(
        [
            helper.make_node("Softmax", ["pixels"], ["p"]),
            helper.make_node(
                "ZipMap", ["p"], ["probabilities"], domain="ai.onnx.ml", classlabels_strings=list("abcd")
            ),
        ],
        "teacher",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 4])],
        [output],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def hanging(path, *, features=6, classes=4):
    """The first ``classes`` numbers as logits; a row whose first number is above 1000 takes for ever."""
    x = spox.argument(spox.Tensor(np.float32, ("batch", features)))
    highest = op.reduce_max(op.slice(x, op.const([0]), op.const([1]), op.const([1])), keepdims=0)
    times = op.where(op.greater(highest, op.const(np.float32(1000))), op.const(2**60), op.const(0))

    def wait(_, go_on, kept):
        return [op.identity(go_on), op.add(kept, op.const(np.float32(0)))]

    (waited,) = op.loop(times, v_initial=[op.const(np.float32(0))], body=wait)
    logits = op.add(op.slice(x, op.const([0]), op.const([classes]), op.const([1])), waited)
    onnx.save(spox.build({"pixels": x}, {"logits": logits}), path)


def forest(path, *, zipmap):
    """A seeded forest as scikit-learn exports it, six numbers in, four classes out."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(200, 6)).astype(np.float32)
    labels = np.array(list("abcd"))[np.argmax(rows[:, :4] + 0.1 * random.normal(size=(200, 4)), axis=1)]
    trees = RandomForestClassifier(5, max_depth=4, random_state=0).fit(rows, labels)
    options = {"zipmap": zipmap}
    given = [("X", FloatTensorType([None, 6]))]
    onnx.save(convert_sklearn(trees, initial_types=given, options={id(trees): options}), path)


def scaled_linear(path, *, version):
    """Logits of six scaled numbers, four classes, with a node of that version of ai.onnx.ml."""
    weight = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Scaler", ["X"], ["scaled"], domain="ai.onnx.ml", scale=[2.0] * 6, offset=[0.1] * 6),
        helper.make_node("MatMul", ["scaled", "weight"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(weight, "weight")],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", version)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
