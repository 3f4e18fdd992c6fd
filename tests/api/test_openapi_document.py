"""Whatever a request that follows the OpenAPI document holds, or one that does not quite, the reply does."""

import json

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from security_server import Served, configuration

KNOWN = {"ensemble": "toy", "model": "toy", "recipe": "default"}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]

# Every run asks the same, and what was asked is kept nowhere.
PROFILE = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = tmp_path_factory.mktemp("schemathesis") / "toy.yaml"
    path.write_text(configuration("max_rows_per_request: 100", auth="auth: {open: true}\n"))
    server = Served(path)
    yield server
    server.stop()


@pytest.fixture
def document(server):
    """The document as the server says it, with what makes requests reach beyond the first check."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")

    @schema.hook
    def map_path_parameters(_, parameters):
        """Nearly always the ensemble that there is."""
        for name, value in (parameters or {}).items():
            if len(str(value)) % 8:
                parameters[name] = KNOWN[name]
        return parameters

    @schema.hook
    def map_body(_, body):
        """As often as not what fits the ensemble."""
        if isinstance(body, dict) and len(json.dumps(body)) % 2:
            if isinstance(body.get("inputs"), dict):
                body["inputs"] = {"x": [[0.5] * 6] * (len(body["inputs"]) + 1)}
            if "operator" in body:
                body = {"operator": "linear", "temperature": 2.0}
        return body

    return schema


def can_be_wrong(operation):
    return operation.path_parameters or operation.query or operation.body


@pytest.mark.parametrize("mode", GenerationMode)
def test_replies_are_as_documented(document, mode):
    # A stream of events ends with the server, and has nothing to be asked wrongly.
    operations = [operation.ok() for operation in document.exclude(path="/v1/events").get_all_operations()]
    assert len(operations) > 8
    statuses = set()
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not can_be_wrong(operation):
            continue
        examples = 3 if operation.label.endswith("reload") else 15  # it takes half a second

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(PROFILE, max_examples=examples)
        def asked(case):
            response = case.call_and_validate(checks=CHECKS, timeout=30)
            statuses.add(response.status_code)
            if response.status_code >= 400:
                assert set(response.json()) >= {"error", "code"}

        asked()
    assert {200, 400, 404} <= statuses <= {200, 201, 400, 404, 406, 409, 413, 415, 422}


def test_the_server_is_as_it_was(server):
    assert httpx2.get(f"{server.url}/livez").status_code == 200
    assert (server.engine.intake.rows, server.engine.intake.size) == (0, 0)
    rows = json.dumps({"inputs": {"x": [[0.0] * 6]}})
    reply = httpx2.post(
        f"{server.url}/v1/ensembles/toy/soft-targets",
        content=rows,
        headers={"Content-Type": "application/json"},
    )
    assert reply.status_code == 200
