"""The real server as a process, asked the way strangers ask."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pytest

from soft_targets import wire

ROOT = Path(__file__).parents[2]
RECIPES = {
    "default": {"operator": "holder", "temperature": 4.0},
    "linear": {"operator": "linear", "temperature": 2.0},
    "geometric": {"operator": "geometric", "temperature": 2.0, "floor": 1e-4},
}


def ask(server, rows, query="", row_ids=None):
    """Arrow in and out: metadata, and row id to (source, float32 values)."""
    ids = wire.default_row_ids(len(rows)) if row_ids is None else wire.row_id_array(row_ids)
    reply = httpx2.post(
        f"{server.url}/v1/ensembles/toy/soft-targets{query}",
        content=wire.encode_request({"pixels": rows}, ids),
        headers={"Content-Type": wire.ARROW},
    )
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == wire.ARROW
    metadata, batches = wire.read_reply(reply.content)
    *groups, closing = list(batches)
    assert closing == wire.Closing(len(rows), 0)
    answers = {}
    for group in groups:
        ids = group.row_ids.to_pylist()
        answers |= {key: (group.sources[i], group.log_probs[i]) for i, key in enumerate(ids)}
    return metadata, answers


@pytest.mark.parametrize("recipe", RECIPES)
def test_curl_with_json_agrees_with_float64(server, toy, recipe):
    rows = toy.rows(40, seed=11)
    body = json.dumps({"inputs": {"pixels": rows.tolist()}, "row_ids": [f"r{i}" for i in range(40)]})
    said = subprocess.run(
        ["curl", "-sS", f"{server.url}/v1/ensembles/toy/soft-targets?recipe={recipe}",
         "-H", "Content-Type: application/json", "-d", "@-"],
        input=body, capture_output=True, text=True, check=True,
    )  # fmt: skip
    reply = json.loads(said.stdout)
    assert (reply["ensemble"], reply["recipe"]) == ("toy", recipe)
    assert reply["temperature"] == RECIPES[recipe]["temperature"]
    assert [target["row_id"] for target in reply["targets"]] == [f"r{i}" for i in range(40)]
    given = np.array([[target["probabilities"][name] for name in toy.classes] for target in reply["targets"]])
    np.testing.assert_allclose(given, toy.reference(rows, **RECIPES[recipe]), atol=1e-5, rtol=0)


def test_the_ten_line_arrow_client_agrees_with_float64(server, toy, tmp_path):
    rows = toy.rows(5, seed=12)
    np.save(tmp_path / "rows.npy", rows)
    said = subprocess.run(
        [sys.executable, ROOT / "examples" / "arrow_client.py",
         f"{server.url}/v1/ensembles/toy/soft-targets", tmp_path / "rows.npy", "pixels"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [line.split(" ", 1) for line in said.stdout.splitlines()]
    assert [line[0] for line in lines] == list("01234")
    given = np.array([json.loads(line[1]) for line in lines])
    np.testing.assert_allclose(given, toy.reference(rows, **RECIPES["default"]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_log_probs_agree_with_float64(server, toy, recipe):
    rows = toy.rows(50, seed=13) * 3  # confident, yet no probability leaves float32
    _, answers = ask(server, rows, f"?recipe={recipe}")
    given = np.array([answers[row][1] for row in range(50)], dtype=np.float64)
    expected = np.log(toy.reference(rows, **RECIPES[recipe]))
    assert (np.abs(given - expected) <= 1e-5 + 1e-6 * np.abs(expected)).all()


def test_overrides_agree_with_float64_and_have_their_own_fingerprint(server, toy):
    rows = toy.rows(8, seed=14)
    plain, _ = ask(server, rows, "?recipe=linear")
    hotter, answers = ask(server, rows, "?recipe=linear&temperature=7.5&weights=logits:1,merged:3")
    expected = toy.reference(rows, operator="linear", temperature=7.5, weights=(0.25, 0, 0.75))
    np.testing.assert_allclose(np.exp([answers[row][1] for row in range(8)]), expected, atol=1e-5)
    assert hotter["temperature"] == "7.5"
    assert hotter["fingerprint"] != plain["fingerprint"]


def test_output_temperature_recalibrates_the_fused_target(server, toy):
    rows = toy.rows(8, seed=15)
    _, answers = ask(server, rows, "?recipe=cooled")
    pooled = toy.reference(rows, operator="linear", temperature=1.0) ** 2
    expected = pooled / pooled.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp([answers[row][1] for row in range(8)]), expected, atol=1e-5)


def test_same_rows_in_another_order_and_batch_size_come_from_the_cache_bit_for_bit(server, toy):
    rows = toy.rows(100, seed=16)
    first_metadata, first = ask(server, rows)
    assert {source for source, _ in first.values()} == {"miss"}
    order = np.random.default_rng(0).permutation(100)
    for size in (1, 7, 64):
        for start in range(0, 100, size):
            part = order[start : start + size]
            metadata, again = ask(server, rows[part], row_ids=part.astype(np.uint64))
            assert metadata == first_metadata
            for row in part:
                source, values = again[row]
                assert source == "hit"
                assert values.tobytes() == first[row][1].tobytes()


def test_json_and_arrow_share_the_cache(server, toy):
    rows = toy.rows(3, seed=17)
    ask(server, rows)
    reply = httpx2.post(
        f"{server.url}/v1/ensembles/toy/soft-targets", json={"inputs": {"pixels": rows.tolist()}}
    ).json()
    assert [target["source"] for target in reply["targets"]] == ["hit"] * 3


def test_sparse_targets_are_the_dense_ones_truncated_with_their_tail(server, toy):
    rows = toy.rows(30, seed=18)
    dense = toy.reference(rows, operator="linear", temperature=2.0)
    reply = httpx2.post(
        f"{server.url}/v1/ensembles/toy/soft-targets?recipe=sparse",
        json={"inputs": {"pixels": rows.tolist()}},
    ).json()
    for row, target in enumerate(reply["targets"]):
        best = np.argsort(-dense[row], kind="stable")[:2]
        assert list(target["probabilities"]) == [toy.classes[i] for i in best]
        np.testing.assert_allclose(list(target["probabilities"].values()), dense[row][best], atol=1e-5)
        assert target["tail"] == pytest.approx(1 - dense[row][best].sum(), abs=1e-5)


def test_arrival_order_answers_every_row_once_hits_first(server, toy):
    rows = toy.rows(60, seed=19)
    ask(server, rows[40:])
    reply = httpx2.post(
        f"{server.url}/v1/ensembles/toy/soft-targets?order=arrival",
        content=wire.encode_request({"pixels": rows}, wire.default_row_ids(60)),
        headers={"Content-Type": wire.ARROW},
    )
    *groups, closing = list(wire.read_reply(reply.content)[1])
    ids = [row for group in groups for row in group.row_ids.to_pylist()]
    assert ids[:20] == list(range(40, 60))
    assert sorted(ids) == list(range(60))
    assert closing.rows == 60


def test_an_interrupted_server_stops_cleanly(toy, start):
    server = start(toy.config)
    assert httpx2.get(f"{server.url}/readyz").json() == {"ready": True, "degraded": []}
    assert httpx2.get(f"{server.url}/livez").status_code == 200
    server.process.terminate()
    assert server.process.wait(timeout=30) == 0
    assert "error" not in server.log()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
@pytest.mark.parametrize("module", ["uvicorn", "onnxruntime", "service.engine.binding"])
def test_a_signal_while_the_server_starts_stops_it_cleanly(toy, number, code, module):
    # Sent by the process to itself, at an exact place: when it begins to import a module, and where whatever
    # runs then (a validator's compiler, an event loop's callback) would swallow an exception.
    program = f"""
import contextlib, os, sys
class Signals:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            with contextlib.suppress(BaseException):
                os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Signals())
from service.cli import main
main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, "serve", toy.config],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == code
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr


def stalled_upload(server):
    """A connection whose request is never finished."""
    place = urlsplit(server.url)
    connection = socket.create_connection((place.hostname, place.port))
    connection.sendall(
        b"POST /v1/ensembles/toy/soft-targets HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        b'Content-Length: 1000\r\n\r\n{"i'
    )
    return connection


def unread_reply(server):
    """A connection whose reply is never read, and is more than the sockets' buffers hold."""
    place = urlsplit(server.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    connection.connect((place.hostname, place.port))
    connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: h\r\n\r\n" * 2000)
    return connection


@pytest.mark.parametrize("stall", [stalled_upload, unread_reply])
def test_a_stalled_client_does_not_keep_the_server_from_stopping(toy, start, stall):
    server = start(toy.config, first="import os; os.environ['SOFT_TARGETS__LIMITS__DRAIN_S'] = '1'")
    with stall(server):
        assert httpx2.get(f"{server.url}/livez").status_code == 200  # what came before it has been taken in
        server.process.terminate()
        assert server.process.wait(timeout=30) == 0


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (("logits.onnx", "gone.onnx"), "gone.onnx: no such file"),
        (("{kind: probs}", "{kind: logits}, missing: 1"), "missing"),
        (("{name: logits, kind: logits}", "{name: logits, kind: probs}"), "no distribution of kind 'probs'"),
        (("[ant, bee, cat, dog]", "[ant, bee, cat, dog, eel]"), "lacks the ensemble's classes 'eel'"),
        (("[dog, cat, bee, ant]", "[dog, cat, bee, cow]"), "classes unknown to the ensemble: 'cow'"),
        (("[dog, cat, bee, ant]", "[dog, cat, bee, ant, {eel: null}]"), "answers 4 classes, but 5 are named"),
        (("temperature: 1.5", "temprature: 1.5"), "did you mean 'temperature'"),
        (("exponent: 0.5", "exponent: 0.01"), "exponent"),
        (("operator: geometric", "operator: geometrc"), "geometric"),
        (("server: {port: 0}", "server: {port: 0}\n1: 2"), "1 is not text"),
        (("server: {port: 0}", "server: {port: 0, host: a..b}"), "cannot listen on a..b port 0"),
        (("server: {port: 0}", 'server: {port: 0, host: "\\0"}'), "cannot listen on"),
        (("shape: [6]", "shape: [7]"), "takes rows of shape [6], the ensemble gives [7]"),
    ],
)
def test_a_configuration_that_cannot_be_served_is_one_clear_message(toy, tmp_path, edit, said):
    for model in toy.folder.glob("*.onnx"):
        (tmp_path / model.name).write_bytes(model.read_bytes())
    text = toy.config.read_text()
    assert edit[0] in text
    (tmp_path / "toy.yaml").write_text(text.replace(*edit))
    ended = subprocess.run(
        [sys.executable, "-m", "service", "serve", tmp_path / "toy.yaml"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert said in ended.stderr
    assert ended.stderr.startswith("soft-targets: ")
    assert "Traceback" not in ended.stderr
