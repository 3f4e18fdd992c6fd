"""Keys as whoever runs a server and whoever trains a student meet them."""

import shlex
import subprocess
import sys

import httpx2
import pytest

from soft_targets import Client, RequestRefused


def soft_targets(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "service", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def configured(toy, tmp_path):
    """Write the toy's configuration with another ``server`` line and something before it."""

    def write(server, auth=""):
        text = toy.config.read_text().replace("server: {port: 0}", f"server: {server}\n{auth}")
        path = tmp_path / "toy.yaml"
        path.write_text(text)
        for model in toy.folder.glob("*.onnx"):
            (tmp_path / model.name).write_bytes(model.read_bytes())
        return path

    return write


@pytest.mark.parametrize("host", ["0.0.0.0", "'::'", "'0'"])
def test_without_keys_a_server_for_other_machines_does_not_start(configured, host):
    ended = soft_targets("serve", configured(f"{{port: 0, host: {host}}}"))
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert f"server.host {host.strip(chr(39))}" in ended.stderr
    for what in ("soft-targets key new", "auth.keys_file", "auth.open: true"):
        assert what in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "keys.jsonl: no such keys file"), ("", "holds no keys"), ("st_topsecret", "line 1: is no key")],
)
def test_a_keys_file_that_cannot_be_used_stops_the_start(configured, tmp_path, text, said):
    if text is not None:
        (tmp_path / "keys.jsonl").write_text(text)
    ended = soft_targets("serve", configured("{port: 0}", "auth: {keys_file: keys.jsonl}"))
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "topsecret" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_open_serves_other_machines_without_keys_and_says_so(configured, start):
    server = start(configured("{port: 0, host: 0.0.0.0}", "auth: {open: true}"))
    assert httpx2.get(f"{server.url}/v1/ensembles").status_code == 200
    assert "whoever reaches this server may use every route" in server.log()


def test_a_key_made_by_the_command_opens_the_server(configured, tmp_path, start, toy):
    keys_file = tmp_path / "keys.jsonl"
    made = soft_targets(
        "key", "new", "--keys-file", keys_file, "--scope", "targets:read", "--name", "student"
    )
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    keys_file.chmod(0o644)
    server = start(configured("{port: 0, host: 0.0.0.0}", "auth: {keys_file: keys.jsonl}"))
    rows = {"pixels": toy.rows(5, seed=21)}
    with Client(server.url, ensemble="toy", key=key) as client:
        assert len(client.soft_targets(rows)) == 5
    for wrong in (None, "st_wrong"):
        with (
            Client(server.url, ensemble="toy", key=wrong) as client,
            pytest.raises(RequestRefused) as refused,
        ):
            client.soft_targets(rows)
        assert (refused.value.status, refused.value.code) == (401, "unauthenticated")
    assert httpx2.get(f"{server.url}/readyz").json() == {"ready": True, "degraded": []}
    assert httpx2.get(f"{server.url}/openapi.json").status_code == 401
    log = server.log()
    assert "open to others (mode 0644)" in log
    assert key not in log
    assert "st_wrong" not in log


def test_a_recipe_is_put_with_a_key_that_may(configured, tmp_path, start, toy):
    keys_file = tmp_path / "keys.jsonl"
    made = {
        scope: soft_targets("key", "new", "--keys-file", keys_file, "--scope", scope).stdout.strip()
        for scope in ("targets:read", "recipes:write")
    }
    server = start(configured("{port: 0}", "auth: {keys_file: keys.jsonl}"))
    path = f"{server.url}/v1/ensembles/toy/recipes/mean"

    def put(recipe, scope="recipes:write", path=path):
        headers = {"Authorization": f"Bearer {made[scope]}"} if scope else {}
        return httpx2.put(path, json=recipe, headers=headers, timeout=60)

    recipe = {"operator": "linear", "temperature": 3}
    assert put(recipe, None).status_code == 401
    denied = put(recipe, "targets:read")
    assert (denied.status_code, denied.json()["code"]) == (403, "forbidden")
    assert "recipes:write" in denied.json()["error"]
    created = put(recipe)
    assert created.status_code == 201, created.text
    assert created.json()["admitted"]
    again = put(recipe)
    assert (again.status_code, again.json()) == (200, created.json())
    taken = put(recipe | {"temperature": 2})
    assert (taken.status_code, taken.json()["code"]) == (409, "recipe_exists")

    refused = put({"operator": "weighted_max"}, path=path + "imum")
    assert (refused.status_code, refused.json()["code"]) == (422, "operator_refused")
    witness = refused.json()["certificate"]["axioms"]["weight_monotonicity"]["witness"]
    assert witness["code"] == refused.json()["certificate"]["code"]
    assert witness["again"] in refused.json()["error"]
    shown = soft_targets(*shlex.split(witness["again"])[1:])
    assert shown.returncode == 1
    assert "BROKEN" in shown.stdout

    reader = {"Authorization": f"Bearer {made['targets:read']}"}
    body = {"inputs": {"pixels": toy.rows(2).tolist()}}
    answered = httpx2.post(
        f"{server.url}/v1/ensembles/toy/soft-targets?recipe=mean", json=body, headers=reader
    )
    assert answered.json()["certificate"] == created.json()["id"]
    assert answered.json()["violations"] == []
    assert "maximum" not in httpx2.get(f"{server.url}/v1/ensembles/toy", headers=reader).json()["recipes"]
