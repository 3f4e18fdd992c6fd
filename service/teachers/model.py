"""A model's file: what is in it, and the little that is mended before it runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import Message
from onnx import TensorProto, helper
from onnx.external_data_helper import uses_external_data

from service.errors import TeacherError
from service.keys import files_digest

ZIPMAP = "ZipMap"
# Instead of a file's name: ONNX Runtime takes the offset for an address in this process's memory.
IN_MEMORY = "*/_ORT_MEM_ADDR_"


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
            model = onnx.load(path, load_external_data=False)
        except Exception as exc:  # noqa: BLE001 - protobuf's errors have no common root
            raise TeacherError(f"{where} is not an ONNX model: {exc}") from None
        files = [("", path), *_external(model, path, where)]
        self.digest = files_digest(files)
        self.size_bytes = sum(file.stat().st_size for _, file in files)
        self.class_labels = _class_labels(model.graph)

    def load(self) -> onnx.ModelProto:
        """The whole model in memory; what a ZipMap gave as maps is the tensor behind it."""
        model = onnx.load(self.path)
        _without_zipmap(model.graph)
        return model

    def for_session(self) -> Path | bytes:
        """What a session is made from: the file, unless something in it had to be mended."""
        return self.path if self.class_labels is None else self.load().SerializeToString()


def _external(model: onnx.ModelProto, path: Path, where: str) -> list[tuple[str, Path]]:
    """The files of its external data, which must lie beside the model or below, links followed."""
    names = {name for tensor in _tensors(model) if uses_external_data(tensor) for name in _locations(tensor)}
    files = []
    for name in sorted(names):
        data = _inside(path.parent, name)
        if data is None:
            raise TeacherError(f"{where}: its external data {name!r} is not a file beside the model")
        files.append((name, data))
    return files


def _locations(tensor: onnx.TensorProto) -> list[str]:
    """All names it gives for its data: who reads it may take any of them."""
    return [entry.value for entry in tensor.external_data if entry.key == "location"] or [""]


def _inside(folder: Path, name: str) -> Path | None:
    """The regular file of that name in a folder or below; None where there is none."""
    if name.startswith(IN_MEMORY):
        return None
    try:
        data = (folder / name).resolve()
        return data if data.is_relative_to(folder.resolve()) and data.is_file() else None
    except (OSError, RuntimeError, ValueError):  # too long, a link to itself, a zero byte
        return None


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """All tensors in a model, wherever they stand: graphs, their subgraphs, functions, sparse ones."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in (value,) if isinstance(value, Message) else value:
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
