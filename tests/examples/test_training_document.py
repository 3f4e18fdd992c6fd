"""docs/training.md is run, block by block, and its tables are what they say."""

import inspect
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from soft_targets import Client, OtherFingerprint

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "training.md").read_text()
HEADINGS = re.split(r"^## (.+)$", DOCUMENT, flags=re.MULTILINE)
SECTIONS = dict(zip(HEADINGS[1::2], HEADINGS[2::2], strict=True))


def block(section):
    [code] = re.findall(r"```python\n(.*?)```", SECTIONS[section], re.DOTALL)
    return code


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(3)
    return torch.rand((200, 64), generator=generator), torch.randint(10, (200,), generator=generator)


class Seen:
    """What the document calls ``train``: remembers all that it was shown, and may fail."""

    def __init__(self, *, fails_at=None):
        self.steps = []
        self.fails_at = fails_at

    def __call__(self, rows, targets, labels):
        assert len(rows) == len(targets) == len(labels)
        if len(self.steps) == self.fails_at:
            raise KeyboardInterrupt
        self.steps.append((rows.numpy().tobytes(), labels.tolist(), targets.log_probs.tobytes()))


@pytest.fixture
def execute(digits):
    def run_block(section, **names):
        code = block(section).replace("http://127.0.0.1:8000", digits.url)
        names = {"torch": torch, "Client": Client} | names
        exec(compile(code, f"docs/training.md, {section}", "exec"), names)
        return names

    return run_block


def test_the_loop_trains(execute, rows):
    student = torch.nn.Linear(64, 10)
    before = student.weight.detach().clone()
    names = execute(
        "What is read ahead",
        loader=torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*rows), batch_size=64),
        student=student,
        optimiser=torch.optim.SGD(student.parameters(), lr=0.1),
    )
    assert not torch.equal(before, student.weight)
    assert names["stream"].stats.rows == 200


def test_the_defaults_are_what_it_says():
    asked, opened = (inspect.signature(call).parameters for call in (Client.distill, Client))
    section = SECTIONS["What is read ahead"]
    assert f"`prefetch_rows` ({asked['prefetch_rows'].default})" in section.replace("\n", " ")
    assert f"`prefetch_bytes` ({asked['prefetch_bytes'].default // 2**20} MiB" in section.replace("\n", " ")
    assert f"`connections` ({opened['connections'].default})" in section.replace("\n", " ")
    assert f"prefetch={asked['prefetch'].default})" in section


def test_resumed_the_sequence_is_what_it_would_have_been(execute, rows):
    data = torch.utils.data.TensorDataset(*rows)
    whole = Seen()
    execute("Resume", data=data, checkpoint={}, epochs=3, train=whole)
    assert len(whole.steps) == 3 * 4
    assert len({step[0] for step in whole.steps}) == 3 * 4
    checkpoint, steps = {}, []
    for fails_at in (2, 4):
        killed = Seen(fails_at=fails_at)
        with pytest.raises(KeyboardInterrupt):
            execute("Resume", data=data, checkpoint=checkpoint, epochs=3, train=killed)
        steps += killed.steps
    last = Seen()
    execute("Resume", data=data, checkpoint=checkpoint, epochs=3, train=last)
    assert steps + last.steps == whole.steps


def test_another_fingerprint_is_refused_unless_told(digits, rows):
    def stream(client):
        return client.distill([rows[0][:8], rows[0][8:16]], inputs=lambda batch: {"pixels": batch})

    with Client(digits.url, ensemble="digits") as client:
        going = stream(client)
        next(iter(going))
        state = going.state_dict()
        going.close()
    with Client(digits.url, ensemble="digits", recipe="other") as client:
        resumed = stream(client)
        resumed.load_state_dict(state)
        with pytest.raises(OtherFingerprint):
            list(resumed)
    with Client(digits.url, ensemble="digits", recipe="other") as client:
        resumed = stream(client)
        resumed.load_state_dict(state, other_fingerprint=True)
        assert [len(targets) for _, targets in resumed] == [8]


WORKERS = """
import sys
import torch
BLOCK
if __name__ == "__main__":
    with Client(sys.argv[1], ensemble="digits") as client:
        rows = torch.rand((48, 64), generator=torch.Generator().manual_seed(3))
        data = torch.utils.data.TensorDataset(rows, torch.arange(48))
        whole = client.soft_targets({"pixels": rows})
        for context in ("fork", "spawn"):
            how = dict(num_workers=2, multiprocessing_context=context, collate_fn=WithTargets(client))
            loader = torch.utils.data.DataLoader(data, batch_size=8, **how)
            for pixels, labels, targets in loader:
                assert (targets.log_probs == whole.log_probs[labels]).all()
                assert targets.fingerprint == client.fingerprint
            print(context, client.stats.rows)
"""


def test_a_client_may_be_used_in_workers(digits, run, tmp_path):
    program = tmp_path / "workers.py"
    program.write_text(WORKERS.replace("BLOCK", block("Workers of the data loader")))
    # The workers' rows are counted by the workers.
    assert run(program, digits.url).stdout.splitlines() == ["fork 48", "spawn 48"]


def test_views_buy_the_hit_rate_that_is_promised(execute, rows):
    pairs = list(zip(rows[0].numpy(), rows[1].tolist(), strict=True))
    seen = Seen()
    names = execute("Augmentation", pairs=pairs, train=seen)
    assert len({step[0] for step in seen.steps}) == 2 * 4
    assert names["stream"].stats.hit_rate == 1 - 2 / 4


def test_the_table_of_views():
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\| \d+ \|.*$", SECTIONS["Augmentation"], re.MULTILINE)
    ]
    assert len(lines) == 3
    for epochs, *shares, anew in lines:
        expected = [f"{max(0.0, 1 - views / int(epochs)):.0%}" for views in (1, 2, 5, 10)]
        assert [share.replace(" ", "") for share in shares] == expected
        assert anew == "0 %"


def test_rows_without_a_target_are_left_out(execute, rows):
    pixels, labels = rows[0].clone(), rows[1]
    pixels[3, 0] = np.nan
    pixels[64:128] = np.inf  # a batch without any
    data = torch.utils.data.TensorDataset(pixels, labels)
    seen = Seen()
    names = execute(
        "Rows without a target",
        loader=torch.utils.data.DataLoader(data, batch_size=64),
        train=seen,
    )
    assert [len(step[1]) for step in seen.steps] == [63, 64, 8]
    assert names["stream"].stats.rows_by_source["error"] == 65
    assert names["stream"].stats.rows == 135


def test_of_several_servers_one_that_answers_is_asked(digits, rows):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        code = block("Several servers").replace("http://teachers-2:8000", digits.url)
        code = code.replace("http://teachers-1:8000", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        names = {"Client": Client}
        exec(code, names)
        with names["client"] as client:
            assert len(client.base_urls) == 2
            assert len(client.soft_targets({"pixels": rows[0]})) == 200


def test_what_is_to_be_logged_is_there():
    said = re.findall(
        r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", SECTIONS["What to log"], re.MULTILINE))
    )
    assert {"stall", "hit_rate", "rows", "rows_by_source", "retries"} <= set(said)
    with Client("http://127.0.0.1:9", ensemble="digits") as client:
        for name in said:
            assert hasattr(client.stats, name)


def test_every_example_is_in_the_documents():
    programs = {path.name for path in (ROOT / "examples").glob("*.py")} - {
        "my_operator.py",
        "arrow_client.py",
    }
    assert set(re.findall(r"\(\.\./examples/(\w+\.py)\)", DOCUMENT)) == programs
    assert programs <= set(re.findall(r"\(examples/(\w+\.py)\)", (ROOT / "README.md").read_text()))
    for name in programs:
        assert f"examples/{name}" in (ROOT / "examples" / name).read_text().split('"""')[1]
