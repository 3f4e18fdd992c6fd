"""Certificates and recipes over HTTP."""

import json
import math

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.auth import Access
from service.config import load
from service.engine.changes import Alone
from service.engine.engine import Engine

RECIPES = "/v1/ensembles/toy/recipes"


@pytest.fixture(scope="module")
def putting(toy):
    """A server on which everything is allowed, of its own: recipes stay until it stops."""
    settings = load(toy.config)
    access = Access(None, open=True)
    engine = Engine.open(settings)
    app = create_app(engine, settings, access, Alone(engine, lambda: load(toy.config)))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_every_recipe_has_a_certificate(client):
    info = client.get("/v1/ensembles/toy").json()
    for name, recipe in info["recipes"].items():
        certificate = client.get(f"{RECIPES}/{name}/certificate").json()
        assert certificate["id"] == recipe["certificate"]
        assert certificate["admitted"]
        assert (certificate["K"], certificate["C"], certificate["profile"]) == (3, 4, "strict")
        assert set(certificate["axioms"]) == {
            "convexity_preservation", "positivity_inheritance", "weight_monotonicity", "continuity",
            "temperature_coherence",
        }  # fmt: skip
        for verdict in certificate["axioms"].values():
            assert set(verdict) == {"level", "required", "proved", "trials", "margin", "witness"}
    missing = client.get(f"{RECIPES}/defualt/certificate")
    assert (missing.status_code, missing.json()["code"]) == (404, "unknown_recipe")


def test_a_recipe_that_is_put_answers_at_once(putting, toy):
    recipe = {"operator": {"name": "holder", "exponent": 1}, "temperature": 2}
    created = putting.put(f"{RECIPES}/mean", json=recipe)
    assert created.status_code == 201
    assert created.json()["admitted"]
    again = putting.put(f"{RECIPES}/mean", json=recipe)
    assert (again.status_code, again.json()) == (200, created.json())
    rows = toy.rows(3, seed=41)
    reply = putting.post(
        "/v1/ensembles/toy/soft-targets?recipe=mean", json={"inputs": {"pixels": rows.tolist()}}
    ).json()
    given = [list(target["probabilities"].values()) for target in reply["targets"]]
    np.testing.assert_allclose(given, toy.reference(rows, operator="linear", temperature=2.0), atol=1e-5)
    assert "mean" in putting.get("/v1/ensembles/toy").json()["recipes"]


def test_a_name_is_not_taken_twice(putting):
    taken = putting.put(f"{RECIPES}/default", json={"operator": "linear"})
    assert (taken.status_code, taken.json()["code"]) == (409, "recipe_exists")


def test_an_operator_below_its_profile_is_refused_with_the_witness(putting):
    recipe = {"operator": "weighted_max"}
    refused = putting.put(f"{RECIPES}/max", json=recipe)
    assert refused.status_code == 422
    body = refused.json()
    assert body["code"] == "operator_refused"
    assert "weight_monotonicity, level 1 of 2" in body["error"]
    assert body["certificate"]["axioms"]["weight_monotonicity"]["witness"]["case"]
    assert putting.get(f"{RECIPES}/max/certificate").status_code == 404
    assert putting.put(f"{RECIPES}/max", json=recipe | {"profile": "paper"}).status_code == 201


def test_every_json_reply_names_its_certificate(client, toy):
    info = client.get("/v1/ensembles/toy").json()["recipes"]
    for name, recipe in info.items():
        body = {"inputs": {"pixels": toy.rows(1).tolist()}}
        reply = client.post(f"/v1/ensembles/toy/soft-targets?recipe={name}", json=body).json()
        assert (reply["certificate"], reply["violations"]) == (recipe["certificate"], [])
        schema = client.get("/openapi.json").json()["paths"]["/v1/ensembles/{ensemble}/soft-targets"]["post"]
        described = schema["responses"]["200"]["content"]["application/json"]["schema"]
        assert set(described["required"]) == set(described["properties"]) == set(reply)


@pytest.mark.parametrize(
    ("name", "recipe", "said"),
    [
        ("a", {"operator": {"import": "my_package:pool"}}, "import is only taken from the configuration"),
        ("fine", {"operator": "linear", "accept_violations": []}, None),
        (
            "a",
            {"operator": "linear", "accept_violations": ["continuity"]},
            "only taken from the configuration",
        ),
        ("a", {"operator": "median"}, "no operator 'median' may be put"),
        ("a", {"operator": {"name": "holder", "exponent": 9}}, "exponent"),
        ("a", {"operator": "linear", "temprature": 1}, "did you mean 'temperature'"),
        ("a", {"operator": "linear", "temperature": 1000}, "temperature"),
        ("a", {"operator": "linear", "weights": {"none": 1}}, "unknown teacher 'none'"),
        ("a", {"operator": "linear", "sparsity": {"top_k": 9}}, "exceeds the 4 classes"),
        ("a", [], "must be a section, keys with values"),
        ("-a", {"operator": "linear"}, "is no name"),
    ],
)
def test_a_recipe_that_cannot_be_put(putting, name, recipe, said):
    reply = putting.put(f"{RECIPES}/{name}", json=recipe)
    if said is None:
        assert reply.status_code == 201
        return
    assert (reply.status_code, reply.json()["code"]) == (400, "bad_input")
    assert said in reply.json()["error"]


def test_a_body_that_is_no_recipe(putting):
    assert putting.put(f"{RECIPES}/b", content=b"{").json()["code"] == "bad_input"
    assert putting.put(f"{RECIPES}/b", content=b" " * (1 << 21)).status_code == 413
    nowhere = putting.put("/v1/ensembles/tyo/recipes/b", json={"operator": "linear"})
    assert nowhere.json()["code"] == "unknown_ensemble"


def test_without_keys_nobody_puts(client):
    reply = client.put(f"{RECIPES}/mean", json={"operator": "linear"})
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")


def test_guarantees_of_a_batch(client, toy):
    rows = toy.rows(40, seed=42)
    labels = [toy.classes[i] for i in np.random.default_rng(1).integers(4, size=40)]
    labels[3] = None
    body = {"inputs": {"pixels": rows.tolist()}, "labels": labels}
    for recipe in ("linear", "geometric", "default", "cooled"):
        reply = client.post(f"/v1/ensembles/toy/guarantees?recipe={recipe}", json=body)
        assert reply.status_code == 200, reply.text
        quantities = {one["name"]: one for one in reply.json()["quantities"]}
        assert quantities["rows_judged"]["value"] == 40
        broken = [name for name, one in quantities.items() if one["theorem"] and one["holds"] is False]
        assert not broken
        assert any(one["theorem"] for one in quantities.values())
    expected = -np.log(toy.reference(rows, operator="linear", temperature=2.0))
    kept = [(row, toy.classes.index(label)) for row, label in enumerate(labels) if label is not None]
    mean = np.mean([expected[row, label] for row, label in kept])
    linear = client.post("/v1/ensembles/toy/guarantees?recipe=linear", json=body).json()["quantities"]
    loss = next(one for one in linear if one["name"] == "log_loss")
    assert math.isclose(loss["value"], mean, rel_tol=1e-4)
    assert loss["holds"]


def test_guarantees_without_labels_and_what_is_refused(client):
    path = "/v1/ensembles/toy/guarantees"
    rows = [[0.0] * 6] * 2
    assert client.post(path, json={"inputs": {"pixels": rows}}).status_code == 200
    for body, said in (
        ({"inputs": {"pixels": rows}, "labels": ["ant"]}, "labels must be a list of 2"),
        ({"inputs": {"pixels": rows}, "labels": ["ant", "eel"]}, "label 'eel' is no class"),
        ({"inputs": {"pixels": rows}, "labels": [0, 1]}, "label 0 is no class"),
        ({"inputs": {"pixels": [rows[0], [0.0] * 5]}}, "row 1 has shape [5]"),
        ([], "must be an object"),
    ):
        reply = client.post(path, json=body)
        assert (reply.status_code, reply.json()["code"]) == (400, "bad_input")
        assert said in reply.json()["error"]
    nan = json.dumps({"inputs": {"pixels": [[math.nan] * 6]}})
    reply = client.post(path, content=nan, headers={"Content-Type": "application/json"})
    assert "row 0: input 'pixels' is nan" in reply.json()["error"]
    arrow = client.post(path, content=b"x", headers={"Content-Type": "application/vnd.apache.arrow.stream"})
    assert "asked in JSON" in arrow.json()["error"]
