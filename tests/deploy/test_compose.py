"""The composition: valid, of files and keys that exist, and with a cache whose password nobody sees."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from dockerfile import parse, stages
from redis_server import executable, free_port
from ruamel.yaml import YAML

from service.auth import Scope, open_access
from service.checking import check_config
from service.config import Limits, Settings, load
from service.config.settings import Auth

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
GUIDE = DEPLOY.parent / "docs" / "deployment.md"
DOCUMENT = YAML(typ="safe").load(COMPOSE.read_text())
SERVICES = DOCUMENT["services"]
BASE = stages(parse((DEPLOY.parent / "Dockerfile").read_text()), {})[0].base
SERVERS = ("soft-targets-cpu", "soft-targets-gpu")


def test_it_is_what_the_compose_specification_allows():
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [program, "--builtin-schema", "vendor.compose-spec", COMPOSE]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout


def test_what_is_mounted_is_there():
    for name, one in SERVICES.items():
        for mount in one.get("volumes", ()):
            given = (
                mount.rsplit(":", 1 + mount.endswith(":ro"))[0] if isinstance(mount, str) else mount["source"]
            )
            source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", given)
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
        assert started == {own, "prepare", "redis", "prometheus", "grafana"}
        for name in started:
            assert SERVICES[name].get("depends_on", {}).keys() <= started
    (device,) = SERVICES[SERVERS[1]]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert "deploy" not in SERVICES[SERVERS[0]]


def test_whoever_reads_secrets_is_their_owner_and_comes_after_them():
    for name, one in SERVICES.items():
        if any(isinstance(mount, str) and mount.startswith("secrets:") for mount in one.get("volumes", ())):
            assert one.get("user") == "10001:10001" or one["image"].startswith("soft-targets:"), name
            if one["volumes"] != ["secrets:/etc/soft-targets"]:
                assert one["depends_on"]["prepare"] == {"condition": "service_completed_successfully"}, name


def test_prometheus_asks_where_the_server_tells_and_nobody_else_hears():
    (job,) = YAML(typ="safe").load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    for name in SERVERS:
        (alias,) = SERVICES[name]["networks"]["default"]["aliases"]
        port = SERVICES[name]["environment"]["SOFT_TARGETS__SERVER__METRICS_PORT"]
        assert job["static_configs"] == [{"targets": [f"{alias}:{port}"]}]
        assert all(not published.endswith(port) for published in SERVICES[name]["ports"])


def test_an_image_is_built_for_its_profile_from_a_base_that_can_be_pinned():
    for name, runtime in (*zip(SERVERS, ("cpu", "gpu"), strict=True), ("prepare", "cpu")):
        built = SERVICES[name]["build"]["args"]
        assert built["RUNTIME"] == runtime
        assert SERVICES[name]["image"] == f"soft-targets:{runtime}"
        assert built["PYTHON_IMAGE"] == f"${{PYTHON_IMAGE:-{BASE}}}"


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
    script = script.replace("bind * -::*", f"bind 127.0.0.1\\nport {port}").replace(
        "dir /data", f"dir {folder}"
    )
    shutil.copy(DEPLOY / "redis.conf", folder)
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


def prepared(folder):
    script = SERVICES["prepare"]["entrypoint"][2].replace("$$", "$").replace("/etc/soft-targets", str(folder))
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(
        ["sh", "-euc", script], env=os.environ | {"PATH": path},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


def test_what_is_prepared_is_for_the_services_only_and_stays(tmp_path):
    prepared(tmp_path)
    key = (tmp_path / "trainer_key").read_text().strip()
    password = (tmp_path / "redis_password").read_text().strip()
    assert len(password) >= 32
    assert {path.name for path in tmp_path.iterdir()} >= {"redis_password", "grafana_password", "keys.jsonl"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())
    (tmp_path / "trainer_key").unlink()  # handed over
    assert prepared(tmp_path) == ""  # what a service says stays in the engine's log
    assert not (tmp_path / "trainer_key").exists()
    assert (tmp_path / "redis_password").read_text().strip() == password
    open_access(Auth(keys_file=tmp_path / "keys.jsonl")).require(Scope.TARGETS_READ, {key.encode()})


def test_another_key_is_made_and_deleted_as_the_guide_says(tmp_path):
    made = [*SERVICES["new-key"]["entrypoint"], "--scope", "targets:read", "--name", "bert"]
    keys = tmp_path / "keys.jsonl"
    command = [str(keys) if word == "/etc/soft-targets/keys.jsonl" else word for word in made]
    command[0] = Path(sys.executable).with_name(command[0])
    key = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    open_access(Auth(keys_file=keys)).require(Scope.TARGETS_READ, {key.encode()})
    (deleting,) = re.findall(r"--entrypoint sed new-key -i '(.*)' /etc/soft", GUIDE.read_text())
    subprocess.run(["sed", "-i", deleting, keys], check=True)
    assert keys.read_text() == ""
