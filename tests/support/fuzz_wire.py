"""Bent requests and replies for the readers of the wire format; runs in a process of its own, which may die.

    PYTHONPATH=.:client python tests/support/fuzz_wire.py replies --seconds 600 --last /tmp/last

Golden files are bent: bytes and numbers in headers change, sizes lie, messages come twice, in another order,
or out of another file. Whatever comes of it, a reader must give rows or raise a SoftTargetsError, within the
memory it was allowed. What is being read stands in the file `last`, so that it is there after a crash.
"""

import argparse
import ctypes
import io
import os
import resource
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
from golden_files import ALL, FOLDER, IMAGES, SPECS
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from soft_targets import wire
from soft_targets.errors import SoftTargetsError

LIMIT_BYTES = 1 << 22  # that a reader is allowed
ROOM_BYTES = 1 << 28  # for all else in the process
HANGS_S = 20.0
NUMBERS = [
    0, 1, 2, 3, 7, 8, 63, 64, 255, 2**15, 2**16 - 1, 2**24, 2**26, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62,
    2**63 - 1,
    -1, -2, -8, -(2**31), -(2**62), -(2**63),
]  # fmt: skip
CORPUS = {
    prefix: [(FOLDER / name).read_bytes() for name in ALL if name.startswith(prefix) and "arrows" in name]
    for prefix in ("reply-", "request-")
}
ONE_ARENA = (-8, 1)  # glibc's mallopt, M_ARENA_MAX: else every thread has 64 MiB of addresses
CONTINUATION = b"\xff\xff\xff\xff"


def messages_of(body: bytes) -> list[bytes]:
    """A stream's messages, each with its frame; what is no message at the end is one."""
    found, start = [], 0
    while body[start : start + 4] == CONTINUATION and len(body) >= start + 8:
        (length,) = struct.unpack_from("<i", body, start + 4)
        if length <= 0:
            break
        try:
            message = pa.ipc.read_message(pa.py_buffer(body[start:]))
        except (pa.ArrowException, OSError):
            break
        size = 8 + length + (message.body.size if message.body is not None else 0)
        found.append(body[start : start + size])
        start += size
    return [*found, body[start:]]


@st.composite
def bent(draw: st.DrawFn, prefix: str) -> bytes:
    """A golden file of that sort, bent once or a few times, at places that all are as likely."""
    corpus = CORPUS[prefix]
    body = draw(st.sampled_from(corpus))
    for bend in draw(st.lists(st.sampled_from(BENDS), min_size=1, max_size=3)):
        body = bend(Random(draw(st.integers(0, 2**64 - 1))), body, corpus)
    return body


def _in_one(bend: Callable[[Random, bytes], bytes]) -> Callable[[Random, bytes, list[bytes]], bytes]:
    """A bend of one message, whichever."""

    def run(random: Random, body: bytes, _: list[bytes]) -> bytes:
        messages = messages_of(body)
        place = random.randrange(len(messages))
        if messages[place]:
            messages[place] = bend(random, messages[place])
        return b"".join(messages)

    return run


def _flip(random: Random, message: bytes) -> bytes:
    changed = bytearray(message)
    for _ in range(random.choice([1, 1, 1, 4])):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _number(random: Random, message: bytes) -> bytes:
    """Another number in the message's header, of those that a reader may believe."""
    size = random.choice([1, 2, 4, 8])
    end = min(len(message), 8 + struct.unpack("<I", message[4:8].ljust(4, b"\0"))[0])
    places = range(8, end - size, size)
    if not places:
        return message
    place = random.choice(places)
    said = int.from_bytes(message[place : place + size], "little")
    value = random.choice(
        [random.choice(NUMBERS), said + random.choice([-8, -1, 1, 8]), random.randrange(256)]
    )
    return message[:place] + (value % 2 ** (8 * size)).to_bytes(size, "little") + message[place + size :]


def _lie(random: Random, body: bytes, _: list[bytes]) -> bytes:
    """A compressed buffer that says another size; where there is none, another number at any place."""
    places = [
        place - 8
        for mark in (b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
        for place in range(8, len(body))
        if body.startswith(mark, place)
    ] or range(0, len(body) - 8, 8)
    if not places:
        return body
    place = random.choice(places)
    (said,) = struct.unpack_from("<q", body, place)
    near = said + random.choice([-8, -1, 1, 8])
    value = random.choice([random.choice(NUMBERS), near, 2 * said, random.choice([2**24, 2**26])])
    return body[:place] + struct.pack("<Q", value % 2**64) + body[place + 8 :]


def _cut(random: Random, body: bytes, _: list[bytes]) -> bytes:
    return body[: random.randrange(len(body) + 1)]


def _splice(random: Random, body: bytes, corpus: list[bytes]) -> bytes:
    other = random.choice(corpus)
    start = random.randrange(len(other))
    piece = other[start : start + random.randrange(300)]
    place = random.randrange(len(body) + 1)
    return body[:place] + piece + body[place + random.choice([0, len(piece)]) :]


def _shuffle(random: Random, body: bytes, corpus: list[bytes]) -> bytes:
    """Messages twice, away, in another order, or out of another file."""
    own, others = messages_of(body), messages_of(random.choice(corpus))
    for _ in range(random.choice([1, 1, 2, 3])):
        place, other = random.randrange(len(own)), random.randrange(len(own))
        way = random.choice(["twice", "away", "swap", "foreign"])
        if way == "twice":
            own.insert(other, own[place])
        elif way == "away" and len(own) > 1:
            del own[place]
        elif way == "swap":
            own[place], own[other] = own[other], own[place]
        elif way == "foreign":
            own.insert(place, random.choice(others))
    return b"".join(own)


BENDS = [_in_one(_flip), _in_one(_number), _in_one(_number), _lie, _cut, _splice, _shuffle]


def read_reply(body: bytes) -> None:
    """Read a reply from bytes and from a file: both must end alike, and rows must be rows."""
    outcomes = []
    for source in (body, io.BytesIO(body)):
        try:
            _, batches = wire.read_reply(source, max_bytes=LIMIT_BYTES)
            groups = list(batches)
            assert isinstance(groups[-1], wire.Closing)
            outcomes.append([_look(group) for group in groups[:-1]])
        except SoftTargetsError as exc:
            outcomes.append(type(exc))
    assert outcomes[0] == outcomes[1], outcomes


def _look(batch: wire.ReplyBatch) -> tuple[int, bytes]:
    rows = len(batch.row_ids)
    assert None not in batch.row_ids.to_pylist()
    assert len(batch.sources) == len(batch.errors) == len(batch.missing_teachers) == rows
    assert set(batch.sources) <= set(wire.SOURCES)
    good = np.array([source not in ("error", "absent") for source in batch.sources], dtype=bool)
    width = batch.log_probs.shape[1:]
    assert batch.log_probs.dtype in (np.float32, np.float16)
    assert batch.log_probs.shape == (rows, *width)
    assert (batch.log_probs[good] <= 1e-3).all()
    if batch.indices is not None:
        assert (batch.indices.dtype, batch.indices.shape) == (np.int32, batch.log_probs.shape)
    for column in (batch.tail_log_mass, batch.entropy, batch.divergence):
        assert column is None or (column.dtype, column.shape) == (np.float32, (rows,))
    for error in batch.errors:
        assert error is None or all(isinstance(text, str) for text in error)
    assert all(isinstance(name, str) for names in batch.missing_teachers for name in names)
    return rows, batch.log_probs[good].tobytes()


def read_request(body: bytes) -> None:
    """Read a request for each ensemble of the corpus."""
    for specs in (SPECS, IMAGES):
        try:
            asked = wire.decode_request(body, specs, max_rows=1000, max_bytes=LIMIT_BYTES)
        except SoftTargetsError:
            continue
        rows = len(asked.row_ids)
        assert None not in asked.row_ids.to_pylist()
        if asked.digests is not None:
            assert [len(digest) for digest in asked.digests] == [32] * rows
            continue
        assert asked.inputs is not None
        for name, values in asked.inputs.items():
            assert values.shape == (rows, *specs[name].shape)
            assert values.dtype == ("O" if specs[name].dtype == "utf8" else specs[name].dtype)
        if rows:
            assert len(wire.row_digests(asked.inputs, specs)) == rows


TARGETS: dict[str, tuple[str, Callable[[bytes], None]]] = {
    "replies": ("reply-", read_reply),
    "requests": ("request-", read_request),
}


class Watch:
    """Notes what is being read, and ends the process where reading it takes too long or too much.

    Args:
        last: the file.
    """

    def __init__(self, last: Path) -> None:
        self.examples = 0
        self._file = os.open(last, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._began = time.monotonic()
        threading.Thread(target=self._look, daemon=True).start()

    def reads(self, body: bytes) -> None:
        """Say what is read now."""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, body, 0)
        self.examples += 1
        self._began = time.monotonic()

    def has_read(self) -> None:
        """Say that it is read."""
        peak = pa.default_memory_pool().max_memory()
        assert peak <= 2 * LIMIT_BYTES, f"{peak} bytes were allocated at a time, {LIMIT_BYTES} are allowed"

    def _look(self) -> None:
        while True:
            time.sleep(1)
            if time.monotonic() > self._began + HANGS_S:
                print(f"hangs: no end for {HANGS_S} s", file=sys.stderr, flush=True)  # noqa: T201
                os._exit(4)


def fuzz(target: str, watch: Watch, *, examples: int, number: int | None) -> None:
    """Bend and read so many times; the same ones without a number."""
    prefix, read = TARGETS[target]

    @settings(
        max_examples=examples,
        derandomize=number is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # what was read is at hand, and shrinks badly
    )
    @given(bent(prefix))
    def run(body: bytes) -> None:
        watch.reads(body)
        read(body)
        watch.has_read()

    (run if number is None else seed(number)(run))()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=0, help="go on with other seeds for so long")
    parser.add_argument("--last", type=Path, required=True, help="the file for what is being read")
    asked = parser.parse_args()
    ctypes.CDLL(None).mallopt(*ONE_ARENA)
    # Arrow's own pool keeps what it has freed; of the system's every byte is seen.
    pa.set_memory_pool(pa.system_memory_pool())
    for body in CORPUS["reply-"]:
        read_reply(body)  # which starts Arrow's threads
    watch = Watch(asked.last)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + ROOM_BYTES, held + ROOM_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    end = time.monotonic() + asked.seconds
    fuzz(asked.target, watch, examples=asked.examples, number=None)
    while time.monotonic() < end:
        number = Random().randrange(2**32)
        print(f"{watch.examples} read; seed {number}", flush=True)  # noqa: T201
        fuzz(asked.target, watch, examples=asked.examples, number=number)
    print(f"{watch.examples} read")  # noqa: T201


if __name__ == "__main__":
    main()
