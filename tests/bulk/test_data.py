"""Data in files of every kind come out as they went in, in their order, in chunks of any size."""

import subprocess
import sys
import zipfile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.bulk.data import open_dataset
from soft_targets.wire import TensorSpec, row_digests

SPECS = {
    "image": TensorSpec("<f4", (2, 3)),
    "number": TensorSpec("<i8", ()),
    "flag": TensorSpec("|b1", (2,)),
    "text": TensorSpec("utf8", ()),
}
COUNT = 50
RANDOM = np.random.default_rng(0)
ARRAYS = {
    "image": RANDOM.normal(size=(COUNT, 2, 3)).astype(np.float32),
    "number": RANDOM.integers(-5, 5, COUNT),
    "flag": RANDOM.integers(0, 2, (COUNT, 2)).astype(bool),
    "text": np.array(["", "grün", "a longer one"] * COUNT)[:COUNT],
}
IDS = {
    "rising": np.arange(7, 7 + COUNT, dtype=np.int32),
    "any": RANDOM.permutation(COUNT).astype(np.uint64) + np.uint64(2**63),
    "text": np.array([f"r{place}" for place in RANDOM.permutation(COUNT)]),
}


def nested(kind):
    """The rows as an Arrow table, lists of a fixed size or not."""
    image, flag = ARRAYS["image"].reshape(-1), pa.array(ARRAYS["flag"].reshape(-1))
    if kind == "tensor":
        columns = {"image": pa.FixedShapeTensorArray.from_numpy_ndarray(ARRAYS["image"])}
    elif kind == "fixed":
        inner = pa.FixedSizeListArray.from_arrays(pa.array(image), 3)
        columns = {"image": pa.FixedSizeListArray.from_arrays(inner, 2)}
    else:
        offsets, list_of = (pa.int32(), pa.ListArray) if kind == "lists" else (pa.int64(), pa.LargeListArray)
        inner = list_of.from_arrays(pa.array(range(0, image.size + 1, 3), offsets), pa.array(image))
        columns = {"image": list_of.from_arrays(pa.array(range(0, 2 * COUNT + 1, 2), offsets), inner)}
    text = pa.array(ARRAYS["text"])
    columns["text"] = {"fixed": text.dictionary_encode(), "large": text.cast(pa.large_string())}.get(
        kind, text
    )
    columns |= {"number": pa.array(ARRAYS["number"]), "flag": pa.FixedSizeListArray.from_arrays(flag, 2)}
    return pa.table({**columns, "label": pa.array(["ignored"] * COUNT)})


def parquet(folder, kind="lists", **options):
    pq.write_table(nested(kind), folder / "rows.parquet", row_group_size=7, **options)
    return folder / "rows.parquet"


def several(folder):
    table = nested("lists")
    (folder / "sub").mkdir()
    (folder / "_SUCCESS").touch()
    (folder / ".hidden.parquet").touch()
    for name, part in (
        ("a.parquet", slice(0, 11)),
        ("sub/b.parquet", slice(11, 11)),
        ("z.parquet", slice(11, 50)),
    ):
        pq.write_table(table[part], folder / name)
    return folder


def npz(folder, *, compressed):
    save = np.savez_compressed if compressed else np.savez
    save(folder / "rows.npz", **ARRAYS, label=np.zeros((3, 3)))
    return folder / "rows.npz"


def hugging_face(folder, *, mixed):
    features = datasets.Features(
        {
            "image": datasets.Array2D((2, 3), "float32"),
            "number": datasets.Value("int64"),
            "flag": datasets.Sequence(datasets.Value("bool"), length=2),
            "text": datasets.Value("string"),
        }
    )
    order = RANDOM.permutation(COUNT) if mixed else np.arange(COUNT)
    given = {name: values[order] for name, values in ARRAYS.items()}
    saved = datasets.Dataset.from_dict(given, features=features)
    if mixed:  # back into their order, by a table of indices as shuffling makes one
        saved = saved.select(np.argsort(order))
    saved.save_to_disk(folder / "saved", num_shards=3)
    return folder / "saved"


KINDS = {
    "lists": parquet,
    "large lists": lambda folder: parquet(folder, "large"),
    "fixed-size lists": lambda folder: parquet(folder, "fixed"),
    "tensors": lambda folder: parquet(folder, "tensor"),
    "uncompressed, of old": lambda folder: parquet(
        folder, compression="none", version="1.0", store_schema=False
    ),
    "a folder": several,
    "a glob": lambda folder: f"{several(folder)}/**/*.parquet",
    "npz": lambda folder: npz(folder, compressed=False),
    "npz, compressed": lambda folder: npz(folder, compressed=True),
    "saved": lambda folder: hugging_face(folder, mixed=False),
    "saved, shuffled": lambda folder: hugging_face(folder, mixed=True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 8, 1000])
def test_rows_come_as_they_are_in_order(tmp_path, kind, size):
    data = open_dataset(str(KINDS[kind](tmp_path)), SPECS)
    assert data.rows == COUNT
    chunks = list(data.chunks(size))
    assert [chunk.start for chunk in chunks] == list(range(0, COUNT, size))
    assert [chunk.stop for chunk in chunks] == [min(start + size, COUNT) for start in range(0, COUNT, size)]
    for name, values in ARRAYS.items():
        found = np.concatenate([chunk.inputs[name] for chunk in chunks])
        assert found.dtype == (object if name == "text" else values.dtype)
        assert np.array_equal(found, values)
    assert pa.concat_arrays([chunk.row_ids for chunk in chunks]).to_pylist() == list(range(COUNT))
    expected = row_digests({**ARRAYS, "text": ARRAYS["text"].astype(object)}, SPECS)
    assert [digest for chunk in chunks for digest in chunk.digests] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_some_rows_are_found_by_their_places(tmp_path, kind):
    data = open_dataset(str(KINDS[kind](tmp_path)), SPECS)
    places = [0, 1, 6, 7, 20, 21, 22, 49]
    chunks = list(data.take(places, 3))
    assert [len(chunk.digests) for chunk in chunks] == [3, 3, 2]
    for name, values in ARRAYS.items():
        assert np.array_equal(np.concatenate([chunk.inputs[name] for chunk in chunks]), values[places])
    assert pa.concat_arrays([chunk.row_ids for chunk in chunks]).to_pylist() == places


@pytest.mark.parametrize("kind", ["npz", "parquet"])
@pytest.mark.parametrize("ids", IDS)
def test_rows_keep_ids_of_their_own(tmp_path, kind, ids):
    x = RANDOM.normal(size=(COUNT, 2))
    if kind == "npz":
        np.savez(tmp_path / "a.npz", x=x, row_id=IDS[ids])
    else:
        pq.write_table(
            pa.table({"x": x.tolist(), "row_id": IDS[ids]}), tmp_path / "a.parquet", row_group_size=7
        )
    data = open_dataset(str(tmp_path), {"x": TensorSpec("<f4", (2,))})
    assert data.ids_type == (pa.string() if ids == "text" else pa.uint64())
    for found in (data.ids(), (chunk.row_ids for chunk in data.chunks(9))):
        whole = pa.concat_arrays(list(found))
        assert whole.type == data.ids_type
        assert whole.to_pylist() == IDS[ids].tolist()
    some = IDS[ids][[3, 30, 31]].tolist()
    foreign = "nobody" if ids == "text" else 2**40
    assert data.places([*reversed(some), foreign]) == [3, 30, 31]


def test_chunks_end_where_files_of_the_export_do(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((50, 2), np.float32))
    data = open_dataset(str(tmp_path / "x.npy"), {"x": TensorSpec("<f4", (2,))})
    starts = [chunk.start for chunk in data.chunks(8, every=20)]
    assert starts == [0, 8, 16, 20, 28, 36, 40, 48]


@pytest.mark.parametrize(
    ("stored", "spec"),
    [
        (np.arange(12, dtype=">f8").reshape(6, 2), TensorSpec("<f4", (2,))),
        (np.arange(12, dtype=np.float16).reshape(6, 2), TensorSpec("<f2", (2,))),
        (np.arange(12, dtype=np.uint8).reshape(6, 2, 1), TensorSpec("<f4", (2, 1))),
        (np.arange(6, dtype=np.int8), TensorSpec("<i8", ())),
        (np.array(["a", "bc", "", "ü", "e", "f"]), TensorSpec("utf8", ())),
        (np.array([""] * 6), TensorSpec("utf8", ())),
        (np.asfortranarray(np.arange(6, dtype=np.float32)), TensorSpec("<f4", ())),
    ],
)
def test_arrays_of_any_dtype_that_can_be_kept(tmp_path, stored, spec):
    np.save(tmp_path / "x.npy", stored)
    (chunk,) = open_dataset(str(tmp_path / "x.npy"), {"x": spec}).chunks(10)
    assert chunk.inputs["x"].dtype == (object if spec.dtype == "utf8" else np.dtype(spec.dtype))
    assert chunk.inputs["x"].tolist() == stored.tolist()


def test_files_are_named_from_their_common_folder_on(tmp_path):
    folder = several(tmp_path)
    data = open_dataset(str(folder), SPECS)
    assert data.files() == [("a.parquet", 11), ("sub/b.parquet", 0), ("z.parquet", 39)]
    assert data.where(10) == f"{folder}/a.parquet, row 10"
    assert data.where(11) == f"{folder}/z.parquet, row 0"
    assert open_dataset(f"{folder}/z.parquet", SPECS).files() == [("z.parquet", 39)]


def test_no_rows_are_no_rows(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((0, 2), np.float32))
    data = open_dataset(str(tmp_path / "x.npy"), {"x": TensorSpec("<f4", (2,))})
    assert (data.rows, list(data.chunks(10)), list(data.ids())) == (0, [], [])


MEMORY = """
import resource, sys
from service.bulk.data import open_dataset
from soft_targets.wire import TensorSpec
data = open_dataset(sys.argv[1], {"x": TensorSpec("<f4", (1000,))})
next(data.chunks(64))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert sum(len(chunk.digests) for chunk in data.chunks(64)) == 20_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("kind", ["parquet", "npz", "npz, compressed", "npy"])
def test_memory_is_bounded_whatever_the_size(tmp_path, kind):
    x = np.random.default_rng(0).integers(0, 256, (20_000, 1000), np.uint8).astype(np.float32)
    path = tmp_path / f"x.{kind.split(',')[0]}"
    if kind == "parquet":  # in one row group, as some write them
        column = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 1000)
        pq.write_table(pa.table([column], ["x"]), path, row_group_size=len(x), compression="none")
    elif kind == "npy":
        np.save(path, x)
    else:
        how = zipfile.ZIP_DEFLATED if "compressed" in kind else zipfile.ZIP_STORED
        with (
            zipfile.ZipFile(path, "w", how, compresslevel=1) as archive,
            archive.open("x.npy", "w") as member,
        ):
            np.save(member, x)
    done = subprocess.run([sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < x.nbytes / 4


def test_an_archive_s_other_members_are_left_alone(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 2), np.float32), other=np.array([{}], dtype=object))
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("readme.txt", "not an array")
    assert open_dataset(str(tmp_path / "x.npz"), {"x": TensorSpec("<f4", (2,))}).rows == 3
