"""What was consumed is counted, and training goes on behind it, whatever was read ahead."""

import json
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from soft_targets import Client, InputError, OtherFingerprint

BATCHES = 7


@pytest.fixture
def inputs(answers):
    return lambda seed: answers.inputs(3, int(seed))


def follow(pairs):
    """What a training saw: batches, and their targets bit for bit."""
    return [(str(batch), targets.log_probs.tobytes()) for batch, targets in pairs]


def some_of(stream, count):
    """The first of an epoch, and the state behind them; the loop is left as ``break`` leaves it."""
    pairs = []
    for pair in stream:
        pairs.append(pair)
        if len(pairs) == count:
            break
    return follow(pairs), stream.state_dict()


@pytest.mark.parametrize("prefetch", [1, 5])
@pytest.mark.parametrize("consumed", range(BATCHES + 1))
def test_an_epoch_goes_on_behind_the_last_batch_that_was_consumed(client, inputs, consumed, prefetch):
    def stream():
        return client.distill(range(BATCHES), inputs=inputs, prefetch=prefetch)

    whole = follow(stream())
    first, state = some_of(stream(), consumed) if consumed else ([], stream().state_dict())
    assert (state["batches"], state["rows"]) == (consumed, 3 * consumed)
    resumed = stream()
    resumed.load_state_dict(state)
    assert first + follow(resumed) == whole
    assert (resumed.epoch, resumed.state_dict()["batches"]) == (1, 0)


def test_it_may_be_resumed_again_and_again_within_an_epoch(client, inputs):
    whole = follow(client.distill(range(BATCHES), inputs=inputs))
    seen, state = some_of(client.distill(range(BATCHES), inputs=inputs), 2)
    for _ in range(2):
        stream = client.distill(range(BATCHES), inputs=inputs)
        stream.load_state_dict(state)
        more, state = some_of(stream, 2)
        seen += more
    assert state["batches"] == 6
    stream = client.distill(range(BATCHES), inputs=inputs)
    stream.load_state_dict(state)
    assert seen + follow(stream) == whole


def test_what_is_skipped_is_not_asked_for_and_its_inputs_not_made(server, client, inputs):
    _, state = some_of(client.distill(range(BATCHES), inputs=inputs, prefetch=1), 4)
    made, asked = [], len(server.asked)
    stream = client.distill(range(BATCHES), inputs=lambda seed: made.append(seed) or inputs(seed))
    stream.load_state_dict(state)
    assert len(list(stream)) == len(server.asked) - asked == 3
    assert made == [4, 5, 6]


def test_the_epochs_that_follow_are_whole(client, inputs):
    _, state = some_of(client.distill(range(BATCHES), inputs=inputs), 5)
    stream = client.distill(range(BATCHES), inputs=inputs)
    stream.load_state_dict(state)
    assert [len(list(stream)) for _ in range(3)] == [2, 7, 7]
    assert stream.epoch == 3


def test_a_loop_that_was_left_begins_anew_and_a_loaded_state_goes_on(client, inputs):
    stream = client.distill(range(BATCHES), inputs=inputs)
    _, state = some_of(stream, 3)
    assert len(list(stream)) == 7
    stream.load_state_dict(state)
    assert (stream.epoch, len(list(stream))) == (0, 4)


def test_a_state_is_plain_and_does_not_change_afterwards(client, inputs):
    stream = client.distill(range(BATCHES), inputs=inputs)
    running = iter(stream)
    next(running)
    state = stream.state_dict()
    kept = dict(state)
    next(running)
    assert state == kept
    assert json.loads(json.dumps(state)) == pickle.loads(pickle.dumps(state)) == state
    assert state == {
        "format": 1, "fingerprint": "f" * 64, "epoch": 0, "batches": 1, "rows": 3, "loader": None,
    }  # fmt: skip
    running.close()


def test_the_order_of_an_epoch_is_the_loader_s_to_repeat(client, answers):
    pixels = torch.from_numpy(answers.inputs(20)["pixels"])

    def stream():
        made = client.distill(
            loader, inputs=lambda batch: {"pixels": batch[0], "caption": [""] * len(batch[0])}
        )
        order.manual_seed(made.epoch)
        return made

    order = torch.Generator()
    loader = DataLoader(TensorDataset(pixels), batch_size=3, shuffle=True, generator=order)
    whole = follow(stream())
    first, state = some_of(stream(), 4)
    resumed = stream()
    resumed.load_state_dict(state)
    order.manual_seed(resumed.epoch)
    assert first + follow(resumed) == whole


# ---------------------------------------------------------------------------------- loaders that keep a state

OLD = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 on a newer torch


def stateful(workers):
    from torchdata.stateful_dataloader import StatefulDataLoader  # noqa: PLC0415 - slow

    data = TensorDataset(torch.arange(BATCHES * 2))
    torch.manual_seed(3)
    return StatefulDataLoader(data, batch_size=2, shuffle=True, num_workers=workers)


@OLD
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("consumed", [1, 5, BATCHES])
def test_a_stateful_loader_is_put_back_not_read_again(client, answers, workers, consumed):
    def stream(loader):
        return client.distill(loader, inputs=lambda batch: answers.inputs(2, int(batch[0][0])), prefetch=3)

    whole = follow(stream(stateful(workers)))
    first, state = some_of(stream(stateful(workers)), consumed)
    assert state["loader"] is not None
    torch.manual_seed(99)
    resumed = stream(stateful(workers))
    resumed.load_state_dict(pickle.loads(pickle.dumps(state)))
    assert first + follow(resumed) == whole
    assert resumed.epoch == 1


@OLD
def test_at_the_end_of_an_epoch_a_stateful_loader_goes_on_with_the_next(client, answers):
    def stream(loader):
        return client.distill(loader, inputs=lambda batch: answers.inputs(2, int(batch[0][0])))

    going = stream(stateful(0))
    list(going)
    state = going.state_dict()
    assert (state["epoch"], state["batches"]) == (1, 0)
    resumed = stream(stateful(0))
    resumed.load_state_dict(state)
    assert len(list(resumed)) == BATCHES
    assert resumed.epoch == 2


def test_a_hugging_face_stream_is_put_back(client, answers):
    from datasets import Dataset  # noqa: PLC0415 - slow

    def stream():
        data = Dataset.from_dict({"seed": list(range(8))}).to_iterable_dataset(num_shards=2)
        return client.distill(data, inputs=lambda row: answers.inputs(2, row["seed"]), prefetch=3)

    whole = follow(stream())
    first, state = some_of(stream(), 3)
    resumed = stream()
    resumed.load_state_dict(state)
    assert first + follow(resumed) == whole


@OLD
def test_a_loader_s_state_needs_such_a_loader(client, inputs, answers):
    stream = client.distill(stateful(0), inputs=lambda batch: answers.inputs(2, int(batch[0][0])))
    _, state = some_of(stream, 1)
    with pytest.raises(InputError, match="this loader has no load_state_dict"):
        client.distill(range(3), inputs=inputs).load_state_dict(state)


# ------------------------------------------------------------------------------------------ what is refused


def changed(server, answers):
    server.answer = lambda asked: answers.reply_of(asked, fingerprint="e" * 64)


def test_targets_of_another_fingerprint_are_refused_before_the_first(server, client, answers, inputs):
    _, state = some_of(client.distill(range(BATCHES), inputs=inputs), 2)
    changed(server, answers)
    with Client(server.url, ensemble="pets", retry_s=0) as later:
        stream = later.distill(range(BATCHES), inputs=inputs)
        stream.load_state_dict(state)
        with pytest.raises(OtherFingerprint, match=r"e{64}, earlier ones f{64}"):
            next(iter(stream))


def test_a_client_of_another_fingerprint_refuses_the_state(server, client, answers, inputs):
    _, state = some_of(client.distill(range(BATCHES), inputs=inputs), 2)
    changed(server, answers)
    with Client(server.url, ensemble="pets") as later:
        later.soft_targets(inputs(0))
        stream = later.distill(range(BATCHES), inputs=inputs)
        with pytest.raises(OtherFingerprint, match="the state was taken with targets of the fingerprint f"):
            stream.load_state_dict(state)
        assert stream.state_dict()["batches"] == 0


def test_unless_told(server, client, answers, inputs):
    _, state = some_of(client.distill(range(BATCHES), inputs=inputs), 2)
    changed(server, answers)
    with Client(server.url, ensemble="pets") as later:
        stream = later.distill(range(BATCHES), inputs=inputs)
        stream.load_state_dict(state, other_fingerprint=True)
        assert [targets.fingerprint for _, targets in stream] == ["e" * 64] * 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2 cannot be read"),
        ({"batches": -1}, "cannot be read"),
        ({"batches": "many"}, "not a state of distill"),
        ({"epoch": None}, "not a state of distill"),
    ],
)
def test_what_is_no_state(client, inputs, change, message):
    stream = client.distill(range(BATCHES), inputs=inputs)
    with pytest.raises(InputError, match=message):
        stream.load_state_dict(stream.state_dict() | change)
    with pytest.raises(InputError, match="not a state"):
        stream.load_state_dict({})
    with pytest.raises(InputError, match="not a state"):
        stream.load_state_dict(None)
    assert len(list(stream)) == BATCHES


def test_a_shorter_loader_ends_where_it_ends(client, inputs):
    _, state = some_of(client.distill(range(BATCHES), inputs=inputs), 5)
    stream = client.distill(range(3), inputs=inputs)
    stream.load_state_dict(state)
    with pytest.raises(InputError, match="ended after 3 batches, before the 5 that were consumed"):
        list(stream)


def test_the_length_is_the_loader_s(client, inputs):
    assert len(client.distill(range(BATCHES), inputs=inputs)) == BATCHES
    with pytest.raises(TypeError):
        len(client.distill(iter(range(3)), inputs=inputs))


def test_stats_are_the_stream_s_own(client, answers, inputs):
    client.soft_targets(answers.inputs(9, 99))
    stream = client.distill(range(BATCHES), inputs=inputs)
    list(stream)
    assert (stream.stats.rows, client.stats.rows) == (21, 30)
    assert stream.stats.rows_by_source == {"miss": 21}
    assert 0 < stream.stats.waited_s <= stream.stats.elapsed_s
    assert 0 < stream.stats.stall <= 1
    list(stream)
    assert stream.stats.hit_rate == 0.5
    assert np.isnan(client.distill(range(1), inputs=inputs).stats.hit_rate)
