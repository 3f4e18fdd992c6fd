"""An ensemble with a teacher elsewhere: fused with the others, cached by its revision, and done without."""

import asyncio
import threading

import inference_server as fake
import numpy as np
import pytest
import teachers as models
from inference_server import InferenceServer, Model

from service.checking import check_config, document, shown
from service.config import load
from service.engine import absence
from service.engine.engine import Engine
from service.engine.ensemble import Overrides
from service.errors import NotReady, TeacherError, TeacherUnreachable
from service.keys import cache_key
from soft_targets.wire import row_digests

CONFIG = """\
limits: {request_timeout_s: 60}
ensembles:
  toy:
    inputs: {x: {dtype: float32, shape: [4]}}
    classes: [a, b, c]
    quorum: 1
    teacher_timeout_s: 20
    batching: {max_rows: 8}
    teachers:
      - {name: far, model: "FAR", output: {kind: logits}, weight: 3, revision: r1, retries: 0}
      - {name: near, model: "fake://?classes=3&features=4&seed=1", output: {kind: logits}}
    recipes:
      default: {operator: linear}
      near: {operator: linear, weights: {near: 1}}
      warm: {operator: linear, temperature: 2}
"""
ALL = ("quorum: 1", "quorum: all")
NAMELESS = (", revision: r1", "")
WEIGHT = np.random.default_rng(5).normal(size=(4, 3))
NEAR = np.random.default_rng(1).normal(size=(4, 3))


def logits(rows):
    with np.errstate(invalid="ignore"):
        return rows.astype(np.float64) @ WEIGHT


def honest(given):
    return {"p": logits(given["x"])}


def model(answer=honest, *, inputs=(("x", "FP32", [-1, 4]),), classes=3):
    return Model(list(inputs), [("p", "FP32", [-1, classes])], answer)


@pytest.fixture
def server():
    with InferenceServer({"m": model()}) as running:
        yield running


@pytest.fixture
async def opened(tmp_path, server):
    engines = []

    def read(*edits):
        text = CONFIG.replace("FAR", server.address("m"))
        for old, new in edits:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "c.yaml").write_text(text)
        engines.append(Engine.open(load(tmp_path / "c.yaml")))
        return engines[-1]

    read.path = tmp_path / "c.yaml"
    yield read
    for engine in engines:
        await engine.close()


def rows_of(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


def reference(rows, weights=(0.75, 0.25), far=logits, temperature=1.0):
    both = np.stack([far(rows), rows.astype(np.float64) @ NEAR]) / temperature
    return np.tensordot(weights, np.exp(models.log_softmax(both)), axes=1)


async def ask(engine, rows, recipe="default", **overrides):
    """A list of (source, probabilities or None, failure, missing)."""
    toy = engine.ensemble("toy")
    found = {}
    async for group in engine.answer(toy, toy.effective(recipe, Overrides(**overrides)), {"x": rows}):
        for row, source, value, failure, missing in zip(*group, strict=True):
            assert row not in found
            values = None if value is None else np.exp(np.frombuffer(value, "<f4").astype(np.float64))
            found[row] = source, values, failure, missing
    return [found[row] for row in range(len(rows))]


def close_to(found, expected):
    np.testing.assert_allclose([values for _, values, _, _ in found], expected, atol=1e-5)


def fingerprint(engine, recipe="default"):
    return engine.ensemble("toy").effective(recipe, Overrides()).fingerprint


# ---- fused


async def test_it_is_fused_with_the_others_and_never_in_a_graph(opened):
    engine, rows = opened(), rows_of(20)
    close_to(await ask(engine, rows), reference(rows))
    close_to(await ask(engine, rows, temperature=3.0), reference(rows, temperature=3.0))
    close_to(await ask(engine, rows, weights={"far": 1}), reference(rows, (1, 0)))
    plans = engine.ensemble("toy").plans.report()
    assert {(plan["plan"], plan["reason"]) for plan in plans} == {
        ("split", "teacher 'far' answers from elsewhere")
    }
    assert all(plan["spread"] <= 1e-6 for plan in plans)


@pytest.mark.parametrize("kind", ["logits", "log_probs", "probs"])
async def test_of_every_kind_aligned_and_calibrated(opened, server, kind):
    def five(rows):
        return np.stack([*(rows.astype(np.float64) @ WEIGHT).T, rows[:, 0] * 0.5, rows[:, 1] * 0.5], axis=1)

    def answer(given):
        log_probs = models.log_softmax(five(given["rows"]))
        said = {"logits": five(given["rows"]), "log_probs": log_probs, "probs": np.exp(log_probs)}
        return {"p": said[kind]}

    server.models["m"] = model(answer, inputs=[("rows", "FP32", [-1, 4])], classes=5)
    classes = "[c, {puma: a}, {lion: a}, {blank: null}, b]"
    section = f"{{kind: {kind}}}, weight: 3, temperature: 2, inputs: {{rows: x}}, classes: {classes}"
    engine = opened(("{kind: logits}, weight: 3", section))
    rows = rows_of(12)

    def aligned(rows):
        own = np.exp(models.log_softmax(models.log_softmax(five(rows)) / 2))
        kept = np.stack([own[:, 1] + own[:, 2], own[:, 4], own[:, 0]], axis=1)
        return np.log(kept / kept.sum(axis=1, keepdims=True))

    close_to(await ask(engine, rows), reference(rows, far=aligned))


async def test_rows_are_cast_to_what_it_takes_and_one_that_cannot_be_is_not_sent_as_another(opened, server):
    server.models["m"] = model(inputs=[("x", "FP16", [-1, 4])])
    engine, rows = opened(ALL), rows_of(3).astype(np.float16).astype(np.float32)
    rows[1, 0] = 70_000  # beyond float16
    found = await ask(engine, rows)
    assert [failure and failure.code for _, _, failure, _ in found] == [None, "teacher_invalid", None]
    close_to([found[0], found[2]], reference(rows[[0, 2]]))


async def test_a_row_it_says_nothing_sound_of_fails_alone_by_its_name(opened, server):
    def moody(given):
        found = logits(given["x"])
        found[given["x"][:, 0] > 100] = np.nan
        return {"p": found}

    server.models["m"] = model(moody)
    engine, rows = opened(ALL), rows_of(4)
    rows[2, 0] = 500
    found = await ask(engine, rows)
    assert [source for source, *_ in found] == ["miss", "miss", "error", "miss"]
    assert found[2][2].code == "teacher_invalid"
    assert "no distribution from teacher 'far'" in found[2][2].message


# ---- what does not fit


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([("x", "FP32", [-1, 5])], "takes rows of shape [5], the ensemble gives [4]"),
        ([("x", "FP32", [-1, 2, 2])], "takes rows of shape [2, 2], the ensemble gives [4]"),
        ([("x", "INT32", [-1, 4])], "takes <i4, but the ensemble's <f4 cannot become that"),
        ([("x", "BYTES", [-1])], "takes rows of shape []"),
        ([("x", "FP32", [-1, 4]), ("mask", "BOOL", [-1])], "its input 'mask' is fed from 'mask'"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_at_start(opened, server, inputs, said):
    server.models["m"] = model(inputs=inputs)
    with pytest.raises(TeacherError) as caught:
        opened()
    assert "ensemble 'toy': teacher 'far': " in str(caught.value)
    assert said in str(caught.value)


def five_classes(given):
    return {"p": np.zeros((len(given["x"]), 5))}


def a_few_at_most(given):
    if len(given["x"]) > 8:
        raise fake.Refused(400, "the batch must be 8 at most")
    return honest(given)


def by_the_batch(given):
    return {"p": logits(given["x"]) * (1 + 1e-3 * (len(given["x"]) > 4))}


def by_the_neighbours(given):
    return {"p": logits(given["x"]) - logits(given["x"]).mean(axis=0) * len(given["x"])}


@pytest.mark.parametrize(
    ("answer", "classes", "said"),
    [
        (five_classes, 5, "answers 5 classes, but 3 are named for it"),
        (lambda given: {"p": logits(given["x"])[:1]}, 3, "answered 4 rows with shape [1, 3]"),
        (a_few_at_most, 3, "the batch must be 8 at most; it was sent up to batching.max_rows (16) rows"),
        (by_the_batch, 3, "nats between batch sizes as teacher 'far' answers them"),
        (by_the_neighbours, 3, "answers a row differently alone and beside others"),
    ],
)
def test_answers_that_cannot_be_used_are_refused_at_start(opened, server, answer, classes, said):
    server.models["m"] = model(answer, classes=classes)
    with pytest.raises(TeacherError) as caught:
        opened(("max_rows: 8", "max_rows: 16"))
    assert "'far'" in str(caught.value)
    assert said in str(caught.value)


def test_another_kind_than_is_said_is_refused_at_start(opened):
    with pytest.raises(TeacherError, match="is no distribution of kind 'probs'; say what it holds"):
        opened(("{kind: logits}, weight", "{kind: probs}, weight"))


async def test_what_is_asked_at_start_is_a_few_rows_and_a_whole_batch_whatever_the_recipes(opened, server):
    opened()
    sizes = [one.message["inputs"][0]["shape"][0] for one in server.infers()]
    assert max(sizes) == 8
    assert len(sizes) < 20


# ---- kept


async def test_with_a_revision_rows_are_kept_bit_for_bit(opened, server):
    engine, rows = opened(), rows_of(10)
    assert {source for source, *_ in await ask(engine, rows)} == {"miss"}
    asked = len(server.infers())
    assert {source for source, *_ in await ask(engine, rows[::-1])} == {"hit"}
    assert len(server.infers()) == asked


async def test_without_a_revision_nothing_is_kept(opened, server):
    engine, rows = opened(NAMELESS), rows_of(10)
    toy = engine.ensemble("toy")
    for _ in range(2):
        asked = len(server.infers())
        found = await ask(engine, rows)
        assert {source for source, *_ in found} == {"miss"}
        assert len(server.infers()) > asked
        close_to(found, reference(rows))
    digests = row_digests({"x": rows}, toy.inputs)
    groups = engine.recall(toy, toy.effective("default", Overrides()), digests)
    assert [source async for group in groups for source in group.sources] == ["absent"] * 10
    assert "teacher 'far' has no revision" in toy.config.not_cached
    assert engine.check_ready() == []
    known = toy.effective("default", Overrides())
    keys = [cache_key(known.fingerprint, digest) for digest in digests]
    assert await engine.cache.get_many(keys) == [None] * 10
    engine.cache.put_many(dict.fromkeys(keys, bytes(known.layout.row_bytes)))
    assert {source for source, *_ in await ask(engine, rows)} == {"miss"}


@pytest.mark.parametrize("kept", [True, False])
async def test_opinions_are_kept_as_targets_are(opened, server, kept):
    engine = opened(("limits:", "cache: {opinions: float32}\nlimits:"), *([] if kept else [NAMELESS]))
    rows = rows_of(10)
    await ask(engine, rows)
    asked = len(server.infers())
    found = await ask(engine, rows, "warm")
    assert {source for source, *_ in found} == {"opinions" if kept else "miss"}
    assert (len(server.infers()) == asked) == kept
    close_to(found, reference(rows, temperature=2))
    toy = engine.ensemble("toy")
    keys = [cache_key(toy.opinions_fingerprint, digest) for digest in row_digests({"x": rows}, toy.inputs)]
    assert (await engine.cache.get_many(keys) == [None] * 10) != kept
    engine.cache.put_many(dict.fromkeys(keys, np.full((2, 3), np.log(1 / 3), "<f4").tobytes()))
    found = await ask(engine, rows, temperature=3.0)
    assert {source for source, *_ in found} == {"opinions" if kept else "miss"}


async def test_its_revision_makes_the_fingerprint_and_its_place_does_not(opened, server):
    first = fingerprint(opened())
    with InferenceServer(server.models) as elsewhere:
        assert fingerprint(opened((server.address("m"), elsewhere.address("m")))) == first
    assert fingerprint(opened(("revision: r1", "revision: r2"))) != first
    assert fingerprint(opened(("revision: r1", "revision: r1, parameters: {deep: true}"))) != first
    assert fingerprint(opened(("revision: r1", "revision: r1, timeout_s: 3"))) == first


# ---- done without


async def test_with_a_quorum_it_is_done_without_marked_and_never_kept_until_it_is_back(opened, server):
    engine, rows = opened(), rows_of(10)
    server.away()
    for _ in range(2):
        found = await ask(engine, rows)
        assert {(source, missing) for source, _, _, missing in found} == {("miss", ("far",))}
        close_to(found, reference(rows, (0, 1)))
    with server:
        found = await ask(engine, rows)
        assert {(source, missing) for source, _, _, missing in found} == {("miss", ())}
        close_to(found, reference(rows))
        assert {source for source, *_ in await ask(engine, rows)} == {"hit"}


async def test_with_all_its_rows_fail_by_its_name_and_readiness_says_so(opened, server):
    engine = opened(ALL)
    server.always = fake.status(500, "out of memory")
    for seed in range(6):
        found = await ask(engine, rows_of(3, seed))
        assert {(failure.code, failure.message) for _, _, failure, _ in found} == {
            ("teacher_failed", "teacher 'far' failed: it answers HTTP 500: out of memory")
        }
    with pytest.raises(NotReady, match=r"'far' says nothing of 100% of the rows .* quorum cannot be met"):
        engine.check_ready()
    close_to(await ask(engine, rows_of(3), "near"), reference(rows_of(3), (0, 1)))
    server.always = None
    for seed in range(12):
        close_to(await ask(engine, rows_of(3, 10 + seed)), reference(rows_of(3, 10 + seed)))
    assert engine.check_ready() == []


async def test_with_a_quorum_readiness_tells_of_it_and_stays(opened, server):
    engine = opened()
    server.always = fake.status(503)
    for seed in range(6):
        await ask(engine, rows_of(3, seed))
    (told,) = engine.check_ready()
    assert told == "ensemble 'toy': teacher 'far' says nothing of 100% of the rows of its last batches"


async def test_one_that_hangs_holds_others_up_once(opened, server):
    engine = opened(("teacher_timeout_s: 20", "teacher_timeout_s: 0.3"))
    server.always = fake.never
    asked = len(server.infers())
    for seed in range(5):
        found = await ask(engine, rows_of(2, seed))
        assert {missing for *_, missing in found} == {("far",)}
    assert len(server.infers()) == asked + 1


async def test_a_row_that_is_late_for_its_request_is_kept_for_the_next(opened, server):
    engine, rows = opened(("request_timeout_s: 60", "request_timeout_s: 0.2")), rows_of(2)
    heard, after = threading.Event(), threading.Event()
    server.told.append(fake.late(heard, after))
    found = await ask(engine, rows)
    assert {failure.code for _, _, failure, _ in found} == {"deadline_exceeded"}
    assert heard.is_set()
    after.set()
    engine._answering._timeout_s = 60
    found = await ask(engine, rows)  # joined, or kept
    assert {source for source, *_ in found} <= {"coalesced", "hit"}
    close_to(found, reference(rows))


async def test_no_try_begins_when_the_request_would_be_over(opened, server):
    engine = opened(("retries: 0", "retries: 5"), ("request_timeout_s: 60", "request_timeout_s: 5"))
    server.told.append(fake.status(503, Retry_After="10"))
    asked = len(server.infers())
    found = await ask(engine, rows_of(2))
    assert {missing for *_, missing in found} == {("far",)}
    assert len(server.infers()) == asked + 1


# ---- without a thread each


async def test_the_loop_turns_and_others_are_answered_while_it_thinks(opened, server):
    engine, rows = opened(), rows_of(2)
    heard, after = threading.Event(), threading.Event()
    server.told.append(fake.late(heard, after))
    thinking = asyncio.create_task(ask(engine, rows))
    assert await asyncio.to_thread(heard.wait, 20)
    close_to(await ask(engine, rows, "near"), reference(rows, (0, 1)))
    close_to(await ask(engine, rows_of(3, seed=9)), reference(rows_of(3, seed=9)))
    assert not thinking.done()
    after.set()
    close_to(await thinking, reference(rows))


async def test_several_batches_are_under_way_and_no_thread_waits_for_a_teacher(opened, server):
    two = '- {name: two, model: "FAR", output: {kind: logits}, weight: 1, revision: r1}'.replace(
        "FAR", server.address("m")
    )
    near = '- {name: near, model: "fake://?classes=3&features=4&seed=1", output: {kind: logits}}'
    before = set(threading.enumerate())  # of engines of other tests
    engine = opened((near, two), ("      near: {operator: linear, weights: {near: 1}}\n", ""))
    together = threading.Barrier(16, timeout=20)  # eight batches, each asking both teachers
    server.always = lambda handler, reply: (together.wait(), handler.send(reply))
    rows = rows_of(64)
    close_to(await ask(engine, rows), np.exp(models.log_softmax(logits(rows))))
    since = set(threading.enumerate()) - before
    assert not [thread for thread in since if thread.name.startswith("teachers-toy")]


# ---- absent at start


def test_who_needs_all_does_not_start_without_it(opened, server):
    server.away()
    with pytest.raises(TeacherUnreachable) as caught:
        opened(ALL)
    where = f"ensemble 'toy': teacher 'far': {server.address('m')}"
    assert f"{where} cannot be reached: teacher 'far' does not answer" in str(caught.value)


async def test_with_a_quorum_a_server_starts_without_it_and_it_joins_when_it_is_back(opened, server):
    whole = fingerprint(opened())
    server.away()
    engine, rows = opened(), rows_of(10)
    assert engine.ensemble("toy").absent == ["far"]
    (told,) = engine.check_ready()
    assert told == "ensemble 'toy': teacher 'far' has been absent since the start; batches seek it again"
    assert fingerprint(engine) == whole  # trainings that began before go on
    found = await ask(engine, rows)
    assert {(source, missing) for source, _, _, missing in found} == {("miss", ("far",))}
    with server:
        absence_over(engine)
        assert (await ask(engine, rows_of(1, seed=1)))[0][3] == ()
        found = await ask(engine, rows)
        assert {(source, missing) for source, _, _, missing in found} == {("miss", ())}
        close_to(found, reference(rows))
        assert {source for source, *_ in await ask(engine, rows)} == {"hit"}
        assert fingerprint(engine) == whole
        assert (engine.ensemble("toy").absent, engine.check_ready()) == ([], [])


async def test_the_absent_and_the_failing_together_must_leave_a_quorum(opened, server):
    nan = '- {name: moody, model: "fake://?classes=3&features=4&seed=2&nan_above=10", output: {kind: logits}}'
    server.away()
    engine = opened(("quorum: 1", "quorum: 2"), ("teachers:", f"teachers:\n      {nan}"))
    assert len(engine.check_ready()) == 1
    for seed in range(6):
        rows = rows_of(2, seed)
        rows[:, 0] = 11
        found = await ask(engine, rows, weights={"moody": 1})
        assert {failure.code for _, _, failure, _ in found} == {"quorum_lost"}
    with pytest.raises(NotReady, match=r"'far' has been absent .* 'moody' says nothing of 100%"):
        engine.check_ready()


def absence_over(engine):
    """Let an absent teacher be sought by the next batch, however short ago it was not found."""
    for member in engine.ensemble("toy").members:
        if member.meet is not None:
            member.meet._again = 0.0


async def test_one_that_is_absent_is_not_sought_by_every_batch(opened, server, monkeypatch):
    monkeypatch.setattr(absence, "SOUGHT_AGAIN_S", 3600.0)
    honest_answer = server.answer
    monkeypatch.setattr(server, "answer", lambda _: fake.of_json({"error": "loading"}, 503))
    engine = opened()
    await ask(engine, rows_of(1))
    sought = len(server.received)
    for seed in range(5):
        await ask(engine, rows_of(1, seed))
    assert len(server.received) == sought
    monkeypatch.setattr(server, "answer", honest_answer)
    absence_over(engine)
    found = await ask(engine, rows_of(1))
    assert found[0][3] == ()


async def test_one_that_describes_itself_but_does_not_answer_is_absent_too(opened, server):
    server.always = fake.status(503, "loading")
    with pytest.raises(
        TeacherUnreachable, match=r"cannot answer a row: teacher 'far' failed: .* 503: loading"
    ):
        opened(ALL)
    engine = opened()
    assert engine.ensemble("toy").absent == ["far"]
    server.always = None
    assert (await ask(engine, rows_of(1)))[0][3] == ()
    assert engine.check_ready() == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (model(inputs=[("x", "FP32", [-1, 5])]), "takes rows of shape [5]"),
        (model(five_classes, classes=5), "answers 5 classes, but 3 are named"),
        (Model([("x", "FP32", [-1, 4])], [("p", "INT8", [-1, 3])], honest), "no output is one float a class"),
    ],
)
async def test_one_that_comes_back_as_another_is_not_heard(opened, server, wrong, said):
    server.away()
    more = '- {name: more, model: "fake://?classes=3&features=4&seed=2", output: {kind: logits}}'
    engine = opened(("quorum: 1", "quorum: 2"), ("teachers:", f"teachers:\n      {more}"))
    with server:
        server.models["m"] = wrong
        found = await ask(engine, rows_of(2), weights={"far": 1})
        assert {failure.code for _, _, failure, _ in found} == {"quorum_lost"}
        assert "teacher 'far' has been absent since the start: " in found[0][2].message
        assert said in found[0][2].message
        assert engine.ensemble("toy").absent == ["far"]


def test_too_many_that_are_absent_are_all_named(opened, server):
    server.away()
    other = f'- {{name: other, model: "{server.address("n")}", output: {{kind: logits}}, retries: 0}}'
    with pytest.raises(TeacherUnreachable) as caught:
        opened(("quorum: 1", "quorum: 2"), ("teachers:", f"teachers:\n      {other}"))
    assert "teacher 'other'" in str(caught.value)
    assert "teacher 'far'" in str(caught.value)


def test_a_wrong_configuration_is_no_absence(opened, server):
    with pytest.raises(TeacherError, match="HTTP 404: no model 'n'") as caught:
        opened((server.address("m"), server.address("n")))
    assert not isinstance(caught.value, TeacherUnreachable)


async def test_a_reload_that_needs_it_is_refused_and_all_is_served_as_before(opened, server):
    engine, rows = opened(ALL), rows_of(4)
    first = await ask(engine, rows)
    server.away()
    with pytest.raises(TeacherUnreachable):
        await engine.reload(load(opened.path), ["toy"])
    assert {source for source, *_ in await ask(engine, rows)} == {"hit"}
    with server:
        await engine.reload(load(opened.path), ["toy"])
        again = await ask(engine, rows)
    assert {source for source, *_ in again} == {"hit"}
    close_to(again, [values for _, values, _, _ in first])


# ---- looked at


def test_a_check_says_what_is_there_what_is_away_and_what_is_not_kept(opened, server):
    path = opened.path
    path.write_text(CONFIG.replace("FAR", server.address("m")))
    (checked,) = check_config(path)
    assert {finding.severity for finding in checked.findings} == {"warning"}
    assert "operator 'linear' is split: teacher 'far' answers from elsewhere" in checked.findings[0].message
    assert checked.teachers[0]["model"] == server.address("m")
    assert f"teacher far: {server.address('m')}" in shown([checked])
    path.write_text(path.read_text().replace(*NAMELESS))
    (checked,) = check_config(path)
    told = [finding for finding in checked.findings if "targets are not kept" in finding.message]
    assert [finding.severity for finding in told] == ["warning"]
    assert "teacher 'far' has no revision" in shown([checked])
    assert document([checked])["ensembles"][0]["findings"][0]["message"] == told[0].message
    server.away()
    (checked,) = check_config(path)
    (finding,) = checked.findings
    assert finding.severity == "error"
    assert "cannot be reached" in finding.message
