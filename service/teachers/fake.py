"""A teacher without a model: a seeded matrix, with delays and failures on demand."""

import time
from collections.abc import Mapping

import numpy as np

from service.config import FakeModel
from service.config import Teacher as TeacherConfig
from service.errors import TeacherFailure, TeacherOverrun
from service.keys import fingerprint
from service.model import Array
from service.teachers.base import Device, GraphInput
from service.teachers.session import Deadlines

INPUT, OUTPUT = "x", "logits"


class FakeTeacher:
    """Logits ``x @ matrix``, the matrix seeded; the same bits alone and beside others.

    Args:
        config: the teacher's section of the configuration.
        model: what it does.
        deadlines: how long a call may take.
    """

    def __init__(self, config: TeacherConfig, model: FakeModel, *, deadlines: Deadlines) -> None:
        self.name = config.name
        self.digest = fingerprint(["fake", model.classes, model.features, model.seed])
        self.device = Device("cpu")
        self.inputs: Mapping[str, GraphInput] = {INPUT: GraphInput("<f4", (model.features,))}
        self.output = OUTPUT
        self.size_bytes = 8 * model.features * model.classes
        self._model = model
        self._limit_s = deadlines.limit_s
        self._matrix = np.random.default_rng(model.seed).normal(size=(model.features, model.classes))

    def answer(self, inputs: Mapping[str, Array]) -> Array:
        """Logits ``[B, C_t]``.

        Raises:
            TeacherFailure: a row says so, by its first number.
            TeacherOverrun: likewise.
        """
        rows = inputs[INPUT].astype(np.float64)
        first = rows[:, 0]
        if (first > self._model.hang_above).any():
            time.sleep(self._limit_s)
            raise TeacherOverrun(
                f"teacher {self.name!r} gave no answer within {self._limit_s:g} s", teacher=self.name
            )
        time.sleep(self._model.delay_ms / 1000)
        if (first > self._model.raise_above).any():
            raise TeacherFailure(f"teacher {self.name!r} failed: a row told it to", teacher=self.name)
        # A product of matrices would round a row by how many are beside it.
        logits = np.stack([row @ self._matrix for row in rows])
        return np.where((first > self._model.nan_above)[:, None], np.nan, logits).astype(np.float32)

    def labels(self, inputs: Mapping[str, Array]) -> list[str] | None:  # noqa: ARG002 - the contract's
        """It names none."""
        return None

    def close(self) -> None:
        """It holds nothing."""
