"""An ensemble that takes the place of another: no request fails, and every row is one's or the other's."""

import asyncio
import itertools
import json
import time

import httpx2
import numpy as np
import pytest
import teachers as models
from connections import connect

from soft_targets.wire import ARROW, Closing, default_row_ids, encode_request, read_reply

CONFIG = """\
server: {port: 0}
auth: {open: true}
ensembles:
  toy:
    classes: [a, b, c, d]
    teachers:
      - {name: one, model: one.onnx, output: {kind: logits}, weight: WEIGHT}
      - {name: two, model: two.onnx, output: {kind: logits}}
    batching: {max_rows: 16, in_flight: 2, threads: 1}
    recipes: {default: {operator: linear}}
"""
PATH = "/v1/ensembles/toy"


class Served:
    def __init__(self, folder, start, **options):
        self.parameters = [
            models.random_linear(folder / f"{name}.onnx", seed) for seed, name in enumerate(["one", "two"])
        ]
        self.file = folder / "c.yaml"
        self.write(1)
        self.url = start(self.file, **options).url

    def write(self, weight):
        """Change the file as editors do: another one takes its place."""
        other = self.file.with_suffix(".new")
        other.write_text(CONFIG.replace("WEIGHT", str(weight)))
        other.replace(self.file)

    def reload(self):
        return httpx2.post(f"{self.url}{PATH}/reload", timeout=60)

    def fingerprint(self):
        return httpx2.get(f"{self.url}{PATH}").json()["recipes"]["default"]["fingerprint"]

    def expected(self, rows, weight):
        shares = np.array([weight, 1]) / (weight + 1)
        beliefs = [np.exp(models.log_softmax(rows.astype(float) @ w + b)) for w, b in self.parameters]
        return sum(share * belief for share, belief in zip(shares, beliefs, strict=True))


@pytest.fixture(scope="module")
def served(tmp_path_factory, start):
    return Served(tmp_path_factory.mktemp("reload"), start)


async def test_under_load_no_request_fails_and_every_reply_is_of_one_fingerprint(served):
    stop, seen, seeds = asyncio.Event(), [], itertools.count()
    weights = {served.fingerprint(): 1}

    async def student():
        async with connect(served.url) as connection:
            while not stop.is_set():
                rows = np.random.default_rng(next(seeds)).normal(size=(24, 6)).astype(np.float32)
                body = encode_request({"pixels": rows}, default_row_ids(24))
                reply = await connection.post(f"{PATH}/soft-targets", body, ARROW)
                assert reply.status == 200, reply
                metadata, batches = read_reply(reply.body)
                *groups, closing = batches
                assert closing == Closing(24, 0)
                seen.append(
                    (metadata["fingerprint"], rows, np.concatenate([one.log_probs for one in groups]))
                )

    students = [asyncio.create_task(student()) for _ in range(8)]
    for weight in (3, 7, 0.25):
        served.write(weight)
        reply = await asyncio.to_thread(served.reload)
        assert reply.status_code == 200, reply.text
        weights[reply.json()["recipes"]["default"]["fingerprint"]] = weight
        await asyncio.sleep(0.3)
    stop.set()
    await asyncio.gather(*students)
    assert {fingerprint for fingerprint, *_ in seen} == set(weights)
    for fingerprint, rows, log_probs in seen:
        np.testing.assert_allclose(np.exp(log_probs), served.expected(rows, weights[fingerprint]), atol=1e-5)


def test_what_cannot_be_used_changes_nothing_and_says_why(served):
    before, text = served.fingerprint(), served.file.read_text()
    served.file.write_text(text.replace("two.onnx", "gone.onnx"))
    reply = served.reload()
    assert (reply.status_code, reply.json()["code"]) == (422, "bad_configuration")
    assert "gone.onnx: no such file" in reply.json()["error"]
    assert reply.json()["error"].endswith("all is served as before")
    served.file.write_text(text.replace("toy:", "other:"))
    assert "no ensemble 'toy' any more" in served.reload().json()["error"]
    served.file.write_text(text)
    assert served.fingerprint() == before
    unknown = httpx2.post(f"{served.url}/v1/ensembles/none/reload")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_ensemble")


def test_a_recipe_put_at_run_time_stays(served):
    recipe = json.dumps({"operator": "linear", "temperature": 3})
    assert httpx2.put(f"{served.url}{PATH}/recipes/mine", content=recipe, timeout=60).status_code == 201
    assert "mine" in served.reload().json()["recipes"]


def test_a_file_that_is_watched_is_followed(tmp_path, start):
    served = Served(tmp_path, start, arguments=["--reload"])
    before = served.fingerprint()
    served.file.write_text("ensembles: {}")  # no use, and no harm
    served.write(5)
    end = time.monotonic() + 60
    while (after := served.fingerprint()) == before:
        assert time.monotonic() < end
        time.sleep(0.1)
    reply = httpx2.post(
        f"{served.url}{PATH}/soft-targets", json={"inputs": {"pixels": [[0.0] * 6]}}, timeout=60
    ).json()
    assert reply["fingerprint"] == after
    expected = served.expected(np.zeros((1, 6)), 5)[0]
    np.testing.assert_allclose(list(reply["targets"][0]["probabilities"].values()), expected, atol=1e-5)
