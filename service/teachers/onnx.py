"""A teacher on ONNX Runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from service.config import Output
from service.config import Teacher as TeacherConfig
from service.errors import TeacherError, TeacherFailure
from service.keys import files_digest
from service.model import Array
from service.teachers.base import GraphInput, check_shape

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
    """An ONNX file in a session of its own.

    Args:
        config: the teacher's section of the configuration.
        threads: how many threads one call may use.

    Raises:
        TeacherError: the file is missing or no model, or its inputs or outputs are not what is said of them.
    """

    def __init__(self, config: TeacherConfig, *, threads: int) -> None:
        self.name = config.name
        self.device = "cpu"
        self._where = f"teacher {config.name!r}: {config.model}"
        self.digest = files_digest(self._files(config.model))
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(config.model, options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # noqa: BLE001 - ONNX Runtime's errors have no common root
            raise TeacherError(f"{self._where} cannot be loaded by ONNX Runtime: {exc}") from None
        self._text_columns: set[str] = set()
        self.inputs: Mapping[str, GraphInput] = {
            node.name: self._input(node) for node in self._session.get_inputs()
        }
        self.output = self._output(config.output)

    def answer(self, inputs: Mapping[str, Array]) -> Array:
        """The raw answer ``[B, C_t]``.

        Raises:
            TeacherFailure: the model raised, or answered with another shape.
        """
        answer = self._run(self.output, inputs)
        check_shape(self.name, answer, len(next(iter(inputs.values()))))
        return np.asarray(answer)

    def labels(self, inputs: Mapping[str, Array]) -> list[str] | None:
        """The class the model itself names for each row, where it has such an output (scikit-learn's do).

        Raises:
            TeacherFailure: the model raised.
        """
        for node in self._session.get_outputs():
            if node.type == "tensor(string)" and len(node.shape or ()) == 1:
                return [str(label) for label in self._run(node.name, inputs)]
        return None

    def _run(self, output: str, inputs: Mapping[str, Array]) -> Any:
        feeds = {
            name: values.reshape(-1, 1) if name in self._text_columns else values
            for name, values in inputs.items()
        }
        try:
            (answer,) = self._session.run([output], feeds)
        except Exception as exc:  # noqa: BLE001 - ONNX Runtime's errors have no common root
            raise TeacherFailure(f"teacher {self.name!r} failed: {exc}", teacher=self.name) from None
        return answer

    def _files(self, path: Path) -> list[tuple[str, Path]]:
        """The model's file and the files of its external data, which must lie beside it or below."""
        if not path.is_file():
            raise TeacherError(f"{self._where}: no such file; paths are relative to the configuration file")
        try:
            model = onnx.load(path, load_external_data=False)
        except Exception as exc:  # noqa: BLE001 - protobuf's errors have no common root
            raise TeacherError(f"{self._where} is not an ONNX model: {exc}") from None
        names = {
            ExternalDataInfo(tensor).location
            for tensor in _tensors(model.graph)
            if uses_external_data(tensor)
        }
        files = [("", path)]
        for name in sorted(names):
            data = (path.parent / name).resolve()
            if not data.is_relative_to(path.parent.resolve()) or not data.is_file():
                raise TeacherError(
                    f"{self._where}: its external data {name!r} is not a file beside the model"
                )
            files.append((name, data))
        return files

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

    def _output(self, config: Output) -> str:
        nodes = self._session.get_outputs()
        usable = [node.name for node in nodes if node.type in FLOATS and len(node.shape or ()) in {0, 2}]
        offered = ", ".join(f"{node.name!r} ({node.type} {node.shape})" for node in nodes)
        if any("map(" in node.type for node in nodes):
            offered += "; export without ZipMap (zipmap=False), which hides the probabilities"
        if config.name is not None:
            if config.name not in [node.name for node in nodes]:
                raise TeacherError(f"{self._where}: no output {config.name!r}; it offers {offered}")
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


def _tensors(graph: Any) -> Any:
    """All tensors a graph keeps: initializers, constants, and those of its subgraphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
            for inner in attribute.graphs:
                yield from _tensors(inner)
