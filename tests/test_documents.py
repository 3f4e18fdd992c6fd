"""The documents tell the truth: the README's ensemble is served and its loop trains on it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
import teachers as models
import torch

from service.config import load
from service.errors import TeacherFailure

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(language):
    return re.search(rf"```{language}\n(.*?)```", README, re.DOTALL).group(1)


@pytest.fixture(scope="module")
def animals(tmp_path_factory, start):
    """The README's configuration, beside models of the names it uses."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "models").mkdir()
    models.flattened(folder / "models" / "convnet.onnx", 1, classes=3, input_name="image", kind="logits")
    models.flattened(folder / "models" / "forest.onnx", 2, classes=5, input_name="X", kind="probs")
    path = folder / "animals.yaml"
    path.write_text("server: {port: 0}\n" + block("yaml"))
    return start(path)


def test_the_readme_s_ensemble_is_served_and_its_loop_trains(animals):
    images = torch.rand(40, 3, 32, 32)
    labels = torch.randint(3, (40,))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=8)
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 3))
    before = student[1].weight.detach().clone()
    names = {
        "loader": loader,
        "student": student,
        "optimiser": torch.optim.SGD(student.parameters(), lr=0.1),
    }
    code = block("python").replace("http://127.0.0.1:8000", animals.url)
    exec(compile(code, "README.md", "exec"), names)
    assert not torch.equal(before, student[1].weight)
    assert names["client"].stats.rows == 120
    assert names["client"].stats.rows_by_source["miss"] == 40
    assert names["client"].stats.rows_by_source["hit"] == 80


def test_the_readme_s_server_with_keys_and_a_cache_is_authenticated_cached_and_observed(tmp_path):
    """Its commands as they stand, from a clone; on a free port."""
    (said,) = re.findall(r"Without Docker the same server.*?\n\n((?:    .*\n)+)", README)
    making, serving = said.replace(".venv/bin/soft-targets", f"{sys.executable} -m service").split("\n", 1)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    there = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "stdout": subprocess.PIPE}
    made = subprocess.run(["sh", "-euc", making], **there, text=True, check=True)
    headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
    there["env"]["SOFT_TARGETS__SERVER__PORT"] = "0"
    body = {"inputs": {"pixels": [[0.5] * 64]}}
    with subprocess.Popen(["sh", "-euc", f"exec env {serving.strip()}"], **there, text=True) as server:
        try:
            url = server.stdout.readline().split(" listening on ")[1].strip()
            asked = f"{url}/v1/ensembles/digits/soft-targets"
            assert httpx2.post(asked, json=body).status_code == 401
            replies = [httpx2.post(asked, json=body, headers=headers, timeout=60).json() for _ in range(2)]
            figures = httpx2.get(f"{url}/metrics", headers=headers).text
            server.terminate()
            assert server.wait(60) == 0
        finally:
            server.kill()
    assert [one["targets"][0]["source"] for one in replies] == ["miss", "hit"]
    assert 'soft_targets_rows_total{ensemble="digits",source="hit"} 1.0' in figures


def test_the_readme_s_operators_are_admitted_and_refused_as_it_says(tmp_path):
    (tmp_path / "animals.yaml").write_text(block("yaml"))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    ended = []
    for line in re.findall(r"^    (.*soft-targets certify .*)$", README, re.MULTILINE):
        *settings, _ = line.split("soft-targets")[0].split(" ")
        given = dict(one.split("=") for one in settings)
        paths = [given.get("PYTHONPATH", ""), str(ROOT), os.environ.get("PYTHONPATH", "")]
        done = subprocess.run(
            [sys.executable, "-m", "service", *shlex.split(line.split("soft-targets ")[1])],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        ended.append((done.returncode, done.stderr))
    assert ended == [(0, ""), (0, ""), (1, "")]


def test_the_readme_names_every_key_that_is_supported(tmp_path):
    path = tmp_path / "animals.yaml"
    path.write_text(block("yaml"))
    settings = load(path)
    words = set(re.findall(r"\w+", README))

    def names(model):
        for name in type(model).model_fields:
            yield name
            value = getattr(model, name)
            values = (
                value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]
            )
            for inner in values:
                if hasattr(type(inner), "model_fields"):
                    yield from names(inner)

    missing = set(names(settings)) - words
    assert not missing


def test_links_in_the_documents_lead_somewhere():
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "client" / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_wire_document_lists_the_row_codes_that_exist():
    sources = "".join(path.read_text() for path in (ROOT / "service").rglob("*.py"))
    document = (ROOT / "docs" / "wire.md").read_text()
    codes = re.search(r"Row error codes: (.*?)\.\n", document, re.DOTALL).group(1)
    listed = set(re.findall(r"`(\w+)`", codes))
    raised = set(re.findall(r'RowFailure\(\s*"(\w+)"', sources)) | {TeacherFailure.code}
    assert listed == raised
