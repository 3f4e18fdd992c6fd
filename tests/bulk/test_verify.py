"""Rows of an export computed again: what is as it was passes, what is not is named."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import teachers as models
from bulk_runs import prefill, rows, typed

from service.bulk import commands
from service.bulk.manifest import Manifest, file_digest
from service.bulk.verifying import draw
from service.keys import fingerprint
from soft_targets.wire import Layout

MEMORY = "memory://?max_bytes=1MiB"


@pytest.fixture
def config(configured):
    return configured(MEMORY)


@pytest.fixture
def made(config, saved, tmp_path):
    """An export of 1000 rows in four files, one of which failed."""
    x = rows(1000)
    x[17, 3] = np.nan
    assert prefill(config, saved(x), out=tmp_path / "out", file_rows=300).code == 1
    return tmp_path / "out"


def verify(config, folder, sample=100, data=None, seed=0):
    return commands.verify(config, folder, sample=sample, data=None if data is None else str(data), seed=seed)


@pytest.mark.parametrize("sample", [1, 100, 5000])
def test_an_export_that_is_as_it_was(config, made, sample):
    done = verify(config, made, sample)
    count = min(sample, 999)
    assert (done.code, done.notes) == (0, ())
    assert done.said == (
        f"{count} of {count} rows computed again and compared, 0 of {count} are wrong; the largest "
        "difference is 0 nats, 0.0001 are allowed (server.spread_limit)"
    )


def changed(folder, name, change):
    """A file of the export with other values, and a manifest that names it."""
    path = folder / name
    table = pq.read_table(path)
    pq.write_table(change(table), path)
    document = json.loads((folder / "manifest.json").read_text())
    del document["digest"]
    for file in document["files"]:
        if file["name"] == name:
            file.update(blake3=file_digest(path), size_bytes=path.stat().st_size)
    (folder / "manifest.json").write_text(json.dumps({**document, "digest": fingerprint(document)}))


def shifted(by, places):
    def change(table):
        values = np.array(table["log_probs"].to_pylist(), np.float32)
        values[places] += by
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 4)
        return table.set_column(
            table.schema.names.index("log_probs"), table.schema.field("log_probs"), column
        )

    return change


def test_rows_that_differ_are_named(config, made):
    changed(made, "part-00001.parquet", shifted(np.float32(0.01), [5, 200]))
    done = verify(config, made, sample=999)
    assert done.code == 1
    assert (
        "999 of 999 rows computed again and compared, 2 of 999 are wrong; the largest difference is 0.01 nats"
        in (done.said)
    )
    assert [note.split(" differs by 0.01 nats; ")[0] for note in done.notes] == ["row 305: it", "row 500: it"]


def test_a_difference_within_the_spread_is_none(config, made):
    changed(made, "part-00001.parquet", shifted(np.float32(2**-14), [5]))
    done = verify(config, made, sample=999)
    assert done.code == 0
    assert "the largest difference is 6.1e-05 nats at row 305, 0.0001 are allowed" in done.said


def test_only_so_many_rows_are_named(config, made):
    changed(made, "part-00001.parquet", shifted(np.float32(1), list(range(300))))
    done = verify(config, made, sample=999)
    assert (done.code, len(done.notes), done.notes[-1]) == (1, 21, "and 280 more rows")


def test_the_sample_is_seeded(made):
    manifest = Manifest.read(made)
    samples = [draw(made, manifest, Layout(4), count=50, seed=seed) for seed in (0, 0, 1)]
    assert list(samples[0]) == list(samples[1]) != list(samples[2])
    assert all(len(sample) == 50 and 17 not in sample for sample in samples)
    everything = draw(made, manifest, Layout(4), count=999, seed=3)
    assert list(everything) == [row for row in range(1000) if row != 17]


@pytest.mark.parametrize("ids", ["numbers", "texts"])
def test_rows_are_found_by_their_ids_wherever_they_are_now(config, tmp_path, ids):
    x = rows(500)
    order = np.random.default_rng(0).permutation(500)
    names = order * 7 if ids == "numbers" else [f"row {number}" for number in order]
    pq.write_table(pa.table({"x": x.tolist(), "row_id": names}), tmp_path / "x.parquet")
    out = tmp_path / "out"
    assert prefill(config, tmp_path / "x.parquet", out=out).code == 0
    mixed = np.random.default_rng(1).permutation(500)
    np.savez(tmp_path / "y.npz", x=x[mixed], row_id=np.array(names)[mixed])
    done = verify(config, out, data=tmp_path / "y.npz")
    assert (done.code, done.notes) == (0, ())
    assert done.said.startswith("100 of 100 rows computed again and compared, 0 of 100 are wrong; ")


def test_data_that_changed_are_named(config, made, saved):
    x = rows(1000)
    x[5, 1] += 1
    done = verify(config, made, 999, data=saved(x[:900], "y.npy"))
    assert done.code == 1
    assert done.notes[0] == "row 5: its input is not the one that was labelled"
    assert done.notes[1] == "row 900: the data have no such row"
    assert "898 of 999 rows computed again and compared, 101 of 999 are wrong" in done.said


def test_a_row_that_has_no_answer_any_more(configured, made):
    # The limit above which a teacher fails is no part of what it answers otherwise.
    low = float(np.sort(rows(1000)[:, 0])[-2])
    config = configured(MEMORY, change=[("nan_above=100", f"nan_above={low}")])
    done = verify(config, made, sample=999)
    assert done.code == 1
    (note,) = done.notes
    assert ": it has no answer now: teacher_invalid: no distribution from teacher 'one'" in note


def test_the_data_may_have_moved(config, made, tmp_path):
    (tmp_path / "x.npy").rename(tmp_path / "y.npy")
    stopped = verify(config, made)
    assert stopped.code == 2
    assert "x.npy does not exist" in stopped.notes[0]
    assert stopped.notes[0].endswith("; say where the data are now with --data")
    assert verify(config, made, data=tmp_path / "y.npy").code == 0
    stopped = verify(config, made, data=tmp_path / "z.npy")
    assert (stopped.code, "--data" in stopped.notes[0]) == (2, False)


@pytest.mark.parametrize(
    ("recipe", "options"), [("sparse", {}), ("default", {"dtype": "float16", "temperature": "0.5"})]
)
def test_targets_of_other_layouts(config, saved, tmp_path, recipe, options):
    out = tmp_path / "out"
    assert prefill(config, saved(rows(300)), recipe=recipe, options=options, out=out).code == 0
    code, said, _ = typed("verify", config, out, "--sample", 50, "--seed", 4)
    assert code == 0
    assert said.startswith("50 of 50 rows computed again and compared, 0 of 50 are wrong; ")


def test_what_is_kept_in_the_cache_is_not_believed(configured, config, saved, tmp_path):
    data, out, wrong = saved(rows(100)), tmp_path / "out", tmp_path / "wrong"
    assert prefill(config, data, out=out).code == 0
    shutil.copytree(out, wrong)
    changed(wrong, "part-00000.parquet", shifted(np.float32(0.5), [7]))
    misled = configured()
    assert commands.import_export(misled, wrong).code == 0
    assert verify(misled, out).code == 0
    assert verify(misled, wrong).notes[0].startswith("row 7: it differs by 0.5 nats")


def test_another_recipe_and_a_damaged_file_are_refused(configured, config, made):
    stopped = verify(configured(MEMORY, name="o.yaml", change=[("seed=1", "seed=2")]), made)
    assert (stopped.code, "holds targets of another recipe" in stopped.notes[0]) == (1, True)
    (made / "part-00000.parquet").unlink()
    stopped = verify(config, made)
    assert (stopped.code, "part-00000.parquet is missing" in stopped.notes[0]) == (1, True)


def test_nothing_to_compare(config, saved, tmp_path):
    x = rows(10)
    x[:] = np.nan
    assert prefill(config, saved(x), out=tmp_path / "out").code == 1
    done = verify(config, tmp_path / "out")
    assert done.code == 0
    assert done.said.startswith("0 of 0 rows computed again and compared, 0 of 0 are wrong; ")


ONNX = """\
cache: {url: 'memory://?max_bytes=1MiB'}
ensembles:
  toy:
    classes: [a, b, c, d]
    teachers:
      - {name: one, model: one.onnx, output: {kind: logits}}
      - {name: two, model: two.onnx, output: {kind: logits}}
    batching: {max_rows: 64}
    recipes: {default: {operator: {name: holder, exponent: 0.5}, temperature: 4.0}}
"""


def test_real_models_in_batches_of_other_sizes(tmp_path):
    """A recomputed row lies within the spread, whatever was beside it."""
    for name, seed in (("one", 1), ("two", 2)):
        models.random_linear(tmp_path / f"{name}.onnx", seed)
    (tmp_path / "c.yaml").write_text(ONNX)
    np.savez(tmp_path / "x.npz", pixels=rows(2000))
    assert prefill(tmp_path / "c.yaml", tmp_path / "x.npz", out=tmp_path / "out").code == 0
    (tmp_path / "c.yaml").write_text(ONNX.replace("max_rows: 64", "max_rows: 7"))
    done = verify(tmp_path / "c.yaml", tmp_path / "out", sample=300)
    assert (done.code, done.notes) == (0, ())
    assert done.said.startswith("300 of 300 rows computed again and compared, 0 of 300 are wrong; ")
