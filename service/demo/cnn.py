"""The first teacher: a small convolutional network in torch, and its export."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

GRAPH_INPUT = "image"
GRAPH_OUTPUT = "logits"


class SmallCnn(nn.Module):
    """Two convolutions with pooling, one linear layer; takes flat rows and folds them to pictures inside."""

    def __init__(self, *, side: int, classes: int) -> None:
        super().__init__()
        self.side = side
        self.first = nn.Conv2d(1, 16, kernel_size=3, padding=1)
        self.second = nn.Conv2d(16, 32, kernel_size=3, padding=1)
        self.last = nn.Linear(32 * (side // 4) ** 2, classes)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits ``[B, C]`` of rows ``[B, side * side]``."""
        pictures = rows.reshape(-1, 1, self.side, self.side)
        coarse = torch.max_pool2d(torch.relu(self.first(pictures)), 2)
        features = torch.max_pool2d(torch.relu(self.second(coarse)), 2)
        logits: Tensor = self.last(features.flatten(1))
        return logits


def train(rows: Tensor, labels: Tensor, *, side: int, classes: int, epochs: int, seed: int) -> SmallCnn:
    """A network fitted with Adam in batches of 32.

    Args:
        rows: float32 ``[B, side * side]``.
        labels: int64 ``[B]``.
        side: of the square pictures.
        classes: how many.
        epochs: passes over the rows.
        seed: of the weights and the order.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = SmallCnn(side=side, classes=classes)
    order = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(rows), generator=order), 32):
            loss = nn.functional.cross_entropy(network(rows[chosen]), labels[chosen])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return network.eval()


def export(network: SmallCnn, path: Path) -> None:
    """Write the network as one ONNX file that takes any number of rows."""
    example = torch.zeros(2, network.side**2)
    with _quiet():
        torch.onnx.export(
            network,
            (example,),
            path,
            dynamo=True,
            input_names=[GRAPH_INPUT],
            output_names=[GRAPH_OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("rows")},),
            external_data=False,
            verbose=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the exporter's progress and its notes on absent packages; errors are raised all the same."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
