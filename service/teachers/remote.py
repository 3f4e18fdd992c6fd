"""A teacher that lives elsewhere, behind the Open Inference Protocol v2."""

import math
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path

import numpy as np

from service.config import RemoteModel
from service.config import Teacher as TeacherConfig
from service.datatypes import DTYPE_OF
from service.errors import TeacherError, TeacherFailure, TeacherOverrun, TeacherSilent, TeacherUnreachable
from service.keys import fingerprint
from service.model import Array
from service.teachers.base import Device, GraphInput, check_shape
from service.teachers.remote_server import RemoteServer, Reply, Terms
from service.teachers.remote_tensors import (
    FLOATS,
    HEADER_LENGTH,
    Answer,
    Described,
    Malformed,
    Tensor,
    describe,
    encode,
    read_answer,
    takes_bytes,
)

KEY = re.compile(r"[\x21-\x7e]+")
BATCH_AND_CLASSES = 2


class RemoteTeacher:
    """A model on another server: Triton, KServe, MLServer, or one like this.

    It is used once it was met: only its server knows its inputs and its output. What it is called by in a
    fingerprint is what the configuration says of it, so that a fingerprint does not depend on whether it
    could be reached: ``revision`` stands for the model, wherever it runs.

    Args:
        config: the teacher's section of the configuration.
        model: where it is.
        limit_s: the most that an answer may take, all tries together.

    Attributes:
        met: whether its server has described it.
        revision: what the configuration calls its present state; None where it says nothing.

    Raises:
        TeacherError: the file with its key cannot be used.
    """

    def __init__(self, config: TeacherConfig, model: RemoteModel, *, limit_s: float) -> None:
        self.name = config.name
        self.revision = config.revision
        self.digest = fingerprint(
            ["kserve", model.name, model.version, config.revision, config.parameters, config.output.name]
        )
        self.device = Device("remote")
        self.inputs: Mapping[str, GraphInput] = {}
        self.output = config.output.name or ""
        self.size_bytes = 0
        self.met = False
        self._where = f"teacher {config.name!r}: {model}"
        self._model = model
        self._parameters = config.parameters
        self._datatypes: dict[str, str] = {}
        self._text_columns: set[str] = set()
        self._answers_in = ""
        self._binary = False
        self._version = model.version
        key = None if config.key_file is None else _read_key(config.key_file, self._where)
        terms = Terms(config.timeout_s, limit_s, config.retries, int(config.max_reply_bytes))
        self._server = RemoteServer(config.name, model.server, key=key, terms=terms)

    def meet(self) -> None:
        """Ask the server what the model is, and check it.

        Raises:
            TeacherUnreachable: it does not answer.
            TeacherError: it is not what the configuration says of it.
        """
        try:
            self._binary = self._takes_bytes()
            described = self._described()
        except (TeacherSilent, TeacherOverrun) as exc:
            raise TeacherUnreachable(
                f"{self._where} cannot be reached: {exc}; see that it runs, and that its address is right"
            ) from None
        except TeacherFailure as exc:
            raise TeacherError(f"{self._where} cannot be used: {exc}") from None
        if described.name != self._model.name:
            raise TeacherError(f"{self._where}: the server describes another model, {described.name!r}")
        if not described.inputs or not described.outputs:
            raise TeacherError(
                f"{self._where}: the server does not say what the model's inputs and outputs are; declare "
                "them in its settings there"
            )
        inputs = {tensor.name: self._input(tensor) for tensor in described.inputs}
        output = self._output(described.outputs)
        self._datatypes = {tensor.name: tensor.datatype for tensor in described.inputs}
        self.output, self._answers_in = output.name, output.datatype
        self.inputs = inputs
        self.met = True

    def begin(self, inputs: Mapping[str, Array], *, until: float = math.inf) -> Callable[[], Array]:
        """Send rows, and return without an answer: what is returned waits for it, and is called once.

        Args:
            inputs: as of ``answer``.
            until: by ``time.monotonic``: nobody waits after it, so it is not asked again then.

        Returns:
            A function that returns what ``answer`` does, and raises the same.
        """
        assert self.met, "a teacher is met before it is asked"
        rows = len(next(iter(inputs.values())))
        said, silent = (inputs, None) if self._binary else _sayable(inputs)
        number = secrets.token_hex(8)
        request = encode(
            {name: (self._datatypes[name], self._shaped(name, values)) for name, values in said.items()},
            output=self.output,
            parameters=self._parameters,
            number=number,
            binary=self._binary,
        )
        future = self._server.ask(
            "POST", f"{self._model.path}/infer", body=request.body, headers=request.headers, until=until
        )

        def wait() -> Array:
            values = self._read(self._result(future), number)
            check_shape(self.name, values, rows)
            return values if silent is None else np.where(silent[:, None], np.nan, values)

        return wait

    def answer(self, inputs: Mapping[str, Array]) -> Array:
        """The raw answer ``[B, C_t]``.

        Raises:
            TeacherSilent: it cannot be reached, or is too busy, however often it was asked.
            TeacherOverrun: it did not answer in its time.
            TeacherFailure: it refused, or what it answered is no answer to this.
        """
        return self.begin(inputs)()

    def labels(self, inputs: Mapping[str, Array]) -> list[str] | None:  # noqa: ARG002 - the contract's
        """It names none."""
        return None

    def close(self) -> None:
        """Close all connections."""
        self._server.close()

    def _result(self, future: "Future[Reply]") -> Reply:
        try:
            return future.result()
        except CancelledError:
            raise TeacherSilent(f"teacher {self.name!r} is being closed", teacher=self.name) from None

    def _read(self, reply: Reply, number: str) -> Array:
        try:
            answer = read_answer(reply.body, reply.headers.get(HEADER_LENGTH), output=self.output)
            self._check(answer, number)
        except Malformed as exc:
            raise self._failure(str(exc)) from None
        return answer.values

    def _check(self, answer: Answer, number: str) -> None:
        """That it is an answer to this, by the model that was met.

        Raises:
            Malformed: it is not.
        """
        if answer.number not in {None, number}:
            raise Malformed("it answers another request")
        if answer.model not in {None, self._model.name}:
            raise Malformed(f"it comes from another model, {answer.model!r}")
        if answer.datatype != self._answers_in:
            raise Malformed(f"its output is {answer.datatype}, and was described as {self._answers_in}")
        if self._version is None:
            self._version = answer.version  # of the first answer, at start
        elif answer.version not in {None, self._version}:
            raise Malformed(
                f"it comes from version {answer.version!r} of the model, not {self._version!r}: reload the "
                "ensemble, with another revision if its rows are cached"
            )

    def _failure(self, text: str) -> TeacherFailure:
        return TeacherFailure(
            f"teacher {self.name!r} failed: its reply cannot be taken: {text}", teacher=self.name
        )

    def _takes_bytes(self) -> bool:
        """Whether the server says so; some have no metadata of their own."""
        try:
            return takes_bytes(self._result(self._server.ask("GET", "/v2")).body)
        except (TeacherSilent, TeacherOverrun):
            raise
        except (TeacherFailure, Malformed):
            return False

    def _described(self) -> Described:
        reply = self._result(self._server.ask("GET", self._model.path))
        try:
            return describe(reply.body)
        except Malformed as exc:
            raise self._failure(str(exc)) from None

    def _input(self, tensor: Tensor) -> GraphInput:
        where = f"{self._where}: its input {tensor}"
        if tensor.datatype not in DTYPE_OF:
            raise TeacherError(f"{where} cannot be fed; known: {', '.join(DTYPE_OF)}")
        if tensor.datatype == "FP16" and not self._binary:
            raise TeacherError(
                f"{where} cannot be fed: the server does not say that it takes tensors as bytes, and JSON "
                "has no FP16"
            )
        if not tensor.shape or tensor.shape[0] != -1:
            raise TeacherError(f"{where} must begin with a batch of any size, -1")
        shape = tuple(None if size == -1 else size for size in tensor.shape[1:])
        if tensor.datatype == "BYTES" and shape in {(1,), (None,)}:
            self._text_columns.add(tensor.name)  # [batch, 1] is one text a row too
            shape = ()
        return GraphInput(DTYPE_OF[tensor.datatype], shape)

    def _output(self, tensors: Sequence[Tensor]) -> Tensor:
        offered = ", ".join(map(str, tensors))
        usable = [
            tensor
            for tensor in tensors
            if tensor.datatype in FLOATS and len(tensor.shape) == BATCH_AND_CLASSES and tensor.shape[0] == -1
        ]
        if self.output:
            if self.output not in [tensor.name for tensor in tensors]:
                raise TeacherError(
                    f"{self._where}: no output {self.output!r}; it offers {offered}: set output.name"
                )
            usable = [tensor for tensor in usable if tensor.name == self.output]
        if not usable:
            raise TeacherError(
                f"{self._where}: no output is one float a class for a batch of any size, [-1, classes]; it "
                f"offers {offered}"
            )
        if len(usable) > 1:
            raise TeacherError(
                f"{self._where}: say which output is meant with output: {{name: ...}}; it offers {offered}"
            )
        return usable[0]

    def _shaped(self, name: str, values: Array) -> Array:
        return values.reshape(-1, 1) if name in self._text_columns else values


def _sayable(inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], Array | None]:
    """Rows as JSON can say them, and ``[B]``: those it cannot, which hold NaN or infinity."""
    silent = np.zeros(len(next(iter(inputs.values()))), dtype=bool)
    for values in inputs.values():
        if values.dtype.kind == "f":
            silent |= ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not silent.any():
        return inputs, None
    said = {
        name: np.where(np.isfinite(values), values, values.dtype.type(0))
        if values.dtype.kind == "f"
        else values
        for name, values in inputs.items()
    }
    return said, silent


def _read_key(path: Path, where: str) -> str:
    try:
        key = path.read_text(encoding="ascii").strip()
    except OSError as exc:
        raise TeacherError(f"{where}: key_file: {path} cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        key = ""
    if not KEY.fullmatch(key):  # what it holds is not repeated
        raise TeacherError(f"{where}: key_file: {path} must hold one key, without spaces")
    return key
