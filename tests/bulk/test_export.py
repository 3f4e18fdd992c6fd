"""A data set into Parquet: what the manifest names is whole, and a killed run comes to the same files."""

import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blake3 import blake3
from bulk_runs import SPECS, exported, prefill, rows, typed

from service.bulk.manifest import Manifest
from service.keys import fingerprint
from soft_targets.wire import row_digests

MEMORY = "memory://?max_bytes=1MiB"


@pytest.fixture
def config(configured):
    return configured(MEMORY)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_all_that_an_export_says(config, saved, out):
    x = rows(1000)
    data = saved(x)
    done = prefill(config, data, out=out, file_rows=300)
    assert (done.code, done.notes) == (0, ())
    assert done.said.startswith(f"{out}: 1000 rows in 4 files, 0 failed; 0 were there before; ")
    table = exported(out)
    assert table.schema.names == [
        "row_id", "digest", "log_probs", "error_code", "error", "missing_teachers", "keep",
    ]  # fmt: skip
    assert table["row_id"].to_pylist() == list(range(1000))
    assert table["digest"].to_pylist() == row_digests({"x": x}, SPECS)
    log_probs = np.array(table["log_probs"].to_pylist())
    assert np.abs(np.exp(log_probs).sum(axis=1) - 1).max() < 1e-5
    assert set(table["keep"].to_pylist()) == {True}
    said = manifest_of(out)
    assert said["format"] == "soft-targets-export-1"
    assert said["complete"] is True
    assert (said["ensemble"], said["recipe"], said["temperature"]) == ("toy", "default", 2.0)
    assert said["operator"] == {"name": "linear"}
    assert said["classes"] == ["ant", "bee", "cat", "dog"]
    assert len(said["fingerprint"]) == len(said["certificate"]) == len(said["classes_digest"]) == 64
    assert said["data"] == {"path": str(data), "rows": 1000, "files": [{"name": "x.npy", "rows": 1000}]}
    assert said["counts"] == {"rows": 1000, "failed": 0, "degraded": 0, "unkept": 0}
    assert [(one["name"], one["first_row"], one["rows"]) for one in said["files"]] == [
        ("part-00000.parquet", 0, 300),
        ("part-00001.parquet", 300, 300),
        ("part-00002.parquet", 600, 300),
        ("part-00003.parquet", 900, 100),
    ]
    for one in said["files"]:
        content = (out / one["name"]).read_bytes()
        assert (len(content), blake3(content).hexdigest()) == (one["size_bytes"], one["blake3"])
    digest = said.pop("digest")
    assert fingerprint(said) == digest
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock", "manifest.json", *(one["name"] for one in said["files"]),
    ]  # fmt: skip


COLUMNS = {
    ("default", False): ["log_probs"],
    ("sparse", False): ["indices", "log_probs", "tail_log_mass"],
    ("told", False): ["log_probs", "entropy", "divergence"],
    ("told", True): ["indices", "log_probs", "tail_log_mass", "entropy", "divergence"],
}


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("sparse", {}),
        ("default", {"dtype": "float16"}),
        ("told", {}),
        ("told", {"top_k": "3", "dtype": "float16"}),
    ],
)
def test_targets_of_every_layout(configured, saved, tmp_path, recipe, options):
    columns = COLUMNS[recipe, "top_k" in options]
    out = tmp_path / "out"
    told = "told: {operator: linear, temperature: 2.0, diagnostics: true}\n      sparse:"
    config = configured(MEMORY, change=[("sparse:", told)])
    assert prefill(config, saved(rows(100)), recipe=recipe, options=options, out=out).code == 0
    table = exported(out)
    assert table.schema.names[2:-4] == columns
    half = options.get("dtype") == "float16"
    assert table.schema.field("log_probs").type.value_type == (pa.float16() if half else pa.float32())
    assert all(table[name].null_count == 0 for name in columns)


def test_rows_that_fail_are_listed_and_make_the_answer_no(config, saved, out):
    x = rows(500)
    x[17, 3] = np.nan
    x[400, 0] = 1000  # above which teacher one says NaN
    data = saved(x)
    done = prefill(config, data, out=out, file_rows=300)
    assert done.code == 1
    assert done.said.startswith(f"{out}: 500 rows in 2 files, 2 failed; ")
    table = exported(out).to_pylist()
    failed = [row for row in table if row["error_code"] is not None]
    assert [(row["row_id"], row["error_code"]) for row in failed] == [
        (17, "non_finite_input"),
        (400, "teacher_invalid"),
    ]
    assert all(row["log_probs"] is None and row["error"] and not row["keep"] for row in failed)
    assert all(row["log_probs"] and row["error"] is None for row in table if row not in failed)
    assert manifest_of(out)["counts"] == {"rows": 500, "failed": 2, "degraded": 0, "unkept": 0}
    again = prefill(config, data, out=out)
    assert again.code == 1
    assert "2 failed; 500 were there before; " in again.said


def test_rows_without_some_teachers_are_marked(configured, saved, out):
    x = rows(100)
    x[[3, 50], 0] = 1000
    done = prefill(configured(MEMORY, quorum=1), saved(x), out=out)
    assert done.code == 0
    assert "0 failed, 2 are not to be kept in a cache; " in done.said
    marked = [row for row in exported(out).to_pylist() if not row["keep"]]
    assert [(row["row_id"], row["missing_teachers"]) for row in marked] == [(3, ["one"]), (50, ["one"])]
    assert all(row["log_probs"] for row in marked)
    assert manifest_of(out)["counts"] == {"rows": 100, "failed": 0, "degraded": 2, "unkept": 2}


def test_rows_keep_their_ids_and_their_order(config, out, tmp_path):
    names = [f"row {number}" for number in np.random.default_rng(0).permutation(500)]
    pq.write_table(pa.table({"x": rows(500).tolist(), "row_id": names}), tmp_path / "x.parquet")
    assert prefill(config, tmp_path / "x.parquet", out=out, file_rows=64).code == 0
    assert exported(out)["row_id"].to_pylist() == names
    assert manifest_of(out)["row_id"] == "string"


def test_what_a_cache_holds_is_what_is_exported(configured, saved, out):
    data = saved(rows(200))
    config = configured()
    assert prefill(config, data).code == 0
    assert prefill(config, data, out=out).code == 0
    fresh = out.parent / "fresh"
    assert prefill(configured(MEMORY), data, out=fresh).code == 0
    assert exported(out).equals(exported(fresh))


def test_no_rows_are_an_export_of_no_files(config, saved, out):
    done = prefill(config, saved(rows(0)), out=out)
    assert done.code == 0
    assert (manifest_of(out)["complete"], manifest_of(out)["files"]) == (True, [])


# At its n-th chance it is killed: before a file or a manifest gets its name, or after.
KILLED = """
import os, signal
real, count = os.replace, 0
def replace(*names):
    global count
    count += 1
    if count == {at}:
        if {after}:
            real(*names)
        os.kill(os.getpid(), signal.SIGKILL)
    real(*names)
os.replace = replace
"""


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3, 6, 9, 10])
def test_killed_at_any_time_it_comes_to_the_same_files(config, saved, tmp_path, at, after):
    """Names are given ten times: to the first manifest, to each file and a manifest with it, to the last."""
    data, out = saved(rows(1000)), tmp_path / "out"
    command = ["prefill", config, data, "--out", out, "--rows-per-file", 300]
    code, said, _ = typed(*command, first=KILLED.format(at=at, after=after))
    assert (code, said) == (-signal.SIGKILL, "")
    given = at - 1 + after
    there = len(manifest_of(out)["files"]) if given else 0
    assert there == min(4, max(0, given - 1) // 2)
    done = prefill(config, data, out=out, file_rows=300)
    assert done.code == 0
    assert f"; {min(300 * there, 1000)} were there before; " in done.said
    whole = tmp_path / "whole"
    assert prefill(config, data, out=whole, file_rows=300).code == 0
    assert manifest_of(out) == manifest_of(whole)
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in whole.iterdir())


BETWEEN = """
import os, signal
from service.bulk.parts import PartWriter
add, count = PartWriter.add, 0
def killed(self, labelled):
    global count
    add(self, labelled)
    count += 1
    if count == 3:
        self._write()
        self._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
PartWriter.add = killed
"""


def test_half_a_file_counts_for_nothing(config, saved, out):
    data = saved(rows(5000))
    code, _, _ = typed("prefill", config, data, "--out", out, "--rows-per-file", 4000, first=BETWEEN)
    assert code == -signal.SIGKILL
    half = out / "part-00000.parquet.partial"
    assert half.stat().st_size > 0
    assert manifest_of(out)["files"] == []
    done = prefill(config, data, out=out)
    assert done.code == 0
    assert "5000 rows in 2 files, 0 failed; 0 were there before; " in done.said
    assert not half.exists()


def test_an_export_that_is_whole_is_left_as_it_is(config, saved, out):
    data = saved(rows(500))
    assert prefill(config, data, out=out, file_rows=100).code == 0
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in out.iterdir()}
    again = prefill(config, data, out=out)
    assert again.code == 0
    assert "500 were there before; " in again.said
    assert before == {path.name: (path.stat().st_ino, path.read_bytes()) for path in out.iterdir()}


def unfinished(config, data, out):
    """An export whose third file is still to be made."""
    assert prefill(config, data, out=out, file_rows=300).code == 0
    whole = Manifest.read(out)
    whole.model_copy(update={"complete": False, "files": whole.files[:2]}).write(out)
    for file in whole.files[2:]:
        (out / file.name).unlink()


DEFAULT = "default: {operator: linear, temperature: 2.0}"
CHANGES = {
    "recipe.temperature is 2.0 in the export and 3.0 in the configuration": (
        DEFAULT,
        DEFAULT.replace("2.0", "3.0"),
    ),
    "recipe.weights.one is 0.6 in the export and 0.5555555555555556 in the configuration": (
        "weight: 0.6",
        "weight: 0.5",
    ),
    "recipe.operator.exponent is absent in the export and 0.5 in the configuration": (
        DEFAULT,
        DEFAULT.replace("linear", "{name: holder, exponent: 0.5}"),
    ),
    "recipe.diagnostics is false in the export and true in": (
        DEFAULT,
        DEFAULT.replace("2.0", "2.0, diagnostics: true"),
    ),
    "teachers.two.digest is ": ("seed=1", "seed=2"),
    "teachers.two.temperature is 1.0 in the export and 2.0": (
        "weight: 0.4",
        "temperature: 2, weight: 0.4",
    ),
    "classes is ": ("cat, dog]", "cat, cow]"),
}


@pytest.mark.parametrize("message", CHANGES)
def test_another_recipe_is_refused_with_what_differs(configured, saved, out, message):
    data = saved(rows(1000))
    unfinished(configured(MEMORY), data, out)
    before = manifest_of(out)
    stopped = prefill(configured(MEMORY, change=[CHANGES[message]]), data, out=out)
    assert stopped.code == 1
    assert stopped.notes[0].startswith(f"{out} holds targets of another recipe than 'default' of 'toy': ")
    assert message in stopped.notes[0]
    assert manifest_of(out) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": "5"}, "recipe.temperature is 2.0 in the export and 5.0"),
        ({"dtype": "float16"}, 'recipe.dtype is "float32" in the export and "float16"'),
        ({"top_k": "2"}, "recipe.top_k is null in the export and 2"),
        ({"weights": "one:1"}, "recipe.weights.one is 0.6 in the export and 1.0"),
    ],
)
def test_options_of_the_command_line_make_another_recipe(config, saved, out, options, message):
    data = saved(rows(1000))
    unfinished(config, data, out)
    stopped = prefill(config, data, out=out, options=options)
    assert stopped.code == 1
    assert message in stopped.notes[0]


def test_code_that_changed_is_refused_though_all_that_is_known_is_the_same(config, saved, out):
    data = saved(rows(100))
    unfinished(config, data, out)
    Manifest.read(out).model_copy(update={"fingerprint": "ab" * 32}).write(out)
    stopped = prefill(config, data, out=out)
    assert stopped.code == 1
    assert (
        "all that is known is the same; the code of the service or of an operator is another"
        in stopped.notes[0]
    )


def test_data_that_changed_are_refused_with_what_differs(config, saved, out):
    x = rows(1000)
    data = saved(x)
    unfinished(config, data, out)
    saved(np.concatenate([x, x[:1] + 1]))
    stopped = prefill(config, data, out=out)
    assert stopped.code == 1
    assert "the data was 1 file of 1000 rows (x.npy) and is 1 file of 1001 rows (x.npy)" in stopped.notes[0]
    x[400, 2] += 1
    saved(x)
    stopped = prefill(config, data, out=out)
    assert stopped.code == 1
    assert stopped.notes[0].startswith(
        f"the data have changed: rows 300 to 599 of {data} are not those that part-00001.parquet was made of"
    )
    x[400, 2] = rows(1000)[400, 2]
    x[700, 2] += 1  # which is in no file yet
    saved(x)
    assert prefill(config, data, out=out).code == 0


def test_row_ids_that_changed_are_refused(config, out, tmp_path):
    def save(ids):
        pq.write_table(pa.table({"x": rows(1000).tolist(), "row_id": ids}), tmp_path / "x.parquet")

    save(list(range(1000)))
    unfinished(config, tmp_path / "x.parquet", out)
    save([*range(1, 1000), 0])
    stopped = prefill(config, tmp_path / "x.parquet", out=out)
    assert (stopped.code, "rows 0 to 299" in stopped.notes[0]) == (1, True)
    save([str(number) for number in range(1000)])
    stopped = prefill(config, tmp_path / "x.parquet", out=out)
    assert stopped.code == 1
    assert "the kind of the row ids was uint64 and is string" in stopped.notes[0]


def test_the_data_may_be_stored_in_another_way_meanwhile(config, saved, out, tmp_path):
    data = saved(rows(1000))
    unfinished(config, data, out)
    (tmp_path / "moved").mkdir()
    shutil.move(data, tmp_path / "moved")
    done = prefill(config, tmp_path / "moved" / "x.npy", out=out)
    assert done.code == 0
    assert "; 600 were there before; " in done.said


def test_other_files_than_were_begun_with_are_refused(config, saved, out):
    data = saved(rows(1000))
    unfinished(config, data, out)
    stopped = prefill(config, data, out=out, file_rows=200)
    assert stopped.code == 1
    assert "the number of rows in a file was 300 and is 200" in stopped.notes[0]


def missing(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "message"),
    [(missing, "is missing: "), (cut, "it was cut or changed"), (flipped, "its digest is of other content")],
)
def test_a_damaged_file_is_found_before_anything_is_added_to_it(config, saved, out, harm, message):
    data = saved(rows(1000))
    unfinished(config, data, out)
    harm(out / "part-00001.parquet")
    stopped = prefill(config, data, out=out)
    assert stopped.code == 1
    assert stopped.notes[0].startswith(f"{out}/part-00001.parquet ")
    assert message in stopped.notes[0]


def test_a_folder_of_something_else_is_left_alone(config, saved, out):
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    stopped = prefill(config, saved(rows(10)), out=out)
    assert stopped.code == 2
    assert f"{out} holds thesis.tex and no manifest.json; name a folder that is empty" in stopped.notes[0]
    assert [path.name for path in out.iterdir() if path.name != ".lock"] == ["thesis.tex"]
    stopped = prefill(config, saved(rows(10)), out=out / "thesis.tex")
    assert (stopped.code, "cannot be written to" in stopped.notes[0]) == (2, True)


HELD = """
import fcntl, sys
handle = open(sys.argv[1], "w")
fcntl.flock(handle, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_two_processes_do_not_write_into_one_folder(config, saved, out):
    out.mkdir()
    other = subprocess.Popen(
        [sys.executable, "-c", HELD, out / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    stopped = prefill(config, saved(rows(10)), out=out)
    assert (stopped.code, stopped.notes) == (2, (f"{out} is being written by another process",))
    other.communicate("")
    assert prefill(config, saved(rows(10)), out=out).code == 0


LITTLE_ROOM = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"


def test_a_disk_without_room(config, saved, out):
    data = saved(rows(5000))
    code, said, noted = typed(
        "prefill", config, data, "--out", out, "--rows-per-file", 5000, first=LITTLE_ROOM
    )
    assert (code, said) == (2, "")
    assert f"{out} cannot be written to: " in noted
    assert "Traceback" not in noted
    assert list(out.glob("*.partial")) == []
    assert prefill(config, data, out=out).code == 0


INTERRUPTED = """
import os, signal
from service.bulk.parts import PartWriter
add = PartWriter.add
def interrupted(self, labelled):
    add(self, labelled)
    if labelled.chunk.start >= 2000:
        os.kill(os.getpid(), signal.SIGINT)
PartWriter.add = interrupted
"""


def test_interrupted_it_keeps_the_files_that_are_whole(config, saved, out):
    data = saved(rows(50_000))
    code, said, noted = typed(
        "prefill", config, data, "--out", out, "--rows-per-file", 2000, first=INTERRUPTED
    )
    assert (code, said) == (130, "")
    assert "soft-targets: interrupted\n" in noted
    assert "2000 of 50000 rows were done; the same command goes on from there" in noted
    assert "Traceback" not in noted
    assert [file["rows"] for file in manifest_of(out)["files"]] == [2000]
    assert list(out.glob("*.partial")) == []
    assert "; 2000 were there before; " in prefill(config, data, out=out).said
