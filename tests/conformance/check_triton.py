"""tritonclient against a running server; tests/end_to_end/test_v2_triton.py runs it."""

import asyncio
import json
import os
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

TOLD = json.loads(os.environ["SOFT_TARGETS_CONFORMANCE"])
EXPECTED = np.load(TOLD["expected"])
ROWS = EXPECTED["rows"]
TEXT = EXPECTED["text"].astype(object)
CODINGS = [None, "gzip", "deflate"]
HEADER = "Inference-Header-Content-Length"


def host(url):
    return url.removeprefix("http://")


class Aio:
    """The asyncio client, every call of it run to its end."""

    def __init__(self, url):
        self.runner = asyncio.Runner()

        async def opened():
            return triton_aio.InferenceServerClient(url)

        self.client = self.runner.run(opened())

    def __getattr__(self, name):
        return lambda *given, **named: self.runner.run(getattr(self.client, name)(*given, **named))

    def close(self):
        self.runner.run(self.client.close())
        self.runner.close()


KINDS = {"sync": triton.InferenceServerClient, "aio": Aio}


@pytest.fixture(scope="module", params=KINDS)
def client(request):
    client = KINDS[request.param](host(TOLD["url"]))
    yield client
    client.close()


@pytest.fixture(scope="module", params=KINDS)
def failing(request):
    client = KINDS[request.param](host(TOLD["failing"]))
    yield client
    client.close()


def tensor(name, values, *, binary=True):
    datatype = {"f": "FP32", "i": "INT64", "O": "BYTES", "e": "FP16"}[
        "e" if values.dtype == np.float16 else values.dtype.kind
    ]
    return triton.InferInput(name, list(values.shape), datatype).set_data_from_numpy(
        values, binary_data=binary
    )


def pixels(rows=ROWS, **options):
    return [tensor("pixels", rows, **options)]


def mixed(binary, rows=slice(None)):
    return [
        tensor("image", EXPECTED["image"][rows], binary="image" in binary),
        tensor("number", EXPECTED["number"][rows], binary="number" in binary),
        tensor("text", TEXT[rows], binary="text" in binary),
    ]


def output(name, *, binary=True, classes=0):
    return triton.InferRequestedOutput(name, binary_data=binary, class_count=classes)


OUTPUTS = {
    "none": None,
    "selected": [output("log_probs")],
    "json": [output("log_probs", binary=False), output("probabilities", binary=False)],
    "both": [output("probabilities", binary=False), output("log_probs")],
}
SENT = {"json": (), "binary": ("image", "number", "text"), "mixed": ("number", "text")}


def refusal(client, status, *said, **asked):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(**{"model_name": "toy", "inputs": pixels(), **asked})
    assert caught.value.status() == str(status)
    for text in said:
        assert text in caught.value.message()
        assert text in str(caught.value)


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("sent", SENT)
def test_inference(client, sent, coding, outputs):
    result = client.infer(
        "mixed",
        mixed(SENT[sent]),
        outputs=OUTPUTS[outputs],
        request_id="7",
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    names = (
        ["probabilities", "log_probs"]
        if OUTPUTS[outputs] is None
        else [one.name() for one in OUTPUTS[outputs]]
    )
    said = result.get_response()
    assert [one["name"] for one in said["outputs"]] == names
    assert (said["id"], said["model_name"]) == ("7", "mixed")
    for name in names:
        values = result.as_numpy(name)
        assert values.dtype == np.float32
        found = np.exp(values) if name == "log_probs" else values
        np.testing.assert_allclose(found, EXPECTED["mixed"], atol=1e-5)


@pytest.mark.parametrize("model", ["default", "linear"])
def test_recipes_are_models(client, model):
    result = client.infer(f"toy.{model}", pixels())
    np.testing.assert_allclose(result.as_numpy("probabilities"), EXPECTED[model], atol=1e-5)


def test_halves(client):
    rows = ROWS.astype(np.float16)
    same = client.infer("toy", pixels(rows.astype(np.float32)))
    found = client.infer("toy", pixels(rows))
    np.testing.assert_array_equal(found.as_numpy("log_probs"), same.as_numpy("log_probs"))


def test_a_sparse_recipe(client):
    result = client.infer("toy.sparse", pixels())
    best = np.argsort(-EXPECTED["linear"], axis=1)[:, :2]
    np.testing.assert_array_equal(result.as_numpy("indices"), best)
    kept = np.take_along_axis(EXPECTED["linear"], best, axis=1)
    np.testing.assert_allclose(np.exp(result.as_numpy("log_probs")), kept, atol=1e-5)
    np.testing.assert_allclose(np.exp(result.as_numpy("tail_log_mass")), 1 - kept.sum(axis=1), atol=1e-5)


def test_parameters(client):
    parameters = {"soft_targets_temperature": 3.0}
    result = client.infer("toy.linear", pixels(), parameters=parameters, timeout=30_000_000)
    np.testing.assert_allclose(result.as_numpy("probabilities"), EXPECTED["linear_at_3"], atol=1e-5)
    assert result.get_response()["parameters"]["soft_targets_temperature"] == 3
    result = client.infer("toy.linear", pixels(), parameters={"soft_targets_top_k": 1})
    assert result.as_numpy("indices").shape == (64, 1)


@pytest.mark.parametrize("binary", [True, False])
def test_texts_go_and_come_back(client, binary):
    outputs = [output("probabilities", binary=binary, classes=3)]
    result = client.infer("mixed", mixed(("text",) if binary else ()), outputs=outputs)
    assert result.get_output("probabilities")["datatype"] == "BYTES"
    found = result.as_numpy("probabilities")
    assert found.shape == (6, 3)
    for row, best in enumerate(np.argsort(-EXPECTED["mixed"], axis=1)):
        texts = [one.decode() if isinstance(one, bytes) else one for one in found[row]]
        assert [text.split(":")[1:] for text in texts] == [
            [str(index), ["a", "b", "größer"][index]] for index in best
        ]


@pytest.mark.parametrize("binary", [(), ("image", "number", "text")])
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_no_rows(client, binary, outputs):
    result = client.infer("mixed", mixed(binary, slice(0)), outputs=OUTPUTS[outputs])
    assert result.as_numpy("log_probs").shape == (0, 3)


def test_versions(client):
    (version,) = client.get_model_metadata("toy.linear")["versions"]
    assert version.isdigit()
    result = client.infer("toy.linear", pixels(), model_version=version)
    assert result.get_response()["model_version"] == version
    assert client.get_model_metadata("toy.linear", version)["versions"] == [version]
    assert client.get_model_config("toy.linear", version)["name"] == "toy.linear"
    assert client.is_model_ready("toy.linear", version)
    assert not client.is_model_ready("toy.linear", "1")
    refusal(client, 404, "there is no version '1'", model_name="toy.linear", model_version="1")


def test_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("toy")
    said = client.get_server_metadata()
    assert (said["name"], "binary_tensor_data" in said["extensions"]) == ("soft-targets", True)
    model = client.get_model_metadata("mixed")
    assert [(one["name"], one["datatype"], one["shape"]) for one in model["inputs"]] == [
        ("image", "FP32", [-1, 2, 3]), ("number", "INT64", [-1]), ("text", "BYTES", [-1]),
    ]  # fmt: skip
    config = client.get_model_config("toy")
    assert config["max_batch_size"] == 300
    assert json.loads(config["parameters"]["classes"]["string_value"]) == TOLD["classes"]


def test_the_repository(client):
    names = {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
    assert set(names.values()) == {"READY"}
    assert {"toy", "toy.default", "toy.sparse", "mixed"} <= set(names)
    client.load_model("mixed")
    client.unload_model("mixed", unload_dependents=True)
    assert not client.is_model_ready("mixed")
    refusal(client, 404, "no model 'mixed'", model_name="mixed", inputs=mixed(()))
    states = {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
    assert states == names | {"mixed": "UNAVAILABLE", "mixed.default": "UNAVAILABLE"}
    client.load_model("mixed")
    assert client.is_model_ready("mixed")
    for more in ({"config": "{}"}, {"config": "{}", "files": {"file:1/model.onnx": b"x"}}):
        with pytest.raises(InferenceServerException, match="server's configuration alone"):
            client.load_model("mixed", **more)


def test_statistics(client):
    def counts():
        (found,) = client.get_inference_statistics("toy.cooled")["model_stats"]
        return {name: one["count"] for name, one in found["inference_stats"].items()}

    before = counts()
    client.infer("toy.cooled", pixels())
    refusal(client, 400, "unknown parameter", model_name="toy.cooled", parameters={"x": 1})
    after = counts()
    assert (after["success"], after["fail"]) == (before["success"] + 1, before["fail"] + 1)
    assert "toy.cooled" in {one["name"] for one in client.get_inference_statistics()["model_stats"]}


def test_what_is_refused_says_why(client):
    refusal(client, 404, "no model 'tea'; known: mixed,", model_name="tea")
    refusal(client, 400, "missing: text", model_name="mixed", inputs=mixed(())[:2])
    refusal(client, 400, "shape is [64, 5], it takes [-1, 6]", inputs=pixels(ROWS[:, :5]))
    refusal(client, 400, "unknown output 'logits'", outputs=[output("logits")])
    refusal(client, 400, "unknown parameter 'temperature'", parameters={"temperature": 2})
    refusal(
        client, 413, "301 rows in one request, at most 300", inputs=pixels(np.zeros((301, 6), np.float32))
    )
    refusal(client, 501, "all requests are alike here", priority=1)
    refusal(client, 501, "rows have no sequence here", sequence_id=5, sequence_start=True)
    shared = triton.InferInput("pixels", [1, 6], "FP32")
    shared.set_shared_memory("region", 24)
    refusal(client, 501, "shared memory is not used here", inputs=[shared])


@pytest.mark.parametrize("coding", CODINGS)
def test_another_size_than_is_said(client, coding):
    for change in (lambda raw: raw[:-1], lambda raw: raw + b"x"):
        (given,) = pixels()
        given._raw_data = change(given._raw_data)
        refusal(
            client,
            400,
            "the inputs have 1536 bytes behind",
            inputs=[given],
            request_compression_algorithm=coding,
        )


def test_rows_without_a_target_are_named(client):
    rows = ROWS.copy()
    rows[3, 1] = np.nan
    for binary in (True, False):
        refusal(
            client,
            400,
            "1 of 64 rows have no target",
            "row 3: input 'pixels'",
            inputs=pixels(rows, binary=binary),
        )


@pytest.mark.parametrize("coding", CODINGS)
def test_bodies_that_the_client_writes_and_reads_alone(coding):
    body, length = triton.InferenceServerClient.generate_request_body(pixels())
    headers = {HEADER: str(length), "Accept-Encoding": coding or "identity"}
    request = urllib.request.Request(f"{TOLD['url']}/v2/models/toy/infer", body, headers, method="POST")
    with urllib.request.urlopen(request) as reply:
        assert reply.headers["Content-Encoding"] == coding
        result = triton.InferenceServerClient.parse_response_body(
            reply.read(), header_length=int(reply.headers[HEADER]), content_encoding=coding
        )
    np.testing.assert_allclose(result.as_numpy("probabilities"), EXPECTED["default"], atol=1e-5)


def test_the_document_s_example(capsys):
    code = Path(TOLD["document"]).read_text().split("```python\n")[1].split("```")[0]
    for theirs, ours in [
        ("127.0.0.1:8000", host(TOLD["url"])),
        ("animals", "toy"),
        ('"image"', '"pixels"'),
        ("3, 32, 32", "6"),
    ]:
        assert theirs in code
        code = code.replace(theirs, ours)
    exec(compile(code, "v2.md", "exec"), {})
    assert capsys.readouterr().out.count("[") == 18  # eight rows of indices and of log-probabilities


def part(seed):
    """Some of the rows, and their targets."""
    chosen = np.random.default_rng(seed).choice(64, 7, replace=False)
    return ROWS[chosen], EXPECTED["default"][chosen]


def right(result, expected):
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected, atol=1e-5)


def test_many_requests_at_once_of_one_client():
    with triton.InferenceServerClient(host(TOLD["url"]), concurrency=8) as client:
        asked = [(client.async_infer("toy", pixels(part(seed)[0])), part(seed)[1]) for seed in range(60)]
        for request, expected in asked:
            right(request.get_result(), expected)


def test_many_clients_at_once():
    failures = []

    def ask(first):
        try:
            with triton.InferenceServerClient(host(TOLD["url"])) as client:
                for seed in range(first, first + 20):
                    rows, expected = part(seed)
                    right(client.infer("toy", pixels(rows, binary=bool(seed % 2))), expected)
        except Exception as exc:  # noqa: BLE001 - a thread's failure is the test's
            failures.append(exc)

    threads = [threading.Thread(target=ask, args=(100 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


async def ask_all(count):
    async with triton_aio.InferenceServerClient(host(TOLD["url"])) as client:

        async def ask(seed):
            rows, expected = part(seed)
            coding = CODINGS[seed % 3]
            right(await client.infer("toy", pixels(rows), response_compression_algorithm=coding), expected)

        await asyncio.gather(*map(ask, range(count)))


def test_many_requests_at_once_of_asyncio():
    asyncio.run(ask_all(200))


def test_a_server_that_is_not_ready(failing):
    assert failing.is_model_ready("good")
    for seed in range(6):
        rows = np.array([[20, seed]], np.float32)
        refusal(
            failing, 500, "no distribution from teacher 'only'", model_name="bad", inputs=[tensor("x", rows)]
        )
    assert failing.is_server_live()
    assert not failing.is_server_ready()
    assert not failing.is_model_ready("bad")
    assert failing.is_model_ready("good")
    states = {entry["name"]: entry["state"] for entry in failing.get_model_repository_index()}
    assert (states["bad"], states["good"]) == ("UNAVAILABLE", "READY")
