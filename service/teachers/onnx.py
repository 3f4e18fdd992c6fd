"""A teacher on ONNX Runtime."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from service.config import Output
from service.config import Teacher as TeacherConfig
from service.errors import DeviceError, Overrun, TeacherError, TeacherFailure, TeacherOverrun
from service.model import Array
from service.teachers.base import GraphInput, check_shape
from service.teachers.model import Model
from service.teachers.session import Deadlines, Session, device

DTYPES = {
    "tensor(bool)": "|b1",
    "tensor(uint8)": "|u1",
    "tensor(int8)": "|i1",
    "tensor(uint16)": "<u2",
    "tensor(int16)": "<i2",
    "tensor(uint32)": "<u4",
    "tensor(int32)": "<i4",
    "tensor(uint64)": "<u8",
    "tensor(int64)": "<i8",
    "tensor(float16)": "<f2",
    "tensor(float)": "<f4",
    "tensor(double)": "<f8",
    "tensor(string)": "utf8",
}
FLOATS = ("tensor(float16)", "tensor(float)", "tensor(double)")


def runtime() -> str:
    """The runtime and its version, which may change the last bits of an answer."""
    return f"onnxruntime {ort.__version__}"


class OnnxTeacher:
    """An ONNX file, in a session of its own where it is asked alone.

    Args:
        config: the teacher's section of the configuration.
        path: of the file.
        wanted: the device's name, where the teacher's section has none.
        deadlines: how long a call may take.
        memory: at most this many bytes of the device's memory; None leaves it to the runtime.

    Raises:
        TeacherError: the file is missing or no model, or its inputs or outputs are not what is said of them.
        DeviceError: it does not run on the device that was named.
    """

    def __init__(
        self,
        config: TeacherConfig,
        path: Path,
        *,
        wanted: str,
        deadlines: Deadlines,
        memory: int | None = None,
    ) -> None:
        self.name = config.name
        self._where = f"teacher {config.name!r}: {path}"
        self.model = Model(path, where=self._where)
        self.digest = self.model.digest
        self.size_bytes = self.model.size_bytes
        self.device = device(config.device or wanted)
        self.allow_cpu = config.allow_cpu
        self._deadlines = deadlines
        self._memory = memory
        self._lock = threading.Lock()
        self._session: Session | None = None
        session = self._opened()
        self._text_columns: set[str] = set()
        self.inputs: Mapping[str, GraphInput] = {node.name: self._input(node) for node in session.inputs}
        self.output = self._output(config.output, session.outputs)
        self._label = next(
            (node.name for node in session.outputs if _is_text(node) and len(node.shape or ()) == 1), None
        )

    def answer(self, inputs: Mapping[str, Array]) -> Array:
        """The raw answer ``[B, C_t]``.

        Raises:
            TeacherFailure: the model raised, overran, or answered with another shape.
        """
        answer = self._run(self.output, inputs)
        check_shape(self.name, answer, len(next(iter(inputs.values()))))
        return np.asarray(answer)

    def labels(self, inputs: Mapping[str, Array]) -> list[str] | None:
        """The class the model itself names for each row, where it has such an output (scikit-learn's do).

        Raises:
            TeacherFailure: the model raised.
        """
        if self._label is None:
            return None
        return [str(label) for label in self._run(self._label, inputs)]

    def release(self) -> None:
        """Let the session go; the next call opens it again."""
        with self._lock:
            self._session = None

    def close(self) -> None:
        """Let the session go."""
        self.release()

    def columns(self, name: str) -> bool:
        """Whether the model takes this text as a column ``[B, 1]``."""
        return name in self._text_columns

    def _opened(self) -> Session:
        with self._lock:
            if self._session is None:
                try:
                    self._session = Session(
                        self.model.for_session(),
                        self.device,
                        where=self._where,
                        allow_cpu=self.allow_cpu,
                        memory=self._memory,
                    )
                except DeviceError:
                    raise
                except Exception as exc:  # noqa: BLE001 - ONNX Runtime's errors have no common root
                    raise TeacherError(f"{self._where} cannot be loaded by ONNX Runtime: {exc}") from None
            return self._session

    def _run(self, output: str, inputs: Mapping[str, Array]) -> Any:
        feeds = {
            name: values.reshape(-1, 1) if name in self._text_columns else values
            for name, values in inputs.items()
        }
        session = self._opened()
        try:
            with self._deadlines.watch() as options:
                (answer,) = session.run([output], feeds, options)
        except Overrun as exc:
            raise TeacherOverrun(f"teacher {self.name!r} gave {exc}", teacher=self.name) from None
        except Exception as exc:  # noqa: BLE001 - ONNX Runtime's errors have no common root
            raise TeacherFailure(f"teacher {self.name!r} failed: {exc}", teacher=self.name) from None
        return answer

    def _input(self, node: Any) -> GraphInput:
        if node.type not in DTYPES:
            raise TeacherError(f"{self._where}: input {node.name!r} is a {node.type}, which cannot be fed")
        if not node.shape or isinstance(node.shape[0], int):
            raise TeacherError(
                f"{self._where}: input {node.name!r} has shape {node.shape}: its first axis must be a batch "
                "of any size; export the model with a dynamic batch axis"
            )
        shape = tuple(size if isinstance(size, int) and size > 0 else None for size in node.shape[1:])
        if DTYPES[node.type] == "utf8" and shape == (1,):
            self._text_columns.add(node.name)  # [batch, 1] is one text a row too
            shape = ()
        return GraphInput(DTYPES[node.type], shape)

    def _output(self, config: Output, nodes: Sequence[Any]) -> str:
        usable = [node.name for node in nodes if node.type in FLOATS and len(node.shape or ()) in {0, 2}]
        offered = ", ".join(f"{node.name!r} ({node.type} {node.shape})" for node in nodes)
        if config.name is not None:
            if config.name not in [node.name for node in nodes]:
                raise TeacherError(
                    f"{self._where}: no output {config.name!r}; it offers {offered}: set output.name"
                )
            if config.name not in usable:
                raise TeacherError(
                    f"{self._where}: output {config.name!r} is not one float a class; it offers {offered}"
                )
            return config.name
        if not usable:
            raise TeacherError(f"{self._where}: no output is one float a class; it offers {offered}")
        if len(usable) != 1:
            raise TeacherError(
                f"{self._where}: say which output is meant with output: {{name: ...}}; it offers {offered}"
            )
        return str(usable[0])


def _is_text(node: Any) -> bool:
    return bool(node.type == "tensor(string)")
