"""What a call hands out: arrays, tensors, and rows that failed."""

import fcntl
import os
import pickle
import pty
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest
import torch

from soft_targets import Client, FailedRows, InputError, Stats, distillation_loss
from soft_targets.progress import said, shown


def failing(server, answers, *places):
    """Let these rows of each answer fail."""

    def answer(asked):
        rows = answers.rows_of(asked)
        for place in places:
            rows.values[place], rows.sources[place] = None, "error"
            rows.errors[place] = ("non_finite_input", "input 'pixels' is not finite")
        return answers.reply_of(asked, rows)

    server.answer = answer


# ------------------------------------------------------------------------------------------ rows that failed


@pytest.mark.parametrize("top_k", [None, 2])
def test_rows_that_failed_may_be_kept_and_cannot_be_mistaken(server, answers, top_k):
    failing(server, answers, 1, 3)
    inputs = answers.inputs(5)
    with Client(server.url, ensemble="pets", top_k=top_k) as client:
        targets = client.soft_targets(inputs, row_ids=list("abcde"), errors="keep")
        assert client.stats.rows == 3
    assert targets.errors == dict.fromkeys("bd", ("non_finite_input", "input 'pixels' is not finite"))
    assert targets.valid.tolist() == [True, False, True, False, True]
    assert np.isnan(targets.log_probs[~targets.valid]).all()
    assert np.isfinite(targets.log_probs[targets.valid]).all()
    assert targets.source[1] == "error"
    good = targets.select(targets.valid)
    assert good.row_ids == ["a", "c", "e"]
    assert not good.errors
    assert good.valid.all()
    dense = answers.target_of(inputs["pixels"])[[0, 2, 4]]
    if top_k is None:
        np.testing.assert_array_equal(good.log_probs, dense)
    else:
        np.testing.assert_array_equal(good.log_probs, np.take_along_axis(dense, good.indices, axis=1))
        assert np.isnan(targets.tail_log_mass[1])


def test_a_loss_over_rows_that_failed_is_refused(server, client, answers):
    failing(server, answers, 0)
    targets = client.soft_targets(answers.inputs(3), errors="keep")
    with pytest.raises(InputError, match=r"1 of the targets' rows have none.*select\(targets.valid\)"):
        distillation_loss(torch.zeros(3, 3), targets)
    assert torch.isfinite(distillation_loss(torch.zeros(2, 3), targets.select(targets.valid)))


def test_a_call_whose_rows_all_failed_may_be_kept(server, client, answers):
    failing(server, answers, 0, 1)
    targets = client.soft_targets(answers.inputs(2), errors="keep")
    assert not targets.valid.any()
    assert len(targets.select(targets.valid)) == 0


def test_a_stream_names_rows_as_the_data_does(server, client, answers):
    failing(server, answers, 2)
    stream = client.distill(
        range(3), inputs=lambda seed: answers.inputs(4, seed), row_ids=lambda seed: np.arange(4) + 10 * seed
    )
    with pytest.raises(FailedRows) as caught:
        next(iter(stream))
    assert list(caught.value.errors) == [2]
    kept = client.distill(
        range(3),
        inputs=lambda seed: answers.inputs(4, seed),
        row_ids=lambda seed: np.arange(4) + 10 * seed,
        errors="keep",
    )
    assert [list(targets.errors) for _, targets in kept] == [[2], [12], [22]]


def test_errors_are_raised_or_kept(client, answers):
    with pytest.raises(InputError, match="errors must be 'raise' or 'keep', not 'drop'"):
        client.soft_targets(answers.inputs(1), errors="drop")
    with pytest.raises(InputError, match="errors must be"):
        client.distill([], inputs=None, errors="ignore")


# --------------------------------------------------------------------------------------- arrays and tensors


def test_rows_are_selected_by_mask_or_by_place(client, answers):
    targets = client.soft_targets(answers.inputs(4), row_ids=list("wxyz"))
    for rows in ([True, False, False, True], [0, 3], np.array([0, -1])):
        some = targets.select(rows)
        assert some.row_ids == ["w", "z"]
        np.testing.assert_array_equal(some.log_probs, targets.log_probs[[0, 3]])
        assert some.source == [targets.source[0], targets.source[3]]
    with pytest.raises(IndexError):
        targets.select([4])


@pytest.mark.parametrize(("top_k", "dtype"), [(None, "float32"), (2, "float32"), (None, "float16")])
def test_tensors_share_the_arrays_memory(server, answers, top_k, dtype):
    # The test's server knows float32 alone; the rest of the way does not care.
    with Client(server.url, ensemble="pets", top_k=top_k, dtype=dtype) as client:
        targets = client.soft_targets(answers.inputs(4))
    tensors = targets.tensors()
    for tensor, array in zip(
        tensors, (targets.log_probs, targets.indices, targets.tail_log_mass), strict=True
    ):
        assert (tensor is None) == (array is None)
        if tensor is not None:
            assert tensor.data_ptr() == array.ctypes.data
            np.testing.assert_array_equal(tensor.numpy(), array)
    tensors.log_probs[0] = -1.0
    assert (targets.log_probs[0] == -1.0).all()


def test_probabilities_of_half_precision_are_float32(client, answers):
    targets = client.soft_targets(answers.inputs(4))
    half = targets.select(np.arange(4))
    object.__setattr__(half, "log_probs", half.log_probs.astype(np.float16))
    assert half.probabilities.dtype == np.float32
    np.testing.assert_allclose(half.probabilities.sum(axis=1), 1, atol=2e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an accelerator")
def test_memory_is_pinned_for_an_accelerator_alone(server, client, answers):
    with pytest.raises(InputError, match="pin_memory needs an accelerator"):
        client.soft_targets(answers.inputs(1), pin_memory=True)
    with pytest.raises(InputError, match="pin_memory needs an accelerator"):
        client.distill(range(1), inputs=lambda seed: answers.inputs(1, seed), pin_memory=True)
    assert server.asked == []


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from soft_targets import Client
with Client(sys.argv[1], ensemble="pets") as client:
    inputs = {"pixels": [[0.0, 1.0, 2.0]], "caption": ["x"]}
    targets = client.soft_targets(inputs)
    for need in (targets.tensors, lambda: client.soft_targets(inputs, pin_memory=True)):
        try:
            need()
        except ImportError as exc:
            print(exc, exc.name)
"""


def test_without_torch_it_says_what_to_install(server):
    command = [sys.executable, "-c", WITHOUT_TORCH, server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "this needs PyTorch: pip install 'soft-targets-client[torch]' torch\n" * 2


@pytest.mark.parametrize("top_k", [None, 2])
def test_targets_travel_between_processes(server, answers, top_k):
    """As they do from a loader's workers."""
    failing(server, answers, 1)
    with Client(server.url, ensemble="pets", top_k=top_k) as client:
        targets = client.soft_targets(answers.inputs(4), errors="keep")
    copy = pickle.loads(pickle.dumps(targets))
    for name in targets.__slots__:
        np.testing.assert_equal(getattr(copy, name), getattr(targets, name))


# ------------------------------------------------------------------------------------------------- progress

BAR = """
import sys
from soft_targets import Client
with Client(sys.argv[1], ensemble="pets") as client:
    inputs = {"pixels": [[0.0, 1.0, 2.0]] * 3, "caption": ["x"] * 3}
    for _ in client.distill(range(4), inputs=lambda _: inputs, progress=True): pass
"""


def test_a_bar_is_drawn_on_a_terminal_alone(server):
    command = [sys.executable, "-c", BAR, server.url]
    quiet = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (quiet.stdout, quiet.stderr) == ("", "")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))
    with subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL) as drawing:
        os.close(theirs)
        drawn = b""
        try:
            while piece := os.read(ours, 65536):
                drawn += piece
        except OSError:  # how Linux says that nobody holds the other end any more
            pass
        assert drawing.wait(60) == 0
    os.close(ours)
    assert b"soft targets" in drawn
    assert b"12 rows" in drawn
    assert b"stall" in drawn


def test_without_tqdm_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(InputError, match=r"soft-targets-client\[progress\]"), shown(None, wanted=True):
        pass
    with shown(None, wanted=False) as show:
        show(3)


def test_what_a_bar_says():
    assert said(Stats()) == "up 0.0 MB, down 0.0 MB"
    stats = Stats(rows=4, rows_by_source={"hit": 3}, sent_bytes=2_000_000, waited_s=1.0, elapsed_s=4.0)
    assert said(stats) == "hits 75%, stall 25%, up 2.0 MB, down 0.0 MB"
