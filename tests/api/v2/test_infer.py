"""Inference: the protocol's ways to send and to get tensors lead to the same targets as ``/v1`` does."""

import gzip
import json
import zlib

import numpy as np
import pytest
import teachers as models
from inference import HEADER, as_bytes, as_json, body_of, outputs_of, request_of
from onnx import TensorProto, helper

JSON, BINARY = "application/json", "application/octet-stream"
URL = "/v2/models/toy/infer"
FP32 = np.float32
EVERYTHING = ("image", "number", "text")
# Every sum of both teachers' weights that a row of the mixed ensemble stands for.
MIXED = {
    "image": np.arange(18, dtype=FP32).reshape(3, 2, 3) / 10,
    "number": np.array([1, -2, 2**40]),
    "text": np.array(["yes", "no", "größer\u0000"], dtype=object),
}


def ask(client, body, headers=(), url=URL):
    return client.post(url, content=body, headers={"Accept-Encoding": "identity", **dict(headers)})


def infer(client, inputs, binary=(), url=URL, **more):
    """The outputs of a request that is answered, and what its JSON says."""
    reply = ask(client, *request_of(inputs, binary, **more), url=url)
    assert reply.status_code == 200, reply.text
    assert int(reply.headers["content-length"]) == len(reply.content)
    size = int(reply.headers.get(HEADER, len(reply.content)))
    assert reply.headers["content-type"] == (BINARY if HEADER in reply.headers else JSON)
    return outputs_of(reply), json.loads(reply.content[:size])


def refused(reply, status, code, *said):
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == JSON
    assert set(reply.json()) == {"error", "code"}
    assert reply.json()["code"] == code
    for text in said:
        assert text in reply.json()["error"]


def mixed_reference():
    """The mixed ensemble's targets in float64, by the formula of its only teacher."""
    image, number, text = MIXED["image"].astype(float), MIXED["number"].astype(FP32), MIXED["text"]
    score = 2 * image.sum(axis=1) + number[:, None] + (text == "yes")[:, None]
    return np.exp(models.log_softmax(score * [1, -1, 0.5]))


@pytest.mark.parametrize(
    ("name", "recipe"), [("toy", "default"), ("toy.default", "default"), ("toy.linear", "linear")]
)
def test_targets_are_those_of_the_formula_and_of_v1(client, toy, name, recipe):
    rows = toy.rows(20, seed=1)
    url = f"/v2/models/{name}/infer"
    found, said = infer(client, {"pixels": rows}, ["pixels"], url, parameters={"binary_data_output": True})
    setting = {"default": ("holder", 4), "linear": ("linear", 2)}[recipe]
    reference = toy.reference(rows, operator=setting[0], temperature=setting[1])
    assert list(found) == ["probabilities", "log_probs"]
    assert {output["datatype"] for output in said["outputs"]} == {"FP32"}
    np.testing.assert_allclose(found["probabilities"], reference, atol=2e-6)
    np.testing.assert_allclose(found["log_probs"], np.log(reference), atol=1e-5)
    native = client.post(
        f"/v1/ensembles/toy/soft-targets?recipe={recipe}", json={"inputs": {"pixels": rows.tolist()}}
    ).json()
    assert {target["source"] for target in native["targets"]} == {"hit"}
    same = [list(target["probabilities"].values()) for target in native["targets"]]
    np.testing.assert_array_equal(found["probabilities"], np.array(same, FP32))
    assert said["parameters"]["soft_targets_fingerprint"] == native["fingerprint"]
    assert said["parameters"]["soft_targets_certificate"] == native["certificate"]
    assert said["parameters"]["soft_targets_temperature"] == native["temperature"]
    assert said["model_name"] == name
    assert said["model_version"] == str(int(native["fingerprint"][:13], 16))


@pytest.mark.parametrize("binary", [(), EVERYTHING, ("image",), ("text",), ("number", "text")])
@pytest.mark.parametrize("binary_output", [True, False])
def test_json_bytes_and_both_say_the_same(mixed, binary, binary_output):
    parameters = {"binary_data_output": binary_output}
    found, _ = infer(mixed, MIXED, binary, "/v2/models/mixed/infer", parameters=parameters)
    np.testing.assert_allclose(found["probabilities"], mixed_reference(), atol=1e-6)
    assert list(found) == ["probabilities", "log_probs", "entropy", "divergence"]
    assert found["entropy"].shape == (3,)


def test_inputs_stand_in_any_order_and_their_bytes_in_theirs(mixed):
    order = ["text", "image", "number"]
    found, _ = infer(mixed, {name: MIXED[name] for name in order}, EVERYTHING, "/v2/models/mixed/infer")
    np.testing.assert_allclose(found["probabilities"], mixed_reference(), atol=1e-6)


def test_outputs_that_are_named_come_alone_in_their_order_and_as_they_say(client, toy):
    rows = {"pixels": toy.rows(3, seed=2)}
    everything, _ = infer(client, rows, parameters={"binary_data_output": True})

    def chosen(outputs, **parameters):
        found, said = infer(client, rows, outputs=outputs, parameters=parameters)
        for name, values in found.items():
            np.testing.assert_array_equal(values, everything[name])
        return [(output["name"], "data" in output) for output in said["outputs"]]

    one, other = {"name": "log_probs"}, {"name": "probabilities"}
    as_tensor, as_text = {"binary_data": True}, {"binary_data": False}
    assert chosen([one]) == [("log_probs", True)]
    assert chosen([one, other]) == [("log_probs", True), ("probabilities", True)]
    assert chosen([{**one, "parameters": as_tensor}, other]) == [
        ("log_probs", False),
        ("probabilities", True),
    ]
    assert chosen([one, other], binary_data_output=True) == [("log_probs", False), ("probabilities", False)]
    assert chosen([{**one, "parameters": as_text}, other], binary_data_output=True) == [
        ("log_probs", True), ("probabilities", False),
    ]  # fmt: skip
    assert chosen([]) == [("probabilities", True), ("log_probs", True)]


def test_a_sparse_recipe(client, toy):
    rows = toy.rows(9, seed=3)
    url = "/v2/models/toy.sparse/infer"
    found, said = infer(client, {"pixels": rows}, url=url, parameters={"binary_data_output": True})
    assert [(output["name"], output["datatype"], output["shape"]) for output in said["outputs"]] == [
        ("indices", "INT32", [9, 2]), ("log_probs", "FP32", [9, 2]), ("tail_log_mass", "FP32", [9]),
    ]  # fmt: skip
    reference = toy.reference(rows, operator="linear", temperature=2)
    kept = np.argsort(-reference, axis=1)[:, :2]
    np.testing.assert_array_equal(found["indices"], kept)
    probabilities = np.take_along_axis(reference, kept, axis=1)
    np.testing.assert_allclose(np.exp(found["log_probs"]), probabilities, atol=2e-6)
    np.testing.assert_allclose(np.exp(found["tail_log_mass"]), 1 - probabilities.sum(axis=1), atol=2e-6)


@pytest.mark.parametrize("binary", [True, False])
def test_a_tail_that_is_empty(mixed, binary):
    url, parameters = "/v2/models/mixed.whole/infer", {"binary_data_output": binary}
    found, _ = infer(mixed, MIXED, url=url, parameters=parameters)
    assert (found["tail_log_mass"] == (-np.inf if binary else np.finfo(FP32).min)).all()
    assert (np.exp(found["tail_log_mass"]) == 0).all()


def test_overrides_are_those_of_v1(client, toy):
    rows = toy.rows(4, seed=4)
    parameters = {"soft_targets_temperature": 3, "soft_targets_top_k": 3}
    found, said = infer(client, {"pixels": rows}, url="/v2/models/toy.linear/infer", parameters=parameters)
    native = client.post(
        "/v1/ensembles/toy/soft-targets?recipe=linear&temperature=3&top_k=3",
        json={"inputs": {"pixels": rows.tolist()}},
    ).json()
    assert {target["source"] for target in native["targets"]} == {"hit"}
    assert said["parameters"]["soft_targets_fingerprint"] == native["fingerprint"]
    assert said["parameters"]["soft_targets_temperature"] == 3
    assert list(found) == ["indices", "log_probs", "tail_log_mass"]
    # The version is the model's, which stands for no override.
    assert said["model_version"] == client.get("/v2/models/toy.linear").json()["versions"][0]


def test_classification(client, toy):
    rows = toy.rows(5, seed=5)
    wanted = [
        {"name": "probabilities", "parameters": {"classification": 3}},
        {"name": "log_probs", "parameters": {"classification": 1, "binary_data": True}},
    ]
    found, said = infer(client, {"pixels": rows}, outputs=wanted)
    reference = toy.reference(rows, operator="holder", temperature=4)
    assert [(output["datatype"], output["shape"]) for output in said["outputs"]] == [
        ("BYTES", [5, 3]), ("BYTES", [5, 1]),
    ]  # fmt: skip
    for row, best in enumerate(np.argsort(-reference, axis=1)):
        for place in range(3):
            value, index, label = found["probabilities"][row, place].decode().split(":")
            assert (int(index), label) == (best[place], toy.classes[best[place]])
            assert float(value) == pytest.approx(reference[row, best[place]], abs=3e-6)
        value, index, _ = found["log_probs"][row, 0].decode().split(":")
        assert int(index) == best[0]
        assert float(value) == pytest.approx(np.log(reference[row, best[0]]), abs=1e-5)


def test_classification_of_a_sparse_recipe_names_the_classes_that_are_kept(mixed):
    outputs = [{"name": "log_probs", "parameters": {"classification": 2}}, {"name": "indices"}]
    found, _ = infer(mixed, MIXED, url="/v2/models/mixed.sparse/infer", outputs=outputs)
    for row in range(3):
        for place in range(2):
            _, index, label = found["log_probs"][row, place].decode().split(":", 2)
            assert int(index) == found["indices"][row, place]
            assert label == ["a", "b", "c:d"][int(index)]


@pytest.mark.parametrize("binary_output", [True, False])
@pytest.mark.parametrize("binary", [(), EVERYTHING])
def test_no_rows(mixed, binary, binary_output):
    inputs = {name: values[:0] for name, values in MIXED.items()}
    parameters = {"binary_data_output": binary_output}
    found, said = infer(mixed, inputs, binary, "/v2/models/mixed/infer", parameters=parameters)
    assert {name: values.shape for name, values in found.items()} == {
        "probabilities": (0, 3), "log_probs": (0, 3), "entropy": (0,), "divergence": (0,),
    }  # fmt: skip
    outputs = [{"name": "log_probs", "parameters": {"classification": 2}}]
    found, said = infer(mixed, inputs, binary, "/v2/models/mixed.sparse/infer", outputs=outputs)
    assert said["outputs"][0]["shape"] == [0, 2]


def test_the_id_comes_back(client, toy):
    rows = {"pixels": toy.rows(1)}
    for sent, got in [
        ({"id": "7"}, "7"),
        ({"id": "größer"}, "größer"),
        ({"id": ""}, ""),
        ({"id": None}, ""),
        ({}, ""),
    ]:
        assert infer(client, rows, **sent)[1]["id"] == got


def test_a_version_is_asked_for_and_said(client, toy):
    rows = {"pixels": toy.rows(1)}
    version = client.get("/v2/models/toy.linear").json()["versions"][0]
    said = infer(client, rows, url=f"/v2/models/toy.linear/versions/{version}/infer")[1]
    assert said["model_version"] == version
    for other in ("1", f"0{version}", "x", "-1"):
        reply = ask(client, *request_of(rows), url=f"/v2/models/toy.linear/versions/{other}/infer")
        refused(reply, 404, "not_found", f"of version {version}, there is no version {other!r}")


def test_a_body_that_names_its_model_names_the_one_it_is_sent_to(client, toy):
    rows, version = {"pixels": toy.rows(1)}, client.get("/v2/models/toy").json()["versions"][0]
    infer(client, rows, model_name="toy", model_version=version)
    for named in ({"model_name": "tea"}, {"model_version": "1"}):
        refused(ask(client, *request_of(rows, **named)), 400, "bad_input", "but the request was sent to")


@pytest.mark.parametrize("wanted", ["gzip", "deflate", None])
@pytest.mark.parametrize("sent", ["gzip", "deflate", None])
@pytest.mark.parametrize("binary", [(), ("pixels",)])
def test_compressed_both_ways(client, toy, binary, sent, wanted):
    rows = {"pixels": toy.rows(30, seed=6)}
    body, headers = request_of(rows, binary, parameters={"binary_data_output": bool(binary)})
    plain = ask(client, body, headers)
    compress = {"gzip": gzip.compress, "deflate": zlib.compress, None: bytes}[sent]
    named = {"Content-Encoding": sent} if sent else {}
    reply = ask(client, compress(body), {**headers, **named, "Accept-Encoding": wanted or "identity"})
    assert reply.status_code == 200, reply.text
    assert reply.headers.get("content-encoding") == wanted
    assert reply.headers.get(HEADER) == plain.headers.get(HEADER)
    assert reply.content == plain.content  # the test's client inflates it


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_what_inflates_to_too_much_is_refused(mixed, coding):
    bomb = {"gzip": gzip.compress, "deflate": zlib.compress}[coding](b" " * (129 << 10))
    reply = ask(mixed, bomb, {"Content-Encoding": coding}, "/v2/models/mixed/infer")
    refused(reply, 413, "too_large", "inflates to more than 131072 bytes", "max_decompressed_bytes")


def test_what_is_compressed_otherwise_is_refused(client):
    refused(ask(client, b"{}", {"Content-Encoding": "br"}), 400, "bad_input", "send gzip or deflate")
    refused(ask(client, b"{}", {"Content-Encoding": "gzip"}), 400, "bad_input", "the body is no gzip")


def test_the_media_type_is_not_asked_for(client, toy):
    body, headers = request_of({"pixels": toy.rows(1)}, ["pixels"])
    for media in ("application/octet-stream", "application/x-www-form-urlencoded", "text/plain", ""):
        assert ask(client, body, {**headers, "Content-Type": media}).status_code == 200


class TestRaw:
    """A body that is one row and nothing else."""

    def test_a_row_of_numbers(self, client, toy):
        rows = toy.rows(1, seed=7)
        reply = ask(client, rows.tobytes(), {HEADER: "0"})
        assert reply.status_code == 200, reply.text
        assert reply.headers["content-type"] == BINARY
        reference = toy.reference(rows, operator="holder", temperature=4)
        np.testing.assert_allclose(outputs_of(reply)["probabilities"], reference, atol=2e-6)

    def test_another_size(self, client):
        refused(ask(client, bytes(23), {HEADER: "0"}), 400, "bad_input", "has 24 bytes, not 23")
        refused(ask(client, b"", {HEADER: "0"}), 400, "bad_input", "has 24 bytes, not 0")

    def test_several_inputs(self, mixed):
        reply = ask(mixed, bytes(24), {HEADER: "0"}, "/v2/models/mixed/infer")
        refused(reply, 400, "bad_input", "the only input; this ensemble takes image, number, text")

    def test_a_body_without_the_header_is_json(self, client):
        refused(ask(client, b""), 400, "bad_input", "not JSON")


@pytest.mark.parametrize("length", ["x", "-1", "1.5", "1e3", "", "²", "99999", "9" * 5000])
def test_a_length_of_the_json_that_is_none(client, toy, length):
    body, _ = request_of({"pixels": toy.rows(1)}, ["pixels"])
    reply = client.post(URL, content=body, headers=[(HEADER.encode(), length.encode())])
    refused(reply, 400, "bad_input", "Inference-Header-Content-Length is", "give the bytes of the JSON")


@pytest.mark.parametrize(("shift", "said"), [(-1, "not JSON"), (1, "not JSON"), (-(10**6), "Content-Length")])
def test_a_length_of_the_json_that_is_another(client, toy, shift, said):
    body, headers = request_of({"pixels": toy.rows(1)}, ["pixels"])
    wrong = str(max(int(headers[HEADER]) + shift, -1))
    refused(ask(client, body, {HEADER: wrong}), 400, "bad_input", said)


@pytest.mark.parametrize("change", [lambda body: body[:-1], lambda body: body + b"\0", lambda body: body * 2])
def test_more_or_less_behind_the_json_than_is_said(client, toy, change):
    body, headers = request_of({"pixels": toy.rows(2)}, ["pixels"])
    refused(ask(client, change(body), headers), 400, "bad_input", "the inputs have 48 bytes behind the JSON")


def test_bytes_without_the_header(client, toy):
    tensor, _ = as_bytes("pixels", toy.rows(2))
    refused(ask(client, *body_of({"inputs": [tensor]})), 400, "bad_input", "the body has 0")


ROW = as_json("pixels", np.zeros((1, 6), FP32))
LONG = "soft_targets_" * 10_000
LABELS = {"name": "log_probs", "parameters": {"classification": 1}}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "must be a JSON object"),
        ({}, "must have inputs, a list of tensors"),
        ({"inputs": {"pixels": [[0.0] * 6]}}, "must have inputs, a list of tensors"),
        ({"inputs": []}, "missing: pixels"),
        ({"inputs": [ROW, ROW]}, "input 'pixels' stands twice"),
        ({"inputs": [ROW], "row_ids": [1]}, "the body: unknown keys: ['row_ids']; known: id, model_name,"),
        ({"inputs": [ROW], "id": 7}, "id is 7: give a text"),
        ({"inputs": [ROW], "parameters": [1]}, "the request: parameters must be an object"),
        ({"inputs": [ROW], "outputs": {}}, "outputs must be a list"),
        ({"inputs": [ROW], "outputs": ["log_probs"]}, "every output must be an object with a name"),
        ({"inputs": [ROW], "outputs": [{"name": "logits"}]}, "unknown output 'logits'"),
        ({"inputs": [ROW], "outputs": [{"name": "indices"}]}, "unknown output 'indices'; known: log_probs"),
        ({"inputs": [ROW], "outputs": [LABELS, LABELS]}, "output 'log_probs' stands twice"),
        ({"inputs": [ROW], "outputs": [{"name": "log_probs", "data": []}]}, "unknown keys: ['data'];"),
        ({"inputs": [ROW], "outputs": [{"name": "log_probs", "parameters": {"binary": True}}]},
         "unknown parameter 'binary'; did you mean 'binary_data'?"),
        ({"inputs": [ROW], "outputs": [{"name": "log_probs", "parameters": {"binary_data": 1}}]},
         "'binary_data' is 1: give true or false"),
        ({"inputs": [ROW], "outputs": [{"name": "log_probs", "parameters": {"classification": 0}}]},
         "'classification' is 0: give a whole number from 1"),
        ({"inputs": [ROW], "outputs": [{"name": "log_probs", "parameters": {"classification": 5}}]},
         "classification is 5, it has 4 classes"),
    ],
)  # fmt: skip
def test_a_body_that_cannot_be_answered(client, document, said):
    refused(ask(client, *body_of(document)), 400, "bad_input", said)


@pytest.mark.parametrize(
    "document",
    [
        {"inputs": [{**ROW, "name": LONG}]},
        {"inputs": [{**ROW, "datatype": LONG}]},
        {"inputs": [{**ROW, "shape": [1] * 200_000}]},
        {"inputs": [{**ROW, "data": [LONG] * 6}]},
        {"inputs": [{**ROW, LONG: 1}]},
        {"inputs": [ROW], LONG: 1},
        {"inputs": [ROW], "id": [LONG]},
        {"inputs": [ROW], "model_name": LONG},
        {"inputs": [ROW], "outputs": [{"name": LONG}]},
        {"inputs": [ROW], "outputs": [{"name": LONG}] * 2},
        {"inputs": [ROW], "outputs": [{"name": LONG, "x": 1}]},
        {"inputs": [ROW], "parameters": {LONG: 1}},
        {"inputs": [ROW], "parameters": {"soft_targets_temperature": LONG}},
        {"inputs": [ROW], "parameters": {"timeout": LONG}},
        {"inputs": [ROW], "parameters": {"binary_data_output": LONG}},
    ],
)
def test_messages_are_short_however_long_what_they_are_about(client, document):
    reply = ask(client, *body_of(document))
    refused(reply, 400, "bad_input")
    assert len(reply.content) < 500


def test_what_holds_no_classes(client):
    outputs = [{"name": "tail_log_mass", "parameters": {"classification": 1}}]
    reply = ask(client, *body_of({"inputs": [ROW], "outputs": outputs}), url="/v2/models/toy.sparse/infer")
    refused(reply, 400, "bad_input", "'tail_log_mass' holds no classes")


@pytest.mark.parametrize(
    ("parameters", "status", "code", "said"),
    [
        (
            {"temperature": 2},
            400,
            "bad_input",
            "unknown parameter 'temperature'; did you mean 'soft_targets_t",
        ),
        ({"soft_targets_temprature": 2}, 400, "bad_input", "did you mean 'soft_targets_temperature'?"),
        ({"triton_enable_empty_final_response": True}, 400, "bad_input", "unknown parameter"),
        ({"headers": "x"}, 400, "bad_input", "unknown parameter"),
        ({"soft_targets_temperature": 0}, 400, "bad_input", "give a number from 0.1 to 100"),
        ({"soft_targets_temperature": 101}, 400, "bad_input", "give a number from 0.1 to 100"),
        ({"soft_targets_temperature": "2"}, 400, "bad_input", "give a number from 0.1 to 100"),
        ({"soft_targets_temperature": True}, 400, "bad_input", "give a number from 0.1 to 100"),
        ({"soft_targets_temperature": float("nan")}, 400, "bad_input", "give a number from 0.1 to 100"),
        ({"soft_targets_temperature": None}, 400, "bad_input", "must be a text, a number or a boolean"),
        ({"soft_targets_temperature": [2]}, 400, "bad_input", "must be a text, a number or a boolean"),
        ({"soft_targets_top_k": 0}, 400, "bad_input", "give a whole number from 1"),
        ({"soft_targets_top_k": 1.5}, 400, "bad_input", "give a whole number from 1"),
        ({"soft_targets_top_k": True}, 400, "bad_input", "give a whole number from 1"),
        ({"soft_targets_top_k": 5}, 400, "bad_query", "top_k is 5; this ensemble has 4 classes"),
        ({"binary_data_output": "true"}, 400, "bad_input", "give true or false"),
        ({"timeout": -1}, 400, "bad_input", "give a whole number from 0"),
        ({"timeout": 1.5}, 400, "bad_input", "give a whole number from 0"),
        ({"priority": 1}, 501, "unsupported", "all requests are alike here"),
        ({"priority": -1}, 400, "bad_input", "give a whole number from 0"),
        ({"sequence_id": 5}, 501, "unsupported", "rows have no sequence here"),
        ({"sequence_id": "a", "sequence_start": True}, 501, "unsupported", "rows have no sequence here"),
        ({"sequence_end": True}, 501, "unsupported", "rows have no sequence here"),
        ({"shared_memory_region": "r"}, 501, "unsupported", "shared memory is not used here"),
    ],
)
def test_parameters_that_are_refused(client, parameters, status, code, said):
    reply = ask(client, *body_of({"inputs": [ROW], "parameters": parameters}))
    refused(reply, status, code, said)


def test_parameters_that_change_nothing(client):
    parameters = {
        "priority": 0,
        "timeout": 0,
        "sequence_id": 0,
        "sequence_start": False,
        "sequence_end": False,
    }
    assert ask(client, *body_of({"inputs": [ROW], "parameters": parameters})).status_code == 200
    assert ask(client, *body_of({"inputs": [ROW], "parameters": None, "outputs": None})).status_code == 200


def test_the_address_has_no_parameters(client):
    reply = ask(client, *body_of({"inputs": [ROW]}), url=f"{URL}?temperature=2")
    refused(reply, 400, "bad_query", "stand in the body, not in the address")


def test_rows_differ_in_number(mixed):
    reply = ask(mixed, *request_of({**MIXED, "number": np.arange(2)}), url="/v2/models/mixed/infer")
    refused(reply, 400, "bad_input", "inputs differ in their number of rows: {'image': 3, 'number': 2")


def test_what_is_too_large(mixed):
    inputs = {name: np.repeat(values, 14, axis=0) for name, values in MIXED.items()}
    for binary in ((), EVERYTHING):
        reply = ask(mixed, *request_of(inputs, binary), url="/v2/models/mixed/infer")
        refused(reply, 413, "too_large", "42 rows in one request, at most 40")
    refused(ask(mixed, bytes(65537), url="/v2/models/mixed/infer"), 413, "too_large", "65537 bytes")


def test_json_that_nests_too_deep(mixed):
    deep = '{"inputs": ' + "[" * 20 + "]" * 20 + "}"
    refused(ask(mixed, deep, url="/v2/models/mixed/infer"), 400, "bad_input", "nests deeper than 20")
    # Only the JSON is looked at.
    inputs = {**MIXED, "text": np.array(["[" * 30] * 3, dtype=object)}
    infer(mixed, inputs, EVERYTHING, "/v2/models/mixed/infer")


@pytest.mark.parametrize("name", ["tea", "toy.", "toy.none", ".default", "toy.default.x", "toy%2Fx", "TOY"])
def test_a_model_that_is_none(client, name):
    for path in ("/infer", "/versions/1/infer"):
        reply = ask(client, *body_of({"inputs": [ROW]}), url=f"/v2/models/{name}{path}")
        assert (reply.status_code, set(reply.json())) == (404, {"error", "code"})
    assert reply.json()["code"] in {"unknown_ensemble", "unknown_recipe", "not_found"}


def test_an_ensemble_without_a_default_recipe_is_asked_by_recipe(mixed):
    rows = {"x": np.zeros((1, 2), FP32)}
    reply = ask(mixed, *request_of(rows), url="/v2/models/faulty/infer")
    refused(reply, 404, "unknown_recipe", "no model 'faulty'; did you mean 'faulty.mine'?")
    infer(mixed, rows, url="/v2/models/faulty.mine/infer")


FAULTY = "/v2/models/faulty.mine/infer"


def faulty(*firsts):
    return {"x": np.array([[first, seed] for seed, first in enumerate(firsts)], FP32)}


def test_a_row_that_is_not_finite_fails_the_request_and_is_named(client, toy):
    rows = toy.rows(12, seed=8)
    rows[3, 2], rows[7, 5] = np.nan, np.inf
    for binary in ((), ("pixels",)):
        refused(
            ask(client, *request_of({"pixels": rows}, binary)), 400, "non_finite_input",
            "2 of 12 rows have no target, and all are answered or none: row 3: input 'pixels' is nan at [2]",
            "row 7: input 'pixels' is inf at [5]",
        )  # fmt: skip


def test_only_the_first_of_many_rows_are_named(client):
    reply = ask(client, *request_of({"pixels": np.full((20, 6), np.nan, FP32)}, ["pixels"]))
    refused(reply, 400, "non_finite_input", "20 of 20 rows", "row 7: ", "; and 12 more")
    assert "row 8: " not in reply.json()["error"]


def test_a_teacher_that_is_missing_is_told(mixed):
    found, said = infer(mixed, faulty(0, 20, 0, 30), url=FAULTY)
    assert json.loads(said["parameters"]["soft_targets_missing_teachers"]) == {"one": [1, 3]}
    assert np.isfinite(found["log_probs"]).all()
    assert "soft_targets_missing_teachers" not in infer(mixed, faulty(0, 5), url=FAULTY)[1]["parameters"]


def test_a_row_that_too_few_teachers_answer_fails_the_request_for_now(mixed):
    reply = ask(mixed, *request_of(faulty(0, 200)), url=FAULTY)
    refused(reply, 503, "quorum_lost", "1 of 2 rows have no target", "row 1: 0 of 2 teachers are left")
    assert reply.headers["retry-after"] == "1"
    # What is wrong with a row itself does not pass, and goes before what does.
    reply = ask(mixed, *request_of(faulty(200, np.nan)), url=FAULTY)
    refused(
        reply, 400, "non_finite_input", "2 of 2 rows", "row 0: 0 of 2 teachers", "row 1: input 'x' is nan"
    )
    assert "retry-after" not in reply.headers


def test_a_teacher_that_all_need_fails_the_request(open_app, tmp_path):
    text = """\
ensembles:
  one:
    classes: [a, b, c]
    teachers:
      - {name: only, model: "fake://?classes=3&features=2&nan_above=10", output: {kind: logits}}
    recipes: {default: {operator: linear}}
"""
    client = open_app(tmp_path, text).client
    reply = ask(client, *request_of(faulty(0, 20)), url="/v2/models/one/infer")
    refused(reply, 500, "teacher_invalid", "row 1: no distribution from teacher 'only'")


def test_what_was_answered_before_a_row_failed_is_kept(client, toy):
    rows = toy.rows(6, seed=9)
    broken = np.concatenate([rows, np.full((1, 6), np.nan, FP32)])
    assert ask(client, *request_of({"pixels": broken}, ["pixels"])).status_code == 400
    native = client.post("/v1/ensembles/toy/soft-targets", json={"inputs": {"pixels": rows.tolist()}}).json()
    assert {target["source"] for target in native["targets"]} == {"hit"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", URL, 405, "method_not_allowed"),
        ("POST", "/v2", 405, "method_not_allowed"),
        ("POST", "/v2/models/toy", 405, "method_not_allowed"),
        ("GET", "/v2/repository/index", 405, "method_not_allowed"),
        ("GET", "/v2/models", 404, "not_found"),
        ("GET", "/v2/models/toy/x", 404, "not_found"),
        ("GET", "/v2/systemsharedmemory/status", 404, "not_found"),
        ("POST", "/v2/models/toy/generate", 404, "not_found"),
    ],
)
def test_what_is_no_route(client, method, path, status, code):
    refused(client.request(method, path), status, code)


def says_yes(path):
    """Logits 9 and -9 where the text is "yes", else -9 and 9."""
    nodes = [
        helper.make_node("Equal", ["text", "yes"], ["same"]),
        helper.make_node("Cast", ["same"], ["one"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "half"], ["sign"]),
        helper.make_node("Mul", ["sign", "scale"], ["logits"]),
    ]
    numbers = [("half", np.array(0.5, FP32)), ("scale", np.array([18, -18], FP32))]
    models.save(
        path,
        nodes,
        [("text", TensorProto.STRING, ["batch", 1])],
        [("logits", TensorProto.FLOAT, ["batch", 2])],
        [("yes", np.array(["yes"], dtype=object)), *numbers],
    )


def test_a_text_that_stands_alone_has_no_length(open_app, tmp_path):
    says_yes(tmp_path / "yes.onnx")
    text = """\
ensembles:
  one:
    inputs: {text: {dtype: utf8}}
    classes: [yes, no]
    teachers: [{name: only, model: yes.onnx, output: {kind: logits}}]
    recipes: {default: {operator: linear}}
"""
    client, url = open_app(tmp_path, text).client, "/v2/models/one/infer"
    for body, best in [(b"yes", 0), ("größer".encode(), 1), (b"", 1)]:
        reply = ask(client, body, {HEADER: "0"}, url)
        assert reply.status_code == 200, reply.text
        assert np.argmax(outputs_of(reply)["probabilities"]) == best
    refused(ask(client, b"\xff", {HEADER: "0"}, url), 400, "bad_input", "not UTF-8")
