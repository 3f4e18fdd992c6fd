"""Outputs of the values that the cache keeps: as JSON, as bytes, and as their largest classes."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from inference import texts

from service.api.v2 import outputs
from service.api.v2.outputs import Output, Written, outputs_of, wanted_of, written
from service.api.v2.parameters import request_parameters
from service.api.v2.requests import Asked, RequestedOutput
from service.errors import BadInput
from soft_targets.wire import Layout

CLASSES = ["ant", "bee", "cat: a", "größer"]
FLOATS = st.floats(max_value=0, width=32, allow_nan=False)  # a logarithm may be -inf


def asked(*names, **parameters):
    return Asked("", 1, {}, names or None, request_parameters({"parameters": parameters}))


def answer(layout, values, *names, **parameters):
    found = written(wanted_of(layout, asked(*names, **parameters)), layout, CLASSES, values)
    return {output.name: output for output in found}


def test_what_each_layout_has():
    diagnostics = {"entropy": Output("FP32", ()), "divergence": Output("FP32", ())}
    dense = {"probabilities": Output("FP32", (4,)), "log_probs": Output("FP32", (4,))}
    assert outputs_of(Layout(4)) == dense
    assert list(outputs_of(Layout(4, diagnostics=True))) == [*dense, *diagnostics]
    assert outputs_of(Layout(4, 2, diagnostics=True)) == {
        "indices": Output("INT32", (2,)),
        "log_probs": Output("FP32", (2,)),
        "tail_log_mass": Output("FP32", ()),
        **diagnostics,
    }


@pytest.mark.parametrize("at_once", [1, 3, 1000])
@given(values=hnp.arrays(np.float32, hnp.array_shapes(max_dims=2, min_side=0), elements=FLOATS))
def test_numbers_in_json_are_those_in_bytes(at_once, values):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(outputs, "_AT_ONCE", at_once)
        one = Written("x", "FP32", values.shape, values, binary=False)
        found = json.loads(one.data(), parse_constant=pytest.fail)
    assert one.content() == values.tobytes()
    lowest = np.finfo(np.float32).min
    np.testing.assert_array_equal(np.array(found, np.float32), np.maximum(values, lowest).ravel())


@given(st.lists(st.text(max_size=4), max_size=5))
def test_texts(values):
    encoded = np.array([value.encode(errors="replace") for value in values], dtype=object)
    one = Written("x", "BYTES", (len(values),), encoded, binary=True)
    assert one.content() == texts(encoded)
    assert json.loads(one.data()) == [value.decode() for value in encoded]


def test_integers():
    values = np.array([[2, 0], [-1, 2**31 - 1]], "<i4")
    one = Written("x", "INT32", (2, 2), values, binary=False)
    assert json.loads(one.data()) == [2, 0, -1, 2**31 - 1]
    assert one.content() == values.tobytes()


@given(
    hnp.arrays(np.float32, (3, 4), elements=st.sampled_from([-3.0, -2.0, -1.0, -np.inf])), st.integers(1, 4)
)
def test_the_largest_classes_ties_to_the_lower_index(log_probs, count):
    layout = Layout(4)
    found = answer(layout, layout.pack(log_probs), RequestedOutput("log_probs", None, count))["log_probs"]
    assert (found.datatype, found.shape) == ("BYTES", (3, count))
    for row in range(3):
        best = sorted(range(4), key=lambda index: (-log_probs[row, index], index))[:count]
        assert [text.decode() for text in found.values[row]] == [
            f"{log_probs[row, index]:f}:{index}:{CLASSES[index]}" for index in best
        ]


def test_a_sparse_value_s_classes_are_those_that_are_kept():
    layout = Layout(4, 2)
    values = layout.pack(np.array([[-0.5, -1]], "<f4"), np.array([[3, 0]], "<i4"), np.array([-5], "<f4"))
    found = answer(layout, values, RequestedOutput("log_probs", None, 2))["log_probs"]
    assert found.values.tolist() == [["-0.500000:3:größer".encode(), b"-1.000000:0:ant"]]


def test_probabilities_are_rounded_once():
    layout, log_probs = Layout(4), np.log(np.array([[0.1, 0.2, 0.3, 0.4]])).astype("<f4")
    found = answer(layout, layout.pack(log_probs))
    np.testing.assert_array_equal(
        found["probabilities"].values, np.exp(log_probs.astype(float)).astype("<f4")
    )


def test_no_rows():
    for layout in (Layout(4), Layout(4, 2, diagnostics=True)):
        for name, output in answer(layout, []).items():
            assert output.shape == (0, *outputs_of(layout)[name].shape)
            assert (output.data(), output.content()) == (b"[]", b"")


@pytest.mark.parametrize(
    ("name", "count", "said"),
    [
        ("indices", 1, "'indices' holds no classes; ask classification of log_probs"),
        ("tail_log_mass", 1, "'tail_log_mass' holds no classes"),
        ("log_probs", 3, "output 'log_probs': classification is 3, it has 2 classes"),
        ("probabilities", None, "unknown output 'probabilities'; known: indices, log_probs, tail_log_mass"),
    ],
)
def test_what_a_sparse_recipe_has_not(name, count, said):
    with pytest.raises(BadInput, match=re.escape(said)):
        wanted_of(Layout(4, 2), asked(RequestedOutput(name, None, count)))


def test_how_much_a_row_takes():
    def sizes(*names, **parameters):
        return [one.row_bytes for one in wanted_of(Layout(4), asked(*names, **parameters))]

    assert sizes(binary_data_output=True) == [16, 16]
    assert sizes() == [4 * outputs.JSON_BYTES] * 2
    assert sizes(RequestedOutput("log_probs", classification=3), binary_data_output=True) == [
        3 * outputs.JSON_BYTES
    ]
