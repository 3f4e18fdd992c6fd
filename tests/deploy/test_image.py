"""The image's recipe: what a linter says of it, and that its steps are read as they are written."""

import subprocess
import sys
from pathlib import Path

import pytest
from dockerfile import expand, ignored, parse, patterns_of, stages

import service
from service.config import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
BUILD, FINAL = stages(parse(DOCKERFILE.read_text()), {})


def of(stage, keyword):
    return [step for step in stage.steps if step.keyword == keyword]


def test_hadolint_has_nothing_to_say():
    linter = Path(sys.executable).with_name("hadolint")
    said = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "")


def test_it_runs_as_a_user_of_a_fixed_number_that_owns_its_volumes():
    (user,) = of(FINAL, "USER")
    assert user.value == "10001:10001"
    made = of(FINAL, "RUN")[0].value
    environment = of(FINAL, "ENV")[0].pairs
    assert "--uid 10001" in made
    assert environment["SOFT_TARGETS__SERVER__STATE_DIR"] in made.split("-o 10001")[1]


def test_it_installs_what_constraints_say_for_its_runtime():
    (step,) = of(BUILD, "RUN")
    assert "-c constraints.txt" in step.value
    assert '".[${RUNTIME},redis,otel]"' in step.value


def test_whoever_starts_it_can_reach_it_and_know_that_it_is_ready():
    (health,) = of(FINAL, "HEALTHCHECK")
    assert "/readyz" in health.value
    environment = of(FINAL, "ENV")[0].pairs
    assert environment["SOFT_TARGETS__SERVER__HOST"] == "0.0.0.0"
    assert of(FINAL, "EXPOSE")[0].value == environment["SOFT_TARGETS__SERVER__PORT"]


def test_its_version_is_the_service_s():
    arguments = dict(step.value.split("=") for step in of(FINAL, "ARG"))
    labels = {name: expand(value, arguments) for name, value in of(FINAL, "LABEL")[0].pairs.items()}
    assert labels["org.opencontainers.image.version"] == service.__version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_its_variables_are_keys():
    environment = of(FINAL, "ENV")[0].pairs
    for name in environment:
        if name.startswith("SOFT_TARGETS__"):
            section, key = name.lower().split("__")[1:]
            assert key in Settings.model_fields[section].annotation.model_fields


def test_both_stages_have_one_base_which_can_be_pinned():
    assert BUILD.base == FINAL.base == "python:3.12-slim-bookworm"
    pinned = stages(parse(DOCKERFILE.read_text()), {"PYTHON_IMAGE": "python@sha256:0"})
    assert {stage.base for stage in pinned} == {"python@sha256:0"}


def test_what_is_copied_is_there_and_nothing_else_is_in_the_context():
    patterns = patterns_of((ROOT / ".dockerignore").read_text())
    copied = [word for step in of(BUILD, "COPY") for word in step.words[:-1]]
    for name in copied:
        assert (ROOT / name).exists()
        assert not ignored(name, patterns)
    assert not ignored("service/api/app.py", patterns)
    for path in (".git/config", "tests/conftest.py", "build/x", "service/__pycache__/x.pyc", "keys.jsonl"):
        assert ignored(path, patterns)


def test_steps_are_read_with_what_is_continued_and_without_what_is_commented():
    (stage,) = stages(
        parse(
            'ARG A=1\nFROM x:$A AS y\nRUN one \\\n# why\n    && two\nCOPY --from=z /a /b\nCMD ["c", "d e"]'
        ),
        {"A": "2"},
    )
    assert (stage.base, stage.name) == ("x:2", "y")
    assert stage.steps[0].value.split() == ["one", "&&", "two"]
    assert (stage.steps[1].flags, stage.steps[1].words) == ({"from": "z"}, ["/a", "/b"])
    assert stage.steps[2].words == ["c", "d e"]
    with pytest.raises(ValueError, match="ADD"):
        parse("ADD a b")
