import contextlib
import io

import numpy as np
import pyarrow as pa
import pytest
from golden_files import ALL
from golden_replies import DENSE as DENSE_ROWS
from golden_replies import ERROR, METADATA, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from soft_targets import wire
from soft_targets.wire import (
    DTYPES,
    Closing,
    IncompleteStream,
    InputError,
    Layout,
    ReplyWriter,
    TensorSpec,
    TooManyBytes,
    TooManyRows,
    WireError,
    cast,
    decode_request,
    default_row_ids,
    encode_digests,
    encode_request,
    read_reply,
    reader,
    row_digests,
    row_id_array,
)

NUMBERS = [dtype for dtype in DTYPES if dtype != "utf8"]
INTEGERS = [dtype for dtype in NUMBERS if dtype[1] in "iu"]
FLOATS = [dtype for dtype in NUMBERS if dtype[1] == "f"]

quick = settings(
    max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


# ---------------------------------------------------------------------------------------------------- cast


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 3)])
def test_what_has_the_dtype_already_stays_as_it_is(dtype, shape):
    values = np.ones(shape, dtype)
    result = cast(values, dtype, name="x")
    assert result.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(result, values)
    assert result.shape == shape
    assert result.flags.c_contiguous


@pytest.mark.parametrize("dtype", NUMBERS)
def test_byte_order_and_memory_order_are_brought_into_line(dtype):
    values = np.asfortranarray(np.arange(6).reshape(2, 3) % 2).astype(np.dtype(dtype).newbyteorder(">"))
    result = cast(values, dtype, name="x")
    assert result.dtype.str == dtype
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, values)


def may(source, target):
    """The table: what kinds may become what."""
    kinds = source[1] + target[1]
    return kinds == "bb" or (source[1] in "iu" and target[1] in "iuf") or kinds == "ff"


@pytest.mark.parametrize("source", NUMBERS)
@pytest.mark.parametrize("target", NUMBERS)
def test_which_kinds_may_become_which(source, target):
    values = np.array([0, 1], source)
    if may(source, target):
        result = cast(values, target, name="x")
        assert result.dtype.str == target
        np.testing.assert_array_equal(result, [0, 1])
    else:
        with pytest.raises(InputError, match=f"input 'x': .* cannot become {target.replace('|', '.')}"):
            cast(values, target, name="x")


@pytest.mark.parametrize("source", INTEGERS)
@pytest.mark.parametrize("target", INTEGERS)
def test_integers_at_the_ends_of_their_range(source, target):
    limits = np.iinfo(target)
    for value in (np.iinfo(source).min, np.iinfo(source).max):
        values = np.array([0, value], source)
        if limits.min <= value <= limits.max:
            assert cast(values, target, name="x")[1] == value
        else:
            with pytest.raises(InputError, match=rf"{value} at \[1\] cannot be kept"):
                cast(values, target, name="x")


@pytest.mark.parametrize(
    ("source", "value", "target", "kept"),
    [
        ("<i4", 2**24, "<f4", True),
        ("<i4", 2**24 + 1, "<f4", False),
        ("<i4", -(2**24) - 1, "<f4", False),
        ("<i4", 2**24 + 2, "<f4", True),
        ("<i4", 2**31 - 1, "<f8", True),
        ("<i8", 2**53 + 1, "<f8", False),
        ("<i8", -(2**63), "<f8", True),
        ("<i8", -(2**63), "<f4", True),
        ("<u8", 2**64 - 1, "<f8", False),
        ("<u8", 2**63, "<f4", True),
        ("<u2", 2048, "<f2", True),
        ("<u2", 2049, "<f2", False),
        ("<u2", 65504, "<f2", True),
        ("<u2", 65535, "<f2", False),
        ("<f8", 1e300, "<f4", False),
        ("<f8", -1e300, "<f4", False),
        ("<f8", 0.1, "<f4", True),
        ("<f8", 1e-300, "<f4", True),
        ("<f8", np.inf, "<f2", True),
        ("<f4", np.nan, "<f2", True),
        ("<f4", 65504.0, "<f2", True),
        ("<f4", 65520.0, "<f2", False),
        ("<f2", 65504.0, "<f8", True),
    ],
)
def test_values_survive_or_are_refused(source, value, target, kept):
    values = np.array([[0, value]], source)
    if kept:
        result = cast(values, target, name="x")[0, 1]
        assert result == value or np.isnan(value) or np.isclose(result, value, rtol=1e-3, atol=1e-30)
        assert source[1] == "f" or int(result) == value
    else:
        with pytest.raises(InputError, match=r"at \[0, 1\] cannot be kept as"):
            cast(values, target, name="x")


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        ([None, 1.0], "<f4", r"None at \[0\] is not a number"),
        ([1.0, "a"], "<f4", "is not a number"),
        ([1j], "<f4", "not a number"),
        ([2**70], "<f4", "not a number"),
        (np.datetime64("2026-01-01"), "<i8", "not a number"),
        ([[1], [1, 2]], "<i8", "differ in shape"),
        (["a", 1], "utf8", r"1 at \[1\] is not text"),
        (["a", None], "utf8", r"None at \[1\] is not text"),
        ([b"a"], "utf8", "is not text"),
        ([1, 2], "utf8", "is not text"),
        (["a", "\ud800"], "utf8", r"text at \[1\] is not valid Unicode"),
    ],
)
def test_what_is_no_number_or_no_text(values, dtype, message):
    with pytest.raises(InputError, match=message):
        cast(values, dtype, name="x")


@pytest.mark.parametrize(
    "values", [["a", "é", ""], np.array(["a", "é", ""]), np.array(["a", "é", ""], object)]
)
def test_text_stays_text(values):
    result = cast(values, "utf8", name="x")
    assert result.dtype == object
    assert result.tolist() == ["a", "é", ""]


# ------------------------------------------------------------------------------------------------- digests


def test_digests_go_row_by_row_and_in_the_ensembles_order():
    specs = {"a": TensorSpec("<f4", (2,)), "b": TensorSpec("<i4", ())}
    a, b = np.arange(6, dtype="<f4").reshape(3, 2), np.array([1, 2, 3], "<i4")
    whole = row_digests({"b": b, "a": a}, specs)
    assert len(set(whole)) == 3
    assert whole == [row_digests({"a": a[i : i + 1], "b": b[i : i + 1]}, specs)[0] for i in range(3)]
    assert whole != row_digests({"a": a, "b": b}, dict(reversed(specs.items())))
    np.testing.assert_array_equal(whole[::-1], row_digests({"a": a[::-1], "b": b[::-1]}, specs))


def test_digests_do_not_confuse_dtypes_shapes_names_or_text_boundaries():
    rows = np.zeros((1, 4), "<f4")
    said = [
        row_digests({"x": rows}, {"x": TensorSpec("<f4", (4,))}),
        row_digests({"x": rows.reshape(1, 2, 2)}, {"x": TensorSpec("<f4", (2, 2))}),
        row_digests({"x": rows.view("<i4")}, {"x": TensorSpec("<i4", (4,))}),
        row_digests({"y": rows}, {"y": TensorSpec("<f4", (4,))}),
    ]
    text = {"a": TensorSpec("utf8", ()), "b": TensorSpec("utf8", ())}
    for a, b in (("xy", ""), ("x", "y"), ("", "xy")):
        said.append(row_digests({"a": np.array([a], object), "b": np.array([b], object)}, text))
    assert len({digest for [digest] in said}) == 7


# ------------------------------------------------------------------------------------------------ requests

SPECS = {
    "image": TensorSpec("<f4", (2, 3)),
    "size": TensorSpec("<i8", ()),
    "text": TensorSpec("utf8", ()),
    "mask": TensorSpec("|b1", (2,)),
}


def example(rows):
    return {
        "image": np.arange(rows * 6, dtype="<f4").reshape(rows, 2, 3),
        "size": np.arange(rows, dtype="<i8"),
        "text": np.array([f"é{i}" for i in range(rows)], object),
        "mask": np.arange(rows * 2).reshape(rows, 2) % 3 == 0,
    }


def check(got, expected):
    assert list(got) == list(expected)
    for name, values in expected.items():
        assert got[name].dtype == values.dtype
        np.testing.assert_array_equal(got[name], values)


def test_a_request_round_trip():
    ids, inputs, _ = decode_request(
        encode_request(example(4), row_id_array(["a", "b", "c", "d"])), SPECS, max_rows=4
    )
    assert ids.to_pylist() == ["a", "b", "c", "d"]
    check(inputs, example(4))


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1, 3)])
def test_every_dtype_and_shape_travels(dtype, shape):
    values = (np.arange(4 * int(np.prod(shape))).reshape(4, *shape) % 2).astype(dtype)
    ids, inputs, _ = decode_request(
        encode_request({"x": values}, default_row_ids(4)), {"x": TensorSpec(dtype, shape)}, max_rows=4
    )
    assert ids.to_pylist() == [0, 1, 2, 3]
    check(inputs, {"x": values})


def test_sliced_and_strided_arrays_travel():
    whole = example(9)
    part = {name: values[2:7] for name, values in whole.items()}
    check(decode_request(encode_request(part, default_row_ids(9)[2:7]), SPECS, max_rows=9)[1], part)
    every_other = {name: values[::2] for name, values in whole.items()}
    check(decode_request(encode_request(every_other, default_row_ids(5)), SPECS, max_rows=9)[1], every_other)


def stream(*batches, schema=None, compression=None):
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, schema or batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def fixed(values, kind, width):
    return pa.array(values, pa.list_(kind, width))


X = {"x": TensorSpec("<f4", (2,))}


def test_other_peoples_requests_fixed_size_lists_many_batches_and_no_ids():
    batches = [pa.record_batch({"x": fixed([[i, i + 0.5]], pa.float32(), 2)}) for i in range(5)]
    ids, inputs, _ = decode_request(stream(*batches), X, max_rows=5)
    assert ids.to_pylist() == list(range(5))
    assert ids.type == pa.uint64()
    check(inputs, {"x": np.array([[i, i + 0.5] for i in range(5)], "<f4")})


def test_nested_lists_slices_of_batches_and_wider_dtypes():
    specs = {"x": TensorSpec("<f4", (2, 2))}
    values = np.arange(20, dtype=np.float64).reshape(5, 2, 2)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 2)
    batch = pa.record_batch({"x": pa.FixedSizeListArray.from_arrays(flat, 2), "row_id": pa.array(range(5))})
    ids, inputs, _ = decode_request(stream(batch[1:3], batch[4:]), specs, max_rows=5)
    assert ids.to_pylist() == [1, 2, 4]
    check(inputs, {"x": values[[1, 2, 4]].astype("<f4")})


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_text_of_either_size(kind):
    body = stream(pa.record_batch({"t": pa.array(["a", "é"], kind), "row_id": pa.array(["x", "y"], kind)}))
    ids, inputs, _ = decode_request(body, {"t": TensorSpec("utf8", ())}, max_rows=2)
    assert ids.type == pa.string()
    assert inputs["t"].tolist() == ["a", "é"]


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_bodies(compression):
    values = np.zeros((100, 2), "<f4")
    batch = pa.record_batch({"x": fixed(values.tolist(), pa.float32(), 2)})
    body = stream(batch, compression=compression)
    assert len(body) < len(stream(batch))
    check(decode_request(body, X, max_rows=100)[1], {"x": values})


def test_rows_can_be_asked_for_by_digest():
    digests = row_digests({"x": np.arange(6, dtype="<f4").reshape(3, 2)}, X)
    body = encode_digests(digests, row_id_array(["a", "b", "c"]))
    ids, inputs, found = decode_request(body, X, max_rows=3)
    assert (ids.to_pylist(), inputs, found) == (["a", "b", "c"], None, digests)
    assert decode_request(body, {"y": TensorSpec("utf8", ())}, max_rows=3).digests == digests
    with pytest.raises(TooManyRows):
        decode_request(body, X, max_rows=2)


def test_no_rows():
    schema = pa.schema({"x": pa.list_(pa.float32(), 2)})
    ids, inputs, _ = decode_request(stream(schema=schema), X, max_rows=1)
    assert len(ids) == 0
    assert inputs == {}


ONE = fixed([[1, 2]], pa.float32(), 2)


def tensors(rows, shape=(2,), **layout):
    """A tensor column over rows as flat lists, which may hold nulls."""
    kind = pa.fixed_shape_tensor(pa.float32(), shape, **layout)
    return pa.ExtensionArray.from_storage(kind, fixed(rows, pa.float32(), int(np.prod(shape))))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"y": ONE}, r"missing: x; unknown: y\); this ensemble takes x"),
        ({"x": ONE, "y": ONE}, "unknown: y"),
        ({"x": fixed([[1, 2, 3]], pa.float32(), 3)}, r"shape \[3\], it takes <f4 of shape \[2\]"),
        ({"x": pa.array([1.0], pa.float32())}, r"rows have shape \[\]"),
        ({"x": fixed([None], pa.float32(), 2)}, "holds null"),
        ({"x": fixed([[1, None]], pa.float32(), 2)}, "holds null"),
        ({"x": fixed([[1e300, 0]], pa.float64(), 2)}, "cannot be kept as <f4"),
        ({"x": fixed([[True, False]], pa.bool_(), 2)}, "bool cannot become <f4"),
        ({"x": pa.array([[1.0, 2.0]])}, "cannot be read as <f4"),
        ({"x": fixed([["1", "2"]], pa.string(), 2)}, "cannot be read as <f4"),
        ({"x": tensors([[1.0, None]])}, "holds null"),
        ({"x": tensors([None])}, "holds null"),
        ({"x": ONE, "row_id": pa.array(["a"], pa.string_view())}, "all text"),
        ({"x": ONE, "digest": pa.array([bytes(32)], pa.binary(32))}, "instead of rows; leave out x"),
        ({"digest": pa.array([bytes(31)], pa.binary(31))}, r"fixed_size_binary\[32\], not"),
        ({"digest": pa.array([bytes(32)], pa.binary())}, r"fixed_size_binary\[32\], not binary"),
        ({"digest": pa.array([None], pa.binary(32))}, "a digest is null"),
        ({"x": pa.array([None], pa.null())}, "cannot be read as"),
        ({"x": pa.array([1.0]).dictionary_encode()}, "cannot be read as"),
        ({"x": ONE, "row_id": pa.array([-1])}, "non-negative"),
        ({"x": ONE, "row_id": pa.array([1.5])}, "non-negative integers or all text"),
        ({"x": ONE, "row_id": pa.array([None], pa.string())}, "null"),
    ],
)
def test_requests_that_do_not_fit(batch, message):
    with pytest.raises(InputError, match=message):
        decode_request(stream(pa.record_batch(batch)), X, max_rows=9)


def nested(*levels):
    """Two rows of [2, 2], float32, with a null at one level."""
    values = pa.array([0.0, 1, 2, 3, 4, 5, 6, None if "value" in levels else 7], pa.float32())
    inner = pa.FixedSizeListArray.from_arrays(values, 2, mask=pa.array([False] * 3 + ["list" in levels]))
    return pa.FixedSizeListArray.from_arrays(inner, 2, mask=pa.array([False, "row" in levels]))


@pytest.mark.parametrize("level", ["value", "list", "row"])
def test_a_null_at_any_level_of_a_nested_list_is_refused(level):
    specs = {"x": TensorSpec("<f4", (2, 2))}
    whole = decode_request(stream(pa.record_batch({"x": nested()})), specs, max_rows=2)[1]
    check(whole, {"x": np.arange(8, dtype="<f4").reshape(2, 2, 2)})
    body = stream(pa.record_batch({"x": nested(level)}))
    with pytest.raises(InputError, match="holds null"):
        decode_request(body, specs, max_rows=2)


def test_a_null_inside_a_tensor_is_refused_in_any_batch_and_slice():
    batch = pa.record_batch({"x": tensors([[1.0, 2.0], [3.0, 4.0], [None, 5.0], [6.0, 7.0]])})
    with pytest.raises(InputError, match="holds null"):
        decode_request(stream(batch[:1], batch[2:]), X, max_rows=9)
    whole = decode_request(stream(batch[:2], batch[3:]), X, max_rows=9)[1]
    check(whole, {"x": np.array([[1, 2], [3, 4], [6, 7]], "<f4")})


def test_a_permuted_tensor_is_refused():
    specs = {"x": TensorSpec("<f4", (2, 2, 2))}
    rows = [list(range(8))]
    for permutation in (None, [0, 1, 2]):
        batch = pa.record_batch({"x": tensors(rows, (2, 2, 2), permutation=permutation)})
        check(
            decode_request(stream(batch), specs, max_rows=1)[1],
            {"x": np.arange(8, dtype="<f4").reshape(1, 2, 2, 2)},
        )
    batch = pa.record_batch({"x": tensors(rows, (2, 2, 2), permutation=[2, 0, 1])})
    with pytest.raises(InputError, match=r"permutation \[2, 0, 1\]; send it in the order of its shape"):
        decode_request(stream(batch), specs, max_rows=1)


@pytest.mark.parametrize("name", ["row_id", "digest"])
def test_an_input_named_like_a_column_of_the_format_is_not_encoded(name):
    with pytest.raises(InputError, match=f"input '{name}' cannot be sent"):
        encode_request({name: np.zeros((2, 2), "<f4")}, default_row_ids(2))


# ------------------------------------------------------------------------------------------- large requests

TEXT = {"t": TensorSpec("utf8", ())}


def declare(body, size, to):
    """Let the last compressed buffer, which inflates to ``size`` bytes, claim another size."""
    place = body.rindex(size.to_bytes(8, "little"))
    return body[:place] + to.to_bytes(8, "little", signed=True) + body[place + 8 :]


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_what_a_body_inflates_to_is_bounded(compression):
    size = 1_000_000
    body = stream(pa.record_batch({"t": ["x" * size]}), compression=compression)
    assert compression is None or len(body) < 10_000
    assert decode_request(body, TEXT, max_rows=1, max_bytes=size + 8)[1]["t"].tolist() == ["x" * size]
    with pytest.raises(TooManyBytes, match=f"more than {size} bytes of rows in one request; split them"):
        decode_request(body, TEXT, max_rows=1, max_bytes=size)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("claimed", [2**28 + 1, 2**40, 2**62])
def test_a_claimed_size_is_refused_before_it_is_allocated(compression, claimed):
    body = stream(pa.record_batch({"t": ["x" * 1_000_000]}), compression=compression)
    with pytest.raises(TooManyBytes, match=f"more than {2**28} bytes"):
        decode_request(declare(body, 1_000_000, claimed), TEXT, max_rows=1)


@pytest.mark.parametrize("claimed", [0, 1, 999_999, 1_000_001, -2, -(2**63)])
def test_a_claimed_size_that_is_not_the_real_one_is_refused(claimed):
    body = stream(pa.record_batch({"t": ["x" * 1_000_000]}), compression="zstd")
    with pytest.raises(InputError, match="not a readable Arrow IPC stream"):
        decode_request(declare(body, 1_000_000, claimed), TEXT, max_rows=1)


def test_many_small_batches_are_bounded_together():
    batch = pa.record_batch({"t": ["x" * 1000]})
    body = stream(*[batch] * 50, compression="zstd")
    assert len(decode_request(body, TEXT, max_rows=50, max_bytes=51_000)[0]) == 50
    with pytest.raises(TooManyBytes):
        decode_request(body, TEXT, max_rows=50, max_bytes=49_000)
    with pytest.raises(TooManyRows):
        decode_request(body, TEXT, max_rows=49, max_bytes=51_000)


def test_columns_that_do_not_fit_are_refused_before_any_batch_is_read():
    # Reading the batch would fail in another way: what it claims to hold cannot be allocated.
    body = declare(stream(pa.record_batch({"t": ["x" * 1_000_000]}), compression="zstd"), 1_000_000, 2**62)
    with pytest.raises(InputError, match=r"missing: x; unknown: t"):
        decode_request(body, X, max_rows=1)
    with pytest.raises(InputError, match="type string cannot be read as <i8 of shape"):
        decode_request(body, {"t": TensorSpec("<i8", ())}, max_rows=1)
    with pytest.raises(InputError, match=r"rows have shape \[\], it takes utf8 of shape \[1\]"):
        decode_request(body, {"t": TensorSpec("utf8", (1,))}, max_rows=1)


def test_batches_without_rows_and_columns_of_dictionaries():
    batch = pa.record_batch({"x": ONE})
    ids, inputs, _ = decode_request(stream(batch[:0], batch, batch[:0]), X, max_rows=1)
    assert len(ids) == 1
    check(inputs, {"x": np.array([[1, 2]], "<f4")})
    ids = pa.array(["a"]).dictionary_encode()
    with pytest.raises(InputError, match="row ids must be all"):
        decode_request(stream(pa.record_batch({"x": ONE, "row_id": ids})), X, max_rows=1)


@quick
@given(st.data())
def test_the_bytes_are_foretold_for_every_type(data):
    dtype, rows = data.draw(st.sampled_from(DTYPES)), data.draw(st.integers(1, 40))
    if dtype == "utf8":
        spec, values = TensorSpec(dtype, ()), np.array(["ab" * i for i in range(rows)], object)
    else:
        spec, values = TensorSpec(dtype, (3, 2)), np.zeros((rows, 3, 2), dtype)
    [batch] = pa.ipc.open_stream(encode_request({"x": values}, default_row_ids(rows)))
    body = stream(batch, compression=data.draw(st.sampled_from([None, "lz4", "zstd"])))
    with pytest.raises(TooManyBytes):
        decode_request(body, {"x": spec}, max_rows=rows, max_bytes=batch.nbytes - 1)
    check(decode_request(body, {"x": spec}, max_rows=rows, max_bytes=batch.nbytes + 64 * 8)[1], {"x": values})


def test_a_doubled_row_id_and_a_doubled_column():
    two = fixed([[1, 2]] * 2, pa.float32(), 2)
    with pytest.raises(InputError, match=r"more than once: \[7\]"):
        decode_request(stream(pa.record_batch({"x": two, "row_id": pa.array([7, 7])})), X, max_rows=9)
    schema = pa.schema([pa.field("x", two.type)] * 2)
    with pytest.raises(InputError, match="stands twice"):
        decode_request(stream(pa.record_batch([two, two], schema=schema)), X, max_rows=9)


def test_too_many_rows_are_refused_before_they_are_all_read():
    with pytest.raises(TooManyRows, match="more than 3 rows"):
        decode_request(encode_request(example(4), default_row_ids(4)), SPECS, max_rows=3)


def test_a_request_cut_anywhere_is_refused_or_whole():
    body = encode_request({"x": np.ones((2, 2), "<f4")}, default_row_ids(2))
    for length in range(len(body)):
        try:
            ids, _, _ = decode_request(body[:length], X, max_rows=9)
        except InputError:
            continue
        # An Arrow stream may end at a batch boundary; HTTP's own length tells such a cut.
        assert len(ids) in (0, 2)


@quick
@given(st.binary(max_size=200))
def test_noise_is_refused(body):
    with pytest.raises(InputError):
        decode_request(body, X, max_rows=9)
    with pytest.raises(WireError):
        read_reply(body)


@quick
@given(st.data())
def test_any_request_comes_back_as_it_went(data):
    rows = data.draw(st.integers(1, 5))
    specs, inputs = {}, {}
    for name in data.draw(
        st.lists(st.from_regex(r"\A[A-Za-z0-9_-]{1,8}\Z"), min_size=1, max_size=3, unique=True)
    ):
        dtype = data.draw(st.sampled_from(DTYPES))
        if dtype == "utf8":
            texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
            shape, values = (), np.array(data.draw(st.lists(texts, min_size=rows, max_size=rows)), object)
        else:
            shape = data.draw(st_numpy.array_shapes(min_dims=0, max_dims=3, max_side=3))
            values = data.draw(st_numpy.arrays(dtype, (rows, *shape)))
        specs[name], inputs[name] = TensorSpec(dtype, shape), values
    ids = data.draw(
        st.lists(st.integers(0, 2**64 - 1), min_size=rows, max_size=rows, unique=True)
        | st.lists(
            st.text(st.characters(exclude_categories=["Cs"])), min_size=rows, max_size=rows, unique=True
        )
    )
    got_ids, got, _ = decode_request(encode_request(inputs, row_id_array(ids)), specs, max_rows=rows)
    assert got_ids.to_pylist() == ids
    check(got, inputs)
    assert row_digests(got, specs) == row_digests(inputs, specs)


# ------------------------------------------------------------------------------------------------- row ids


@pytest.mark.parametrize(
    ("given_ids", "expected"),
    [
        (np.array([3, 1], np.int32), [3, 1]),
        ([2**64 - 1, 0], [2**64 - 1, 0]),
        (("b", "a"), ["b", "a"]),
        (pa.array(["b", "a"], pa.large_string()), ["b", "a"]),
        ([], []),
    ],
)
def test_row_ids(given_ids, expected):
    if not len(given_ids):
        with pytest.raises(InputError):
            row_id_array(given_ids)
        return
    array = row_id_array(given_ids)
    assert array.to_pylist() == expected
    assert array.type in (pa.uint64(), pa.string())


@pytest.mark.parametrize(
    "bad", [[1, "a"], [1.0], [None], [True], [-1], [2**64], [[1]], ["a", "a"], [b"a"], 3]
)
def test_row_ids_that_are_none(bad):
    with pytest.raises(InputError, match="row ids must be"):
        row_id_array(bad)


# ------------------------------------------------------------------------------------------------- replies

DENSE = np.log(np.array([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3], [0.125, 0.125, 0.75]], "<f4"))


def read(source):
    metadata, batches = read_reply(source)
    return metadata, list(batches)


REPLIES = [name for name in ALL if name.startswith("reply-")]


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_may_be_read_from_a_file(name):
    golden = ALL[name]
    assert golden.read(io.BytesIO(golden.made())) == golden.says


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_cut_at_any_byte_is_refused(name):
    golden = ALL[name]
    whole = golden.made()
    marker = 8  # the end-of-stream marker behind the closing batch says nothing more
    for length in range(len(whole) - marker):
        with pytest.raises(WireError):
            read(whole[:length])
    for length in range(len(whole) - marker, len(whole)):
        assert golden.read(whole[:length]) == golden.says


@pytest.mark.parametrize("name", REPLIES)
def test_every_batch_has_the_six_words_in_their_order(name):
    nothing = ReplyWriter(Layout(3), row_id_type=pa.uint64(), metadata=METADATA)
    for body in (ALL[name].made(), nothing.close()):
        for batch in pa.ipc.open_stream(body):
            assert batch["source"].dictionary.to_pylist() == list(wire.SOURCES)
        # A dictionary that is replaced is one that some readers cannot follow.
        kinds = [message.type for message in pa.ipc.MessageReader.open_stream(body)]
        assert kinds.count("dictionary") == 1


def test_an_arrow_stream_that_merely_ends_is_a_cut_one():
    pieces = written(DENSE_ROWS, Layout(3))
    _, batches = read_reply(b"".join(pieces[:-1]))
    assert next(batches).sources == ["hit", "error"]
    assert next(batches).sources == ["coalesced"]
    with pytest.raises(IncompleteStream, match="without its closing batch"):
        next(batches)


def test_rows_behind_the_closing_batch_are_not_read():
    golden = ALL["reply-dense.arrows"]
    assert golden.read(golden.made() + b"more") == golden.says


def batch_of(schema_change=None, **columns):
    base = {
        "row_id": pa.array([1], pa.uint64()),
        "source": pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), pa.array(wire.SOURCES)),
        "error_code": pa.array([None], pa.string()),
        "error": pa.array([None], pa.string()),
        "log_probs": fixed([[0.0, -1.0]], pa.float32(), 2),
    }
    columns = {name: column for name, column in (base | columns).items() if column is not None}
    metadata = {"soft_targets.format": "1"} | (schema_change or {})
    return pa.record_batch(columns).replace_schema_metadata(metadata)


@pytest.mark.parametrize("missing", ["row_id", "source", "error_code", "error", "log_probs"])
def test_a_reply_without_a_column(missing):
    with pytest.raises(WireError, match="columns are not those of a reply"):
        read_reply(stream(batch_of(**{missing: None})))


@pytest.mark.parametrize(
    "column",
    [
        {"row_id": pa.array([1], pa.int32())},
        {"source": pa.array(["hit"])},
        {"log_probs": fixed([[0.0, -1.0]], pa.float64(), 2)},
        {"log_probs": pa.array([[0.0, -1.0]], pa.list_(pa.float32()))},
        {"indices": fixed([[0, 1]], pa.int64(), 2), "tail_log_mass": pa.array([0.0], pa.float32())},
        {"indices": fixed([[0, 1]], pa.int32(), 2)},
        {"entropy": pa.array([0.5], pa.float32())},
        {"divergence": pa.array([0.5], pa.float32())},
        {"entropy": pa.array([0.5], pa.float64()), "divergence": pa.array([0.5], pa.float64())},
    ],
)
def test_a_reply_with_a_column_of_another_type(column):
    with pytest.raises(WireError, match="columns are not those of a reply"):
        read_reply(stream(batch_of(**column)))


@pytest.mark.parametrize(
    "column",
    [
        {"log_probs": fixed([None], pa.float32(), 2)},
        {"source": pa.DictionaryArray.from_arrays(pa.array([5], pa.int8()), pa.array(wire.SOURCES))},
    ],
)
def test_a_value_is_null_exactly_where_a_row_has_none(column):
    _, batches = read_reply(stream(batch_of(**column)))
    with pytest.raises(WireError, match="no value where it promises one"):
        next(batches)


SPARSE = {"log_probs": fixed([[-1.0, -2.0]], pa.float32(), 2), "indices": fixed([[0, 1]], pa.int32(), 2)}
TAIL = {"tail_log_mass": pa.array([-1.0], pa.float32())}


@pytest.mark.parametrize(
    "column",
    [
        *({"log_probs": fixed([[-1.0, bad]], pa.float32(), 2)} for bad in (np.nan, np.inf, 0.01, None)),
        *(SPARSE | {"tail_log_mass": pa.array([bad], pa.float32())} for bad in (np.nan, np.inf, 0.01, None)),
        SPARSE | TAIL | {"log_probs": fixed([[np.nan, -1.0]], pa.float32(), 2)},
        SPARSE | TAIL | {"indices": fixed([[0, None]], pa.int32(), 2)},
        SPARSE | TAIL | {"indices": fixed([None], pa.int32(), 2)},
    ],
)
def test_a_value_that_is_no_log_probability(column):
    _, batches = read_reply(stream(batch_of(**column)))
    with pytest.raises(WireError, match=r"no log-probability|no value where it promises one"):
        next(batches)


@pytest.mark.parametrize("name", wire.DIAGNOSTICS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1e-6, None])
def test_a_figure_that_is_none(name, bad):
    figures = {one: pa.array([0.5], pa.float32()) for one in wire.DIAGNOSTICS}
    _, batches = read_reply(stream(batch_of(**figures | {name: pa.array([bad], pa.float32())})))
    with pytest.raises(WireError, match=rf"a value that is no {name}|no value where it promises one"):
        next(batches)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, 2e-4, 0.01, 1.0, 65504.0])
def test_a_half_that_is_no_log_probability(bad):
    _, batches = read_reply(stream(batch_of(log_probs=fixed([[-1.0, np.float16(bad)]], pa.float16(), 2))))
    with pytest.raises(WireError, match="no log-probability"):
        next(batches)


def test_every_half_is_judged_as_its_float():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(-1, 1)
    with np.errstate(invalid="ignore"):
        expected = ~(every[:, 0].astype(np.float64) <= np.float16(1e-4))
    np.testing.assert_array_equal(reader._no_log_probs(every), expected)


def test_values_at_the_edge_of_what_is_a_log_probability():
    rounded = {"log_probs": fixed([[-np.inf, 1e-6]], pa.float32(), 2), "indices": SPARSE["indices"]}
    _, batches = read_reply(stream(batch_of(**rounded, tail_log_mass=pa.array([-np.inf], pa.float32()))))
    np.testing.assert_array_equal(next(batches).log_probs, np.array([[-np.inf, 1e-6]], "<f4"))


def test_the_values_of_rows_that_have_none_mean_nothing():
    # Null rows whose own bytes are null, or no log-probabilities, as other writers may leave them.
    filler = pa.array([-1.0, -2.0, np.nan, 5.0], pa.float32())
    error = pa.DictionaryArray.from_arrays(pa.array([2, 5], pa.int8()), pa.array(wire.SOURCES))
    for log_probs in (
        fixed([[-1.0, -2.0], None], pa.float32(), 2),
        pa.FixedSizeListArray.from_arrays(filler, 2, mask=pa.array([False, True])),
    ):
        batch = batch_of(
            row_id=pa.array([1, 2], pa.uint64()),
            source=error,
            error_code=pa.array([None, "internal"]),
            error=pa.array([None, "?"]),
            log_probs=log_probs,
            indices=fixed([[1, 0], None], pa.int32(), 2),
            tail_log_mass=pa.array([-np.inf, None], pa.float32()),
        )
        read_batch = next(read_reply(stream(batch))[1])
        np.testing.assert_array_equal(read_batch.log_probs[0], [-1, -2])
        np.testing.assert_array_equal(read_batch.indices[0], [1, 0])
        assert read_batch.indices.dtype == np.int32
        assert read_batch.sources == ["miss", "error"]


def test_a_new_column_does_not_disturb():
    _, batches = read_reply(stream(batch_of(surprise=pa.array([0.5], pa.float32()))))
    assert next(batches).sources == ["hit"]


@pytest.mark.parametrize("change", [{"soft_targets.format": "2"}, {"soft_targets.format": b"\xff"}])
def test_another_format(change):
    with pytest.raises(WireError, match=r"format|UTF-8"):
        read_reply(stream(batch_of(change)))


@pytest.mark.parametrize("said", [{"complete": "true"}, {"complete": "true", "rows": "x", "failed": "0"}])
def test_a_closing_batch_without_counts(said):
    sink, batch = io.BytesIO(), batch_of()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch[:0], said)
    _, batches = read_reply(sink.getvalue())
    with pytest.raises(WireError, match="does not say how many"):
        next(batches)


def test_batches_stay_below_their_size():
    layout = Layout(2000)
    values = layout.pack(np.zeros((1500, 2000), "<f4"))
    writer = ReplyWriter(layout, row_id_type=pa.uint64(), metadata=METADATA)
    pieces = list(writer.group(default_row_ids(1500), ["miss"] * 1500, values, [None] * 1500))
    assert len(pieces) > 1
    assert all(len(piece) <= wire.MAX_BATCH_BYTES + 4096 for piece in pieces)
    _, batches = read(b"".join([*pieces, writer.close()]))
    assert sum(len(batch.sources) for batch in batches[:-1]) == 1500
    assert batches[-1] == Closing(1500, 0)


def batch_bytes(body):
    """The size of every record batch, its header included."""
    return [
        message.metadata.size + message.body.size
        for message in pa.ipc.MessageReader.open_stream(body)
        if message.type == "record batch"
    ]


@pytest.mark.parametrize("codec", wire.CODECS)
@pytest.mark.parametrize("dtype", wire.PRECISIONS)
def test_a_compressed_reply_says_the_same(codec, dtype):
    layout, rows = Layout(50, 7, dtype, diagnostics=True), 200
    random = np.random.default_rng(0)
    values = layout.pack(
        -random.random((rows, 7)).astype("<f4"),
        np.tile(np.arange(7, dtype="<i4"), (rows, 1)),
        -random.random(rows).astype("<f4"),
        entropy=random.random(rows).astype("<f4"),
        divergence=np.zeros(rows, "<f4"),
    )
    bodies = []
    for one in (None, codec):
        writer = ReplyWriter(layout, row_id_type=pa.uint64(), metadata=METADATA, codec=one)
        pieces = list(writer.group(default_row_ids(rows)[:150], ["hit"] * 150, values[:150], [None] * 150))
        pieces += writer.group(
            default_row_ids(rows)[150:],
            ["hit"] * 49 + ["error"],
            [*values[150:199], None],
            [None] * 49 + [ERROR],
        )
        bodies.append(b"".join([*pieces, writer.close()]))
    assert len(bodies[1]) < 0.8 * len(bodies[0])
    (said, known), (says, found) = map(read, bodies)
    assert says == said
    assert found[-1] == known[-1] == Closing(200, 1)
    for one, other in zip(known[:-1], found[:-1], strict=True):
        assert one.sources == other.sources
        assert one.errors == other.errors
        for name in ("log_probs", "indices", "tail_log_mass", "entropy", "divergence"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("codec", wire.CODECS)
def test_what_does_not_compress_stays_below_the_size_of_a_batch(codec):
    layout = Layout(1000, 300)
    random = np.random.default_rng(0)
    values = [random.bytes(layout.row_bytes) for _ in range(3000)]
    writer = ReplyWriter(layout, row_id_type=pa.uint64(), metadata=METADATA, codec=codec)
    pieces = list(writer.group(default_row_ids(3000), ["hit"] * 3000, values, [None] * 3000))
    assert len(pieces) == 2
    assert max(batch_bytes(b"".join([*pieces, writer.close()]))) <= wire.MAX_BATCH_BYTES


@pytest.mark.parametrize(
    ("ids", "code", "error"),
    [
        (["x" * 4000 + str(i) for i in range(3000)], None, None),
        (["é" * 2000 + str(i) for i in range(3000)], None, None),
        (list(range(3000)), "teacher_failed", "out of memory " * 300),
        ([("x" * 1_500_000 if i % 2 else "") + str(i) for i in range(9)], "internal", "y" * 1_400_000),
    ],
    ids=["ids", "wide-ids", "errors", "uneven"],
)
def test_batches_stay_below_their_size_whatever_ids_and_errors_take(ids, code, error):
    rows, layout = len(ids), Layout(10)
    writer = ReplyWriter(layout, row_id_type=pa.array(ids).type, metadata=METADATA)
    if isinstance(ids[0], int):
        writer = ReplyWriter(layout, row_id_type=pa.uint64(), metadata=METADATA)
    array = row_id_array(ids)
    failed = [code is not None and i % 3 > 0 for i in range(rows)]
    pieces = list(
        writer.group(
            array,
            ["error" if bad else "miss" for bad in failed],
            [None if bad else bytes(layout.row_bytes) for bad in failed],
            [(code, error) if bad else None for bad in failed],
        )
    )
    body = b"".join([*pieces, writer.close()])
    sizes = batch_bytes(body)
    assert max(sizes) <= wire.MAX_BATCH_BYTES
    assert len(sizes) - 1 <= 2 * sum(sizes) / wire.MAX_BATCH_BYTES + 1  # nor are they cut too small
    _, (*batches, closing) = read(body)
    assert [row for batch in batches for row in batch.row_ids.to_pylist()] == ids
    assert [error is not None for batch in batches for error in batch.errors] == failed
    assert closing == Closing(rows, sum(failed))


def test_a_row_larger_than_a_batch_travels_alone():
    layout = Layout(wire.MAX_BATCH_BYTES // 4 + 1)
    value = layout.pack(np.zeros((1, layout.classes), "<f4"))[0]
    writer = ReplyWriter(layout, row_id_type=pa.uint64(), metadata=METADATA)
    assert len(list(writer.group(default_row_ids(2), ["hit"] * 2, [value] * 2, [None] * 2))) == 2


@quick
@given(
    st.integers(1, 6),
    st.integers(1, 5),
    st.sampled_from(wire.PRECISIONS),
    st.data(),
)
def test_any_reply_comes_back_as_it_went(rows, classes, dtype, data):
    k = data.draw(st.none() | st.integers(1, classes))
    width = classes if k is None else k
    floats = st.floats(allow_nan=False, max_value=0, width=32)
    given = st.floats(allow_nan=False, max_value=0, width=int(dtype[-2:]))
    log_probs = data.draw(st_numpy.arrays(dtype, (rows, width), elements=given))
    indices = None if k is None else data.draw(st_numpy.arrays("<i4", (rows, k)))
    tail = None if k is None else data.draw(st_numpy.arrays("<f4", rows, elements=floats))
    sources = data.draw(st.lists(st.sampled_from(wire.SOURCES), min_size=rows, max_size=rows))
    figures = {}
    if data.draw(st.booleans()):
        nats = st.floats(0, 2.0**126, width=32)
        figures = {name: data.draw(st_numpy.arrays("<f4", rows, elements=nats)) for name in wire.DIAGNOSTICS}
    layout = Layout(classes, k, dtype, bool(figures))
    values = layout.pack(log_probs.astype("<f4"), indices, tail, **figures)
    assert {len(value) for value in values} == {layout.row_bytes}
    given_values = [
        None if source in ("absent", "error") else value
        for source, value in zip(sources, values, strict=True)
    ]
    errors = [ERROR if source == "error" else None for source in sources]
    writer = ReplyWriter(layout, row_id_type=pa.uint64(), metadata=METADATA)
    cut = data.draw(st.integers(0, rows))
    pieces = []
    for part in (slice(0, cut), slice(cut, rows)):
        pieces += writer.group(default_row_ids(rows)[part], sources[part], given_values[part], errors[part])
    _, (*batches, closing) = read(b"".join([*pieces, writer.close()]))
    assert closing == Closing(rows, sources.count("error"))
    assert [row for batch in batches for row in batch.row_ids.to_pylist()] == list(range(rows))
    assert [source for batch in batches for source in batch.sources] == sources
    assert [error for batch in batches for error in batch.errors] == errors
    kept = [value is not None for value in given_values]
    assert {batch.log_probs.dtype for batch in batches} == {np.dtype(dtype)}
    np.testing.assert_array_equal(np.concatenate([b.log_probs for b in batches])[kept], log_probs[kept])
    if k is not None:
        np.testing.assert_array_equal(np.concatenate([b.indices for b in batches])[kept], indices[kept])
        np.testing.assert_array_equal(np.concatenate([b.tail_log_mass for b in batches])[kept], tail[kept])
    for name in wire.DIAGNOSTICS:
        found = [getattr(batch, name) for batch in batches]
        if figures:
            np.testing.assert_array_equal(np.concatenate(found)[kept], figures[name][kept])
        else:
            assert set(map(type, found)) == {type(None)}


@pytest.mark.parametrize("dtype", wire.PRECISIONS)
@pytest.mark.parametrize("top_k", [None, 1, 2, 3])
@pytest.mark.parametrize("diagnostics", [False, True])
def test_a_layout_unpacks_what_it_packed(top_k, dtype, diagnostics):
    layout, width = Layout(3, top_k, dtype, diagnostics), top_k or 3
    given_columns = {"log_probs": DENSE[:, :width]}
    if top_k is not None:
        given_columns["indices"] = np.arange(3 * width, dtype="<i4").reshape(3, width)
        given_columns["tail_log_mass"] = np.array([-1.0, -np.inf, -2.0], "<f4")
    figures = {"entropy": np.array([0, 0.5, 2], "<f4"), "divergence": np.array([1, 0.25, 0], "<f4")}
    figures = figures if diagnostics else {}
    values = layout.pack(
        *(given_columns.get(name) for name in ("log_probs", "indices", "tail_log_mass")), **figures
    )
    given_columns |= figures
    size = np.dtype(dtype).itemsize * width + (0 if top_k is None else 4 * width + 4) + 8 * diagnostics
    assert {len(value) for value in values} == {layout.row_bytes} == {size}
    columns = layout.unpack(b"".join(values))
    assert list(columns) == [field.name for field in layout.fields()] == list(layout.columns)
    for name, column in columns.items():
        kind = dtype if name == "log_probs" else given_columns[name].dtype
        assert column.dtype == kind
        np.testing.assert_array_equal(column, given_columns[name].astype(kind))


def test_halves_are_the_nearest_and_what_is_below_the_smallest_is_minus_infinity():
    layout = Layout(4, None, "float16")
    [value] = layout.pack(np.array([[-1.0009, -87.34, -1e-7, -70_000.0]], "<f4"))
    assert layout.unpack(value)["log_probs"].tolist() == [[-1.0009765625, -87.3125, -(2.0**-23), -np.inf]]


@pytest.mark.parametrize("dtype", wire.PRECISIONS)
@pytest.mark.parametrize("diagnostics", [False, True])
@pytest.mark.parametrize(
    ("classes", "top_k", "rows"),
    [(3, None, 1), (3, None, 5), (7, 1, 1), (7, 2, 3), (7, 3, 5), (100, None, 128)],
)
def test_a_reply_is_the_bytes_that_pyarrow_writes(classes, top_k, rows, dtype, diagnostics):
    layout = Layout(classes, top_k, dtype, diagnostics)
    values = [bytes([row]) * layout.row_bytes for row in range(rows)]
    ids = pa.array(np.arange(rows, dtype=np.uint64) + 7)
    sources = [wire.SOURCES[row % 4] for row in range(rows)]
    writer = ReplyWriter(layout, row_id_type=pa.uint64(), metadata=METADATA)
    kept = [*writer.group(ids, sources, values, [None] * rows)]
    failed = [*writer.group(ids[:1], ["error"], [None], [ERROR])]
    body = b"".join([*kept, *failed, writer.close()])
    with pa.ipc.open_stream(body) as reader:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, reader.schema) as again, contextlib.suppress(StopIteration):
            while True:
                again.write_batch(*reader.read_next_batch_with_custom_metadata())
    assert sink.getvalue().to_pybytes() == body
