"""Nothing that is read makes this process run what it says: no pickle, no eval, no import by a request."""

import ast
import pickle
from pathlib import Path

import numpy as np
import pytest
from bulk_runs import SPECS

from service.bulk.data import open_dataset
from service.config import load
from service.engine.engine import Engine
from service.errors import ConfigError, ServiceError

ROOT = Path(__file__).parents[2]
PACKAGES = ("service", "operators", "client/soft_targets", "examples", "bench")
MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "code", "xmlrpc"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
SHELLS = {"system", "popen", "getoutput", "getstatusoutput"}
# Where a name of the configuration becomes a module: an operator of one's own.
MAY_IMPORT = {ROOT / "service/plans/operators.py"}


def findings(source, *, may_import=False):
    """What in a source could run data as code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names]
            modules = names if isinstance(node, ast.Import) else [node.module or ""]
            yield from (name for name in modules if name.partition(".")[0] in MODULES)
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        last = called.rpartition(".")[2]
        if called in BUILTINS or (called.startswith(("os.", "subprocess.")) and last in SHELLS):
            yield called
        if given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False":
            yield called
        if called == "torch.load" and given.get("weights_only") != "True":
            yield called
        if called == "YAML" and given.get("typ") != "'safe'":
            yield called
        if last in {"unsafe_load", "full_load", "load_all"} or (called == "yaml.load" and len(node.args) > 1):
            yield called
        if last == "import_module" and not may_import:
            yield called


def sources():
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_no_source_can_run_data_as_code():
    found = {
        str(path.relative_to(ROOT)): said
        for path in sources()
        if (said := list(findings(path.read_text(), may_import=path in MAY_IMPORT)))
    }
    assert len(sources()) > 100
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import a, marshal.b",
        "eval('1')",
        "exec(text)",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "YAML()",
        "YAML(typ='unsafe')",
        "yaml.load(text, Loader)",
        "yaml.unsafe_load(text)",
        "importlib.import_module(name)",
    ],
)
def test_the_search_finds_what_it_is_for(source):
    assert list(findings(source))


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def mark(tmp_path):
    """A file that must not be made; that a bomb would make it is tried."""
    path = tmp_path / "mark"
    pickle.loads(pickle.dumps(Bomb(path))).close()
    assert path.exists()
    path.unlink()
    yield path
    assert not path.exists()


@pytest.mark.parametrize("suffix", ["npy", "npz", "parquet", "arrow"])
def test_data_that_holds_objects_is_refused_and_not_unpickled(mark, tmp_path, suffix):
    path, objects = tmp_path / f"data.{suffix}", np.array([Bomb(mark)] * 4, dtype=object)
    if suffix == "npy":
        np.save(path, objects, allow_pickle=True)
    elif suffix == "npz":
        np.savez(path, x=objects)
    else:
        path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ServiceError), open_dataset(str(path), SPECS) as data:
        list(data.chunks(4))


CONFIG = """\
ensembles:
  toy:
    inputs: {x: {dtype: float32, shape: [6]}}
    classes: [ant, bee, cat, dog]
    teachers:
      - {name: one, model: one.onnx, output: {kind: logits}}
    recipes: {default: {operator: linear}}
"""


@pytest.mark.parametrize("pack", [pickle.dumps, lambda bomb: b"PK\x03\x04" + pickle.dumps(bomb)])
def test_a_model_that_is_a_pickle_is_refused_and_not_unpickled(mark, tmp_path, pack):
    (tmp_path / "one.onnx").write_bytes(pack(Bomb(mark)))
    (tmp_path / "toy.yaml").write_text(CONFIG)
    with pytest.raises(ConfigError, match=r"is not an ONNX model|cannot be loaded"):
        Engine.open(load(tmp_path / "toy.yaml"))


@pytest.mark.parametrize(
    "value",
    ["!!python/object/apply:os.system [touch MARK]", "!!python/name:os.system", "!!python/object:os.x {}"],
)
def test_a_configuration_makes_no_python_objects(mark, tmp_path, value):
    (tmp_path / "toy.yaml").write_text(f"server: {value.replace('MARK', str(mark))}\n{CONFIG}")
    with pytest.raises(ConfigError):
        load(tmp_path / "toy.yaml")
