import re

import pytest
import torch

PROGRAM = "plain_pytorch.py"


@pytest.fixture(scope="module")
def whole(digits, run, tmp_path_factory):
    """A training that was not stopped: what it said, and its last checkpoint."""
    checkpoint = tmp_path_factory.mktemp("plain") / "student.pt"
    done = run(PROGRAM, "--url", digits.url, "--checkpoint", checkpoint)
    return done.stdout, checkpoint


def test_it_learns(whole):
    said, _ = whole
    losses = [float(loss) for loss in re.findall(r"loss (\S+),", said)]
    assert len(losses) == 6
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 4
    assert float(re.search(r"accuracy (\S+) on 397 rows", said)[1]) > 0.85  # guessing has 0.1


def test_later_epochs_are_hits(whole):
    said, _ = whole
    # What the server knew of other tests' rows in the first epoch can only add to it.
    shares = [int(share) for share in re.findall(r"hits (\d+)%", said)]
    assert all(share >= round(100 * epoch / (epoch + 1)) for epoch, share in enumerate(shares))


def test_stopped_within_an_epoch_it_ends_with_the_same_weights(digits, run, whole, tmp_path):
    """Dropout and AdamW would carry any other row, order or random number to the end."""
    checkpoint = tmp_path / "student.pt"
    command = (PROGRAM, "--url", digits.url, "--checkpoint", checkpoint)
    assert "stopped in epoch 2;" in run(*command, "--steps", 30).stdout
    resumed = run(*command).stdout
    assert re.findall(r"epoch (\d):", resumed) == list("23456")
    first, second = (torch.load(path, weights_only=True) for path in (whole[1], checkpoint))
    for part in ("student", "optimiser", "random"):
        torch.testing.assert_close(second[part], first[part], rtol=0, atol=0)
    assert second["stream"] == first["stream"]


def test_targets_of_another_recipe_are_refused(digits, run, whole):
    done = run(
        PROGRAM, "--url", digits.url, "--checkpoint", whole[1], "--epochs", 7, "--recipe", "other", code=1
    )
    assert "soft_targets.errors.OtherFingerprint" in done.stderr
