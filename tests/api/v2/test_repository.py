"""The repository: which models there are, and what loading and unloading do to them."""

import numpy as np
import pytest
from inference import request_of

INDEX = "/v2/repository/index"
NAMES = ["mixed", "mixed.default", "mixed.sparse", "mixed.whole", "faulty.mine"]


@pytest.fixture
def one(open_app, tmp_path):
    return open_app(tmp_path)


def index(client, body=b""):
    reply = client.post(INDEX, content=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def done(client, name, what, body=b""):
    reply = client.post(f"/v2/repository/models/{name}/{what}", content=body)
    assert (reply.status_code, reply.content) == (200, b""), reply.text


def refused(client, name, what, body, status, code, said):  # noqa: PLR0917 - a call and its answer
    reply = client.post(f"/v2/repository/models/{name}/{what}", content=body)
    assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text
    assert set(reply.json()) == {"error", "code"}
    assert said in reply.json()["error"]


def infer(client, model):
    body, headers = request_of({"x": np.zeros((1, 2), np.float32)}, ["x"])
    return client.post(f"/v2/models/{model}/infer", content=body, headers=headers).status_code


@pytest.mark.parametrize("body", [b"", b" \r\n", b"{}", b'{"ready": true}', b'{"ready": false}'])
def test_all_models_are_listed_with_their_versions(mixed, body):
    entries = index(mixed, body)
    assert [entry["name"] for entry in entries] == NAMES
    for entry in entries:
        assert entry["version"] == mixed.get(f"/v2/models/{entry['name']}").json()["versions"][0]
        assert (entry["state"], entry["reason"]) == ("READY", "")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[]", "must be a JSON object"),
        (b"{", "not JSON"),
        (b'{"ready": 1}', "give true or false"),
        (b'{"repository_name": "x"}', "the body: unknown keys: ['repository_name']; known: ready"),
    ],
)
def test_an_index_that_cannot_be_asked_for(mixed, body, said):
    reply = mixed.post(INDEX, content=body)
    assert (reply.status_code, reply.json()["code"]) == (400, "bad_input")
    assert said in reply.json()["error"]


def test_a_recipe_that_is_put_is_a_model(one):
    recipe = {"operator": "linear", "temperature": 5}
    assert one.client.put("/v1/ensembles/faulty/recipes/late", json=recipe).status_code == 201
    assert "faulty.late" in [entry["name"] for entry in index(one.client)]
    assert infer(one.client, "faulty.late") == 200


def test_loading_serves_what_the_configuration_says_now(one):
    versions = [one.client.get("/v2/models/faulty.mine").json()["versions"]]
    one.path.write_text(one.path.read_text().replace("temperature: 3", "temperature: 4"))
    for name in ("faulty.mine", "faulty"):
        done(one.client, name, "load", b"{}")
        versions.append(one.client.get("/v2/models/faulty.mine").json()["versions"])
    assert versions[0] != versions[1] == versions[2]
    assert infer(one.client, "faulty.mine") == 200


def test_loading_one_that_is_not_there(one):
    refused(one.client, "none", "load", b"", 404, "unknown_ensemble", "no ensemble 'none'")
    refused(one.client, "faulty.none", "load", b"", 404, "unknown_recipe", "no model 'faulty.none'")


def test_what_cannot_be_loaded_is_served_as_before(one):
    one.path.write_text(one.path.read_text().replace("model: mixed.onnx", "model: gone.onnx"))
    refused(one.client, "mixed", "load", b"", 422, "bad_configuration", "gone.onnx: no such file")
    assert [entry["state"] for entry in index(one.client)] == ["READY"] * len(NAMES)


def test_an_ensemble_that_is_unloaded_is_listed_and_not_served(one):
    client = one.client
    assert infer(client, "faulty.mine") == 200
    done(client, "faulty", "unload", b'{"parameters": {"unload_dependents": false}}')
    assert infer(client, "faulty.mine") == 404
    assert client.get("/v2/models/faulty.mine/ready").status_code == 404
    assert client.get("/v1/ensembles/faulty").status_code == 404
    entries = {entry["name"]: entry for entry in index(client)}
    assert list(entries) == NAMES
    assert entries["faulty.mine"] == {
        "name": "faulty.mine", "version": "", "state": "UNAVAILABLE", "reason": "unloaded",
    }  # fmt: skip
    assert [entry["name"] for entry in index(client, b'{"ready": true}')] == NAMES[:-1]
    assert client.get("/v2/health/ready").status_code == 200
    refused(client, "faulty", "unload", b"", 404, "unknown_ensemble", "no ensemble 'faulty'")
    done(client, "faulty", "load", b'{"parameters": {}}')
    assert infer(client, "faulty.mine") == 200
    assert index(client, b'{"ready": true}') == index(client)


def test_a_recipe_is_not_unloaded_alone(one):
    refused(one.client, "mixed.sparse", "unload", b"", 400, "bad_input", "unload 'mixed'")
    refused(one.client, "none", "unload", b"", 404, "unknown_ensemble", "no ensemble 'none'")


@pytest.mark.parametrize(
    ("parameters", "status", "code", "said"),
    [
        ('{"config": "{}"}', 501, "unsupported", "not from the parameter 'config'"),
        ('{"file:1/model.onnx": "AAAA"}', 501, "unsupported", "not from the parameter 'file:1/model.onnx'"),
        ('{"unload_dependents": true}', 400, "bad_input", "unknown parameter 'unload_dependents'"),
        ('["config"]', 400, "bad_input", "parameters must be an object"),
        ('"config"', 400, "bad_input", "parameters must be an object"),
        ("1", 400, "bad_input", "parameters must be an object"),
    ],
)
def test_nothing_is_uploaded(mixed, parameters, status, code, said):
    refused(mixed, "mixed", "load", f'{{"parameters": {parameters}}}', status, code, said)


def test_bodies_that_change_nothing(mixed):
    refused(mixed, "mixed", "load", b'{"config": "{}"}', 400, "bad_input", "unknown keys: ['config']")
    refused(
        mixed, "mixed", "unload", b'{"parameters": {"force": true}}', 400, "bad_input", "unknown parameter"
    )
    refused(
        mixed, "mixed", "unload", b'{"parameters": {"unload_dependents": 1}}', 400, "bad_input", "true or"
    )
    refused(mixed, "mixed", "unload", b"[" * 21, 400, "bad_input", "nests deeper than 20")
    assert [entry["state"] for entry in index(mixed)] == ["READY"] * len(NAMES)
