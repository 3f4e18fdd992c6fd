import importlib.metadata
import importlib.util
import subprocess
import sys

import pytest

import soft_targets
from soft_targets import (
    client,
    distill,
    errors,
    exchange,
    lookups,
    losses,
    prefetching,
    progress,
    servers,
    session,
    stats,
    targets,
    tensors,
    views,
    wire,
)

MODULES = [
    client,
    distill,
    exchange,
    lookups,
    losses,
    prefetching,
    progress,
    servers,
    session,
    stats,
    targets,
    tensors,
    views,
    wire,
]


def test_public_names_are_sorted_and_importable():
    assert soft_targets.__all__ == sorted(soft_targets.__all__)
    for name in soft_targets.__all__:
        assert getattr(soft_targets, name) is not None


def test_every_error_is_public():
    raised = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.SoftTargetsError)
    }
    assert raised <= set(soft_targets.__all__)


@pytest.mark.parametrize("module", MODULES)
def test_modules_list_their_names(module):
    assert len(module.__all__) == len(set(module.__all__))
    for name in module.__all__:
        assert hasattr(module, name)


def test_the_version_is_the_distributions():
    assert soft_targets.__version__ == importlib.metadata.version("soft-targets-client")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'loss'"):
        _ = soft_targets.loss


def run(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_importing_does_not_import_torch_or_the_server():
    loaded = run(
        "import sys, soft_targets, soft_targets.wire; print(*{n.split('.')[0] for n in sys.modules})"
    )
    assert not {"torch", "service", "operators", "fastapi", "onnxruntime"} & set(loaded.split())


@pytest.mark.parametrize("name", losses.__all__)
def test_a_loss_without_torch_says_what_to_install(name):
    said = run(
        "import sys; sys.modules['torch'] = None\n"
        f"try:\n    from soft_targets import {name}\n"
        "except ImportError as exc:\n    print(exc)"
    )
    assert said == f"{name} needs PyTorch: pip install 'soft-targets-client[torch]'\n"


def test_every_loss_is_public():
    assert set(losses.__all__) <= set(soft_targets.__all__)
    for name in losses.__all__:
        assert getattr(soft_targets, name) is getattr(losses, name)
