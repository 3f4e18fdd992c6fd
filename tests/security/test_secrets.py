"""Keys and passwords are in no reply and no log, whatever goes wrong."""

import json

import httpx2
import numpy as np
import pytest
from inference_server import InferenceServer, Model, status
from redis_server import RedisServer

from service.auth import Scope, new_key, open_access
from service.checking import check_config, document, shown
from service.config import load
from service.engine.engine import Engine
from service.errors import ConfigError

REDIS, FAR = "hunter2-of-redis", "st_key-of-the-far-one"
CONFIG = """\
server: {port: 0, workers: WORKERS}
auth: {keys_file: keys.jsonl}
cache: {url: 'CACHE', password_file: password, call_timeout_ms: 2000, breaker: {failures: 1, retry_s: 0.05}}
ensembles:
  toy:
    inputs: {x: {dtype: float32, shape: [4]}}
    classes: [a, b, c]
    quorum: 1
    teachers:
      - {name: far, model: "FAR", output: {kind: probs}, key_file: far.key, retries: 0, revision: one}
      - {name: near, model: "fake://?classes=3&features=4", output: {kind: logits}}
    recipes: {default: {operator: linear}}
"""
ASK, INFER = "/v1/ensembles/toy/soft-targets", "/v2/models/toy/infer"


@pytest.fixture
def redis(tmp_path):
    server = RedisServer(tmp_path, "--requirepass", REDIS).start()
    yield server
    server.stop()


@pytest.fixture
def far():
    def first(given):
        return {"p": np.tile(np.array([1.0, 0.0, 0.0]), (len(given["x"]), 1))}

    with InferenceServer(
        {"m": Model([("x", "FP32", [-1, 4])], [("p", "FP32", [-1, 3])], first)}, key=FAR
    ) as one:
        yield one


@pytest.fixture
def configured(tmp_path, redis, far):
    keys = {scope: new_key(tmp_path / "keys.jsonl", [scope], name=scope.name)[0] for scope in Scope}
    (tmp_path / "password").write_text(f"{REDIS}\n")
    (tmp_path / "far.key").write_text(f"{FAR}\n")
    text = CONFIG.replace("CACHE", redis.url).replace("FAR", far.address("m"))

    def write(workers=1, **changed):
        path, now = tmp_path / "toy.yaml", text.replace("WORKERS", str(workers))
        for old, new in changed.items():
            assert old in now
            now = now.replace(old, new)
        path.write_text(now)
        return path

    return write, keys


def secrets(keys, folder):
    hashes = [json.loads(line)["blake3"] for line in (folder / "keys.jsonl").read_text().splitlines()]
    return [REDIS, FAR, *keys.values(), *hashes]


def test_no_secret_is_said_whatever_goes_wrong(configured, redis, far, start):
    write, keys = configured
    config, said = write(workers=2), []
    server, folder = start(config), config.parent
    rows = iter(np.random.default_rng(0).normal(size=(1000, 1, 4)).tolist())

    def ask(path="/readyz", method="GET", key=keys[Scope.TARGETS_READ], **options):
        headers = {"X-API-Key": key} | options.pop("headers", {})
        reply = httpx2.request(method, f"{server.url}{path}", headers=headers, timeout=60, **options)
        said.append(f"{reply.status_code} {reply.headers} {reply.text}")
        return reply

    def answered():
        return ask(ASK, "POST", json={"inputs": {"x": next(rows)}}).json()["targets"][0]

    assert answered()["source"] == "miss"
    described = ("v1/ensembles", "v2", "v2/models/toy/config", "openapi.json", "nowhere")
    for path in ("readyz", *described):
        ask(f"/{path}")
    for key in ("", "wrong", keys[Scope.ADMIN] + "x", keys[Scope.ADMIN]):
        assert ask(ASK, "POST", key).status_code in {401, 403}
    ask("/livez", headers={"Authorization": f"Bearer {keys[Scope.ADMIN]}"})
    both = {"Authorization": f"Bearer {keys[Scope.ADMIN]}"}
    assert ask(ASK, "POST", headers=both).status_code == 401
    for content in (b"", b"{", b"[" * 1000, b"\xff"):
        for path in (ASK, INFER):
            assert ask(path, "POST", content=content, headers={"Content-Type": "application/json"}).is_error
    put = {"operator": {"import": "os:system"}}
    assert ask("/v1/ensembles/toy/recipes/x", "PUT", keys[Scope.RECIPES_WRITE], json=put).status_code == 400
    far.told.extend([status(500, f"no {FAR}"), status(401, f"Bearer {FAR} is unknown"), status(503, FAR)])
    for _ in range(3):
        assert answered()["missing_teachers"] == ["far"]
    far.key = "another"
    assert answered()["missing_teachers"] == ["far"]
    far.away()
    assert answered()["missing_teachers"] == ["far"]
    redis.stop()
    assert answered()["source"] == "miss"
    ask("/readyz")
    reload = "/v1/ensembles/toy/reload"
    (folder / "far.key").write_text(f"{FAR} {FAR}\n")
    assert ask(reload, "POST", keys[Scope.ADMIN]).status_code == 422
    server.process.terminate()
    server.process.wait(30)
    said.append(server.log() + server.process.stdout.read())
    assert '"part": "cache"' in said[-1] or "redis" in said[-1]  # there was something to say
    for secret in secrets(keys, folder):
        assert not [text for text in said if secret in text]


@pytest.mark.parametrize(
    "url",
    [
        "redis://:S@h/0",
        "redis://u:S@h/0",
        "redis:/:S@h",
        "redis:S@h",
        "redis://h?password=S",
        "redis//:S@h",
        "S@h",
        "rediss://u:S@h:x/0",
        "unix://u:S@/a",
    ],
)
def test_a_password_in_a_url_is_not_repeated(configured, monkeypatch, url):
    monkeypatch.setenv("SOFT_TARGETS__CACHE__URL", url.replace("S", REDIS))
    with pytest.raises(ConfigError, match="cache") as told:
        load(configured[0]())
    assert REDIS not in str(told.value)


@pytest.mark.parametrize(
    ("section", "given"), [("cache", "redis://:S@h/0"), ("auth", "S"), ("limits", "[S]")]
)
def test_what_stands_where_a_section_should_is_not_repeated(configured, section, given):
    path = configured[0]()
    kept = [line for line in path.read_text().splitlines() if not line.startswith(section)]
    path.write_text("\n".join([f"{section}: {given.replace('S', REDIS)}", *kept]))
    with pytest.raises(ConfigError, match=r"must be a section, keys with values, not (text|a list)") as told:
        load(path)
    assert REDIS not in str(told.value)


def test_a_variable_that_holds_a_text_for_a_section_is_not_repeated(configured, monkeypatch):
    monkeypatch.setenv("SOFT_TARGETS__CACHE", f'"redis://:{REDIS}@h/0"')
    with pytest.raises(ConfigError, match="must be a section, keys with values, not text") as told:
        load(configured[0]())
    assert REDIS not in str(told.value)


def begin(settings):
    """What a server does before it listens."""
    open_access(settings.auth)
    Engine.open(settings)


def test_what_stops_the_start_names_no_secret(configured, far, tmp_path):
    write, keys = configured
    said = []
    for file, content in (("far.key", f"{FAR} {FAR}"), ("password", ""), ("keys.jsonl", keys[Scope.ADMIN])):
        kept = (tmp_path / file).read_text()
        (tmp_path / file).write_text(content)
        settings = load(write())
        with pytest.raises(ConfigError, match=file) as told:
            begin(settings)
        said.append(str(told.value))
        (tmp_path / file).write_text(kept)
    far.key = "another"
    checked = check_config(write())
    said += [shown(checked), json.dumps(document(checked))]
    assert "it refuses the key" in said[-1]
    for secret in secrets(keys, tmp_path):
        assert not [text for text in said if secret in text]


def test_settings_that_are_printed_name_no_secret(configured, tmp_path):
    write, keys = configured
    settings = repr(load(write()))
    assert not [secret for secret in secrets(keys, tmp_path) if secret in settings]
