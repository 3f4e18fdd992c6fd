"""Between a student's loop and a real server: whatever goes wrong on the way, an epoch is whole or it raises.

The proxy cuts, drops, doubles, exchanges, delays and garbles replies at every boundary of their messages.
What the loop is handed is held, bit for bit and in order, against what an undisturbed loop is handed.
"""

import itertools
import random
import threading
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from meddling import AT_BOUNDARIES, BODIES, FAULTS, Fault, Meddler

from soft_targets import Client, IncompleteStream, SoftTargetsError, servers

PATIENCE_S = 60.0  # longer than any loop here takes; after it a test fails rather than hang
# Nothing is kept, and batches are of four rows: each reply is computed, and is several record batches. The
# fake teachers answer a row with the same bits whatever is beside it.
CONFIG = """\
server: {port: 0}
limits: {max_rows_per_request: 12}
cache: {url: "memory://?max_bytes=1"}
ensembles:
  toy:
    inputs: {pixels: {dtype: float32, shape: [6]}}
    classes: [ant, bee, cat, dog]
    teachers:
      - {name: one, model: "fake://?classes=4&features=6&seed=1&delay_ms=1", inputs: {x: pixels},
         output: {kind: logits}}
      - {name: two, model: "fake://?classes=4&features=6&seed=2", inputs: {x: pixels}, output: {kind: logits}}
    batching: {max_rows: 4, in_flight: 1, threads: 1}
    recipes:
      default: {operator: linear, temperature: 2.0}
      sparse: {operator: linear, temperature: 2.0, sparsity: {top_k: 2}}
"""
SIZES = (12, 24, 11, 9, 10)  # rows of the batches of an epoch; the second takes two requests
# Of a reply of three batches: schema, sources, three batches, the closing batch, the stream's end.
LAST_LOSS, BOUNDARIES = 5, 8
SENDS_LESS = ("end", "end of stream", "end inside", "cut", "cut inside", "drop", "garble", "reset", "hold")
ANSWERS_NOTHING = ("gone", "busy", "no upstream", "no http", "no chunk")
TAKES_TIME = "hold"  # until the client gives up


@pytest.fixture(scope="module")
def computing(start, tmp_path_factory):
    """A server that computes every row anew, in batches of four."""
    config = tmp_path_factory.mktemp("faults") / "c.yaml"
    config.write_text(CONFIG)
    return start(config)


@pytest.fixture(scope="module")
def proxy(computing):
    with Meddler(computing.url) as running:
        yield running


@pytest.fixture(scope="module")
def keeping_proxy(server):
    """In front of the toy ensemble's server, which keeps its answers and sends them with their length."""
    with Meddler(server.url) as running:
        yield running


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    """Thousands of requests are sent again here, and how long is waited before is not the matter."""
    for name in ("FIRST_REST_S", "LONGEST_WAIT_S", "JITTER_S"):
        monkeypatch.setattr(servers, name, 0.001)


class Epoch(NamedTuple):
    """What a loop was handed, batch by batch, and what it raised in the end, if anything."""

    handed: list[tuple[int, tuple[object, ...]]]
    error: SoftTargetsError | None


def batches_of(seed, sizes=SIZES):
    """Batches with their numbers, all of their rows different."""
    numbers = np.random.default_rng(seed)
    return [(number, numbers.normal(size=(rows, 6)).astype(np.float32)) for number, rows in enumerate(sizes)]


def bits(targets):
    arrays = (targets.log_probs, targets.indices, targets.tail_log_mass)
    return (
        targets.row_ids,
        targets.fingerprint,
        targets.temperature,
        *(None if array is None else (array.dtype.str, array.shape, array.tobytes()) for array in arrays),
    )


def distilled(client, batches, prefetch=4):
    return client.distill(
        batches,
        inputs=lambda batch: {"pixels": batch[1]},
        row_ids=lambda batch: [f"{batch[0]}/{row}" for row in range(len(batch[1]))],
        prefetch=prefetch,
    )


def ended(work):
    """What it returns, which it does before long."""
    result = Future()

    def run():
        try:
            result.set_result(work())
        except BaseException as exc:  # noqa: BLE001 - whatever it is, the test has to see it
            result.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return result.result(timeout=PATIENCE_S)


def epoch(urls, batches, *, prefetch=4, **options):
    """Once through a loop of a new client."""

    def loop():
        handed = []
        with Client(urls, ensemble="toy", **options) as client:
            try:
                for batch, targets in distilled(client, batches, prefetch):
                    assert batch is batches[batch[0]]
                    handed.append((batch[0], bits(targets)))
            except SoftTargetsError as exc:
                return Epoch(handed, exc)
        return Epoch(handed, None)

    return ended(loop)


def undisturbed(url, batches, **options):
    """The truth: every batch, in order, and no two rows alike, so that a row out of place is seen."""
    whole = epoch(url, batches, **options)
    assert whole.error is None
    assert [number for number, _ in whole.handed] == list(range(len(batches)))
    values = [values for _, (_, _, _, values, *_) in whole.handed]
    rows = {bytes(row) for dtype, shape, data in values for row in np.frombuffer(data, dtype).reshape(shape)}
    assert len(rows) == sum(len(batch) for _, batch in batches)
    return whole


def first_times(faults, times=1):
    """Each question for targets meets one of the faults, the first times it is asked."""

    def meddle(asked):
        if asked.method == "POST" and asked.tries < times:
            return faults[asked.number % len(faults)]
        return None

    return meddle


def visited(proxy, faults, at_once, run):
    """Epochs with so many faults at once, until each fault was where it should be."""
    shuffled, left = np.random.default_rng(0), list(faults)
    for _ in range(3 * len(faults) // at_once):
        proxy.begin(first_times(left[:at_once]))
        run(f"{left[:at_once]}, of which there were {proxy.done}")
        left = [left[i] for i in shuffled.permutation(len(left)) if left[i] not in set(proxy.done)]
        if not left:
            return
    raise AssertionError(f"these could not be brought about: {left}")


def everything(boundaries):
    """Every fault that a reply may have by itself, at every boundary."""
    return [
        Fault(kind, place)
        for kind in FAULTS
        if kind not in {"exchange", "garble", TAKES_TIME}
        for place in range(boundaries if kind in AT_BOUNDARIES else 1)
    ]


def at_random(seed, *chances):
    """The first time a question is asked, and the times after it, it meets a fault with these chances."""
    faults = everything(BOUNDARIES)

    def meddle(asked):
        dice = random.Random(f"{seed} {asked.number} {asked.tries}")
        if asked.method == "POST" and asked.tries < len(chances) and dice.random() < chances[asked.tries]:
            return dice.choice(faults)
        return None

    return meddle


# ------------------------------------------------------------------------------------------- the proxy itself


def test_without_faults_the_proxy_is_not_noticed(computing, proxy):
    batches = batches_of(0)
    proxy.begin()
    assert epoch(proxy.url, batches) == undisturbed(computing.url, batches)
    assert len(proxy.replies) == 6
    assert BOUNDARIES - 1 in {len(reply.messages) for reply in proxy.replies}
    assert any(reply.chunked for reply in proxy.replies)
    assert proxy.done == []


@pytest.mark.parametrize("kind", ["end", "drop", "double", "swap", "splice", "insert"])
def test_who_reads_without_care_gets_other_targets_and_no_error(proxy, kind):
    proxy.begin()
    epoch(proxy.url, batches_of(0))
    reply, other = sorted((one.messages for one in proxy.replies), key=len)[-2:]

    def carelessly(messages):
        try:
            table = pa.ipc.open_stream(b"".join(messages)).read_all()
        except (pa.ArrowException, OSError):
            return None
        return table["log_probs"].combine_chunks().flatten().to_pylist()

    honest = carelessly(reply)
    read = [carelessly(BODIES[kind]((*reply, b""), at, other)) for at in range(len(reply))]
    assert [one for one in read if one not in (None, honest)]


# ------------------------------------------------------------------------------------------------ what passes


@pytest.mark.parametrize("digest_first", ["never", "always"])
@pytest.mark.parametrize("prefetch", [1, 4])
@pytest.mark.parametrize("recipe", ["default", "sparse"])
def test_every_fault_once_at_every_boundary(computing, proxy, recipe, prefetch, digest_first):
    batches = batches_of(1)
    options = {"recipe": recipe, "prefetch": prefetch, "digest_first": digest_first}
    whole = undisturbed(computing.url, batches, **options)

    def run(faults):
        assert epoch(proxy.url, batches, **options) == whole, faults

    visited(proxy, everything(BOUNDARIES), 12 if digest_first == "always" else 6, run)


@pytest.mark.parametrize("recipe", ["default", "sparse"])
def test_every_fault_once_while_half_the_rows_are_known(server, keeping_proxy, recipe):
    seeds = itertools.count(100)

    def run(faults):
        batches = batches_of(next(seeds))
        with Client(server.url, ensemble="toy", recipe=recipe) as client:
            for _, rows in batches:
                client.soft_targets({"pixels": rows[::2]})
        disturbed = epoch(keeping_proxy.url, batches, recipe=recipe, digest_first="always")
        assert disturbed == undisturbed(server.url, batches, recipe=recipe), faults

    visited(keeping_proxy, everything(BOUNDARIES - 2), 10, run)


@pytest.mark.parametrize("seed", range(12))
def test_many_faults_at_random(computing, proxy, seed):
    dice = random.Random(seed)
    options = {
        "recipe": dice.choice(["default", "sparse"]),
        "prefetch": dice.choice([1, 2, 8]),
        "connections": dice.choice([2, 3]),
        "digest_first": dice.choice(["never", "always", "auto"]),
        "dtype": dice.choice(["float32", "float16"]),
        "compression": dice.choice([None, "zstd", "lz4"]),
    }
    batches = batches_of(seed, [dice.randint(1, 30) for _ in range(6)])
    whole = undisturbed(computing.url, batches, **options)
    proxy.begin(at_random(seed, 0.8, 0.4))
    assert epoch(proxy.url, batches, **options) == whole, proxy.done
    assert proxy.done


@pytest.mark.parametrize("digest_first", ["never", "always"])
def test_replies_under_way_change_places(computing, proxy, digest_first):
    batches = batches_of(3, [12] * 10)
    options = {"digest_first": digest_first, "connections": 3}
    whole = undisturbed(computing.url, batches, **options)
    proxy.begin(first_times([Fault("exchange")]))
    assert epoch(proxy.url, batches, **options) == whole
    assert len(proxy.done) >= 2


def test_an_answer_too_many_on_the_only_connection(computing, proxy):
    batches = batches_of(4, [12] * 40)
    whole = undisturbed(computing.url, batches, connections=1)
    proxy.begin(lambda asked: Fault("one too many") if asked == ("POST", 3, 0) else None)
    assert epoch(proxy.url, batches, connections=1) == whole
    assert proxy.done == [Fault("one too many")]


def test_messages_that_are_garbled(computing, proxy):
    batches = batches_of(12)
    whole = undisturbed(computing.url, batches)

    def run(faults):
        assert epoch(proxy.url, batches) == whole, faults

    visited(proxy, [Fault("garble", place) for place in range(LAST_LOSS + 1)], 3, run)


def test_answers_that_stop_on_the_way_without_an_end(computing, proxy):
    batches = batches_of(5)
    whole = undisturbed(computing.url, batches)

    def run(faults):
        assert epoch(proxy.url, batches, timeout_s=0.5, connections=6) == whole, faults

    visited(proxy, [Fault(TAKES_TIME, place) for place in range(LAST_LOSS + 1)], 6, run)


@pytest.mark.parametrize("kind", [*ANSWERS_NOTHING, "cut", "cut inside", "reset"])
def test_the_description_comes_late(computing, proxy, kind):
    batches = batches_of(6)
    whole = undisturbed(computing.url, batches)
    proxy.begin(lambda asked: Fault(kind) if asked.method == "GET" and asked.tries < 2 else None)
    assert epoch(proxy.url, batches) == whole
    assert len(proxy.done) == 2


def test_several_epochs_of_one_client(computing, proxy):
    batches = batches_of(7)
    whole = undisturbed(computing.url, batches).handed
    proxy.begin(at_random(7, 0.15))

    def loop():
        with Client(proxy.url, ensemble="toy") as client:
            stream = distilled(client, batches)
            return [[(batch[0], bits(targets)) for batch, targets in stream] for _ in range(12)]

    assert ended(loop) == [whole] * 12
    assert len(proxy.done) > 5


def test_a_loop_that_is_left_goes_on_where_it_stood(computing, proxy):
    batches = batches_of(8, [12] * 8)
    whole = undisturbed(computing.url, batches).handed
    faults = everything(BOUNDARIES)

    def loop():
        state, handed = None, []
        for stop in (3, 5, None):
            proxy.begin(first_times(faults[len(handed) :: 7]))
            with Client(proxy.url, ensemble="toy") as client:
                stream = distilled(client, batches)
                if state is not None:
                    stream.load_state_dict(state)
                for batch, targets in stream:
                    handed.append((batch[0], bits(targets)))
                    state = stream.state_dict()
                    if len(handed) == stop:
                        break
        return handed

    assert ended(loop) == whole


# ----------------------------------------------------------------------------------------- what does not pass


def staying(fault, *, since=0, method="POST"):
    """The fault meets every question from one on, however often it is asked."""
    return lambda asked: fault if asked.method == method and asked.number >= since else None


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_that_stays_ends_the_loop_or_changes_nothing(computing, proxy, kind):
    batches = batches_of(9)
    whole = undisturbed(computing.url, batches)
    options = {"prefetch": 4, "connections": 3} if kind == "exchange" else {"prefetch": 1, "connections": 1}
    options["timeout_s"] = 1.0 if kind == TAKES_TIME else 30
    for place in (0, 2, 4) if kind == TAKES_TIME else range(BOUNDARIES if kind in AT_BOUNDARIES else 1):
        proxy.begin(staying(Fault(kind, place), since=place % 4))
        got = epoch(proxy.url, batches, retry_s=0, **options)
        assert got == whole or got.error is not None, (kind, place)
        assert got.handed == whole.handed[: len(got.handed)], (kind, place)
        closing = min(len(reply.messages) for reply in proxy.replies) - 2
        if (kind in SENDS_LESS and place <= closing) or kind in ANSWERS_NOTHING:
            assert got.error is not None, (kind, place)
        assert proxy.done, (kind, place)


@pytest.mark.parametrize("kind", [kind for kind in FAULTS if kind != "exchange"])
def test_a_fault_that_stays_at_one_of_two_addresses(computing, proxy, kind):
    batches = batches_of(10)
    whole = undisturbed(computing.url, batches)
    urls, timeout_s = [proxy.url, computing.url], 0.5 if kind == TAKES_TIME else 30
    for place in (0, 3) if kind in AT_BOUNDARIES else (0,):
        proxy.begin(staying(Fault(kind, place)))
        assert epoch(urls, batches, timeout_s=timeout_s) == whole, (kind, place)
        assert proxy.done, (kind, place)


@pytest.mark.parametrize("kind", [*ANSWERS_NOTHING, "cut", "reset"])
def test_one_of_two_addresses_does_not_describe_itself(computing, proxy, kind):
    batches = batches_of(11)
    whole = undisturbed(computing.url, batches)
    proxy.begin(staying(Fault(kind), method="GET"))
    assert epoch([proxy.url, computing.url], batches) == whole
    assert proxy.done


def test_the_rows_that_are_missing_are_named_as_the_data_names_them(proxy):
    proxy.begin(staying(Fault("drop", 2)))
    got = epoch(proxy.url, batches_of(13), prefetch=1, retry_s=0)
    assert isinstance(got.error, IncompleteStream)
    assert got.error.row_ids[0] == "0/0"
    assert set(got.error.row_ids) <= {f"0/{row}" for row in range(SIZES[0])}
