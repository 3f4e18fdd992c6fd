"""A teacher's contract, and what its answer means."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

from service.errors import TeacherFailure
from service.model import Array

Kind = Literal["logits", "log_probs", "probs"]

# Execution providers, as ONNX Runtime names them.
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


class GraphInput(NamedTuple):
    """One input of a model: its dtype as the wire spells it, and a row's shape, None where not fixed."""

    dtype: str
    shape: tuple[int | None, ...]


class Device(NamedTuple):
    """Where a teacher computes.

    Attributes:
        kind: what computes.
        number: which of several.
    """

    kind: Literal["cpu", "cuda", "remote"]
    number: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}" if self.kind == "cuda" else self.kind

    @property
    def provider(self) -> str:
        """What ONNX Runtime calls it; of what is elsewhere nobody knows."""
        return {"cpu": CPU, "cuda": CUDA, "remote": "unknown"}[self.kind]

    @property
    def numeric_mode(self) -> str:
        """How it rounds: part of every fingerprint. Of what is elsewhere its revision tells."""
        modes = {"cpu": "cpu float32", "cuda": "cuda float32, tf32 off", "remote": "remote"}
        return modes[self.kind]


class Teacher(Protocol):
    """What every teacher offers."""

    @property
    def name(self) -> str:
        """Its name in the ensemble."""
        ...

    @property
    def digest(self) -> str:
        """The digest of its model, external data included."""
        ...

    @property
    def device(self) -> Device:
        """The device it is bound to."""
        ...

    @property
    def inputs(self) -> Mapping[str, GraphInput]:
        """The model's inputs, by the model's names."""
        ...

    @property
    def size_bytes(self) -> int:
        """Of its model here."""
        ...

    @property
    def output(self) -> str:
        """The name of the output that is its answer."""
        ...

    def answer(self, inputs: Mapping[str, Array]) -> Array:
        """The raw answer ``[B, C_t]`` to rows ``[B, ...]`` under the model's names; thread-safe.

        Raises:
            TeacherFailure: the model raised, or answered with another shape.
        """
        ...

    def labels(self, inputs: Mapping[str, Array]) -> list[str] | None:
        """The class that the model itself names for each row, or None where it names none.

        Raises:
            TeacherFailure: the model raised.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds; it is not asked any more."""
        ...


def check_shape(teacher: str, answer: Array, rows: int) -> None:
    """Refuse an answer that is not one distribution a row.

    Raises:
        TeacherFailure: naming the teacher and both shapes.
    """
    if answer.ndim != 2 or len(answer) != rows:  # noqa: PLR2004 - rows and classes
        raise TeacherFailure(
            f"teacher {teacher!r} answered {rows} rows with shape {list(answer.shape)}, "
            f"not [{rows}, classes]",
            teacher=teacher,
        )
