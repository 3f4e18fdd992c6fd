"""Messages of the Open Inference Protocol: what is sent, and that nothing is taken for what it is not."""

import contextlib
import json
import struct

import inference_server as fake
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.datatypes import DTYPE_OF
from service.teachers.remote_tensors import (
    HEADER_LENGTH,
    Malformed,
    describe,
    encode,
    error_of,
    read_answer,
    takes_bytes,
)


def sent(inputs, *, binary, parameters=None):
    """The request, and its tensors as another implementation reads them."""
    request = encode(inputs, output="p", parameters=parameters or {}, number="7", binary=binary)
    head = int(request.headers.get(HEADER_LENGTH, len(request.body)))
    message, rest = json.loads(request.body[:head]), request.body[head:]
    found = {}
    for one in message["inputs"]:
        size = one.get("parameters", {}).get("binary_data_size")
        assert (size is None) != binary
        data = one.get("data") if size is None else rest[:size]
        rest = rest[size or 0 :]
        found[one["name"]] = one["datatype"], fake.tensor(one["datatype"], one["shape"], data)
    assert rest == b""
    return request, message, found


@pytest.mark.parametrize(
    ("datatype", "binary"),
    [(datatype, binary) for datatype in DTYPE_OF for binary in (True, False) if binary or datatype != "FP16"],
)
def test_every_datatype_arrives_as_it_was(datatype, binary):
    random = np.random.default_rng(0)
    if datatype == "BYTES":
        values = np.array([["a"], ["", "no"][1:], ["zwölf 🎓"]], dtype=object)
    elif datatype.startswith("FP"):
        values = random.normal(size=(3, 2)).astype(DTYPE_OF[datatype])
    else:
        values = random.integers(0, 2, size=(3, 2)).astype(DTYPE_OF[datatype])
        if datatype != "BOOL":
            values[0] = np.iinfo(values.dtype).max, np.iinfo(values.dtype).min
    _, _, found = sent({"x": (datatype, values)}, binary=binary)
    assert found["x"][0] == datatype
    assert found["x"][1].tolist() == values.tolist()


def test_tensors_stand_behind_the_json_in_the_order_of_the_inputs():
    one, two = np.arange(6, dtype="<f4").reshape(2, 3), np.array(["ab", "c"], dtype=object)
    request, message, _ = sent({"x": ("FP32", one), "t": ("BYTES", two)}, binary=True)
    texts = struct.pack("<I2sI1s", 2, b"ab", 1, b"c")
    assert request.body.endswith(one.tobytes() + texts)
    assert request.headers["Content-Type"] == "application/octet-stream"
    assert message["outputs"] == [{"name": "p", "parameters": {"binary_data": True}}]
    assert "parameters" not in message


def test_all_json_where_the_server_wants_it():
    values = np.array([[0.1, 1e-30]], dtype="<f4")
    request, message, found = sent({"x": ("FP32", values)}, binary=False, parameters={"a": 1, "b": True})
    assert request.headers == {"Content-Type": "application/json"}
    assert message["outputs"] == [{"name": "p"}]
    assert message["parameters"] == {"a": 1, "b": True}
    assert found["x"][1].tobytes() == values.tobytes()  # a float32 is repeated exactly


def test_what_is_not_contiguous_or_of_the_other_byte_order_is_sent_as_it_reads():
    values = np.arange(12, dtype=">f4").reshape(3, 4).T
    _, _, found = sent({"x": ("FP32", values)}, binary=True)
    assert found["x"][1].tolist() == values.tolist()


def reply(outputs, tail=b"", **said):
    message = {"model_name": "m", "model_version": "1", "id": "7", "outputs": outputs, **said}
    answered = fake.of_json({key: value for key, value in message.items() if value is not ...}, tail=tail)
    return answered.body, answered.headers.get(HEADER_LENGTH)


def output(name="p", datatype="FP32", shape=(2, 2), **rest):
    return {"name": name, "datatype": datatype, "shape": list(shape), **rest}


def binary(size):
    return {"parameters": {"binary_data_size": size}}


VALUES = np.array([[0.25, 0.75], [1, 0]])


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_an_answer_is_read_as_bytes_or_json(datatype):
    values = VALUES.astype(DTYPE_OF[datatype])
    one = read_answer(
        *reply([output(datatype=datatype, **binary(values.nbytes))], values.tobytes()), output="p"
    )
    flat = read_answer(*reply([output(datatype=datatype, data=values.reshape(-1).tolist())]), output="p")
    nested = read_answer(*reply([output(datatype=datatype, data=values.tolist())]), output="p")
    for answer in (one, flat, nested):
        assert (answer.model, answer.version, answer.number, answer.datatype) == ("m", "1", "7", datatype)
        assert answer.values.dtype == values.dtype
        assert answer.values.tolist() == VALUES.tolist()


def test_an_answer_stands_among_others_of_any_kind():
    values = VALUES.astype("<f4")
    others = [output("a", "INT8", (3,), **binary(3)), output("b", "BYTES", (1,), data=["x"])]
    data = b"abc" + values.tobytes() + b"zz"
    outputs = [*others, output(**binary(16)), output("c", "UINT16", (1,), **binary(2))]
    assert read_answer(*reply(outputs, data), output="p").values.tolist() == VALUES.tolist()


def test_what_a_server_does_not_say_is_none():
    data = {"data": [1, 0, 0, 1]}
    answer = read_answer(*reply([output(**data)], model_name=..., model_version=None, id=""), output="p")
    assert (answer.model, answer.version, answer.number) == (None, None, None)
    assert read_answer(*reply([output(**data)], model_version=3), output="p").version == "3"


def test_no_number_is_nan_and_no_rows_are_none():
    answer = read_answer(*reply([output(shape=(1, 2), data=[float("nan"), float("-inf")])]), output="p")
    assert np.isnan(answer.values[0, 0])
    assert answer.values[0, 1] == -np.inf
    assert read_answer(*reply([output(shape=(0, 2), data=[])]), output="p").values.shape == (0, 2)
    assert (
        read_answer(*reply([output(datatype="FP16", shape=(1, 1), data=[1e9])]), output="p").values == np.inf
    )


FOUR = {"data": [1, 0, 0, 1]}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((b"", None), "no JSON"),
        ((b"\xff\x00", None), "no JSON"),
        ((b"[1]", None), "no JSON object"),
        ((b"[" * 100_000, None), "no JSON"),
        ((b'{"outputs": ' + b"9" * 5000 + b"}", None), "no JSON"),
        ((b"{}", "-1"), "Inference-Header-Content-Length is '-1'"),
        ((b"{}", "2.0"), "is '2.0'"),
        ((b"{}", "³"), "is '³'"),
        ((b"{}", "3"), "is '3', and 2 bytes came"),
        ((b"{}", "9" * 5000), "and 2 bytes came"),
        ((b"{}", None), "holds output 'p' 0 times"),
        ((b"{}ab", "2"), "take 0 bytes behind the JSON, and 2 came"),
        ((b'{"outputs": {"p": 1}}', None), "outputs are no list of tensors"),
        ((b'{"outputs": [1]}', None), "outputs are no list of tensors"),
        (reply([output("q", **FOUR)]), "holds output 'p' 0 times"),
        (reply([output(**FOUR), output(**FOUR)]), "holds output 'p' 2 times"),
        (reply([output(datatype="INT64", **FOUR)]), "is not one float a class"),
        (reply([output(datatype="BF16", **FOUR)]), "is not one float a class"),
        (reply([output(datatype=7, **FOUR)]), "no name, datatype or shape"),
        (reply([{"name": "p", "data": []}]), "no name, datatype or shape"),
        (reply([output(shape=(2, -1), **FOUR)]), "is not one float a class"),
        (reply([output(shape=(2, True), **FOUR)]), "not made of sizes"),
        (reply([output(shape=(2, 2.0), **FOUR)]), "not made of sizes"),
        (reply([output(shape=(-4, -1), **FOUR)]), "not made of sizes"),
        (reply([output(shape=(2, 3), **FOUR)]), "are 4 numbers"),
        (reply([output(shape=(10**30, 10**30), **FOUR)]), "are 4 numbers"),
        (reply([output()]), "are not all numbers"),
        (reply([output(data=None)]), "are not all numbers"),
        (reply([output(data={"a": 1})]), "are not all numbers"),
        (reply([output(data=["1", "0", "0", "1"])]), "are not all numbers"),
        (reply([output(data=[True, False, False, True])]), "are not all numbers"),
        (reply([output(data=[1, None, 0, 1])]), "are not all numbers"),
        (reply([output(data=[1, 10**400, 0, 1])]), "are not all numbers"),
        (reply([output(data=[[1, 0], [1]])]), "are no tensor"),
        (reply([output(**binary(15))], b"x" * 15), "takes 15 bytes"),
        (reply([output(**binary(16))], b"x" * 15), "take 16 bytes behind the JSON, and 15 came"),
        (reply([output(**binary(16))], b"x" * 17), "take 16 bytes behind the JSON, and 17 came"),
        (reply([output("a", **binary(10**18)), output(**binary(16))], b"x" * 16), "and 16 came"),
        (reply([output(**binary(-1))]), "binary_data_size of its tensor 'p' is no number of bytes"),
        (reply([output(**binary(16.0))], b"x" * 16), "is no number of bytes"),
        (reply([output(**binary(True))], b"x"), "is no number of bytes"),
    ],
)
def test_what_is_no_answer_is_named(given, said):
    with pytest.raises(Malformed) as caught:
        read_answer(*given, output="p")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 10**20) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "shape", "data", "datatype", "parameters", "outputs"]), inner
        )
    ),
    max_leaves=12,
)


@given(JSON, st.binary(max_size=20), st.none() | st.integers(-3, 60).map(str) | st.text(max_size=4))
def test_whatever_comes_is_an_answer_or_malformed(message, tail, length):
    body = json.dumps({"outputs": [message]}).encode() + tail
    for given_length in (length, str(len(body) - len(tail))):
        try:
            answer = read_answer(body, given_length, output="p")
        except Malformed:
            continue
        assert answer.values.dtype.kind == "f"


@given(st.binary(max_size=40))
def test_no_bytes_break_the_readers(data):
    for read in (takes_bytes, describe, lambda body: read_answer(body, None, output="p")):
        with contextlib.suppress(Malformed):
            read(data)
    assert error_of(data).isprintable()


def test_metadata_is_read():
    described = describe(
        b'{"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}], "outputs": null}'
    )
    assert described.name == "m"
    assert [str(tensor) for tensor in described.inputs] == ["'x' (FP32 [-1, 4])"]
    assert described.outputs == []
    with pytest.raises(Malformed, match="it says no name"):
        describe(b'{"inputs": []}')
    assert takes_bytes(b'{"extensions": ["classification", "binary_tensor_data"]}')
    assert not takes_bytes(b'{"extensions": "binary_tensor_data"}')
    assert not takes_bytes(b"{}")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": "no such model"}', "no such model"),
        (b'{"error": "two\\nlines\\u001b[31m"}', "two lines [31m"),
        (b"<html>\r\n502</html>", "<html>  502</html>"),
        (b'{"error": {"code": 5}}', ""),
        (b'{"detail": "FastAPI"}', '{"detail": "FastAPI"}'),
        (b"\xff", "\N{REPLACEMENT CHARACTER}"),
        (b"", ""),
    ],
)
def test_an_error_is_said_as_far_as_it_can_be_read(body, said):
    assert error_of(body) == said
