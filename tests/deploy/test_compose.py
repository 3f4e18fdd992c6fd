"""The composition: valid, of files and keys that exist, and with a cache whose password nobody sees."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from redis_server import executable, free_port
from ruamel.yaml import YAML

from service.auth import Scope, open_access
from service.checking import check_config
from service.config import Limits, Settings, load
from service.config.settings import Auth

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
DOCUMENT = YAML(typ="safe").load(COMPOSE.read_text())
SERVICES = DOCUMENT["services"]
SERVERS = ("soft-targets-cpu", "soft-targets-gpu")


def test_it_is_what_the_compose_specification_allows():
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [program, "--builtin-schema", "vendor.compose-spec", COMPOSE]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout


def test_what_is_mounted_is_there():
    for name, one in SERVICES.items():
        for mount in one.get("volumes", ()):
            source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", mount).split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), f"{name}: {mount}"
            else:
                assert source in DOCUMENT["volumes"]


def test_its_variables_are_keys():
    for name in SERVERS:
        for variable in SERVICES[name]["environment"]:
            _, section, key = variable.lower().split("__")
            of = Settings.model_fields[section].annotation
            assert key in of.model_fields.keys() | of.later, variable


def test_everything_is_confined_and_nothing_but_the_server_and_the_dashboards_is_published():
    for name, one in SERVICES.items():
        assert one["read_only"] is True, name
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
    published = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    assert published.keys() == {*SERVERS, "grafana"}
    assert all("127.0.0.1:" in port for ports in published.values() for port in ports)


def test_either_profile_starts_one_server_with_all_that_is_beside_it():
    for profile, own in (("cpu", SERVERS[0]), ("gpu", SERVERS[1])):
        started = {name for name, one in SERVICES.items() if profile in one["profiles"]}
        assert started == {own, "redis", "prometheus", "grafana"}
        for name in started:
            assert SERVICES[name].get("depends_on", {}).keys() <= started
    (device,) = SERVICES[SERVERS[1]]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert "deploy" not in SERVICES[SERVERS[0]]


def test_a_stop_waits_for_what_is_being_answered():
    for name in SERVERS:
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > Limits().drain_s + 10


def test_what_it_serves_has_nothing_amiss():
    config = DEPLOY / "ensembles" / "ensembles.yaml"
    assert load(config).ensembles.keys() == {"digits"}
    (checked,) = check_config(config)
    assert checked.findings == []


def begun(folder, port):
    """The cache's own command, with the folders of its container elsewhere."""
    (folder / "tmp").mkdir()
    script = SERVICES["redis"]["entrypoint"][2].replace("$$", "$").replace("/tmp/", f"{folder}/tmp/")
    for there in ("/etc/soft-targets", "/etc/redis"):
        script = script.replace(there, str(folder))
    config = re.sub("(?m)^bind .*", f"bind 127.0.0.1\nport {port}", (DEPLOY / "redis.conf").read_text())
    (folder / "redis.conf").write_text(config.replace("dir /data", f"dir {folder}"))
    path = f"{Path(executable()).parent}:/usr/bin:/bin"
    return subprocess.Popen(["sh", "-euc", script], env={"PATH": path}, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def cache(tmp_path):
    (tmp_path / "redis_password").write_text("correct-horse\n")
    port = free_port()
    with begun(tmp_path, port) as process:
        for line in process.stdout:
            if "eady to accept connections" in line:
                break
        yield process, port
        process.kill()


def test_the_cache_wants_the_password_which_is_in_no_command_line(cache):
    process, port = cache
    for shown in ("cmdline", "environ"):
        assert b"correct-horse" not in Path(f"/proc/{process.pid}/{shown}").read_bytes()
    with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    with redis.Redis(port=port, password="correct-horse") as client:
        told = client.config_get("maxmemory*") | client.config_get("save") | client.config_get("appendonly")
    assert told["maxmemory"] == str(2 << 30)
    assert told["maxmemory-policy"] == "allkeys-lfu"
    assert (told["save"], told["appendonly"]) == ("", "no")


@pytest.mark.parametrize("password", [None, ""])
def test_without_a_password_there_is_no_cache_rather_than_an_open_one(tmp_path, password):
    if password is not None:
        (tmp_path / "redis_password").write_text(password)
    with begun(tmp_path, free_port()) as process:
        said = process.stdout.read()
    assert process.returncode != 0
    assert "eady to accept" not in said


def prepared(folder, **environment):
    script = SERVICES["prepare"]["entrypoint"][2].replace("$$", "$").replace("/etc/soft-targets", str(folder))
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(
        ["sh", "-euc", script], env=os.environ | {"PATH": path} | environment,
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip


def test_what_is_prepared_is_for_the_services_only_and_stays(tmp_path):
    key = prepared(tmp_path)
    password = (tmp_path / "redis_password").read_text().strip()
    assert len(password) >= 32
    assert {path.name for path in tmp_path.iterdir()} >= {"redis_password", "grafana_password", "keys.jsonl"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())
    other = prepared(tmp_path, KEY_NAME="other")
    assert (tmp_path / "redis_password").read_text().strip() == password
    access = open_access(Auth(keys_file=tmp_path / "keys.jsonl"))
    for one in (key, other):
        access.require(Scope.TARGETS_READ, {one.encode()})
