"""KServe's client against a running server; tests/end_to_end/test_v2_kserve.py runs it."""

import asyncio
import json
import os

import httpx
import numpy as np
import pytest
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

TOLD = json.loads(os.environ["SOFT_TARGETS_CONFORMANCE"])
URL = TOLD["url"]
EXPECTED = np.load(TOLD["expected"])
ROWS = EXPECTED["rows"]


def run(ask):
    """Run ``ask(client)`` to its end."""

    async def running():
        async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
            return await ask(client)

    return asyncio.run(running())


def tensor(name, values, *, binary=True):
    datatype = {"f": "FP32", "e": "FP16", "i": "INT64", "O": "BYTES"}[
        "e" if values.dtype == np.float16 else values.dtype.kind
    ]
    given = InferInput(name, list(values.shape), datatype)
    given.set_data_from_numpy(values, binary_data=binary)
    return given


def mixed(*, binary):
    return [
        tensor(name, EXPECTED[name].astype(object) if name == "text" else EXPECTED[name], binary=binary)
        for name in ("image", "number", "text")
    ]


def infer(model, inputs, **more):
    """The outputs by name, and the reply."""
    reply = run(lambda client: client.infer(URL, InferRequest(model, inputs, **more), model_name=model))
    return {output.name: output.as_numpy() for output in reply.outputs}, reply


def refusal(status, said, ask):
    with pytest.raises(httpx.HTTPStatusError) as caught:
        run(ask)
    assert caught.value.response.status_code == status
    assert said in str(caught.value)


@pytest.mark.parametrize("output", [True, False])
@pytest.mark.parametrize("binary", [True, False])
def test_inference(binary, output):
    found, reply = infer(
        "mixed", mixed(binary=binary), parameters={"binary_data_output": output}, request_id="7"
    )
    assert list(found) == ["probabilities", "log_probs"]
    np.testing.assert_allclose(found["probabilities"], EXPECTED["mixed"], atol=1e-5)
    np.testing.assert_allclose(np.exp(found["log_probs"]), EXPECTED["mixed"], atol=1e-5)
    assert (reply.model_name, reply.id) == ("mixed", "7")


def test_some_in_json_and_some_in_bytes():
    found, _ = infer("mixed", [*mixed(binary=True)[:2], mixed(binary=False)[2]])
    np.testing.assert_allclose(found["probabilities"], EXPECTED["mixed"], atol=1e-5)


def test_halves():
    found, _ = infer("toy", [tensor("pixels", ROWS.astype(np.float16))])
    np.testing.assert_allclose(found["probabilities"], EXPECTED["default"], atol=1e-2)


@pytest.mark.parametrize("binary", [True, False])
def test_no_rows(binary):
    found, _ = infer("toy", [tensor("pixels", ROWS[:0], binary=binary)])
    assert found["log_probs"].shape == (0, 4)


def test_outputs_and_parameters():
    outputs = [RequestedOutput("log_probs", {"binary_data": True}), RequestedOutput("indices")]
    parameters = {"soft_targets_top_k": 3, "soft_targets_temperature": 3.0}
    found, reply = infer(
        "toy.linear", [tensor("pixels", ROWS)], request_outputs=outputs, parameters=parameters
    )
    assert list(found) == ["log_probs", "indices"]
    best = np.argsort(-EXPECTED["linear_at_3"], axis=1)[:, :3]
    np.testing.assert_array_equal(found["indices"], best)
    assert reply.parameters["soft_targets_temperature"] == 3


def test_what_it_asks_of_a_server():
    assert run(lambda client: client.is_server_live(URL)) is True
    assert run(lambda client: client.is_server_ready(URL)) is True
    assert run(lambda client: client.is_model_ready(URL, "toy")) is True
    assert run(lambda client: client.is_model_ready(URL, "toy.sparse")) is True
    assert run(lambda client: client.is_model_ready(URL, "tea")) is False


def test_what_is_refused_says_why():
    def ask(model, **more):
        given = InferRequest(model, [tensor("pixels", ROWS)], **more)
        return lambda client: client.infer(URL, given, model_name=model)

    refusal(404, "no model 'tea'; known: mixed,", ask("tea"))
    refusal(400, "unknown parameter 'x'", ask("toy", parameters={"x": 1}))
    refusal(400, "unknown output 'logits'", ask("toy", request_outputs=[RequestedOutput("logits")]))
    rows = ROWS.copy()
    rows[3, 1] = np.nan
    broken = InferRequest("toy", [tensor("pixels", rows)])
    refusal(400, "row 3: input 'pixels'", lambda client: client.infer(URL, broken, model_name="toy"))


def test_many_requests_at_once():
    async def ask_all(client):
        async def ask(seed):
            chosen = np.random.default_rng(seed).choice(64, 7, replace=False)
            given = InferRequest("toy", [tensor("pixels", ROWS[chosen], binary=bool(seed % 2))])
            reply = await client.infer(URL, given, model_name="toy")
            np.testing.assert_allclose(reply.outputs[0].as_numpy(), EXPECTED["default"][chosen], atol=1e-5)

        await asyncio.gather(*map(ask, range(100)))

    run(ask_all)


def test_a_server_that_is_not_ready():
    failing = TOLD["failing"]
    for seed in range(6):
        given = InferRequest("bad", [tensor("x", np.array([[20, seed]], np.float32))])
        refusal(500, "no distribution from teacher 'only'", lambda client, given=given: client.infer(
            failing, given, model_name="bad"
        ))  # fmt: skip
    assert run(lambda client: client.is_server_live(failing)) is True
    refusal(503, "the quorum cannot be met", lambda client: client.is_server_ready(failing))
    assert run(lambda client: client.is_model_ready(failing, "bad")) is False
    assert run(lambda client: client.is_model_ready(failing, "good")) is True
