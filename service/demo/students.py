"""The student, and two ways to teach it: from a few hard labels, or from a server's soft targets."""

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.demo.data import Part, Rows
from service.demo.server import INPUT
from service.demo.setting import Setting
from soft_targets import Client, distillation_loss


class Epoch(NamedTuple):
    """What one pass over the student's rows cost, and where the server had its answers from."""

    rows: int
    rows_by_source: dict[str, int]
    seconds: float
    waited_s: float
    sent_bytes: int
    received_bytes: int

    @property
    def hit_rate(self) -> float:
        """The share of rows answered from the cache."""
        return self.rows_by_source.get("hit", 0) / self.rows


class Distilled(NamedTuple):
    """A student taught by the server."""

    student: nn.Module
    epochs: list[Epoch]


def new_student(*, inputs: int, classes: int, setting: Setting, seed: int) -> nn.Module:
    """One hidden layer; the same weights for the same seed, however it is taught then."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, setting.hidden), nn.ReLU(), nn.Linear(setting.hidden, classes))


def steps(setting: Setting) -> int:
    """How many steps the optimiser takes, whichever way the student is taught."""
    return setting.epochs * -(-setting.student_rows // setting.batch_rows)


def learn_from_labels(student: nn.Module, part: Part, setting: Setting, *, seed: int) -> nn.Module:
    """Teach by cross-entropy, for as many steps and with the same optimiser as the others get.

    Args:
        student: fresh.
        part: all the labels there are.
        setting: of the training.
        seed: of the order.
    """
    rows, labels = torch.from_numpy(part.rows), torch.from_numpy(part.labels)
    optimiser, schedule = _optimiser(student, setting)
    order = torch.Generator().manual_seed(seed)
    left = steps(setting)
    while left:
        for chosen in torch.split(torch.randperm(len(rows), generator=order), setting.batch_rows)[:left]:
            _step(nn.functional.cross_entropy(student(rows[chosen]), labels[chosen]), optimiser, schedule)
            left -= 1
    return student.eval()


def learn_from_server(
    student: nn.Module, rows: Rows, client: Client, setting: Setting, *, seed: int
) -> Distilled:
    """Teach by the soft targets alone, in another order every epoch.

    Args:
        student: fresh.
        rows: without labels.
        client: asks for one ensemble and recipe.
        setting: of the training.
        seed: of the order.
    """
    tensor = torch.from_numpy(rows)
    optimiser, schedule = _optimiser(student, setting)
    order = torch.Generator().manual_seed(seed)
    epochs = []
    for _ in range(setting.epochs):
        before, began = client.stats, time.perf_counter()
        loader = (tensor[chosen] for chosen in torch.split(_shuffled(len(rows), order), setting.batch_rows))
        for batch, targets in client.distill(loader, inputs=_inputs):
            _step(distillation_loss(student(batch), targets), optimiser, schedule)
        seconds, after = time.perf_counter() - began, client.stats
        by_source = {
            source: count - before.rows_by_source.get(source, 0)
            for source, count in after.rows_by_source.items()
        }
        epochs.append(
            Epoch(
                rows=after.rows - before.rows,
                rows_by_source={source: count for source, count in by_source.items() if count},
                seconds=seconds,
                waited_s=after.waited_s - before.waited_s,
                sent_bytes=after.sent_bytes - before.sent_bytes,
                received_bytes=after.received_bytes - before.received_bytes,
            )
        )
    return Distilled(student.eval(), epochs)


def predict(student: nn.Module, rows: Rows) -> NDArray[np.float32]:
    """Log-probabilities ``[B, C]`` at temperature one."""
    with torch.inference_mode():
        log_probs: NDArray[np.float32] = torch.log_softmax(student(torch.from_numpy(rows)), dim=1).numpy()
    return log_probs


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Give torch one thread: so small a student gains nothing from more, and the server needs a core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _inputs(batch: Tensor) -> dict[str, Tensor]:
    return {INPUT: batch}


def _shuffled(rows: int, order: torch.Generator) -> Tensor:
    return torch.randperm(rows, generator=order)


Optimiser = torch.optim.AdamW
Schedule = torch.optim.lr_scheduler.LRScheduler


def _optimiser(student: nn.Module, setting: Setting) -> tuple[Optimiser, Schedule]:
    optimiser = torch.optim.AdamW(
        student.parameters(), lr=setting.learning_rate, weight_decay=setting.weight_decay
    )
    return optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps(setting))


def _step(loss: Tensor, optimiser: Optimiser, schedule: Schedule) -> None:
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    schedule.step()
