"""ONNX files that were made to harm: what they name is not read, and what they ask for ends."""

import os
import time

import numpy as np
import pytest
import spox
import spox.opset.ai.onnx.v21 as op
from onnx import TensorProto, helper, numpy_helper

from service.config import load
from service.engine.engine import Engine
from service.errors import ConfigError, NotReady

CONFIG = """\
ensembles:
  toy:
    teacher_timeout_s: 0.5
    classes: [ant, bee, cat, dog]
    teachers:
      - {name: one, model: one.onnx, output: {kind: logits}}
    recipes: {default: {operator: linear}}
"""
SECRET = np.eye(4, dtype=np.float32)


def outside(tensor, location, **entries):
    """Make a tensor's data external."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def values(name="weight"):
    return numpy_helper.from_array(SECRET, name)


def model(nodes, initializers=(), functions=(), sparse=()):
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("mine", 1)]
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        initializers,
        sparse_initializer=sparse,
    )
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions)


def product(*before, **parts):
    return model([*before, helper.make_node("MatMul", ["x", "weight"], ["y"])], **parts)


def in_initializer(location, **entries):
    return product(initializers=[outside(values(), location, **entries)])


def in_constant(location, **entries):
    return product(helper.make_node("Constant", [], ["weight"], value=outside(values(), location, **entries)))


def in_subgraph(location, **entries):
    branch = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["kept"])],
        "branch",
        [],
        [helper.make_tensor_value_info("kept", TensorProto.FLOAT, [4, 4])],
        [outside(values("inner"), location, **entries)],
    )
    yes = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    return product(yes, helper.make_node("If", ["yes"], ["weight"], then_branch=branch, else_branch=branch))


def in_function(location, **entries):
    inner = helper.make_node("Constant", [], ["weight"], value=outside(values(), location, **entries))
    function = helper.make_function("mine", "weights", [], ["weight"], [inner], [helper.make_opsetid("", 21)])
    return product(helper.make_node("weights", [], ["weight"], domain="mine"), functions=[function])


def in_sparse(location, **entries):
    sparse = helper.make_sparse_tensor(
        outside(numpy_helper.from_array(np.ones(4, np.float32), "weight"), location, **entries),
        numpy_helper.from_array(np.arange(4)),
        [4, 4],
    )
    return product(sparse=[sparse])


PLACES = [in_initializer, in_constant, in_subgraph, in_function, in_sparse]


@pytest.fixture
def opened(tmp_path):
    """Open an ensemble of one teacher, whose file is in a folder of its own."""
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(SECRET.tobytes())
    (folder / "toy.yaml").write_text(CONFIG)
    engines = []

    def open_model(proto):
        (folder / "one.onnx").write_bytes(proto.SerializeToString())
        engines.append(Engine.open(load(folder / "toy.yaml")))
        return engines[-1].ensembles["toy"]

    open_model.folder = folder
    yield open_model
    for engine in engines:
        for ensemble in engine.ensembles.values():
            ensemble.close()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "location", ["../secret.bin", "ABSOLUTE", "link.bin", "folder/secret.bin", "a/../../secret.bin"]
)
def test_external_data_elsewhere_is_not_read(opened, tmp_path, place, location):
    (opened.folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (opened.folder / "folder").symlink_to(tmp_path)
    (opened.folder / "a").mkdir()
    location = location.replace("ABSOLUTE", str(tmp_path / "secret.bin"))
    with pytest.raises(ConfigError, match="is not a file beside the model"):
        opened(place(location))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", ["", ".", "/dev/zero", "a\x00b", "a" * 5000, "loop", "pipe", "gone.bin"])
def test_external_data_that_is_no_file_is_refused(opened, place, location):
    (opened.folder / "loop").symlink_to("loop")
    os.mkfifo(opened.folder / "pipe")
    with pytest.raises(ConfigError, match="is not a file beside the model"):
        opened(place(location))


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_not_an_address_in_memory(opened, place):
    # Also where a file has that name.
    file = opened.folder / "*" / "_ORT_MEM_ADDR_" / "*"
    file.parent.mkdir(parents=True)
    file.write_bytes(SECRET.tobytes())
    with pytest.raises(ConfigError, match="is not a file beside the model"):
        opened(place("*/_ORT_MEM_ADDR_/*", offset=SECRET.ctypes.data, length=SECRET.nbytes))


def test_external_data_below_the_model_is_read(opened):
    (opened.folder / "below").mkdir()
    (opened.folder / "below" / "weights.bin").write_bytes(SECRET.tobytes())
    assert opened(in_initializer("below/weights.bin")).members


@pytest.mark.parametrize(
    "entries",
    [{"offset": 1 << 40}, {"offset": -1}, {"length": 1 << 60}, {"offset": 32, "length": 64}, {"offset": "x"}],
)
def test_external_data_beyond_its_file_is_refused(opened, entries):
    (opened.folder / "weights.bin").write_bytes(SECRET.tobytes())
    with pytest.raises(ConfigError):
        opened(in_initializer("weights.bin", **entries))


def huge(*dims):
    tensor = values()
    tensor.ClearField("raw_data")
    tensor.ClearField("dims")
    tensor.dims.extend(dims)
    return product(initializers=[tensor])


def custom():
    return model([helper.make_node("Anything", ["x"], ["y"], domain="mine")])


def grown(size):
    """Fills so many numbers, whatever it is asked."""
    shape = numpy_helper.from_array(np.array([size], np.int64), "size")
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["many"]),
        helper.make_node("ReduceSum", ["many"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    return model(nodes, [shape])


def recursive():
    call = helper.make_node("again", ["x"], ["y"], domain="mine")
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("mine", 1)]
    return model([call], functions=[helper.make_function("mine", "again", ["x"], ["y"], [call], opsets)])


@pytest.mark.parametrize(
    "proto",
    [huge(1 << 40, 4), huge((1 << 63) - 1, 4), huge(-1, 4), custom(), grown(1 << 46), grown(-1), recursive()],
    ids=["terabytes", "overflow", "negative", "custom", "grown", "grown-negative", "recursive"],
)
def test_what_cannot_be_run_stops_the_start_and_nothing_else(opened, proto):
    with pytest.raises(ConfigError):
        opened(proto)


def test_a_model_that_never_ends_stops_the_start(opened):
    x = spox.argument(spox.Tensor(np.float32, ("batch", 4)))

    def wait(_, go_on, kept):
        return [op.identity(go_on), op.add(kept, op.const(np.float32(0)))]

    (waited,) = op.loop(op.const(2**60), v_initial=[op.const(np.float32(0))], body=wait)
    with pytest.raises(ConfigError, match=r"no answer within 0.5 s"):
        opened(spox.build({"x": x}, {"y": op.add(x, waited)}))


def test_a_call_that_does_not_stop_when_it_is_told_to_ends_readiness(opened):
    ensemble = opened(product(initializers=[values()]))
    ensemble.check_ready()
    with ensemble.deadlines.watch() as call:  # as one that is busy in native code
        deadline = time.monotonic() + 30
        while not ensemble.deadlines.stuck:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert call.terminate
        with pytest.raises(NotReady, match="does not come back; restart the server"):
            ensemble.check_ready()
    ensemble.check_ready()


def test_a_file_that_is_cut_is_refused(opened):
    whole = product(initializers=[values()]).SerializeToString()
    refused = 0
    for size in range(0, len(whole), 7):
        (opened.folder / "one.onnx").write_bytes(whole[:size])
        with pytest.raises(ConfigError):
            Engine.open(load(opened.folder / "toy.yaml"))
        refused += 1
    assert refused > 10


@pytest.mark.parametrize("first", ["weights.bin", "../secret.bin"])
def test_data_under_two_names_is_refused_by_either(opened, first):
    (opened.folder / "weights.bin").write_bytes(SECRET.tobytes())
    (second,) = {"weights.bin", "../secret.bin"} - {first}
    tensor = outside(values(), first)
    tensor.external_data.add(key="location", value=second)
    with pytest.raises(ConfigError, match="is not a file beside the model"):
        opened(product(initializers=[tensor]))
