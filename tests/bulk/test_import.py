"""An export into a cache: the bytes that computing would have put there, or nothing at all."""

import asyncio
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_runs import exported, kept, prefill, rows, typed

from service.bulk import commands
from service.bulk.manifest import Manifest, file_digest
from service.keys import fingerprint
from soft_targets import Client

MEMORY = "memory://?max_bytes=1MiB"
TOLD = "told: {operator: linear, temperature: 2.0, diagnostics: true}\n      sparse:"


@pytest.fixture
def made(configured, saved, tmp_path):
    """An export of 1000 rows, one of which failed and one of which lacks a teacher; and its rows."""
    x = rows(1000)
    x[17, 3] = np.nan
    x[400, 0] = 1000  # above which teacher one says NaN
    data = saved(x)
    assert (
        prefill(configured(MEMORY, quorum=1, name="m.yaml"), data, out=tmp_path / "out", file_rows=300).code
        == 1
    )
    return tmp_path / "out"


@pytest.fixture(params=["lmdb", "redis"])
def config(request, configured):
    if request.param == "lmdb":
        return configured(quorum=1)
    return configured(request.getfixturevalue("redis_server").url, quorum=1)


def test_what_is_brought_is_what_computing_would_have_put_there(config, made, tmp_path, own_redis):
    data = tmp_path / "x.npy"
    done = commands.import_export(config, made)
    assert (done.code, done.notes) == (0, ())
    assert done.said.startswith(
        f"1000 rows of {made}: 0 were in the cache, 998 are now, 2 have no target to be kept; "
    )
    brought = asyncio.run(kept(config, data))
    assert [row for row, value in enumerate(brought) if value is None] == [17, 400]
    other = own_redis().start()
    direct = tmp_path / "direct.yaml"
    direct.write_text(
        config.read_text().replace(config.read_text().split("url: '")[1].split("'")[0], other.url)
    )
    assert prefill(direct, data).code == 1
    assert asyncio.run(kept(direct, data)) == brought
    again = commands.import_export(config, made)
    assert again.said.startswith(f"1000 rows of {made}: 998 were in the cache, 0 are now, ")


def test_a_request_afterwards_is_a_hit_with_the_bytes_of_the_export(config, made, start):
    assert commands.import_export(config, made).code == 0
    server = start(config)
    x = rows(1000)
    good = [row for row in range(1000) if row not in {17, 400}]
    with Client(server.url, ensemble="toy") as client:
        targets = client.soft_targets({"x": x[good]})
    assert set(targets.source) == {"hit"}
    table = exported(made)["log_probs"].to_pylist()
    assert np.array_equal(targets.log_probs, np.array([table[row] for row in good], np.float32))


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("sparse", {}),
        ("default", {"dtype": "float16", "temperature": "3"}),
        ("told", {"top_k": "3", "weights": "one:1,two:2"}),
    ],
)
def test_targets_of_every_layout_and_with_overrides(configured, saved, tmp_path, recipe, options):
    data = saved(rows(200))
    change = [("sparse:", TOLD)]
    config = configured(change=change)
    memory = configured(MEMORY, change=change, name="m.yaml")
    assert prefill(memory, data, recipe=recipe, options=options, out=tmp_path / "out").code == 0
    assert commands.import_export(config, tmp_path / "out").code == 0
    done = prefill(config, data, recipe=recipe, options=options)
    assert done.said.startswith("200 rows: 200 were in the cache, 0 are now, ")
    direct = configured(f"lmdb://{tmp_path}/direct?max_bytes=8MiB", change=change)
    assert prefill(direct, data, recipe=recipe, options=options).code == 0
    overrides = commands.query.parse(commands.urlencode(options).encode()).overrides
    values = [asyncio.run(kept(one, data, recipe=recipe, overrides=overrides)) for one in (config, direct)]
    assert values[0] == values[1]
    assert None not in values[0]


def test_what_the_cache_has_already_stays(configured, saved, tmp_path):
    data = saved(rows(100))
    config = configured()
    assert prefill(config, saved(rows(40), "some.npy")).code == 0
    assert prefill(configured(MEMORY, name="m.yaml"), data, out=tmp_path / "out").code == 0
    done = commands.import_export(config, tmp_path / "out")
    assert done.said.startswith(f"100 rows of {tmp_path}/out: 40 were in the cache, 60 are now, 0 have no")


def test_row_ids_do_not_matter_digests_do(configured, tmp_path):
    x = rows(100)
    pq.write_table(
        pa.table({"x": x.tolist(), "row_id": [f"r{row}" for row in range(100)]}), tmp_path / "x.parquet"
    )
    assert prefill(configured(MEMORY, name="m.yaml"), tmp_path / "x.parquet", out=tmp_path / "out").code == 0
    config = configured()
    assert commands.import_export(config, tmp_path / "out").code == 0
    np.save(tmp_path / "x.npy", x[::-1])
    assert prefill(config, tmp_path / "x.npy").said.startswith("100 rows: 100 were in the cache, ")


def refused(config, folder):
    """What is said; and nothing was written."""
    stopped = commands.import_export(config, folder)
    assert (stopped.code, stopped.said) == (1, "")
    data = folder.parent / "x.npy"
    assert set(asyncio.run(kept(config, data))) == {None}
    return stopped.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            [("linear, temperature: 2.0}", "linear, temperature: 3.0}")],
            "recipe.temperature is 2.0 in the export",
        ),
        ([("seed=1", "seed=9")], "teachers.two.digest is"),
        ([("ensembles:\n  toy", "ensembles:\n  joy")], "is of another configuration: no ensemble 'toy'"),
        ([("default: {", "other: {")], "is of another configuration: ensemble 'toy' has no recipe 'default'"),
    ],
)
def test_an_export_of_another_recipe(configured, made, change, message):
    config = configured(quorum=1, change=[*change])
    stopped = commands.import_export(config, made)
    assert stopped.code == 1
    assert message in stopped.notes[0]
    assert not (made.parent / "cache").exists() or set(_keys(made.parent / "cache")) == set()


def _keys(folder):
    import lmdb  # noqa: PLC0415 - of this test alone

    with lmdb.open(str(folder), max_dbs=2, readonly=True) as environment, environment.begin() as transaction:
        table = environment.open_db(b"values", txn=transaction, create=False)
        return [key for key, _ in transaction.cursor(table)]


def test_a_file_that_is_missing(config, made):
    (made / "part-00002.parquet").unlink()
    assert refused(config, made) == f"{made}/part-00002.parquet is missing: No such file or directory"


def test_a_file_that_was_cut(config, made):
    path = made / "part-00003.parquet"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    assert refused(config, made) == f"{path} has {size - 1} bytes of {size}: it was cut or changed"


@pytest.mark.parametrize("where", [8, 500, -1])
def test_a_file_that_was_changed(config, made, where):
    path = made / "part-00001.parquet"
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    assert refused(config, made) == f"{path} was changed: its digest is of other content"


def test_files_that_changed_places(config, made):
    for old, new in (("00000", "x"), ("00001", "00000"), ("x", "00001")):
        (made / f"part-{old}.parquet").rename(made / f"part-{new}.parquet")
    assert refused(config, made).startswith(f"{made}/part-00000.parquet ")


def test_an_export_that_is_not_finished(config, made):
    whole = Manifest.read(made)
    whole.model_copy(update={"complete": False, "files": whole.files[:2]}).write(made)
    assert refused(config, made) == f"{made} is not finished: 600 of 1000 rows; run its prefill again"
    whole.model_copy(update={"files": whole.files[:2]}).write(made)
    assert "is not finished" in refused(config, made)


def rewritten(folder, change):
    """Change the manifest as whoever means to would: its digest fits."""
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    del document["digest"]
    change(document)
    path.write_text(json.dumps({**document, "digest": fingerprint(document)}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one.update(format="soft-targets-export-9"), "has format 'soft-targets-export-9'; this"),
        (lambda one: one.pop("format"), "has format None; this version reads 'soft-targets-export-1'"),
        (lambda one: one.pop("files"), "is not finished"),
        (lambda one: one.pop("recipe"), "recipe: Field required"),
        (lambda one: one.update(surprise=1), "surprise: Extra inputs are not permitted"),
        (lambda one: one["files"][1].update(first_row=0), "do not follow each other at part-00001.parquet"),
        (lambda one: one["files"][1].update(name="../x"), "do not follow each other at ../x"),
        (lambda one: one["files"].reverse(), "do not follow each other at part-00003.parquet"),
        (lambda one: one.update(row_id="string"), "has 300 rows of"),
    ],
)  # fmt: skip
def test_a_manifest_that_somebody_wrote(config, made, change, message):
    rewritten(made, change)
    assert message in refused(config, made)


@pytest.mark.parametrize("harm", ["cut", "changed", "empty", "a list", "other bytes"])
def test_a_manifest_that_is_damaged(config, made, harm):
    path = made / "manifest.json"
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "changed": content.replace(b'"failed": 1', b'"failed": 0', 1),
            "empty": b"",
            "a list": b"[]",
            "other bytes": b"\xff\x00",
        }[harm]
    )
    said = refused(config, made)
    assert said.startswith(f"{path} ")
    assert ("was changed since it was written" in said) == (harm == "changed")


def test_a_parquet_file_of_other_columns_is_refused_though_the_manifest_names_it(config, made):
    path = made / "part-00000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["digest"]), path)

    def change(document):
        document["files"][0].update(blake3=file_digest(path), size_bytes=path.stat().st_size)

    rewritten(made, change)
    assert f"{path} has 300 rows of ['row_id', 'log_probs'," in refused(config, made)


def test_no_export_at_all(configured, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        stopped = commands.import_export(configured(), folder)
        assert (stopped.code, stopped.notes) == (2, (f"{folder} holds no manifest.json: it is no export",))


def test_a_cache_that_would_lose_it(configured, made):
    stopped = commands.import_export(configured(MEMORY, quorum=1), made)
    assert stopped.code == 2
    assert "is gone when this command ends" in stopped.notes[0]


def test_a_redis_that_is_not_there(configured, made, own_redis):
    stopped = commands.import_export(configured(own_redis().url, quorum=1), made)
    assert stopped.code == 3
    assert " does not answer: no connection" in stopped.notes[0]


def test_a_cache_without_room_is_told(configured, saved, tmp_path):
    assert prefill(configured(MEMORY, name="m.yaml"), saved(rows(25_000)), out=tmp_path / "out").code == 0
    done = commands.import_export(configured(f"lmdb://{tmp_path}/cache?max_bytes=4MiB"), tmp_path / "out")
    assert done.code == 1
    assert "are kept no longer: the cache has no room for all of the data" in done.notes[0]


def test_an_export_may_be_moved(configured, made, tmp_path):
    shutil.move(made, tmp_path / "elsewhere")
    code, said, _ = typed("import", configured(quorum=1), tmp_path / "elsewhere")
    assert code == 0
    assert said.startswith(f"1000 rows of {tmp_path}/elsewhere: 0 were in the cache, 998 are now, ")
