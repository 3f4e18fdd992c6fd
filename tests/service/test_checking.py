import json
import socket
import subprocess
import sys

import pytest
from redis_server import RedisServer

from service.cache import kept_bytes
from service.checking import Planned, check_config, document, look_around, shown
from service.config import load


@pytest.fixture
def changed(toy):
    """The toy configuration with something else in it."""

    def write(name, *pairs):
        text = toy.config.read_text()
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        path = toy.folder / f"{name}.yaml"
        path.write_text(text)
        return path

    return write


def test_what_can_be_served_has_nothing_amiss(toy):
    (checked,) = check_config(toy.config)
    assert checked.findings == []
    assert checked.inputs == {"pixels": "<f4[6]"}
    assert [teacher["name"] for teacher in checked.teachers] == ["logits", "probs", "merged"]
    assert [teacher["classes"] for teacher in checked.teachers] == [4, 4, 6]
    assert {teacher["device"] for teacher in checked.teachers} == {"cpu"}
    assert {plan["plan"] for plan in checked.plans} == {"staged"}
    assert checked.memory["cache"] == 512 * 2**20
    text = shown([checked])
    assert "teacher probs" in text
    assert "nothing amiss" in text
    json.dumps(document([checked]), allow_nan=False)


def test_every_teacher_that_cannot_be_loaded_is_found(changed):
    path = changed("two", ("model: probs.onnx", "model: nope.onnx"), ("model: merged.onnx", "model: no.onnx"))
    (checked,) = check_config(path)
    assert [finding.severity for finding in checked.findings] == ["error", "error"]
    assert "nope.onnx: no such file" in checked.findings[0].message
    assert "no.onnx: no such file" in checked.findings[1].message


def test_every_teacher_that_is_not_what_is_said_of_it_is_found(changed):
    path = changed(
        "kinds",
        ("inputs: {X: pixels}, output: {kind: probs}", "inputs: {X: pixels}, output: {kind: log_probs}"),
        (
            "inputs: {rows: pixels}, output: {kind: log_probs}",
            "inputs: {rows: pixels}, output: {kind: probs}",
        ),
    )
    (checked,) = check_config(path)
    assert len(checked.findings) == 2
    assert all("is no distribution of kind" in finding.message for finding in checked.findings)


def test_an_operator_that_is_none_and_a_device_that_is_not_there_are_found(changed):
    (checked,) = check_config(changed("operator", ("operator: geometric", "operator: geometrc")))
    assert "recipes.geometric: operator: no operator 'geometrc'" in checked.findings[0].message
    (checked,) = check_config(changed("cuda", ("batching:", "device: cuda\n    batching:")))
    assert len(checked.findings) == 3
    assert "device cuda:0 was asked for" in checked.findings[0].message


def test_a_split_plan_is_a_warning_with_its_reason(toy, monkeypatch):
    monkeypatch.setattr("service.plans.plans.LARGEST_BYTES", 10)
    (checked,) = check_config(toy.config)
    assert {finding.severity for finding in checked.findings} == {"warning"}
    assert "is split: together the models are" in checked.findings[0].message


def check(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "service", "check", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_says_it_to_people_and_programs(toy, changed):
    assert check(toy.config).returncode == 0
    bad = check(changed("bad", ("model: probs.onnx", "model: nope.onnx")), "--json")
    assert bad.returncode == 1
    (ensemble,) = json.loads(bad.stdout)["ensembles"]
    assert ensemble["findings"][0]["severity"] == "error"
    nowhere = check(toy.folder / "nowhere.yaml")
    assert nowhere.returncode == 2
    assert "nowhere.yaml" in nowhere.stderr


SMALL = """\
server: {port: PORT}
cache: {url: "URL", call_timeout_ms: 500}
ensembles:
  toy:
    classes: [a, b, c, d]
    teachers:
      - {name: one, model: "fake://?classes=4&features=2", output: {kind: logits}}
    batching: {max_rows: 16, in_flight: 1, threads: 1}
    recipes: {default: {operator: linear}, sparse: {operator: linear, sparsity: {top_k: 2}}}
"""


@pytest.fixture
def small(tmp_path):
    def write(url="memory://?max_bytes=1MiB", port=0):
        path = tmp_path / "small.yaml"
        path.write_text(SMALL.replace("URL", url).replace("PORT", str(port)))
        return path

    return write


@pytest.fixture
def full_redis(tmp_path):
    server = RedisServer(tmp_path, "--maxmemory", "20mb")
    yield server.start()
    server.stop()


def around(path, planned=None):
    return look_around(load(path), check_config(path, planned))


def messages(found):
    assert all(finding.severity == "warning" for finding in found.findings)
    return " ".join(finding.message for finding in found.findings)


def test_a_training_costs_every_row_once_with_a_cache_and_every_time_without(small):
    path = small()
    (checked,) = check_config(path, Planned(1000, epochs=3, trainers=2))
    dense, sparse = checked.costs["default"], checked.costs["sparse"]
    assert dense["rows_asked"] == 6000
    assert dense["without_cache"]["rows_computed"] == 6000
    assert dense["with_cache"]["rows_computed"] == 1000
    assert dense["reply_bytes"] == 6000 * 4 * 4
    assert sparse["reply_bytes"] == 6000 * (2 * 8 + 4)
    assert dense["without_cache"]["teachers_s"] == pytest.approx(6 * dense["with_cache"]["teachers_s"])
    assert dense["kept_bytes"] > 1000 * 4 * 4
    assert "6000 rows asked" in shown([checked])
    assert "keeps 1048576" in messages(around(path, Planned(10_000)))
    assert not messages(around(path, Planned(100)))


def test_what_redis_says_of_itself_and_that_it_would_keep_nothing_new(small, full_redis):
    path = small(full_redis.url)
    found = around(path, Planned(1_000_000))
    assert found.cache.answers
    assert found.cache.version == full_redis.client().info("server")["redis_version"]
    assert (found.cache.max_bytes, found.cache.policy) == (20 << 20, "noeviction")
    assert "noeviction" in messages(found)
    assert "what does not fit is computed again" in messages(found)
    with full_redis.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lfu")
        assert not messages(around(path, Planned(1000)))
        client.config_set("maxmemory", 0)
        assert "no maxmemory" in messages(around(path))
    assert "noeviction, at most 20 MiB" in shown([], found)


def test_what_a_value_takes_in_redis_is_about_what_redis_says(full_redis):
    with full_redis.client() as client:
        client.config_set("maxmemory", 0)
        for size in (40, 400):
            client.flushall()
            before = client.info("memory")["used_memory"]
            with client.pipeline(transaction=False) as pipe:
                for number in range(16_384):
                    pipe.set(b"%079d" % number, bytes(9 + size), px=10**9)
                pipe.execute()
            taken = (client.info("memory")["used_memory"] - before) / 16_384
            assert kept_bytes("redis", size) == pytest.approx(taken, rel=0.15)


def test_a_redis_that_does_not_answer_is_a_warning(small, full_redis):
    path = small(full_redis.url)
    full_redis.stop()
    found = around(path)
    assert not found.cache.answers
    assert "every row is computed" in messages(found)
    assert "does not answer" in shown([], found)


def test_a_port_that_is_taken_is_a_warning(small):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = around(small(port=port))
        assert found.ports == {port: False}
        assert f"port {port}" in messages(found)
    assert around(small(port=port)).ports == {port: True}


REFUSED = [
    ("keys_file: gone.jsonl", "auth: {keys_file: gone.jsonl}", "gone.jsonl: no such keys file"),
    ("keys_file: broken.jsonl", "auth: {keys_file: broken.jsonl}", "broken.jsonl, line 1: is no key"),
    ("everyone", "server: {host: 0.0.0.0}", "can be reached from other machines, and there are no keys"),
    ("elsewhere", "server: {host: 203.0.113.7}\nauth: {open: true}", "set server.host to an address of this"),
    ("nowhere", "server: {host: nowhere.invalid}", "cannot listen on nowhere.invalid"),
    ("certificate", "server: {tls_certificate_file: c.pem, tls_key_file: k.pem}", "c.pem cannot be read"),
]


@pytest.mark.parametrize(
    ("section", "said"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_what_stops_the_start_is_an_error(small, section, said):
    path = small()
    path.write_text(f"{section}\n" + path.read_text().split("\n", 1)[1])
    (path.parent / "broken.jsonl").write_text("no key\n")
    errors = [finding.message for finding in around(path).findings if finding.severity == "error"]
    assert len(errors) == 1
    assert said in errors[0]
    ended = subprocess.run(
        [sys.executable, "-m", "service", "serve", path], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert said in ended.stderr


def test_an_operator_that_is_refused_is_an_error_with_its_witness(changed):
    ended = check(changed("refused", ("linear: {operator: linear", "linear: {operator: l2_median")))
    assert ended.returncode == 1
    assert "recipes.linear" in ended.stdout
    assert "weight_monotonicity" in ended.stdout
    assert "again: soft-targets certify" in ended.stdout


def test_nothing_is_left_behind(small, tmp_path, monkeypatch):
    monkeypatch.setenv("SOFT_TARGETS__SERVER__STATE_DIR", str(tmp_path / "state"))
    assert not messages(around(small()))
    assert not (tmp_path / "state").exists()


def test_a_folder_that_keeps_no_certificates_is_a_warning(small, monkeypatch):
    path = small()
    monkeypatch.setenv("SOFT_TARGETS__SERVER__STATE_DIR", str(path / "under a file"))
    assert "every start certifies anew" in messages(around(path))


def test_a_device_is_asked_for_by_the_name_that_its_driver_has_for_it(small, tmp_path, monkeypatch):
    path = small()
    (checked,) = check_config(path)
    checked.teachers[0] |= {"device": "cuda:1"}
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$1" = --id=GPU-f00d ] && echo 2\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-f00d")
    assert look_around(load(path), [checked]).devices["cuda:1"]["free"] == 2 << 20


def test_a_password_that_is_not_there_is_an_error(small):
    path = small("redis://127.0.0.1:1/0")
    path.write_text(path.read_text().replace("call_timeout_ms: 500", "password_file: gone"))
    ended = check(path, "--plan", "10", "--epochs", "2", "--json")
    assert ended.returncode == 1
    found = json.loads(ended.stdout)
    assert "gone cannot be read" in found["surroundings"]["findings"][0]["message"]
    assert found["ensembles"][0]["costs"]["default"]["rows_asked"] == 20


def test_what_is_free_on_a_gpu_is_what_its_driver_s_tool_says(small, tmp_path, monkeypatch):
    path = small()
    (checked,) = check_config(path)
    checked.teachers[0] |= {"device": "cuda:1", "bytes": 3 << 20}
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$1" = --id=1 ] && echo 2\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = look_around(load(path), [checked])
    assert found.devices == {"cuda:1": {"models": 3 << 20, "free": 2 << 20}}
    assert "cuda:1: the models take" in messages(found)
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert look_around(load(path), [checked]).devices["cuda:1"]["free"] is None
