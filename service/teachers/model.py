"""A model's file: what is in it, and the little that is mended before it runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from service.errors import TeacherError
from service.keys import files_digest

ZIPMAP = "ZipMap"


class Model:
    """An ONNX file with its external data.

    Args:
        path: the file.
        where: for messages.

    Attributes:
        digest: BLAKE3 over the file and its external data.
        size_bytes: of the same.
        class_labels: what the model itself calls its outputs, where a ZipMap says so.

    Raises:
        TeacherError: it is missing, no model, or its external data is not beside it.
    """

    def __init__(self, path: Path, *, where: str) -> None:
        self.path = path
        if not path.is_file():
            raise TeacherError(f"{where}: no such file; paths are relative to the configuration file")
        try:
            graph = onnx.load(path, load_external_data=False).graph
        except Exception as exc:  # noqa: BLE001 - protobuf's errors have no common root
            raise TeacherError(f"{where} is not an ONNX model: {exc}") from None
        files = [("", path), *_external(graph, path, where)]
        self.digest = files_digest(files)
        self.size_bytes = sum(file.stat().st_size for _, file in files)
        self.class_labels = _class_labels(graph)

    def load(self) -> onnx.ModelProto:
        """The whole model in memory; what a ZipMap gave as maps is the tensor behind it."""
        model = onnx.load(self.path)
        _without_zipmap(model.graph)
        return model

    def for_session(self) -> Path | bytes:
        """What a session is made from: the file, unless something in it had to be mended."""
        return self.path if self.class_labels is None else self.load().SerializeToString()


def _external(graph: Any, path: Path, where: str) -> list[tuple[str, Path]]:
    """The files of its external data, which must lie beside the model or below."""
    names = {ExternalDataInfo(tensor).location for tensor in _tensors(graph) if uses_external_data(tensor)}
    files = []
    for name in sorted(names):
        data = (path.parent / name).resolve()
        if not data.is_relative_to(path.parent.resolve()) or not data.is_file():
            raise TeacherError(f"{where}: its external data {name!r} is not a file beside the model")
        files.append((name, data))
    return files


def _tensors(graph: Any) -> Iterator[Any]:
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


def _class_labels(graph: Any) -> tuple[str, ...] | None:
    for node in graph.node:
        if node.op_type == ZIPMAP:
            for attribute in node.attribute:
                if attribute.name == "classlabels_strings":
                    return tuple(label.decode() for label in attribute.strings)
                if attribute.name == "classlabels_int64s":
                    return tuple(map(str, attribute.ints))
    return None


def _without_zipmap(graph: Any) -> None:
    """A ZipMap becomes an Identity, and the output it made the tensor of probabilities."""
    for node in graph.node:
        if node.op_type != ZIPMAP:
            continue
        labels = _class_labels(graph)
        node.CopyFrom(helper.make_node("Identity", list(node.input), list(node.output), name=node.name))
        for output in graph.output:
            if output.name == node.output[0]:
                width = len(labels) if labels is not None else None
                output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, [None, width]))
