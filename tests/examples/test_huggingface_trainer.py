"""The Trainer's updates do not depend on how rows are cut up; what is resumed ends as if never stopped."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file

# To import the library takes longer than all the training here, so one process does it all.
PROGRAM = """
import shutil, sys
from pathlib import Path
import huggingface_trainer
from soft_targets import Client, OtherFingerprint

class Telling(Client):
    def close(self):
        print("rows asked for:", self.stats.rows)
        super().close()

huggingface_trainer.Client = Telling
url, out = sys.argv[1:]

def train(name, *more):
    huggingface_trainer.main(["--url", url, "--output", f"{out}/{name}", *more])

train("whole", "--epochs", "1", "--batch", "64")
train("halves", "--epochs", "1", "--batch", "32", "--accumulate", "2")

train("through", "--epochs", "4")
for name in ("resumed", "refused"):
    shutil.copytree(f"{out}/through/checkpoint-50", f"{out}/{name}/checkpoint-50")
train("resumed", "--epochs", "4")
try:
    train("refused", "--epochs", "4", "--recipe", "other")
except OtherFingerprint as exc:
    print("refused:", exc)

source = Path(huggingface_trainer.__file__).read_text()
assert source.count("remove_unused_columns=False") == 1
names = {"__name__": "by_default"}
exec(source.replace("remove_unused_columns=False", "remove_unused_columns=True"), names)
try:
    names["main"](["--url", url, "--output", f"{out}/dropped"])
except KeyError as exc:
    print("dropped:", exc)
"""


@pytest.fixture(scope="module")
def out(digits, run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("huggingface")
    (folder / "said").write_text(run("-c", PROGRAM, digits.url, folder).stdout)
    run(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "huggingface_trainer.py",
        "--url", digits.url, "--output", folder / "ranks", "--epochs", 1, "--batch", 32,
        ignore=["Grad strides do not match"],  # the gradient of a depthwise convolution; slower, says torch
    )  # fmt: skip
    return folder


def said(out, about):
    """What was printed, one run after the other."""
    return re.findall(about, (out / "said").read_text())


def history(out, run, *names):
    [checkpoint] = (out / run).glob("checkpoint-[28]*")
    lines = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return np.array([[line[name] for name in names] for line in lines])


def weights(out, run):
    [checkpoint] = (out / run).glob("checkpoint-[28]*")
    return load_file(checkpoint / "model.safetensors")


def test_it_learns(out):
    losses = history(out, "through", "loss")[:, 0]
    assert losses[-1] < losses[0] / 4
    assert (
        min(float(share) for share in said(out, r"accuracy (\S+) on 397 rows")[2:]) > 0.75
    )  # guessing has 0.1


def test_the_history_has_stall_and_hit_rate(out):
    stall, hits = history(out, "through", "stall", "hit_rate").T
    assert ((stall >= 0) & (stall <= 1)).all()
    assert hits[-1] == 1  # the runs before it asked for the same rows


@pytest.mark.parametrize("cut", ["halves", "ranks"])
def test_an_update_is_the_same_however_its_rows_are_cut_up(out, cut):
    """Two micro-batches of 32 rows, or two ranks with 32 each, make the update that one batch of 64 makes."""
    figures = ("loss", "grad_norm")
    np.testing.assert_allclose(history(out, cut, *figures), history(out, "whole", *figures), rtol=1e-5)


def test_a_last_smaller_micro_batch_counts_by_its_rows(out):
    """1400 rows are 21 updates of 64, and one of 56 that is made of 32 and 24."""
    whole, halves = weights(out, "whole"), weights(out, "halves")
    assert whole.keys() == halves.keys()
    for name, values in whole.items():
        np.testing.assert_allclose(halves[name], values, rtol=0, atol=1e-5, err_msg=name)


def test_resumed_within_an_epoch_it_ends_as_if_never_stopped(out):
    """From step 50, the 6th of the third epoch's 22."""
    np.testing.assert_array_equal(history(out, "resumed", "loss"), history(out, "through", "loss"))
    through, resumed = weights(out, "through"), weights(out, "resumed")
    for name, values in through.items():
        np.testing.assert_array_equal(resumed[name], values, err_msg=name)


def test_what_was_trained_on_is_not_asked_for_again(out):
    assert [int(rows) for rows in said(out, r"rows asked for: (\d+)")][2:4] == [4 * 1400, 2 * 1400 - 6 * 64]


def test_targets_of_another_recipe_are_refused(out):
    assert (
        len(said(out, r"refused: .*this answer has the fingerprint [0-9a-f]{64}, this client was made for"))
        == 1
    )
    assert not list((out / "refused").glob("checkpoint-88"))


def test_by_default_the_trainer_drops_what_forward_does_not_name(out):
    assert said(out, r"dropped: '(\S+)'") == ["pixels"]
