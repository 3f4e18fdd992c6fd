"""Certification as a person meets it: the command, and the start of a server."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from soft_targets import wire

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*arguments, **options):
    command = [sys.executable, "-m", "service", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, cwd=EXAMPLES, **options
    )


def certify(*arguments):
    return run("certify", *arguments)


def test_an_admitted_operator_exits_with_zero():
    said = certify("--operator", "my_operator:sure_weighted", "--param", "sharpness=2", "--classes", "4")
    assert said.returncode == 0, said.stderr
    assert "ADMITTED" in said.stdout
    assert "proved" in said.stdout


def test_a_refused_operator_exits_with_one_and_its_command_shows_it_again():
    said = certify("--operator", "my_operator:product_of_experts")
    assert said.returncode == 1
    assert "REFUSED" in said.stdout
    again = re.search(r"again: soft-targets (certify .*)", said.stdout).group(1)
    repeated = run(*shlex.split(again))
    assert repeated.returncode == 1
    assert "BROKEN" in repeated.stdout


def test_json_is_for_programs():
    said = certify("--operator", "linear", "--json", "--teachers", "2", "--classes", "3")
    document = json.loads(said.stdout)
    assert (document["where"], document["admitted"], document["K"], document["C"]) == ("linear", True, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "a CONFIG or an --operator"),
        (["--operator", "lineer"], "did you mean 'linear'"),
        (["--operator", "my_operator:halfway", "--param", "x"], "give key=value"),
        (["--operator", "linear", "--replay", "{}"], "a witness is an object with"),
        (["--operator", "linear", "--replay", "{"], "no JSON"),
        (["--operator", "holder", "--param", "exponent=9"], "exponent"),
        (["nowhere.yaml"], "cannot be read"),
        (["--operator", "linear", "--profile", "lax"], "lax"),
        (["--operator", "json:dumps"], "json:dumps"),
    ],
)
def test_what_cannot_be_judged_exits_with_two(arguments, said):
    ended = certify(*arguments)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def configured(toy, folder, recipe):
    for model in toy.folder.glob("*.onnx"):
        (folder / model.name).write_bytes(model.read_bytes())
    text = toy.config.read_text()
    path = folder / "toy.yaml"
    path.write_text(text[: text.index("    recipes:")] + f"    recipes: {{default: {recipe}}}\n")
    return path


def test_a_configuration_is_certified_without_its_models(toy, tmp_path):
    path = configured(toy, tmp_path, "{operator: weighted_max}")
    for model in tmp_path.glob("*.onnx"):
        model.unlink()
    assert certify(str(path)).returncode == 1
    accepted = configured(toy, tmp_path, "{operator: weighted_max, accept_violations: [weight_monotonicity]}")
    assert certify(str(accepted)).returncode == 0
    assert certify(str(configured(toy, tmp_path, "{operator: weighted_max, profile: paper}"))).returncode == 0


def test_a_recipe_below_its_profile_stops_the_start_with_the_witness(toy, tmp_path):
    ended = run("serve", str(configured(toy, tmp_path, "{operator: weighted_max}")))
    assert ended.returncode == 2
    assert "ensembles.toy.recipes.default: the operator is refused under profile 'strict'" in ended.stderr
    assert "weight_monotonicity, level 1 of 2" in ended.stderr
    assert "is broken by teachers" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_accepted_violations_are_said_in_every_reply(toy, tmp_path, start):
    recipe = "{operator: weighted_max, accept_violations: [weight_monotonicity]}"
    server = start(configured(toy, tmp_path, recipe))
    url = f"{server.url}/v1/ensembles/toy"
    assert httpx2.get(url).json()["recipes"]["default"]["violations"] == ["weight_monotonicity"]
    body = wire.encode_request({"pixels": toy.rows(2)}, wire.default_row_ids(2))
    reply = httpx2.post(f"{url}/soft-targets", content=body, headers={"Content-Type": wire.ARROW})
    metadata, _ = wire.read_reply(reply.content)
    assert metadata["violations"] == "weight_monotonicity"
    certificate = httpx2.get(f"{url}/recipes/default/certificate").json()
    assert certificate["id"] == metadata["certificate"]
    assert not certificate["admitted"]
    assert certificate["axioms"]["weight_monotonicity"]["witness"]
