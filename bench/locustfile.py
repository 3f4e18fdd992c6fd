"""Load as users make it, for Locust: new rows, rows that are kept, sparse targets, digests, single rows.

    make bench-load                                         # a server of its own, for LOAD_S seconds
    locust -f bench/locustfile.py --host http://HOST:8000   # Locust's page, against your server
    locust -f bench/locustfile.py --host ... --headless -u 32 -r 8 -t 60s KeptArrow Digests   # some of them

The ensemble is ``ENSEMBLE``, else the first that the server lists, and must have one input of floats; the
key is ``SOFT_TARGETS_KEY``. Replies in Arrow are checked to be whole. A generator of load has limits of its
own, which may be below the server's: watch its processor, and use ``--processes``.
"""

import logging
import os
from typing import Any

import numpy as np
from locust import HttpUser, constant, task
from locust.exception import StopUser

from soft_targets import wire

ROWS = 128
KEPT = 16  # requests whose rows are asked for again and again
log = logging.getLogger(__name__)
KEY = os.environ.get("SOFT_TARGETS_KEY")
HINT = "" if KEY else "; no key was sent: SOFT_TARGETS_KEY has it"


class Asking(HttpUser):
    """Knows the ensemble, and makes requests of its rows."""

    abstract = True
    wait_time = constant(0)
    recipe = "default"
    rows = ROWS

    def on_start(self) -> None:
        if KEY:
            self.client.headers["Authorization"] = f"Bearer {KEY}"
        reply = self.client.get("/v1/ensembles", name="(start)")
        if reply.status_code != 200:  # noqa: PLR2004 - of HTTP
            log.error("%s said %s: %s%s", self.host, reply.status_code, reply.text or reply.reason, HINT)
            self.environment.runner.quit()
            raise StopUser
        said = reply.json()["ensembles"]
        wanted = os.environ.get("ENSEMBLE", said[0]["name"])
        described = next(one for one in said if one["name"] == wanted)
        ((self.input, spec),) = described["inputs"].items()
        self.specs = {self.input: wire.TensorSpec(spec["dtype"], tuple(spec["shape"]))}
        self.path = f"/v1/ensembles/{wanted}/soft-targets?recipe={self.recipe}"
        self.random = np.random.default_rng()
        self.known = [self.new(np.random.default_rng(place)) for place in range(KEPT)]

    def new(self, random: np.random.Generator) -> np.ndarray[Any, Any]:
        spec = self.specs[self.input]
        return random.random((self.rows, *spec.shape)).astype(spec.dtype)

    def some(self) -> np.ndarray[Any, Any]:
        return self.known[self.random.integers(KEPT)]

    def ask(self, body: bytes, media: str) -> None:
        with self.client.post(
            self.path,
            data=body,
            headers={"Content-Type": media},
            name=type(self).__name__,
            catch_response=True,
        ) as reply:
            if reply.status_code == 200 and media == wire.ARROW:  # noqa: PLR2004 - of HTTP
                *_, closing = wire.read_reply(reply.content)[1]
                if closing != wire.Closing(self.rows, 0):
                    reply.failure(f"{closing}")

    def arrow(self, rows: np.ndarray[Any, Any]) -> None:
        self.ask(wire.encode_request({self.input: rows}, wire.default_row_ids(len(rows))), wire.ARROW)


class NewRows(Asking):
    """Rows that nobody has asked for: what the teachers can do."""

    @task
    def ask_once(self) -> None:
        self.arrow(self.new(self.random))


class KeptArrow(Asking):
    """Rows that are kept, in Arrow."""

    @task
    def ask_once(self) -> None:
        self.arrow(self.some())


class KeptJson(Asking):
    """The same in JSON."""

    rows = 16

    def on_start(self) -> None:
        super().on_start()
        import json  # noqa: PLC0415 - of this scenario

        self.bodies = [json.dumps({"inputs": {self.input: rows.tolist()}}).encode() for rows in self.known]

    @task
    def ask_once(self) -> None:
        self.ask(self.bodies[self.random.integers(KEPT)], "application/json")


class Sparse(Asking):
    """Rows that are kept, of the recipe ``sparse``."""

    recipe = "sparse"

    @task
    def ask_once(self) -> None:
        self.arrow(self.some())


class Digests(Asking):
    """Rows that are kept, asked for by their digests."""

    def on_start(self) -> None:
        super().on_start()
        for rows in self.known:
            self.arrow(rows)

    @task
    def ask_once(self) -> None:
        digests = wire.row_digests({self.input: self.some()}, self.specs)
        self.ask(wire.encode_digests(digests, wire.default_row_ids(len(digests))), wire.ARROW)


class OneRow(Asking):
    """Single rows that nobody has asked for: latency."""

    rows = 1

    @task
    def ask_once(self) -> None:
        self.arrow(self.new(self.random))
