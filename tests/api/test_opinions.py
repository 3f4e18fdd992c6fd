"""What each teacher says of a row, beside the soft target; and the rows that an ensemble is shown with."""

import json
import math

import numpy as np
import pytest
import teachers as models
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.auth import open_access
from service.config import load
from service.engine.changes import Alone
from service.engine.engine import Engine
from service.errors import ConfigError

PATH = "/v1/ensembles/toy/opinions"
PLAIN = """\
cache: {opinions: OPINIONS}
ensembles:
  toy:
    inputs: {pixels: {dtype: float32, shape: [3]}}
    classes: [a, b, c]
    unsafe_classes: [c]
    samples: few.npz
    quorum: 1
    batching: {max_rows: 4, in_flight: 1, threads: 1}
    teachers:
      - {name: plain, model: plain.onnx, output: {kind: logits}}
      - {name: moody, model: moody.onnx, output: {kind: logits}, weight: 3}
    recipes:
      default: {operator: linear, temperature: 2}
"""


@pytest.fixture
def moody(tmp_path):
    """Engines of two teachers, one of which says nothing of some rows, and what answers for them."""
    models.random_linear(tmp_path / "plain.onnx", 1, features=3, classes=3)
    models.moody(tmp_path / "moody.onnx")
    rows = np.random.default_rng(0).normal(size=(40, 3))
    np.savez(tmp_path / "few.npz", pixels=rows, labels=np.arange(40))

    def read(*edits, opinions="off"):
        text = PLAIN.replace("OPINIONS", opinions)
        for edit in edits:
            text = text.replace(*edit)
        (tmp_path / "c.yaml").write_text(text)
        settings = load(tmp_path / "c.yaml")
        engine = Engine.open(settings)
        app = create_app(engine, settings, open_access(settings.auth), Alone(engine, lambda: settings))
        return engine, TestClient(app)

    return read, tmp_path, rows


def values(row, key, classes):
    return np.array([[one[name] for name in classes] for one in row[key].values()])


@pytest.mark.parametrize("recipe", ["default", "linear", "geometric", "sparse", "cooled"])
def test_opinions_are_the_teachers_and_the_target_is_theirs(client, toy, recipe):
    rows = toy.rows(20, seed=77)
    body = {"inputs": {"pixels": rows.tolist()}, "row_ids": [f"r{i}" for i in range(20)]}
    reply = client.post(f"{PATH}?recipe={recipe}", json=body)
    assert reply.status_code == 200, reply.text
    said = reply.json()
    known = client.post(f"/v1/ensembles/toy/soft-targets?recipe={recipe}", json=body).json()
    assert {key: said[key] for key in ("ensemble", "recipe", "fingerprint", "temperature")} == {
        key: known[key] for key in ("ensemble", "recipe", "fingerprint", "temperature")
    }
    expected = np.exp(toy.opinions(rows))
    for place, (row, target) in enumerate(zip(said["rows"], known["targets"], strict=True)):
        assert row["row_id"] == target["row_id"]
        assert list(row["opinions"]) == ["logits", "probs", "merged"]
        opinions = values(row, "opinions", toy.classes)
        np.testing.assert_allclose(opinions, expected[:, place], atol=1e-5)
        softened = opinions ** (1 / said["temperature"])
        softened /= softened.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(values(row, "softened", toy.classes), softened, atol=1e-4)
        assert list(row["target"]) == list(target["probabilities"])
        np.testing.assert_allclose(
            list(row["target"].values()), list(target["probabilities"].values()), atol=1e-5
        )
        assert ("tail" in row) == (recipe == "sparse")


def test_a_query_changes_what_is_said(client, toy):
    body = {"inputs": {"pixels": toy.rows(2, seed=5).tolist()}}
    cold, warm = (client.post(f"{PATH}?temperature={t}", json=body).json() for t in (1, 50))
    for one, other in zip(cold["rows"], warm["rows"], strict=True):
        assert one["opinions"] == other["opinions"]
        np.testing.assert_allclose(
            values(one, "softened", toy.classes), values(one, "opinions", toy.classes), atol=1e-6
        )
        assert max(other["target"].values()) < max(one["target"].values())
    alone = client.post(f"{PATH}?recipe=linear&weights=probs:1", json=body).json()["rows"][0]
    assert all(alone["opinions"].values())  # a teacher without a weight says what it thinks all the same
    np.testing.assert_allclose(
        list(alone["target"].values()), list(alone["softened"]["probs"].values()), atol=1e-5
    )


def test_what_is_refused_and_what_is_an_error_row(client):
    rows = [[0.0] * 6, [math.nan] * 6]
    content = json.dumps({"inputs": {"pixels": rows}})
    fine, lost = client.post(PATH, content=content, headers={"Content-Type": "application/json"}).json()[
        "rows"
    ]
    assert fine["target"]
    assert "error" not in fine
    assert lost["target"] is None
    assert set(lost["opinions"].values()) == {None}
    assert lost["error_code"] == "non_finite_input"
    arrow = client.post(PATH, content=b"x", headers={"Content-Type": "application/vnd.apache.arrow.stream"})
    assert (arrow.status_code, arrow.json()["code"]) == (400, "bad_input")
    assert client.post(f"{PATH}?recipe=no", json={}).json()["code"] == "unknown_recipe"
    many = {"inputs": {"pixels": [[0.0] * 6] * 301}}
    assert client.post(PATH, json=many).status_code == 413


def test_there_are_bounds_to_a_look(client, toy, monkeypatch):
    monkeypatch.setattr("service.api.opinions.MOST_FIGURES", 7 * 4 * 3)
    reply = client.post(PATH, json={"inputs": {"pixels": toy.rows(4).tolist()}})
    assert (reply.status_code, reply.json()["code"]) == (413, "too_large")
    assert "at most 3" in reply.json()["error"]


@pytest.mark.parametrize("plan", ["fused", "staged", "split"])
def test_a_degraded_row_says_who_is_missing_and_nothing_is_cached(moody, monkeypatch, plan):
    if plan == "split":
        monkeypatch.setattr("service.plans.plans.LARGEST_BYTES", 0)
    if plan == "staged":
        monkeypatch.setattr("service.plans.plans.MOST_FUSED", 0)
    read, _, _ = moody
    engine, asked = read()
    assert {one["plan"] for one in engine.ensemble("toy").plans.report()} == {plan}
    monkeypatch.setattr(engine.cache, "put_many", lambda _: pytest.fail("something was cached"))
    with asked as client:
        # The moody teacher says nothing of rows whose first number is large.
        body = {"inputs": {"pixels": [[0.1, 0.2, 0.3], [1000.0, 0.0, 0.0]]}}
        whole, degraded = client.post(PATH, json=body).json()["rows"]
    assert all(whole["opinions"].values())
    assert "missing_teachers" not in whole
    assert degraded["opinions"]["moody"] is None
    assert degraded["missing_teachers"] == ["moody"]
    np.testing.assert_allclose(
        list(degraded["target"].values()), list(degraded["softened"]["plain"].values()), atol=1e-5
    )


@pytest.mark.parametrize("kept", ["float32", "float16"])
def test_kept_opinions_are_recalled(moody, kept, monkeypatch):
    read, _, rows = moody
    engine, asked = read(opinions=kept)
    body = {"inputs": {"pixels": rows[:3].tolist()}}
    with asked as client:
        before = client.post(PATH, json=body).json()
        targets = client.post("/v1/ensembles/toy/soft-targets", json=body).json()["targets"]
        monkeypatch.setattr(
            engine.ensemble("toy").plans.apart, "opinions", lambda *_: pytest.fail("a teacher was asked")
        )
        after = client.post(PATH, json=body).json()
    close = 1e-5 if kept == "float32" else 2e-3
    for one, other, target in zip(before["rows"], after["rows"], targets, strict=True):
        np.testing.assert_allclose(
            values(one, "opinions", "abc"), values(other, "opinions", "abc"), atol=close
        )
        np.testing.assert_allclose(
            list(other["target"].values()), list(target["probabilities"].values()), atol=1e-5
        )


def test_samples_are_a_body_that_the_routes_take(moody):
    read, _, rows = moody
    _, asked = read()
    with asked as client:
        info = client.get("/v1/ensembles/toy").json()
        assert (info["samples"], info["unsafe_classes"]) == (32, ["c"])
        samples = client.get("/v1/ensembles/toy/samples").json()
        assert samples["row_ids"] == list(range(32))
        assert np.array_equal(np.float32(samples["inputs"]["pixels"]), np.float32(rows[:32]))
        assert len(repr(samples["inputs"]["pixels"][0][0])) < 14  # 0.1257302, not 0.12573021650314331
        assert len(client.post(PATH, json=samples).json()["rows"]) == 32
        found = client.post("/v1/ensembles/toy/guarantees", json=samples).json()["quantities"]
    mass = next(one for one in found if one["name"] == "unsafe_mass")
    assert mass["holds"]
    assert 0 < mass["value"] < 1
    assert "unsafe_rows_above_worst_teacher" in {one["name"] for one in found}


def test_without_samples_there_are_none(client):
    assert client.get("/v1/ensembles/toy/samples").json() == {"inputs": {"pixels": []}, "row_ids": []}
    body = {"inputs": {"pixels": [[0.0] * 6]}}
    found = client.post("/v1/ensembles/toy/guarantees", json=body).json()["quantities"]
    assert not any(one["name"].startswith("unsafe") for one in found)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "it has no array pixels"),
        ({"other": np.zeros((1, 3))}, "it has no array pixels, but other"),
        ({"pixels": np.zeros((2, 4))}, "rows have shape [4]"),
        ({"pixels": np.zeros((0, 3))}, "one at least"),
        ({"pixels": np.full((2, 3), np.nan)}, "holds NaN or infinity"),
        ({"pixels": np.array([[1e39, 0, 0]])}, "cannot be kept as <f4"),
        ({"pixels": np.array([{}])}, "Object arrays cannot be loaded"),
    ],
)
def test_samples_that_cannot_be_shown_stop_the_start(moody, arrays, said):
    read, folder, _ = moody
    np.savez(folder / "few.npz", **arrays)
    with pytest.raises(ConfigError, match=r"ensembles\.toy\.samples: .*few\.npz: ") as caught:
        read()
    assert said in str(caught.value)


@pytest.mark.parametrize("content", [None, b"no zip", "npy"])
def test_samples_that_are_no_npz_stop_the_start(moody, content):
    read, folder, _ = moody
    (folder / "few.npz").unlink()
    if content == "npy":
        with (folder / "few.npz").open("wb") as file:
            np.save(file, np.zeros((1, 3)))
    elif content is not None:
        (folder / "few.npz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"ensembles\.toy\.samples: .*cannot be read"):
        read()
