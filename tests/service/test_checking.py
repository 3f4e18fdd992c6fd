import json
import subprocess
import sys

import pytest

from service.checking import check_config, document, shown


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
