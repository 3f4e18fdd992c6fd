"""Data that do not fit are refused with file, row and column; what is before has been handed out."""

import builtins
import zipfile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.bulk.data import open_dataset
from service.bulk.errors import DataError
from soft_targets.wire import TensorSpec

X = TensorSpec("<f4", (2,))
GOOD = [[float(row), 1.0] for row in range(20)]


def table(path, **columns):
    pq.write_table(pa.table(columns), path, row_group_size=8)
    return str(path)


def refused(path, specs):
    with pytest.raises(DataError) as caught:
        open_dataset(path, specs)
    return str(caught.value)


def handed_out(path, specs, rows=6):
    """How many rows come before the refusal, and what it says."""
    chunks = []
    with pytest.raises(DataError) as caught:
        chunks.extend(open_dataset(path, specs).chunks(rows))
    return sum(len(chunk.digests) for chunk in chunks), str(caught.value)


@pytest.mark.parametrize(
    ("values", "spec", "message"),
    [
        ([1.0] * 20, X, "it holds double, the input takes <f4 of shape [2]"),
        ([["a", "b"]] * 20, X, "it holds list<element: string>"),
        ([[[1.0, 2.0]]] * 20, X, "it holds list<element: list<element: double>>"),
        (pa.array([[1.0, 2.0, 3.0]] * 20, pa.list_(pa.float32(), 3)), X, "it holds fixed_size_list"),
        (GOOD, TensorSpec("<i8", (2,)), "float64 cannot become <i8"),
        (GOOD, TensorSpec("|b1", (2,)), "float64 cannot become |b1"),
        (GOOD, TensorSpec("utf8", ()), "the input takes utf8 of shape []"),
        ([b"bytes"] * 20, TensorSpec("utf8", ()), "it holds binary"),
        (pa.array([0] * 20, pa.timestamp("s")), TensorSpec("<i8", ()), "it holds timestamp"),
        ([{"bytes": b""}] * 20, X, "it holds struct"),
    ],
)
def test_a_column_of_another_kind(tmp_path, values, spec, message):
    path = table(tmp_path / "a.parquet", x=values)
    said = refused(path, {"x": spec})
    assert said.startswith(f"{path}, column 'x': ")
    assert message in said


def test_a_tensor_with_a_permutation(tmp_path):
    kind = pa.fixed_shape_tensor(pa.float32(), [2, 2], permutation=[1, 0])
    storage = pa.array([[1.0] * 4] * 3, pa.list_(pa.float32(), 4))
    path = table(tmp_path / "a.parquet", x=pa.ExtensionArray.from_storage(kind, storage))
    assert "column 'x'" in refused(path, {"x": TensorSpec("<f4", (2, 2))})


@pytest.mark.parametrize(
    ("place", "value", "spec", "message"),
    [
        (11, None, X, "it is null"),
        (11, [1.0, None], X, "it is null"),
        (11, [1.0], X, "a list of 1 where 2 belong"),
        (11, [1.0, 2.0, 3.0], X, "a list of 3 where 2 belong"),
        (11, [1.0, 1e39], X, "1e+39 at [1] cannot be kept as <f4"),
        (11, [1, 300], TensorSpec("|u1", (2,)), "300 at [1] cannot be kept as |u1"),
        (0, None, X, "it is null"),
        (19, None, X, "it is null"),
    ],
)
def test_a_row_that_does_not_fit(tmp_path, place, value, spec, message):
    good = [1, 1] if spec.dtype == "|u1" else [1.0, 1.0]
    values = [value if row == place else good for row in range(20)]
    path = table(tmp_path / "a.parquet", x=values)
    count, said = handed_out(path, {"x": spec})
    assert count == place
    assert said.startswith(f"{path}, row {place}, column 'x': ")
    assert message in said


def test_the_first_of_several_columns_that_do_not_fit_is_named(tmp_path):
    path = table(
        tmp_path / "a.parquet",
        x=[[1.0, 1.0]] * 5 + [None],
        y=[[1.0, 1.0]] * 3 + [[1.0], [1.0, 1.0], [1.0, 1.0]],
        row_id=[0, 1, 2, 3, 4, 4],
    )
    count, said = handed_out(path, {"x": X, "y": X})
    assert count == 3
    assert "row 3, column 'y'" in said


def test_rows_inside_lists_are_counted_as_rows(tmp_path):
    good = [[1.0, 2.0], [3.0, 4.0]]
    for wrong in ([[1.0, 2.0], [3.0]], [[1.0, 2.0]], [[1.0, 2.0], None], [[1.0, 2.0], [3.0, None]]):
        path = table(tmp_path / "a.parquet", x=[good] * 9 + [wrong, good])
        count, said = handed_out(path, {"x": TensorSpec("<f4", (2, 2))})
        assert (count, ", row 9, column 'x': " in said) == (9, True)


def test_a_row_of_a_later_file_is_counted_there(tmp_path):
    table(tmp_path / "a.parquet", x=GOOD)
    path = table(tmp_path / "b.parquet", x=[*GOOD[:3], None])
    count, said = handed_out(str(tmp_path), {"x": X})
    assert count == 23
    assert said.startswith(f"{path}, row 3, column 'x'")


def test_a_text_that_is_none(tmp_path):
    path = table(tmp_path / "a.parquet", x=["a", "b", None])
    assert handed_out(path, {"x": TensorSpec("utf8", ())}) == (
        2, f"{path}, row 2, column 'x': it is null; every value must be given (NaN is a value, null is not)"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ids", "place", "message"),
    [
        ([0, 1, None, 3], 2, "it is null"),
        (["a", None, "b", "c"], 1, "it is null"),
        ([0, 1, 2, -3], 3, "row_id is -3; row ids are not negative"),
    ],
)
def test_row_ids_that_are_none(tmp_path, ids, place, message):
    path = table(tmp_path / "a.parquet", x=GOOD[:4], row_id=ids)
    count, said = handed_out(path, {"x": X})
    assert count == place
    assert said.startswith(f"{path}, row {place}, column 'row_id': {message}")
    with pytest.raises(DataError, match=message):
        list(open_dataset(path, {"x": X}).ids())


def test_row_ids_of_another_kind(tmp_path):
    path = table(tmp_path / "a.parquet", x=GOOD, row_id=[0.5] * 20)
    assert "column 'row_id': it holds double; row ids are all" in refused(path, {"x": X})


def test_files_that_do_not_belong_together(tmp_path):
    first = table(tmp_path / "a.parquet", x=GOOD, row_id=list(range(20)))
    second = table(tmp_path / "b.parquet", x=GOOD)
    assert refused(str(tmp_path), {"x": X}) == (
        f"{first} has a column 'row_id', {second} has none; give one to all files or to none"
    )
    table(tmp_path / "b.parquet", x=GOOD, row_id=list("abcdefghijklmnopqrst"))
    assert "column 'row_id' holds numbers in one" in refused(str(tmp_path), {"x": X})
    table(tmp_path / "b.parquet", y=GOOD, row_id=list(range(20)))
    assert refused(str(tmp_path), {"x": X}) == (
        f"{second} has no column 'x'; the ensemble takes x, and there are y, row_id"
    )


@pytest.mark.parametrize("kind", ["parquet", "npz", "npy"])
@pytest.mark.parametrize("harm", ["nothing in it", "other bytes", "cut"])
def test_a_file_that_cannot_be_read(tmp_path, kind, harm):
    path = tmp_path / f"a.{kind}"
    x = np.random.default_rng(0).normal(size=(5000, 2)).astype(np.float32)
    if kind == "parquet":
        table(path, x=x.tolist())
    elif kind == "npz":
        np.savez(path, x=x)
    else:
        np.save(path, x)
    data = path.read_bytes()
    path.write_bytes(
        {"nothing in it": b"", "other bytes": b"\x00other" * 99, "cut": data[: len(data) // 2]}[harm]
    )
    if kind == "npy" and harm == "cut":  # only whoever reads it finds out
        count, said = handed_out(str(path), {"x": X}, rows=1000)
        assert count == 2000
        assert said == f"{path} cannot be read from row 2000 on: array 'x' ends before its last row"
    else:
        assert refused(str(path), {"x": X}).startswith(f"{path}: cannot be read: ")


def test_bytes_that_have_changed_inside_an_archive(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros((3000, 2), np.float32))
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)
    count, said = handed_out(str(path), {"x": X}, rows=1000)
    assert count < 3000
    assert said.startswith(f"{path} cannot be read from row ")


def test_bytes_that_have_changed_inside_a_parquet_file(tmp_path):
    path = tmp_path / "a.parquet"
    table(path, x=GOOD)
    data = path.read_bytes()
    (tmp_path / "b.parquet").write_bytes(data[:4] + bytes(200) + data[204:])
    _, said = handed_out(str(tmp_path / "b.parquet"), {"x": X})
    assert said.startswith(f"{tmp_path}/b.parquet cannot be read from row ")


def columns_first(path):
    np.save(path, np.asfortranarray(np.zeros((4, 2), np.float32)))


def objects(path):
    np.save(path, np.array([None] * 4, dtype=object))


def single(path):
    np.save(path, np.float32(1))


def dates(path):
    np.save(path, np.zeros(4, "datetime64[s]"))


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (columns_first, "array 'x' is stored by columns; save numpy.ascontiguousarray of it"),
        (objects, "array 'x' holds Python objects; save numbers"),
        (single, "array 'x' is a single value; the first dimension counts the rows"),
        (dates, "array 'x' holds datetime64[s]; save numbers"),
    ],
)
def test_arrays_that_nobody_reads(tmp_path, save, message):
    save(tmp_path / "x.npy")
    assert message in refused(str(tmp_path / "x.npy"), {"x": X})


def test_arrays_that_differ_in_length(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 2)), row_id=np.arange(4))
    assert "its arrays differ in length: {'x': 3, 'row_id': 4}" in refused(str(tmp_path / "x.npz"), {"x": X})


def test_arrays_that_are_not_there(tmp_path):
    np.savez(tmp_path / "x.npz", y=np.zeros((3, 2)))
    assert "has no column 'x'" in refused(str(tmp_path / "x.npz"), {"x": X})


def test_one_array_for_two_inputs(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    said = refused(str(tmp_path / "x.npy"), {"x": X, "y": X})
    assert "is one array, the ensemble takes x, y; save an .npz" in said


def test_an_archive_under_a_password(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros((3, 2), np.float32))
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[0]
    data = bytearray(path.read_bytes())
    data[info.header_offset + 6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert "encrypted" in refused(str(path), {"x": X})


def test_what_is_no_data(tmp_path):
    assert refused(f"{tmp_path}/nowhere", {"x": X}).startswith(
        f"{tmp_path}/nowhere does not exist; give a Parquet"
    )
    assert "matches no file" in refused(f"{tmp_path}/*.parquet", {"x": X})
    assert "holds no file of a known kind" in refused(str(tmp_path), {"x": X})
    (tmp_path / "a.csv").touch()
    assert "is of no known kind" in refused(f"{tmp_path}/a.csv", {"x": X})
    assert "is of no known kind" in refused(f"{tmp_path}/*", {"x": X})
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    table(tmp_path / "a.parquet", x=GOOD)
    said = refused(str(tmp_path), {"x": X})
    assert "holds files of several kinds (.npy, .parquet); name one kind, as " in said


def test_several_splits(tmp_path):
    one = datasets.Dataset.from_dict({"x": GOOD})
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(tmp_path / "d")
    said = refused(str(tmp_path / "d"), {"x": X})
    assert said == f"{tmp_path}/d holds several splits; name one of {tmp_path}/d/train, {tmp_path}/d/test"
    assert open_dataset(str(tmp_path / "d/test"), {"x": X}).rows == 20


def test_a_saved_folder_that_is_damaged(tmp_path):
    datasets.Dataset.from_dict({"x": GOOD}).save_to_disk(tmp_path / "d")
    (tmp_path / "d/state.json").write_text("{}")
    assert refused(str(tmp_path / "d"), {"x": X}).startswith(f"{tmp_path}/d: cannot be read: ")


def test_a_saved_folder_without_the_package_that_reads_it(tmp_path, monkeypatch):
    datasets.Dataset.from_dict({"x": GOOD}).save_to_disk(tmp_path / "d")
    real = builtins.__import__

    def absent(name, *rest, **options):
        if name == "datasets":
            raise ModuleNotFoundError("No module named 'datasets'", name="datasets")
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    said = refused(str(tmp_path / "d"), {"x": X})
    assert said.endswith("a package is missing (datasets): pip install 'soft-targets[datasets]'")
