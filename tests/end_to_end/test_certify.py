"""Certification as a person meets it: the command, and the start of a server."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from soft_targets import wire

EXAMPLES = Path(__file__).parents[2] / "examples"


OWN = """
from operators import Operator, geometric, simplex


def sharp(*, power=1.0, flag=True, word="1"):
    assert isinstance(flag, bool) and isinstance(word, str)

    def fuse(log_probs, weights):
        return simplex.log_softmax(power * geometric().fuse(log_probs, weights))

    return Operator("sharp", (), fuse, "floored")


def sharp_over_many(log_probs, weights):
    return geometric().fuse(log_probs, weights) + (0.1 if log_probs.shape[-1] >= 500 else 0)


def raises():
    raise KeyError("nothing")


def nowhere():
    return Operator("nowhere", (), geometric().fuse, "Zeros")


number = 3
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with a module of operators, as PYTHONPATH leads to it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_pools.py").write_text(OWN)
    return {"env": environment(folder)}


def environment(folder):
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def run(*arguments, **options):
    command = [sys.executable, "-m", "service", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, **{"cwd": EXAMPLES} | options
    )


def certify(*arguments, **options):
    return run("certify", *arguments, **options)


def commands(text):
    """The commands after ``again:``, each a list of words without the program's name."""
    return [shlex.split(line)[1:] for line in re.findall(r"again: (soft-targets certify .*)", text)]


def test_an_admitted_operator_exits_with_zero():
    said = certify("--operator", "my_operator:sure_weighted", "--param", "sharpness=2", "--classes", "4")
    assert said.returncode == 0, said.stderr
    assert "ADMITTED" in said.stdout
    assert "proved" in said.stdout


def test_a_refused_operator_exits_with_one_and_its_command_shows_it_again():
    said = certify("--operator", "my_operator:product_of_experts")
    assert said.returncode == 1
    assert "REFUSED" in said.stdout
    for again in commands(said.stdout):
        repeated = run(*again)
        assert repeated.returncode == 1
        assert "BROKEN" in repeated.stdout


def test_the_command_gives_every_parameter_as_it_was(own):
    given = ["--param", "power=2", "--param", "flag=true", "--param", 'word="1"']
    said = certify("--operator", "own_pools:sharp", *given, "--classes", "3", **own)
    assert said.returncode == 1
    assert 'own_pools:sharp(flag = true, power = 2, word = "1"): sharp() on floored' in said.stdout
    again = commands(said.stdout)
    assert len(again) == 2
    for command in again:
        repeated = run(*command, **own)
        assert (repeated.returncode, "BROKEN" in repeated.stdout) == (1, True), repeated.stderr
        assert "the witness was found in" not in repeated.stdout


def test_a_witness_is_replayed_from_a_file_from_stdin_and_out_of_a_certificate(own, tmp_path):
    said = certify("--operator", "own_pools:sharp_over_many", "--classes", "500", "--floor", "1e-4", **own)
    assert said.returncode == 1
    assert len(said.stdout) < 20_000
    (pasted,) = set(re.findall(r"again: (soft-targets certify .*)", said.stdout))
    asks, replays = pasted.split("; ")
    document = run(*shlex.split(asks.removesuffix(" > certificate.json"))[1:], **own).stdout
    (tmp_path / "certificate.json").write_text(document)
    there = own | {"cwd": tmp_path}
    repeated = run(*shlex.split(replays)[1:], **there)
    assert (repeated.returncode, "BROKEN" in repeated.stdout) == (1, True), repeated.stderr
    operator = ["--operator", "own_pools:sharp_over_many"]
    piped = certify(*operator, "--replay", "-", "--json", input=document, **there)
    assert [one["broken"] for one in json.loads(piped.stdout)] == [True, True]
    witness = json.loads(document)["axioms"]["convexity_preservation"]["witness"]
    assert witness["code"] == json.loads(document)["code"] == json.loads(piped.stdout)[0]["code"]
    held = certify("--operator", "geometric", "--replay", "-", input=json.dumps(witness))
    assert held.returncode == 0
    assert "holds" in held.stdout
    assert f"the witness was found in {witness['code']}" in held.stdout


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
        (["--operator", "linear", "--replay", "{}"], "cannot be replayed"),
        (["--operator", "linear", "--replay", "{"], "no JSON"),
        (["--operator", "holder", "--param", "exponent=9"], "exponent"),
        (["nowhere.yaml"], "cannot be read"),
        (["--operator", "linear", "--profile", "lax"], "lax"),
        (["--operator", "json:dumps"], "json:dumps"),
        (["--operator", "json:__doc__"], "is str"),
        (["--operator", "linear", "--replay", "@nowhere.json"], "nowhere.json: cannot be read"),
        (["--operator", "linear", "--replay", "[]"], "'check' and 'case'"),
        (["--operator", "linear", "--replay", '{"check": "closure", "case": {"weights": [1]}}'], "cannot be"),
        (["--operator", "linear", "--replay", "{}", "--classes", "3"], "--classes is not for --replay"),
        (["animals.yaml", "--replay", "{}"], "--replay is for --operator"),
        (["animals.yaml", "--param", "a=1"], "--param is for --operator"),
        (["animals.yaml", "--profile", "paper"], "--profile is for --operator"),
        (["--operator", "linear", "--floor", "0"], "floor is 0.0; give a number between 0 and 1"),
        (["--operator", "linear", "--floor", "nan"], "floor is nan"),
        (["--operator", "geometric", "--floor", "1"], "floor is 1.0"),
        (["--operator", "holder", "--param", "exponent=True"], "write true"),
        (["--operator", "holder", "--param", "exponent=NaN"], "give a finite number"),
        (["--operator", "holder", "--param", "exponent=[1]"], "give a finite number"),
        (["--operator", "holder", "--param", "name=x"], "no parameter can be called 'name'"),
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
    path.write_text(text[: text.index("    recipes:")] + f"    recipes:\n      default: {recipe}\n")
    return path


def test_a_configuration_is_certified_without_its_models(toy, tmp_path):
    path = configured(toy, tmp_path, "{operator: weighted_max}")
    for model in tmp_path.glob("*.onnx"):
        model.unlink()
    assert certify(str(path)).returncode == 1
    assert certify(str(configured(toy, tmp_path, "{operator: weighted_max, profile: paper}"))).returncode == 0


def test_accepted_violations_are_admitted_and_said(toy, tmp_path):
    recipe = "{operator: weighted_max, accept_violations: [weight_monotonicity, continuity]}"
    path = str(configured(toy, tmp_path, recipe))
    said = certify(path)
    assert said.returncode == 0
    assert "\nADMITTED, accepted violations: weight_monotonicity\n" in said.stdout
    assert "REFUSED" not in said.stdout
    assert "weight_monotonicity, level 1 of 2" in said.stdout
    (document,) = json.loads(certify(path, "--json").stdout)
    assert document["where"] == "ensembles.toy.recipes.default"
    assert (document["admitted"], document["accepted_violations"]) == (False, ["weight_monotonicity"])
    witness = document["axioms"]["weight_monotonicity"]["witness"]
    assert run(*shlex.split(witness["again"])[1:]).returncode == 1


@pytest.mark.parametrize(
    ("recipe", "ends"),
    [
        ("{operator: linear, accept_violations: [beauty]}", (2, "accept_violations: no axiom 'beauty'")),
        (
            "{operator: linear, accept_violations: [row_independence]}",
            (2, "accept_violations: 'row_independence' is a gate"),
        ),
        ('{operator: {import: "own_pools:sharp", power: 2}}', (1, "convexity_preservation, level 0 of 2")),
        ('{operator: {import: "own_pools:raises"}}', (2, "it raised KeyError: 'nothing'")),
        ('{operator: {import: "own_pools:nowhere"}}', (2, "its domain is 'Zeros'")),
        ('{operator: {import: "own_pools:number"}}', (2, "is int 3, not a function")),
        ('{operator: {import: "own_pools:nobody"}}', (2, "has no function 'nobody'")),
    ],
)
def test_certify_and_serve_agree(toy, tmp_path, own, recipe, ends):
    code, said = ends
    path = str(configured(toy, tmp_path, recipe))
    judged, served = certify(path, **own), run("serve", path, **own)
    assert (judged.returncode, served.returncode) == (code, 2)
    for ended in (judged, served):
        assert "ensembles.toy.recipes.default: " in ended.stdout + ended.stderr
        assert said in ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_recipe_below_its_profile_stops_the_start_with_the_witness(toy, tmp_path):
    ended = run("serve", str(configured(toy, tmp_path, "{operator: weighted_max}")))
    assert ended.returncode == 2
    assert "ensembles.toy.recipes.default: the operator is refused under profile 'strict'" in ended.stderr
    assert "weight_monotonicity, level 1 of 2" in ended.stderr
    assert "is broken by teachers" in ended.stderr
    assert re.search(r"\n  code: [0-9a-f]{64}\n", ended.stderr)
    assert "Traceback" not in ended.stderr
    (again,) = commands(ended.stderr)
    assert run(*again).returncode == 1


def test_what_an_operator_keeps_back_tells_recipes_apart(toy, tmp_path, own, start, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", own["env"]["PYTHONPATH"])
    path = configured(
        toy,
        tmp_path,
        '{operator: {import: "own_pools:sharp", power: 1}}\n'
        '      sharper: {operator: {import: "own_pools:sharp", power: 2}, accept_violations: '
        "[convexity_preservation, weight_monotonicity]}",
    )
    url = f"{start(path).url}/v1/ensembles/toy"
    recipes = httpx2.get(url).json()["recipes"]
    assert recipes["default"]["operator"] == {"import": "own_pools:sharp", "power": 1}
    assert recipes["sharper"]["operator"] == {"import": "own_pools:sharp", "power": 2}
    for key in ("fingerprint", "certificate"):
        assert recipes["default"][key] != recipes["sharper"][key]
    assert [recipe["violations"] for recipe in recipes.values()] == [
        [],
        ["convexity_preservation", "weight_monotonicity"],
    ]
    certificate = httpx2.get(f"{url}/recipes/sharper/certificate").json()
    assert certificate["given"] == recipes["sharper"]["operator"]
    assert certificate["operator"] == {"name": "sharp"}
    body = {"inputs": {"pixels": toy.rows(3).tolist()}}
    for recipe in recipes:
        reply = httpx2.post(f"{url}/soft-targets?recipe={recipe}", json=body).json()
        assert {target["source"] for target in reply["targets"]} == {"miss"}


def test_accepted_violations_are_said_in_every_reply(toy, tmp_path, start):
    recipe = "{operator: weighted_max, accept_violations: [weight_monotonicity]}"
    server = start(configured(toy, tmp_path, recipe))
    url = f"{server.url}/v1/ensembles/toy"
    assert httpx2.get(url).json()["recipes"]["default"]["violations"] == ["weight_monotonicity"]
    body = wire.encode_request({"pixels": toy.rows(2)}, wire.default_row_ids(2))
    reply = httpx2.post(f"{url}/soft-targets", content=body, headers={"Content-Type": wire.ARROW})
    metadata, _ = wire.read_reply(reply.content)
    assert metadata["violations"] == "weight_monotonicity"
    in_json = httpx2.post(f"{url}/soft-targets", json={"inputs": {"pixels": toy.rows(2).tolist()}}).json()
    assert in_json["violations"] == ["weight_monotonicity"]
    assert in_json["certificate"] == metadata["certificate"]
    certificate = httpx2.get(f"{url}/recipes/default/certificate").json()
    assert certificate["id"] == metadata["certificate"]
    assert not certificate["admitted"]
    assert certificate["axioms"]["weight_monotonicity"]["witness"]
