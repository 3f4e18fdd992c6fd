"""Tensors of requests: what each datatype holds, in JSON and in bytes, and what is refused."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from inference import DATATYPES, described, texts

from service.api.v2.tensors import tensor_of, values_of
from service.datatypes import FIXED, datatype_of
from service.errors import BadInput, TooLarge, Unsupported
from soft_targets.wire import DTYPES, TensorSpec

NUMBERS = [dtype for dtype in DATATYPES if dtype not in {"|O", "<f2"}]
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)


def read(given, spec, content=b"", max_rows=100):
    given = json.loads(json.dumps(given))  # numbers as they come out of JSON
    return values_of(tensor_of(given, {"x": spec}, max_rows=max_rows), memoryview(content), spec)


def arrays(dtype):
    return hnp.arrays(dtype, SHAPES)


def test_every_dtype_of_an_input_has_a_datatype():
    assert [datatype_of(dtype) for dtype in DTYPES] == [
        "BOOL", "UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "UINT64", "INT64", "FP16", "FP32",
        "FP64", "BYTES",
    ]  # fmt: skip
    assert set(FIXED) == {datatype_of(dtype) for dtype in DTYPES} - {"BYTES"} | {"BF16"}


@pytest.mark.parametrize("dtype", [dtype for dtype in DATATYPES if dtype != "|O"])
@given(st.data())
def test_bytes_are_taken_as_they_are(dtype, data):
    values = data.draw(arrays(dtype))
    content = values.tobytes()
    said = described("x", values, parameters={"binary_data_size": len(content)})
    found = read(said, TensorSpec(dtype, values.shape[1:]), content)
    assert found.dtype == dtype
    assert found.shape == values.shape
    assert found.tobytes() == content


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", NUMBERS)
@given(st.data())
def test_json_holds_the_same_nested_or_not(dtype, nested, data):
    values = data.draw(arrays(dtype))
    said = described("x", values, data=values.tolist() if nested else values.ravel().tolist())
    found = read(said, TensorSpec(dtype, values.shape[1:]))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)


@given(hnp.arrays(object, SHAPES, elements=st.text(max_size=5)))
def test_text_is_the_same_in_bytes_and_in_json(values):
    spec, content = TensorSpec("utf8", values.shape[1:]), texts(values.ravel())
    binary = described("x", values, parameters={"binary_data_size": len(content)})
    for found in (read(binary, spec, content), read(described("x", values, data=values.tolist()), spec)):
        assert found.dtype == object
        assert found.shape == values.shape
        assert found.tolist() == values.tolist()


def test_what_kserve_sends_for_no_rows():
    given = {"name": "x", "shape": [0, 2], "datatype": "FP32", "data": None}
    found = read({**given, "parameters": {"binary_data_size": 0}}, TensorSpec("<f4", (2,)))
    assert found.shape == (0, 2)


@given(hnp.arrays("<f4", 5, elements=st.floats(width=32, allow_nan=False)))
def test_bf16_is_the_upper_half_of_a_float32(values):
    halves = (values.view("<u4") >> 16).astype("<u2")
    content = halves.tobytes()
    given = {"name": "x", "datatype": "BF16", "shape": [5], "parameters": {"binary_data_size": 10}}
    found = read(given, TensorSpec("<f4", ()), content)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view("<u4") >> 16, halves)
    assert not (found.view("<u4") & 0xFFFF).any()


@pytest.mark.parametrize(
    ("datatype", "dtype", "values"),
    [
        ("FP16", "<f4", np.array([1.5, -2], "<f2")),
        ("FP64", "<f4", np.array([0.1, 2], "<f8")),
        ("UINT8", "<f4", np.array([0, 255], "|u1")),
        ("INT64", "<i4", np.array([7, -7], "<i8")),
        ("INT32", "<i8", np.array([7, -7], "<i4")),
    ],
)
def test_other_datatypes_are_cast_as_everywhere(datatype, dtype, values):
    given = {
        "name": "x",
        "datatype": datatype,
        "shape": [2],
        "parameters": {"binary_data_size": values.nbytes},
    }
    found = read(given, TensorSpec(dtype, ()), values.tobytes())
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values.astype(dtype))


def fp32(**changed):
    return {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": [0.0] * 6, **changed}


def binary(datatype="FP32", size=24, **changed):
    given = fp32(datatype=datatype, parameters={"binary_data_size": size}, **changed)
    del given["data"]
    return given


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "every input must be an object with a name"),
        ({"datatype": "FP32"}, "every input must be an object with a name"),
        (fp32(name=1), "every input must be an object with a name"),
        (fp32(name="y"), "unknown input 'y'; known: x"),
        (fp32(dtype="FP32"), "input 'x': unknown keys: ['dtype']; known: name, datatype, shape,"),
        (fp32(datatype="FLOAT"), "input 'x': datatype is 'FLOAT'; give one of BOOL,"),
        (fp32(datatype=None), "datatype is None"),
        (fp32(datatype=["FP32"]), "datatype is ['FP32']"),
        (fp32(shape=None), "shape must be a list of whole numbers"),
        (fp32(shape=[2, -3]), "shape must be a list of whole numbers"),
        (fp32(shape=[2, 3.0]), "shape must be a list of whole numbers"),
        (fp32(shape=[2, True]), "shape must be a list of whole numbers"),
        (fp32(shape=[2, "3"]), "shape must be a list of whole numbers"),
        (fp32(shape=[]), "shape is [], it takes [-1, 3], rows first, of <f4"),
        (fp32(shape=[6]), "shape is [6], it takes [-1, 3]"),
        (fp32(shape=[2, 4]), "shape is [2, 4], it takes [-1, 3]"),
        (fp32(shape=[2, 3, 1]), "shape is [2, 3, 1], it takes [-1, 3]"),
        (fp32(shape=[2, 2**64 + 3]), f"shape is [2, {2**64 + 3}], it takes"),
        (fp32(data=None), "give data, or binary_data_size and the bytes behind the JSON"),
        (fp32(parameters={"binary_data_size": 24}), "give data, or binary_data_size"),
        (fp32(data=1), "data must be a list"),
        (fp32(data="abc"), "data must be a list"),
        (fp32(data={"a": 1}), "data must be a list"),
        (fp32(data=[0.0] * 5), "input 'x' (FP32 [2, 3]): data holds 5 values, its shape takes 6"),
        (fp32(data=[0.0] * 7), "data holds 7 values"),
        (fp32(data=[]), "data holds 0 values"),
        (fp32(data=[[0.0] * 3]), "data holds 3 values"),
        (fp32(data=[[0.0] * 3, [0.0] * 2]), "lists of axis 1 hold 3 each"),
        (fp32(data=[[0.0] * 3, 0.0, 0.0, 0.0]), "lists of axis 1 hold 3 each"),
        (fp32(data=[[[0.0]] * 3] * 2), "value 0 is [0.0], which is no FP32"),
        (fp32(data=[0.0] * 5 + [[0.0]]), "value 5 is [0.0], which is no FP32"),
        (fp32(data=[0.0] * 5 + [None]), "value 5 is None, which is no FP32"),
        (fp32(data=[0.0] * 5 + ["0"]), "value 5 is '0', which is no FP32"),
        (fp32(data=[0.0] * 5 + [True]), "value 5 is True, which is no FP32"),
        (fp32(data=[0.0] * 5 + [1e39]), "1e+39 at [5] cannot be kept as <f4"),
        (fp32(data=[0.0] * 5 + [10**400]), "a value is beyond FP32"),
        (fp32(data=[0.0] * 5 + [(1 << 24) + 1]), "16777217 at [5] cannot be kept as <f4"),
        (fp32(datatype="FP64", data=[0.5] * 5 + [-(1 << 53) - 1]), "cannot be kept as <f8"),
        (fp32(datatype="INT32", data=[0] * 5 + [1.0]), "value 5 is 1.0, which is no INT32"),
        (fp32(datatype="INT32", data=[0] * 5 + [True]), "value 5 is True, which is no INT32"),
        (fp32(datatype="INT32", data=[0] * 5 + [2**31]), "a value is beyond INT32"),
        (fp32(datatype="UINT8", data=[0] * 5 + [-1]), "a value is beyond UINT8"),
        (fp32(datatype="BOOL", data=[0] * 6), "value 0 is 0, which is no BOOL"),
        (fp32(datatype="BOOL", data=[True] * 6), "bool cannot become <f4"),
        (fp32(datatype="BYTES", data=["a"] * 6), "is not a number; it takes <f4"),
        (fp32(datatype="INT32", data=[0] * 5 + [2**24 + 1]), "16777217 at [1, 2] cannot be kept as <f4"),
        (fp32(datatype="FP16"), "JSON holds no FP16; send it as bytes behind the JSON"),
        (fp32(datatype="BF16"), "JSON holds no BF16"),
        (fp32(parameters=[]), "input 'x': parameters must be an object"),
        (fp32(parameters={"binary_data": 1}), "'binary_data'; did you mean 'binary_data_size'"),
        (binary(size="24"), "'binary_data_size' is '24': give a whole number"),
        (binary(size=24.0), "give a whole number"),
        (binary(size=True), "give a whole number"),
        (binary(size=-1), "give a whole number"),
        (binary(size=2**64), "give a whole number"),
        (binary(size=23), "binary_data_size is 23, its datatype and shape take 24"),
        (binary(size=25), "binary_data_size is 25, its datatype and shape take 24"),
        (binary("FP64"), "binary_data_size is 24, its datatype and shape take 48"),
        (binary("BYTES", size=23), "binary_data_size is 23, its datatype and shape take at least 24"),
    ],
)  # fmt: skip
def test_what_is_refused_before_a_value_is_looked_at_or_because_of_one(given, said):
    with pytest.raises(BadInput, match=re.escape(said)):
        read(given, TensorSpec("<f4", (3,)))


def test_shared_memory_is_not_used():
    region = {"shared_memory_region": "r", "shared_memory_byte_size": 24}
    with pytest.raises(Unsupported, match="input 'x': shared memory is not used here"):
        read(fp32(parameters=region), TensorSpec("<f4", (3,)))


def test_too_many_rows_are_refused_before_their_values_are():
    with pytest.raises(TooLarge, match="101 rows in one request, at most 100"):
        read(fp32(shape=[101, 3], data=["nonsense"]), TensorSpec("<f4", (3,)))
    with pytest.raises(TooLarge, match=f"{2**70} rows"):
        read(fp32(shape=[2**70, 3], data=[]), TensorSpec("<f4", (3,)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x00\x00\x00\x00" + b"\x01\x00\x00\x00", "its bytes end within element 1 of 2"),
        (b"\xff\xff\xff\xff" + b"aaaa", "its bytes end within element 0 of 2"),
        (texts(["abcd"]), "its bytes end within element 1 of 2"),
        (texts(["abcd"]) + b"abc", "its bytes end within element 1 of 2"),
        (texts(["a", "b", "c"]), "5 bytes are left behind its 2 elements"),
        (texts([b"\xff\xfe", "b"]), "element 0 is not UTF-8"),
        (texts(["a", b"\xc3"]), "element 1 is not UTF-8"),
    ],
)
def test_elements_that_do_not_fill_their_bytes(content, said):
    given = {"name": "x", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(content)}}
    with pytest.raises(BadInput, match=said):
        read(given, TensorSpec("utf8", ()), content)


def test_a_boolean_is_a_byte_of_0_or_1():
    given = {"name": "x", "datatype": "BOOL", "shape": [3], "parameters": {"binary_data_size": 3}}
    assert read(given, TensorSpec("|b1", ()), b"\x00\x01\x01").tolist() == [False, True, True]
    with pytest.raises(BadInput, match="a boolean is a byte of 0 or 1"):
        read(given, TensorSpec("|b1", ()), b"\x00\x01\x02")


def test_numbers_are_no_text():
    given = {"name": "x", "datatype": "INT32", "shape": [1], "data": [1]}
    with pytest.raises(BadInput, match="is not text; it takes utf8"):
        read(given, TensorSpec("utf8", ()))
    with pytest.raises(BadInput, match="not valid Unicode"):
        values_of(
            tensor_of(
                {"name": "x", "datatype": "BYTES", "shape": [1], "data": ["\ud800"]},
                {"x": TensorSpec("utf8", ())},
                max_rows=1,
            ),
            memoryview(b""),
            TensorSpec("utf8", ()),
        )
