"""What the protocol says of the server and of its models."""

import json

import numpy as np
import pytest
from conformance import FAILING
from inference import outputs_of, request_of

import service
from service.config import load
from service.engine.ensemble import Overrides

FILLED = {"FP32": (1, np.float32), "INT64": (1, np.int64), "BYTES": ("t", object)}


def version_of(engine, ensemble, recipe):
    fingerprint = engine.ensemble(ensemble).effective(recipe, Overrides()).fingerprint
    return str(int(fingerprint[:13], 16))


def test_the_server_says_what_works(client):
    said = client.get("/v2").json()
    assert said.pop("extensions") == [
        "binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters",
        "statistics",
    ]  # fmt: skip
    assert said == {"name": "soft-targets", "version": service.__version__}


def test_health(client):
    for path in ("/v2/health/live", "/v2/health/ready"):
        reply = client.get(path)
        assert (reply.status_code, reply.json()) == (200, {"live": True, "ready": True})
        assert reply.headers["content-type"] == "application/json"
    assert client.get("/v2/models/toy.linear/ready").json() == {"name": "toy.linear", "ready": True}


def test_a_model_is_described(client, opened):
    said = client.get("/v2/models/toy").json()
    assert said == {
        "name": "toy",
        "versions": [version_of(opened, "toy", "default")],
        "platform": "soft_targets",
        "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 6]}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "log_probs", "datatype": "FP32", "shape": [-1, 4]},
        ],
    }
    assert client.get("/v2/models/toy.default").json() == {**said, "name": "toy.default"}
    sparse = client.get("/v2/models/toy.sparse").json()
    assert sparse["outputs"] == [
        {"name": "indices", "datatype": "INT32", "shape": [-1, 2]},
        {"name": "log_probs", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "tail_log_mass", "datatype": "FP32", "shape": [-1]},
    ]
    assert sparse["versions"] != said["versions"]


def test_inputs_of_every_kind(mixed):
    assert mixed.get("/v2/models/mixed").json()["inputs"] == [
        {"name": "image", "datatype": "FP32", "shape": [-1, 2, 3]},
        {"name": "number", "datatype": "INT64", "shape": [-1]},
        {"name": "text", "datatype": "BYTES", "shape": [-1]},
    ]


def test_what_is_described_is_what_inference_takes_and_gives(mixed):
    for model in ("mixed", "mixed.sparse"):
        said = mixed.get(f"/v2/models/{model}").json()
        given = {}
        for tensor in said["inputs"]:
            shape = [3, *tensor["shape"][1:]]
            given[tensor["name"]] = np.full(shape, *FILLED[tensor["datatype"]])
        body, headers = request_of(given, given, parameters={"binary_data_output": True})
        reply = mixed.post(f"/v2/models/{model}/infer", content=body, headers=headers)
        found = {name: [-1, *values.shape[1:]] for name, values in outputs_of(reply).items()}
        assert found == {output["name"]: output["shape"] for output in said["outputs"]}


def test_a_configuration_is_what_perf_tools_read(client, opened, toy):
    said = client.get("/v2/models/toy/config").json()
    effective = opened.ensemble("toy").effective("default", Overrides())
    parameters = {name: value["string_value"] for name, value in said.pop("parameters").items()}
    assert json.loads(parameters.pop("classes")) == toy.classes
    assert json.loads(parameters.pop("operator")) == {"name": "holder", "exponent": 0.5}
    assert parameters == {
        "fingerprint": effective.fingerprint,
        "certificate": effective.certificate.id,
        "temperature": "4.0",
    }
    assert said == {
        "name": "toy",
        "platform": "soft_targets",
        "backend": "soft_targets",
        "version_policy": {"specific": {"versions": [version_of(opened, "toy", "default")]}},
        "max_batch_size": 300,
        "input": [{"name": "pixels", "data_type": "TYPE_FP32", "dims": [6]}],
        "output": [
            {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [4]},
            {"name": "log_probs", "data_type": "TYPE_FP32", "dims": [4]},
        ],
        "dynamic_batching": {"preferred_batch_size": [16]},
        "response_cache": {"enable": True},
    }


def test_text_has_a_name_of_its_own_in_configurations(mixed):
    assert mixed.get("/v2/models/mixed/config").json()["input"][2] == {
        "name": "text", "data_type": "TYPE_STRING", "dims": [],
    }  # fmt: skip


@pytest.mark.parametrize("path", ["", "/ready", "/config", "/stats"])
def test_a_model_s_version_is_asked_for_or_not(client, opened, path):
    version = version_of(opened, "toy", "linear")
    with_version = client.get(f"/v2/models/toy.linear/versions/{version}{path}")
    assert with_version.status_code == 200
    assert with_version.json() == client.get(f"/v2/models/toy.linear{path}").json()
    for wrong, code in [
        (f"/v2/models/toy.linear/versions/1{path}", "not_found"),
        (f"/v2/models/toy.default/versions/{version}{path}", "not_found"),
        (f"/v2/models/toy.none{path}", "unknown_recipe"),
        (f"/v2/models/none{path}", "unknown_ensemble"),
    ]:
        reply = client.get(wrong)
        assert (reply.status_code, reply.json()["code"]) == (404, code)
        assert reply.headers["content-type"] == "application/json"
        assert set(reply.json()) == {"error", "code"}


def test_versions_are_the_same_in_another_process_s_engine(client, toy, open_app, tmp_path):
    text = toy.config.read_text().replace("model: ", f"model: {toy.folder}/")
    other = open_app(tmp_path, text)
    assert load(other.path).ensembles.keys() == {"toy"}
    for model in ("toy", "toy.sparse"):
        assert other.client.get(f"/v2/models/{model}").json() == client.get(f"/v2/models/{model}").json()


@pytest.fixture(scope="module")
def failing(open_app, tmp_path_factory):
    """One of two models whose only teacher fails too often."""
    client = open_app(tmp_path_factory.mktemp("failing"), FAILING).client
    for seed in range(6):
        rows = {"x": np.array([[20, seed]], np.float32)}
        body, headers = request_of(rows)
        assert client.post("/v2/models/bad/infer", content=body, headers=headers).status_code == 500
    return client


def test_the_server_lives_and_is_not_ready(failing):
    live = failing.get("/v2/health/live")
    assert (live.status_code, live.json()) == (200, {"live": True, "ready": False})
    reply = failing.get("/v2/health/ready")
    assert (reply.status_code, reply.json()["code"]) == (503, "not_ready")
    assert reply.headers["retry-after"] == "5"
    assert reply.headers["content-type"] == "application/json"
    assert "the quorum cannot be met" in reply.json()["error"]
    assert failing.get("/readyz").json() == reply.json()


def test_one_model_is_ready_and_the_other_is_not(failing):
    assert failing.get("/v2/models/good/ready").status_code == 200
    reply = failing.get("/v2/models/bad/ready")
    assert (reply.status_code, reply.json()["code"]) == (503, "not_ready")


def test_the_index_says_which_and_why(failing):
    entries = {entry["name"]: entry for entry in failing.post("/v2/repository/index").json()}
    assert {name: entry["state"] for name, entry in entries.items()} == {
        "bad": "UNAVAILABLE", "bad.default": "UNAVAILABLE", "good": "READY", "good.default": "READY",
    }  # fmt: skip
    assert "says nothing of 100% of the rows" in entries["bad"]["reason"]
    assert entries["bad"]["version"].isdigit()
    ready = failing.post("/v2/repository/index", json={"ready": True}).json()
    assert [entry["name"] for entry in ready] == ["good", "good.default"]
