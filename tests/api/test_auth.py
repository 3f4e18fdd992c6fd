"""Every route is guarded as the table says, whatever way a request comes."""

import json

import httpx2
import pytest
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.websockets import WebSocketDisconnect

from service.api.access import ACCESS, OPEN, READ, Guard
from service.api.app import create_app
from service.auth import Access, Scope, new_key, open_access
from service.config import Auth, load
from service.engine.changes import Alone
from service.engine.engine import Engine

ASK = "/v1/ensembles/toy/soft-targets"
BODY = {"inputs": {"pixels": [[0.0] * 6]}}
RECIPE = "/v1/ensembles/toy/recipes/mine"
TABLE = {
    "GET /": OPEN,
    "PUT /v1/ensembles/{ensemble}/recipes/{recipe}": Scope.RECIPES_WRITE,
    "POST /v1/ensembles/{ensemble}/reload": Scope.ADMIN,
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A keys file, and a key for each scope."""
    path = tmp_path_factory.mktemp("keys") / "keys.jsonl"
    return path, {scope: new_key(path, [scope], name=scope.name)[0] for scope in Scope}


@pytest.fixture(scope="module")
def guarded(toy, keys):
    settings = load(toy.config)
    access = open_access(Auth(keys_file=keys[0]))
    engine = Engine.open(settings)
    app = create_app(engine, settings, access, Alone(engine, lambda: load(toy.config)))
    app.state.drain()  # the live figures end at once
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def requests_of(line):
    """A table's line as methods and a path that the toy ensemble has."""
    method, path = line.split(" ")
    named = {"ensemble": "toy", "recipe": "mine", "model": "none", "version": "1", "file": "icon.svg"}
    return ["GET", "HEAD"] if method == "GET" else [method], path.format(**named)


def denied(reply, status):
    assert reply.status_code == status
    assert (reply.headers.get("www-authenticate") == "Bearer") == (status == 401)
    if reply.request.method != "HEAD":
        assert set(reply.json()) == {"error", "code"}
        assert reply.json()["code"] == {401: "unauthenticated", 403: "forbidden"}[status]
        assert "st_" not in reply.text


def test_the_table_holds_exactly_the_routes_there_are(client):
    routes = client.app.routes
    assert all(
        isinstance(route, Route) for route in routes
    )  # no mount, whose inside the table would not show
    lines = {f"{method} {route.path}" for route in routes for method in route.methods - {"HEAD"}}
    assert set(ACCESS) == lines


def test_only_health_and_the_console_s_page_are_open():
    health = {"GET /livez", "GET /readyz", "GET /v2/health/live", "GET /v2/health/ready"}
    page = {"GET /", "GET /console/{file}"}
    assert {line for line, scope in ACCESS.items() if scope is OPEN} == health | page


@pytest.mark.parametrize("line", ACCESS)
def test_every_route_is_guarded_as_the_table_says(guarded, keys, line):
    methods, path = requests_of(line)
    for method in methods:
        if ACCESS[line] is OPEN and method == "GET":
            assert guarded.request(method, path).status_code == 200
            assert guarded.request(method, path, headers={"X-API-Key": "st_wrong"}).status_code == 200
        if ACCESS[line] is OPEN:
            continue
        denied(guarded.request(method, path), 401)
        denied(guarded.request(method, path, headers={"X-API-Key": "st_wrong"}), 401)
        for scope, key in keys[1].items():
            reply = guarded.request(method, path, headers={"Authorization": f"Bearer {key}"})
            if scope is ACCESS[line]:
                assert reply.status_code not in (401, 403)
            else:
                denied(reply, 403)


@pytest.mark.parametrize(
    "path", ["/nowhere", "/v1/ensembles/", "/livez/", "/LIVEZ", "//livez", "/livez/../nowhere"]
)
def test_a_path_that_is_no_route_needs_a_key_too(guarded, keys, path):
    # As it stands, without the normalising that a client would do.
    url = httpx2.URL("http://testserver").copy_with(raw_path=path.encode())
    denied(guarded.get(url, follow_redirects=False), 401)
    reply = guarded.get(url, headers={"X-API-Key": keys[1][READ]}, follow_redirects=False)
    assert reply.status_code in (307, 404)


def test_another_method_on_an_open_path_needs_a_key(guarded):
    denied(guarded.post("/livez"), 401)
    denied(guarded.options("/v1/ensembles"), 401)


def test_a_key_of_the_scope_gets_its_answer_however_it_is_sent(guarded, keys):
    key = keys[1][READ]
    for headers in (
        {"Authorization": f"Bearer {key}"},
        {"Authorization": f"bearer  {key} "},
        {"X-API-Key": key},
        {"X-API-Key": key, "Authorization": f"Bearer {key}"},
        {"X-API-Key": key, "Authorization": "Basic dTpw"},  # a proxy's, in front of the server
    ):
        reply = guarded.post(ASK, json=BODY, headers=headers)
        assert reply.status_code == 200, reply.text
        assert len(reply.json()["targets"]) == 1


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "this needs a key: send Authorization: Bearer KEY, or X-API-Key: KEY"),
        ({"Authorization": ""}, "this needs a key"),
        ({"Authorization": "Bearer"}, "this needs a key"),
        ({"Authorization": "Bearer "}, "this needs a key"),
        ({"Authorization": "Basic KEY"}, "this needs a key"),
        ({"Authorization": "KEY"}, "this needs a key"),
        ({"X-API-Key": ""}, "this needs a key"),
        ({"X-API-Key": "Bearer KEY"}, "not known"),
        ({"X-API-Key": "KE"}, "not known"),
        ({"X-API-Key": "é".encode()}, "not known"),
        ({"Authorization": "Bearer KEY KEY"}, "not known"),
        ({"Authorization": "Bearer KEY", "X-API-Key": "st_other"}, "different keys"),
        ({"Authorization": "Bearer st_other", "X-API-Key": "KEY"}, "different keys"),
        ([("X-API-Key", "KEY"), ("X-API-Key", "st_other")], "different keys"),
    ],
)
def test_what_is_no_key(guarded, keys, headers, said):
    pairs = headers.items() if isinstance(headers, dict) else headers
    key = keys[1][READ]
    sent = [(n, v.replace("KEY", key) if isinstance(v, str) else v) for n, v in pairs]
    reply = guarded.post(ASK, json=BODY, headers=sent)
    denied(reply, 401)
    assert said in reply.json()["error"]
    assert key not in reply.text


def test_a_key_in_the_query_is_none(guarded, keys):
    denied(guarded.get("/v1/ensembles", params={"key": keys[1][READ]}), 401)


def test_a_refusal_comes_before_the_body_is_read(guarded):
    reply = guarded.post(ASK, content=b"{" * (2 << 20), headers={"Content-Type": "application/json"})
    denied(reply, 401)  # not 413


def small(access, table=TABLE):
    """The guard before an application that answers anything."""
    return TestClient(Guard(PlainTextResponse("done"), access=access, table=table))


def test_a_route_gets_its_scope_by_one_line(keys):
    client = small(open_access(Auth(keys_file=keys[0])))
    assert client.get("/").text == "done"
    for method, path, needed in (
        ("PUT", RECIPE, Scope.RECIPES_WRITE),
        ("POST", "/v1/ensembles/toy/reload", Scope.ADMIN),
        ("GET", RECIPE, READ),
    ):
        denied(client.request(method, path), 401)
        for scope, key in keys[1].items():
            reply = client.request(method, path, headers={"X-API-Key": key})
            if scope is needed:
                assert reply.text == "done"
            else:
                denied(reply, 403)


def test_without_keys_what_changes_the_server_is_forbidden_unless_it_is_open():
    for access, status in ((Access(), 403), (Access(open=True), 200)):
        client = small(access)
        for method, path in (("PUT", RECIPE), ("POST", "/v1/ensembles/toy/reload")):
            assert client.request(method, path).status_code == status
        assert client.get("/v1/ensembles").text == "done"


def test_without_keys_reading_is_for_everyone_and_a_key_does_not_hurt(client):
    for headers in ({}, {"X-API-Key": "st_any"}):
        assert client.post(ASK, json=BODY, headers=headers).status_code == 200
        assert client.get("/openapi.json", headers=headers).status_code == 200


def test_nothing_speaks_websocket(keys):
    for access in (Access(open=True), open_access(Auth(keys_file=keys[0]))):
        with pytest.raises(WebSocketDisconnect), small(access).websocket_connect("/"):
            pass


def test_the_description_names_the_schemes_and_each_route_s_scope(client):
    document = client.get("/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert schemes["bearer"]["scheme"] == "bearer"
    assert (schemes["api_key"]["in"], schemes["api_key"]["name"]) == ("header", "X-API-Key")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scope = ACCESS[f"{method.upper()} {path}"]
            expected = [] if scope is OPEN else [{"bearer": [scope]}, {"api_key": [scope]}]
            assert operation["security"] == expected
    assert "st_" not in json.dumps(document)
