"""A training that is killed, twice within one epoch, sees what one that is not sees."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

# Trains on nothing: it writes down what it would train on, and where it stands, as trainers save checkpoints.
# argv: url, rows, folder, the batch of this run at which to be killed, and whether before its checkpoint.
TRAINER = """
import json, os, signal, sys
from pathlib import Path
import numpy as np, torch
from torch.utils.data import DataLoader, TensorDataset
from soft_targets import Client

url, rows, folder, last, early = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
log, checkpoint = folder / "seen", folder / "checkpoint"
order = torch.Generator()
data = TensorDataset(torch.from_numpy(np.load(rows)))
loader = DataLoader(data, batch_size=5, shuffle=True, generator=order)
with Client(url, ensemble="toy") as client:
    stream = client.distill(loader, inputs=lambda batch: {"pixels": batch[0]}, prefetch=3)
    if checkpoint.exists():
        saved = json.loads(checkpoint.read_text())
        stream.load_state_dict(saved["stream"])
        os.truncate(log, saved["log"])
    with log.open("a") as seen:
        number = 0
        while stream.epoch < 2:
            order.manual_seed(stream.epoch)
            for (batch,), targets in stream:
                line = [stream.epoch, batch.numpy().tobytes().hex(), targets.log_probs.tobytes().hex()]
                seen.write(json.dumps(line) + "\\n")
                seen.flush()
                number += 1
                if number == last and early == "early":
                    os.kill(os.getpid(), signal.SIGKILL)
                new = folder / "new"
                new.write_text(json.dumps({"stream": stream.state_dict(), "log": seen.tell()}))
                new.replace(checkpoint)
                if number == last:
                    os.kill(os.getpid(), signal.SIGKILL)
"""


def train(server, rows, folder, last=-1, early="late"):
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", TRAINER, server.url, rows, folder, str(last), early],
        check=False,
        timeout=120,
    ).returncode


@pytest.mark.parametrize("when", ["early", "late"])
def test_killed_twice_within_an_epoch_the_rest_is_the_same_bit_for_bit(server, toy, tmp_path, when):
    rows = tmp_path / "rows.npy"
    np.save(rows, toy.rows(48, seed=71 if when == "early" else 72))
    assert train(server, rows, tmp_path / "whole") == 0
    for last in (3, 4):
        assert train(server, rows, tmp_path / "killed", last, when) == -signal.SIGKILL
        assert json.loads((tmp_path / "killed/checkpoint").read_text())["stream"]["epoch"] == 0
    assert train(server, rows, tmp_path / "killed") == 0
    whole, killed = ((tmp_path / name / "seen").read_text().splitlines() for name in ("whole", "killed"))
    assert len(whole) == 2 * 10
    assert killed == whole
