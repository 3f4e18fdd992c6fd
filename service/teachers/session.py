"""Sessions of ONNX Runtime: the device that was asked for or an error, and no call without an end."""

import ctypes
import functools
import math
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from service.errors import DeviceError, Overrun, ServiceError
from service.model import Array
from service.teachers.base import CPU, CUDA, Device


def device(wanted: str) -> Device:
    """The device that a configuration names; ``auto`` takes the first GPU that works, else the CPU.

    Args:
        wanted: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """
    if wanted == "auto":
        return Device("cuda") if cuda_works() else Device("cpu")
    kind, _, index = wanted.partition(":")
    return Device("cuda", int(index or 0)) if kind == "cuda" else Device("cpu")


@functools.cache
def cuda_works() -> bool:
    """Whether a session really runs on the first GPU; the runtime lists a provider that cannot work too."""
    if CUDA not in ort.get_available_providers():
        return False
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "probe", [value], [_renamed(value)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    try:
        Session(model.SerializeToString(), Device("cuda"), where="probe")
    except ServiceError:
        return False
    return True


@functools.cache
def _load_cuda() -> None:
    """Load the CUDA libraries that are installed as packages, where the system's loader does not look."""
    with redirect_stdout(sys.stderr):  # it prints what it does not find
        ort.preload_dlls()


def _renamed(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    renamed = onnx.ValueInfoProto()
    renamed.CopyFrom(value)
    renamed.name = "y"
    return renamed


class Deadlines:
    """Stops calls that take too long; one thread looks after all of them.

    Args:
        limit_s: how long a call may take; it is stopped up to a tenth later.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._running: dict[int, tuple[float, ort.RunOptions]] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look, name="deadlines", daemon=True)
        self._thread.start()

    @contextmanager
    def watch(self) -> Iterator[ort.RunOptions]:
        """Options for one call.

        Raises:
            Overrun: the call was stopped.
        """
        options = ort.RunOptions()
        self._running[id(options)] = (time.monotonic() + self.limit_s, options)
        try:
            yield options
        except Exception as exc:
            if options.terminate:
                raise Overrun(f"no answer within {self.limit_s:g} s") from exc
            raise
        finally:
            del self._running[id(options)]

    @property
    def stuck(self) -> bool:
        """Whether a call that was told to stop has not come back in as much time again."""
        now = time.monotonic()
        return any(now > end + max(self.limit_s, 1.0) for end, _ in tuple(self._running.values()))

    def close(self) -> None:
        """Watch no longer."""
        self._closed.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._closed.wait(min(self.limit_s / 10, 0.5)):
            now = time.monotonic()
            for end, options in tuple(self._running.values()):
                if now > end:
                    options.terminate = True


class Session:
    """A model, loaded on one device.

    Args:
        model: its file, or its bytes.
        device: where it runs; nothing else will do.
        where: for messages.
        threads: how many threads one call may use.
        allow_cpu: operators without a kernel on the device may run on the CPU.
        memory: at most this many bytes of the device's memory; None leaves it to the runtime.

    Raises:
        DeviceError: it does not run on that device.
        Exception: the runtime cannot load the model; its errors have no common root.
    """

    def __init__(
        self,
        model: Path | bytes,
        device: Device,
        *,
        where: str,
        threads: int = 1,
        allow_cpu: bool = False,
        memory: int | None = None,
    ) -> None:
        self.device = device
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = [CPU]
        if device.kind == "cuda":
            if CUDA not in ort.get_available_providers():
                raise DeviceError(
                    f"{where}: device {device} was asked for, but this ONNX Runtime has no CUDA; install "
                    "soft-targets[gpu] instead of [cpu], or say device: cpu"
                )
            _load_cuda()
            if not allow_cpu:
                options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            providers = [(CUDA, _cuda_options(device, memory)), *([CPU] if allow_cpu else [])]
        try:
            self._session = ort.InferenceSession(model, options, providers=providers, enable_fallback=0)
        except Exception as exc:
            if device.kind == "cuda":
                raise DeviceError(
                    f"{where} cannot run on {device}: {exc}; operators without a kernel there may run on the "
                    "CPU with allow_cpu: true for the teacher"
                ) from None
            raise
        bound = self._session.get_providers()[0]
        if device.kind == "cuda" and bound != CUDA:
            raise DeviceError(f"{where}: device {device} was asked for, but the runtime took {bound}")
        self.inputs = self._session.get_inputs()
        self.outputs = self._session.get_outputs()

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, Array], options: ort.RunOptions | None = None
    ) -> list[Array]:
        """Run a batch; thread-safe. What comes back is the runtime's own memory, held by the arrays."""
        answers: list[Array] = self._session.run(outputs, feeds, options)
        return answers

    def bound(self) -> "Bound":
        """A binding for one thread, which keeps its buffers."""
        return Bound(self._session, pinned=self.device.kind == "cuda")


class Bound:
    """A session with buffers that are reused from one batch to the next; for one thread, and for numbers.

    Args:
        session: the runtime's.
        pinned: lock the buffers' pages, so that the GPU copies from and to them without a detour.
    """

    def __init__(self, session: ort.InferenceSession, *, pinned: bool) -> None:
        self._session = session
        self._pinned = pinned
        self._buffers: dict[str, Array] = {}
        self._bindings: dict[Any, tuple[Any, dict[str, Array]]] = {}

    def run(
        self,
        outputs: Mapping[str, tuple[Any, tuple[int, ...]]],
        feeds: Mapping[str, Array],
        options: ort.RunOptions | None = None,
    ) -> list[Array]:
        """Run a batch.

        Args:
            outputs: name to dtype and shape.
            feeds: name to array.
            options: of this call.

        Returns:
            The outputs in their order: views of buffers that this thread's next call overwrites.
        """
        wanted = {name: (values.dtype, values.shape) for name, values in feeds.items()} | dict(outputs)
        for name, (dtype, shape) in wanted.items():
            self._make_room(name, dtype, shape)
        key = tuple(wanted.items())
        if key not in self._bindings:
            views = {name: self._view(name, shape) for name, (_, shape) in wanted.items()}
            self._bindings[key] = self._bind(views, outputs), views
        binding, views = self._bindings[key]
        for name, values in feeds.items():
            views[name][...] = values
        self._session.run_with_iobinding(binding, options)
        return [views[name] for name in outputs]

    def _make_room(self, name: str, dtype: Any, shape: tuple[int, ...]) -> None:
        kept = self._buffers.get(name)
        if kept is not None and kept.dtype == dtype and kept.size >= math.prod(shape):
            return
        self._bindings.clear()  # they point into buffers that go
        self._buffers[name] = np.empty(math.prod(shape), dtype)
        if self._pinned:
            _pin(self._buffers[name])

    def _view(self, name: str, shape: tuple[int, ...]) -> Array:
        return self._buffers[name][: math.prod(shape)].reshape(shape)

    def _bind(self, views: Mapping[str, Array], outputs: Mapping[str, Any]) -> Any:
        binding = self._session.io_binding()
        for name, view in views.items():
            if name in outputs:
                binding.bind_output(name, "cpu", 0, view.dtype.type, view.shape, view.ctypes.data)
            else:
                binding.bind_cpu_input(name, view)
        return binding


def _pin(buffer: Array) -> None:
    """Lock a buffer's pages for the GPU as long as it lives; without CUDA's runtime they stay pageable."""
    for name in ("libcudart.so.13", "libcudart.so.12"):
        try:
            runtime = ctypes.CDLL(name)
        except OSError:
            continue
        address = ctypes.c_void_p(buffer.ctypes.data)
        if runtime.cudaHostRegister(address, ctypes.c_size_t(buffer.nbytes), 0) == 0:
            weakref.finalize(buffer, runtime.cudaHostUnregister, address)
        return


def _cuda_options(device: Device, memory: int | None) -> dict[str, Any]:
    options: dict[str, Any] = {
        "device_id": device.number,
        "use_tf32": 0,  # targets are float32, not 10 bits of mantissa
        "arena_extend_strategy": "kSameAsRequested",
    }
    if memory is not None:
        options["gpu_mem_limit"] = memory
    return options
