"""What is resumed under Lightning, within an epoch or at its end, ends as if never stopped."""

import re

import pytest
import torch

# To import the library takes longer than all the training here, so one process does it all.
PROGRAM = """
import sys
from lightning_callback import main

url, out = sys.argv[1:]
for name, *stops in (("through",), ("within", "35"), ("end", "44", "110")):
    for stop in (*stops, "-1"):
        print(f"[{name} {stop}]")
        main(["--url", url, "--output", f"{out}/{name}", "--steps", stop])
"""
# Lightning calls what this torch calls deprecated, and remarks on the folder that it is to go on from.
IGNORE = ("`isinstance(treespec:FutureWarning", "Checkpoint directory")


@pytest.fixture(scope="module")
def out(digits, run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lightning")
    (folder / "said").write_text(run("-c", PROGRAM, digits.url, folder, ignore=IGNORE).stdout)
    return folder


def run_of(out, name):
    """What was printed by one run."""
    return (out / "said").read_text().split(f"[{name}]")[1].split("[")[0]


def checkpoint(out, name):
    return torch.load(out / name / "last.ckpt", weights_only=True)


def test_it_learns(out):
    said = run_of(out, "through -1")
    assert re.findall(r"epoch (\d): stall \d+%, hits \d+%", said) == list("123456")
    assert float(re.search(r"accuracy (\S+) on 397 rows", said)[1]) > 0.8  # guessing has 0.1


@pytest.mark.parametrize(("name", "stop", "epochs"), [("within", 35, "23456"), ("end", 110, "6")])
def test_resumed_it_ends_as_if_never_stopped(out, name, stop, epochs):
    """Dropout and AdamW would carry any other row, order or random number to the end."""
    assert f"[{name} {stop}]" in (out / "said").read_text()
    assert re.findall(r"epoch (\d):", run_of(out, f"{name} -1")) == list(epochs)
    through, resumed = checkpoint(out, "through"), checkpoint(out, name)
    assert resumed["global_step"] == through["global_step"] == 130
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(resumed[part], through[part], rtol=0, atol=0)
