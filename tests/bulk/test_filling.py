"""A data set into the cache: what counts as done is there, and what is there is not computed again."""

import asyncio
import re
import signal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_runs import WAIT_S, begun, kept, prefill, rows, typed

from service.bulk.filling import Sample
from service.cache.memory import MemoryCache
from service.cache.store import Store
from service.keys import cache_key
from soft_targets import Client

FINGERPRINT = "ab" * 32


@pytest.fixture(params=["lmdb", "redis", "unix"])
def config(request, configured):
    """A cache of each kind, behind the memory that the server has in front of it."""
    if request.param == "lmdb":
        return configured()
    server = request.getfixturevalue("redis_server")
    return configured(server.url if request.param == "redis" else server.unix_url)


def test_every_row_is_kept_and_never_computed_again(config, saved):
    data = saved(rows(3000))
    first = prefill(config, data)
    assert (first.code, first.notes) == (0, ())
    assert first.said.startswith("3000 rows: 0 were in the cache, 3000 are now, 0 failed; ")
    values = asyncio.run(kept(config, data))
    assert None not in values
    second = prefill(config, data)
    assert second.code == 0
    assert second.said.startswith("3000 rows: 3000 were in the cache, 0 are now, 0 failed; ")
    assert asyncio.run(kept(config, data)) == values


def test_a_request_afterwards_is_a_hit_with_the_bytes_of_the_cache(config, start, tmp_path):
    x = rows(200)
    names = [f"row {number}" for number in np.random.default_rng(1).permutation(200)]
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 6)
    pq.write_table(pa.table({"x": column, "row_id": names}), tmp_path / "x.parquet")
    for recipe in ("default", "sparse"):
        assert prefill(config, tmp_path / "x.parquet", recipe=recipe).code == 0
    server = start(config)
    for recipe in ("default", "sparse"):
        values = asyncio.run(kept(config, tmp_path / "x.parquet", recipe=recipe))
        with Client(server.url, ensemble="toy", recipe=recipe) as client:
            targets = client.soft_targets({"x": x})
        assert set(targets.source) == {"hit"}
        columns = [targets.log_probs]
        if recipe == "sparse":
            columns = [targets.indices, targets.log_probs, targets.tail_log_mass]
        for row, value in enumerate(values):
            assert b"".join(column[row].tobytes() for column in columns) == value


def test_a_row_that_stands_in_the_data_twice_is_kept_once(config, saved):
    x = rows(50)
    data = saved(np.concatenate([x, x, x]))
    done = prefill(config, data)
    assert done.code == 0
    values = asyncio.run(kept(config, data))
    assert values[:50] == values[50:100] == values[100:]


def test_rows_without_an_answer_are_counted_and_named_and_stop_nothing(config, saved):
    x = rows(2000)
    x[17, 3] = np.nan
    x[1500, 0] = 1000  # above which teacher one says NaN
    data = saved(x)
    done = prefill(config, data)
    assert done.code == 1
    assert done.said.startswith("2000 rows: 0 were in the cache, 1998 are now, 2 failed; ")
    assert done.notes[0].startswith("row 17: non_finite_input: input 'x' is nan at [3]")
    assert done.notes[1].startswith("row 1500: teacher_invalid: no distribution from teacher 'one'")
    values = asyncio.run(kept(config, data))
    assert [row for row, value in enumerate(values) if value is None] == [17, 1500]
    again = prefill(config, data)
    assert again.code == 1
    assert again.said.startswith("2000 rows: 1998 were in the cache, 0 are now, 2 failed; ")


def test_only_the_first_of_many_failures_are_shown(configured, saved):
    x = rows(100)
    x[:, 2] = np.inf
    done = prefill(configured(), saved(x))
    assert (done.code, len(done.notes)) == (1, 10)
    assert " 0 are now, 100 failed; " in done.said


def test_rows_that_had_to_do_without_a_teacher_are_not_kept(configured, saved):
    x = rows(100)
    x[[3, 50], 0] = 1000
    data = saved(x)
    config = configured(quorum=1)
    done = prefill(config, data)
    assert done.code == 1
    assert done.said.startswith(
        "100 rows: 0 were in the cache, 98 are now, 0 failed, 2 have answers that are not to be kept; "
    )
    values = asyncio.run(kept(config, data))
    assert [row for row, value in enumerate(values) if value is None] == [3, 50]


def test_opinions_arrive_with_the_targets(configured, saved):
    config = configured(change=[("cache: {", "cache: {opinions: float32, ")])
    data = saved(rows(500))
    assert prefill(config, data).code == 0
    other = prefill(config, data, options={"temperature": "7"})
    assert other.code == 0
    assert other.said.startswith("500 rows: 0 were in the cache, 500 are now, 0 failed; ")
    # No teacher was asked: one that answers nothing but NaN makes no difference.
    silent = configured(change=[("cache: {", "cache: {opinions: float32, ")])
    assert prefill(silent, data, options={"temperature": "8", "weights": "two:1"}).code == 0


@pytest.mark.parametrize(
    ("options", "recipe"),
    [
        ({"temperature": "3.5"}, "default"),
        ({"weights": "one:1,two:3"}, "default"),
        ({"top_k": "3"}, "sparse"),
        ({"dtype": "float16"}, "default"),
    ],
)
def test_a_recipe_with_overrides_is_another_one(configured, saved, options, recipe):
    config, data = configured(), saved(rows(100))
    assert prefill(config, data, recipe=recipe).code == 0
    done = prefill(config, data, recipe=recipe, options=options)
    assert done.said.startswith("100 rows: 0 were in the cache, 100 are now, 0 failed; ")
    assert prefill(config, data, recipe=recipe, options=options).said.startswith("100 rows: 100 were in")


def test_data_that_are_wrong_in_the_middle_lose_nothing_before(configured, tmp_path):
    config = configured()
    x = rows(3000).tolist()
    pq.write_table(pa.table({"x": [*x[:2500], None, *x[2501:]]}), tmp_path / "x.parquet")
    stopped = prefill(config, tmp_path / "x.parquet")
    assert stopped.code == 2
    assert stopped.notes[0].startswith(f"{tmp_path}/x.parquet, row 2500, column 'x': it is null")
    assert stopped.notes[1] == "2500 of 3000 rows were done; the same command goes on from there"
    pq.write_table(pa.table({"x": x}), tmp_path / "x.parquet")
    assert prefill(config, tmp_path / "x.parquet").said.startswith(
        "3000 rows: 2500 were in the cache, 500 are"
    )


def test_row_ids_that_stand_twice_are_refused_before_anything_is_computed(configured, tmp_path):
    pq.write_table(pa.table({"x": rows(3000).tolist(), "row_id": [*range(2999), 7]}), tmp_path / "x.parquet")
    stopped = prefill(configured(), tmp_path / "x.parquet")
    assert stopped.code == 2
    assert "row_id 7 stands twice, in" in stopped.notes[0]
    assert len(stopped.notes) == 1


def test_memory_alone_is_refused(configured, saved):
    stopped = prefill(configured("memory://?max_bytes=1MiB"), saved(rows(10)))
    assert stopped.code == 2
    assert "is gone when this command ends; name a folder (lmdb:///...) or Redis" in stopped.notes[0]
    assert "--out DIR" in stopped.notes[0]


def test_an_ensemble_whose_targets_are_never_kept_is_refused_before_a_teacher_is_asked(configured, saved):
    elsewhere = ("fake://?classes=4&features=6&seed=1", "kserve+http://127.0.0.1:9/two")
    stopped = prefill(configured(change=[elsewhere]), saved(rows(10)))
    assert stopped.code == 2
    assert stopped.notes[0].startswith(
        "ensemble 'toy': no target of it is kept in a cache: teacher 'two' has no revision, so nobody knows"
    )


def test_a_folder_without_room_is_told(configured, saved, tmp_path):
    config = configured(f"lmdb://{tmp_path}/cache?max_bytes=4MiB")
    done = prefill(config, saved(rows(25_000)))
    assert done.code == 1
    found = re.match(
        r"of (\d+) rows that were looked up again at the end, (\d+) are kept no longer", done.notes[-1]
    )
    assert int(found[1]) == 1024
    assert 0 < int(found[2]) <= 1024


def watched(redis):
    """A view of what a Redis is told, that waits for it as long as a process takes to start."""
    return redis.client(socket_timeout=WAIT_S).monitor()


def after(monitor, count):
    """Wait until Redis has been given so many values."""
    for command in monitor.listen():
        count -= command["command"].startswith("SET ")
        if not count:
            return


@pytest.mark.parametrize("count", [1, 1500, 2999])
def test_killed_at_any_time_it_goes_on_where_it_was(configured, saved, redis_server, count):
    config, data = configured(redis_server.url), saved(rows(3000))
    with watched(redis_server) as monitor, begun("prefill", config, data) as process:
        after(monitor, count)
        process.kill()
    code, said, _ = typed("prefill", config, data)
    assert code == 0
    there = int(re.match(r"3000 rows: (\d+) were in the cache", said)[1])
    assert there >= count
    assert said.startswith(f"3000 rows: {there} were in the cache, {3000 - there} are now, 0 failed; ")
    assert None not in asyncio.run(kept(config, data))


KILL_AT_BATCH = """
import os, signal
from service.teachers.fake import FakeTeacher
answer, asked = FakeTeacher.answer, []
def counted(self, inputs):
    asked.append(self.name)
    if len(asked) == 1000:  # two teachers, sixteen rows: more rows than are on their way at a time
        os.kill(os.getpid(), signal.SIGKILL)
    return answer(self, inputs)
FakeTeacher.answer = counted
"""


def test_killed_over_a_folder_it_goes_on_where_it_was(configured, saved):
    config, data = configured(), saved(rows(10_000))
    code, _, _ = typed("prefill", config, data, first=KILL_AT_BATCH)
    assert code == -signal.SIGKILL
    before = [value is not None for value in asyncio.run(kept(config, data))]
    assert 0 < sum(before) < 10_000
    done = prefill(config, data)
    assert done.said.startswith(
        f"10000 rows: {sum(before)} were in the cache, {10_000 - sum(before)} are now, "
    )


def test_a_redis_that_is_not_there(configured, saved, own_redis):
    stopped = prefill(configured(own_redis().url), saved(rows(10)))
    assert stopped.code == 3
    assert " does not answer: no connection" in stopped.notes[0]
    assert len(stopped.notes) == 1


def test_a_redis_that_goes_away_meanwhile(configured, saved, own_redis):
    redis = own_redis().start()
    config, data = configured(redis.url), saved(rows(3000))
    with watched(redis) as monitor, begun("prefill", config, data) as process:
        after(monitor, 1500)
        redis.stop()
        said, noted = process.communicate(timeout=WAIT_S)
    assert (process.returncode, said) == (3, "")
    assert re.search(r"\d+ values did not arrive in the cache: the cache at .* does not answer", noted)
    found = re.search(r"(\d+) of 3000 rows were done; the same command goes on from there", noted)
    assert found is None or int(found[1]) <= 2048
    redis.start()
    assert prefill(config, data).said.startswith("3000 rows: 0 were in the cache, 3000 are now, 0 failed")


def test_a_redis_that_answers_again_in_time_is_given_all_that_it_missed(configured, saved, own_redis):
    redis = own_redis().start()
    config = configured(redis.url, change=[("retry_s: 0.05", "retry_s: 10")])
    data = saved(rows(3000))
    with watched(redis) as monitor, begun("prefill", config, data) as process:
        after(monitor, 1500)
        redis.freeze()
        for line in process.stderr:
            if "the cache does not answer" in line:
                break
        redis.thaw()
        said, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert said.startswith("3000 rows: 0 were in the cache, 3000 are now, 0 failed; ")
    with redis.client() as client:
        assert client.dbsize() == 3000


def test_a_redis_that_is_full(configured, saved, own_redis):
    redis = own_redis("--maxmemory", "3mb", "--maxmemory-policy", "noeviction").start()
    stopped = prefill(configured(redis.url), saved(rows(20_000)))
    assert stopped.code == 3
    assert "values did not arrive in the cache: the cache at" in stopped.notes[0]
    assert "keeps nothing new: OOM command not allowed" in stopped.notes[0]


def test_a_redis_that_evicts_is_told(configured, saved, own_redis):
    redis = own_redis("--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru").start()
    done = prefill(configured(redis.url), saved(rows(25_000)))
    assert done.code == 1
    assert "are kept no longer: the cache has no room for all of the data" in done.notes[-1]


async def test_a_sample_is_of_distinct_rows_whatever_their_order():
    random = np.random.default_rng(0)
    digests = [random.bytes(32) for _ in range(500)]
    smallest = sorted(digests)[:20]
    for order in (digests, digests[::-1], [*digests, *digests]):
        sample = Sample(20)
        sample.add(order)
        store = Store(MemoryCache(max_bytes=1 << 20, ttl_s=60))
        store.put_many({cache_key(FINGERPRINT, digest): b"v" for digest in smallest})
        assert not await sample.gone(store, FINGERPRINT)
        store = Store(MemoryCache(max_bytes=1 << 20, ttl_s=60))
        store.put_many({cache_key(FINGERPRINT, digest): b"v" for digest in smallest[:12]})
        assert (await sample.gone(store, FINGERPRINT)).startswith("of 20 rows that were looked up again")
        assert " 8 are kept no longer" in await sample.gone(store, FINGERPRINT)


def test_interrupted_it_says_how_far_it_is(configured, saved, redis_server):
    config, data = configured(redis_server.url), saved(rows(50_000))
    with watched(redis_server) as monitor, begun("prefill", config, data) as process:
        after(monitor, 10_000)  # more than are on their way at a time
        process.send_signal(signal.SIGINT)
        said, noted = process.communicate(timeout=WAIT_S)
    assert (process.returncode, said) == (130, "")
    assert "soft-targets: interrupted\n" in noted
    done = int(re.search(r"(\d+) of 50000 rows were done; the same command goes on from there", noted)[1])
    with redis_server.client() as client:
        assert done <= client.dbsize() < 50_000
    assert "Traceback" not in noted
