"""Whatever is done to replies on their way: an epoch is whole, in order and right, or ends with an error."""

import itertools
import random

import pytest
from meddler import KINDS, Fault, meddling

from soft_targets import Client, IncompleteStream, ServerUnreachable, SoftTargetsError, servers

BATCHES, ROWS = 3, 40  # 40 rows are three of the server's batches, so a cold reply has three groups
BOUNDARIES = 7  # of a cold reply: schema, dictionary, three groups, the closing batch, the end of the stream
seeds = itertools.count(1000)


@pytest.fixture
def proxy(server):
    with meddling(server.url) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch):
    monkeypatch.setattr(servers, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(servers, "JITTER_S", 0.001)
    monkeypatch.setattr(servers, "LONGEST_WAIT_S", 0.01)


@pytest.fixture
def epoch(toy):
    """Batches that no server has seen."""
    rows = toy.rows(BATCHES * ROWS, seed=next(seeds))
    return [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]


def expected(server, batches, **options):
    """What the server says when nobody is between; its answers are kept, so they are the same bits."""
    with Client(server.url, ensemble="toy", recipe="linear", **options) as client:
        return [contents(client.soft_targets({"pixels": batch})) for batch in batches]


def contents(targets):
    parts = (targets.log_probs, targets.indices, targets.tail_log_mass)
    return [None if part is None else part.tobytes() for part in parts]


def followed(client, batches, **options):
    """An epoch as a student sees it: the place of each batch, and its targets."""
    stream = client.distill(enumerate(batches), inputs=lambda pair: {"pixels": pair[1]}, **options)
    for (place, batch), targets in stream:
        assert batch is batches[place]
        yield place, contents(targets)


def once(fault, number):
    """A plan that does this to the reply of that number."""
    return lambda at, _: fault if at == number else None


def always(fault):
    """A plan that does this to all replies but the first, so that there is an earlier one."""
    return lambda at, _: fault if at else None


@pytest.mark.parametrize("digest_first", ["never", "always"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_at_any_boundary_passes_and_the_epoch_is_whole(server, proxy, toy, kind, digest_first):
    for boundary in range(BOUNDARIES):
        rows = toy.rows(BATCHES * ROWS, seed=next(seeds))
        batches = [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]
        proxy.boundaries.clear()
        proxy.plan = once(Fault(kind, boundary), 1)
        with Client(
            proxy.url, ensemble="toy", recipe="linear", digest_first=digest_first, connections=1
        ) as client:
            seen = list(followed(client, batches))
        assert seen == list(enumerate(expected(server, batches)))
        if digest_first == "never":
            assert proxy.boundaries[1] >= BOUNDARIES - 2  # groups that are ready together are sent so


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_that_stays_ends_the_epoch_with_an_error_or_does_no_harm(server, proxy, epoch, kind):
    whole = list(enumerate(expected(server, epoch)))
    outcomes = set()
    for boundary in range(BOUNDARIES):
        proxy.boundaries.clear()
        proxy.plan = always(Fault(kind, boundary))
        seen = []
        with Client(proxy.url, ensemble="toy", recipe="linear", retry_s=0, connections=1) as client:
            try:
                seen.extend(followed(client, epoch))
            except SoftTargetsError as exc:
                assert seen == whole[: len(seen)]
                assert len(seen) < len(whole)
                outcomes.add(type(exc).__name__)
            else:
                assert seen == whole
                outcomes.add("whole")
    if kind in ("delay", "trickle"):
        assert outcomes == {"whole"}
    else:
        assert outcomes - {"whole"}


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"dtype": "float16"}, {"compression": "zstd"}])
@pytest.mark.parametrize(("prefetch", "digest_first"), [(1, "always"), (4, "never"), (4, "always")])
def test_faults_at_random_in_every_second_reply(server, proxy, toy, prefetch, digest_first, options):  # noqa: PLR0917 - fixtures and cases
    rng = random.Random(f"{prefetch} {digest_first} {options}")
    proxy.plan = lambda _, boundaries: (
        Fault(rng.choice(KINDS), rng.randrange(boundaries)) if rng.random() < 0.5 else None
    )
    rows = toy.rows(12 * 20, seed=next(seeds))
    batches = [rows[start : start + 20] for start in range(0, len(rows), 20)]
    with Client(
        proxy.url, ensemble="toy", recipe="linear", digest_first=digest_first, connections=3, **options
    ) as client:
        for _ in range(2):
            assert list(followed(client, batches, prefetch=prefetch)) == list(
                enumerate(expected(server, batches, **options))
            )
        assert client.stats.retries > 0


def test_another_replica_answers_what_one_leaves_undone(server, proxy, epoch):
    proxy.plan = lambda at, boundaries: Fault("cut", at % boundaries)
    with Client([proxy.url, server.url], ensemble="toy", recipe="linear", connections=2) as client:
        assert list(followed(client, epoch)) == list(enumerate(expected(server, epoch)))


def test_a_connection_that_says_nothing_more_is_given_up(server, proxy, epoch):
    whole = list(enumerate(expected(server, epoch)))
    for boundary in (0, 2):
        proxy.plan = lambda _, __, at=boundary: Fault("hold", at)
        with Client(proxy.url, ensemble="toy", recipe="linear", timeout_s=0.2, retry_s=0) as client:
            with pytest.raises(SoftTargetsError) as caught:
                list(followed(client, epoch))
            assert isinstance(caught.value, ServerUnreachable) == (boundary == 0) or caught.value.row_ids
        proxy.boundaries.clear()
        proxy.plan = lambda at, _, where=boundary: Fault("hold", where) if at == 0 else None
        with Client(proxy.url, ensemble="toy", recipe="linear", timeout_s=0.2, retry_s=30) as client:
            assert list(followed(client, epoch)) == whole


def test_a_fault_that_stays_uses_up_the_patience(proxy, epoch):
    proxy.plan = lambda _, __: Fault("cut", 1)
    with Client(proxy.url, ensemble="toy", recipe="linear", retry_s=0.1, connections=1) as client:
        with pytest.raises(IncompleteStream, match="the answer was cut"):
            list(followed(client, epoch))
        assert client.stats.retries > 0


def test_what_is_missing_is_named_by_the_ids_of_the_data(proxy, epoch):
    proxy.plan = lambda _, __: Fault("drop", 2)
    with Client(proxy.url, ensemble="toy", recipe="linear", retry_s=0) as client:
        stream = client.distill(
            epoch,
            inputs=lambda batch: {"pixels": batch},
            row_ids=lambda batch: [f"row {place}" for place in range(len(batch))],
        )
        with pytest.raises(IncompleteStream, match="missing from a complete answer") as caught:
            list(stream)
    missing = caught.value.row_ids
    assert missing
    assert set(missing) < {f"row {place}" for place in range(ROWS)}
