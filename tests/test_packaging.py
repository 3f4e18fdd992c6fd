"""What is installed elsewhere: both wheels, the client alone in a clean environment, and quiet imports."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import service
import soft_targets

ROOT = Path(__file__).parents[1]
CLEAN = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, env=CLEAN, **options)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Both distributions, built from what is there."""
    out = tmp_path_factory.mktemp("wheels")
    for project in (ROOT, ROOT / "client"):
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, project)
    return {path.name.split("-")[0]: path for path in out.glob("*.whl")}


def tops(wheel):
    return {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist() if ".dist-info" not in name}


def test_each_wheel_holds_its_packages_and_nothing_else(wheels):
    assert tops(wheels["soft_targets"]) == {"service", "operators"}
    assert tops(wheels["soft_targets_client"]) == {"soft_targets"}
    names = zipfile.ZipFile(wheels["soft_targets_client"]).namelist()
    assert "soft_targets/py.typed" in names
    assert service.__version__ == soft_targets.__version__ == "0.1.0"


def test_the_client_s_wheel_alone_in_a_clean_environment(wheels, tmp_path):
    run(sys.executable, "-m", "venv", tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheels["soft_targets_client"])
    code = (
        "import json, sys, soft_targets\n"
        "from soft_targets import Client, SoftTargets, wire\n"
        "Client('http://127.0.0.1:9', ensemble='e').close()\n"
        "try:\n    soft_targets.distillation_loss\n"
        "except ImportError as exc:\n    said = str(exc)\n"
        "print(json.dumps([said, soft_targets.__file__, sorted(m.split('.')[0] for m in sys.modules)]))\n"
    )
    said, file, modules = json.loads(run(python, "-c", code, cwd=tmp_path).stdout)
    assert "pip install 'soft-targets-client[torch]'" in said
    assert file.startswith(str(tmp_path))
    assert not {"torch", "service", "operators", "fastapi", "onnxruntime"} & set(modules)


def test_the_server_s_wheel_runs_from_another_folder(wheels, tmp_path):
    target = tmp_path / "site"
    run(
        sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", target,
        wheels["soft_targets"], wheels["soft_targets_client"],
    )  # fmt: skip
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r})\n"
        "import service, operators, soft_targets\n"
        "print(service.__file__, operators.__file__, soft_targets.__file__)\n"
        "sys.argv = ['soft-targets', '--version']\n"
        "from service.cli import main\nmain()\n"
    )
    lines = run(sys.executable, "-c", code, cwd=tmp_path).stdout.splitlines()
    assert all(file.startswith(str(target)) for file in lines[0].split())
    assert lines[1] == "soft-targets 0.1.0"


def test_nothing_is_built_at_import():
    code = (
        "import importlib, logging, os, pkgutil, signal, threading\n"
        "before = dict(os.environ), signal.getsignal(signal.SIGTERM), list(logging.root.handlers)\n"
        "import operators, service, soft_targets\n"
        "for package in (operators, service, soft_targets):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if not module.name.startswith(('service.demo', 'service.__main__')):\n"
        "            importlib.import_module(module.name)\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "after = dict(os.environ), signal.getsignal(signal.SIGTERM), list(logging.root.handlers)\n"
        "assert before == after, 'an import changed the process'\n"
    )
    ended = run(sys.executable, "-c", code, cwd=ROOT)
    assert (ended.stdout, ended.stderr) == ("", "")


def test_the_runtime_reports_nothing_to_anybody():
    # Where it would, it wants to write down who it is, and says so where it cannot.
    program = "from service.teachers.session import device; device('auto')"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    nowhere = dict.fromkeys(["HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"], "/proc/none")
    said = subprocess.run(
        [sys.executable, "-c", program], env=environment | nowhere, capture_output=True, text=True, check=True
    )
    assert said.stdout + said.stderr == ""
