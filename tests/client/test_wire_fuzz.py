"""Bent requests and replies: rows or an error, never a crash, a hang, or memory beyond the limit.

The reading is done by `tests/support/fuzz_wire.py` in a process of its own: what it looks for may kill it.
For a long run, with other bends each time, set SOFT_TARGETS_FUZZ_S to seconds.
"""

import os
import subprocess
import sys
from pathlib import Path

import fuzz_wire
import pytest
from golden_files import ALL, FOLDER

SECONDS = float(os.environ.get("SOFT_TARGETS_FUZZ_S", "0"))
EXAMPLES = 1000


def run(program, *options):
    return subprocess.run(
        [sys.executable, program, *options],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=SECONDS + 300,
        check=False,
    )


@pytest.mark.parametrize("target", fuzz_wire.TARGETS)
def test_whatever_is_bent_gives_rows_or_an_error(target, tmp_path):
    last = tmp_path / "last"
    options = ["--last", last, "--examples", str(EXAMPLES), "--seconds", str(SECONDS)]
    done = run(fuzz_wire.__file__, target, *options)
    kept = Path(f"fuzz-{target}.bin") if SECONDS else last
    if done.returncode:
        kept.write_bytes(last.read_bytes())
    assert done.returncode == 0, f"{done.stderr[-3000:]}\nwhat was read stands in {kept}"
    assert int(done.stdout.split()[-2]) >= EXAMPLES


@pytest.mark.parametrize("name", [name for name in ALL if name.endswith(".arrows")])
def test_what_is_not_bent_is_read(name):
    body = (FOLDER / name).read_bytes()
    prefix = next(prefix for prefix in fuzz_wire.CORPUS if name.startswith(prefix))
    {"reply-": fuzz_wire.read_reply, "request-": fuzz_wire.read_request}[prefix](body)
    assert b"".join(fuzz_wire.messages_of(body)) == body
    assert len(fuzz_wire.messages_of(body)) > 2


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import ctypes; ctypes.string_at(0)", -11),
        ("import time; fuzz_wire.HANGS_S = 1; time.sleep(30)", 4),
        ("bytearray(1 << 30)", 1),
        ("raise KeyError", 1),
        ("import pyarrow as pa; pa.allocate_buffer(1 << 24)", 1),
        ("fuzz_wire.LIMIT_BYTES = 2**62; fuzz_wire.read_reply(body); fuzz_wire.LIMIT_BYTES = 2**22", 1),
    ],
    ids=["crash", "hang", "memory", "another error", "arrow's memory", "a reader without a limit"],
)
def test_what_is_looked_for_is_found(tmp_path, code, said):
    program, last = tmp_path / "program.py", tmp_path / "last"
    program.write_text(
        f"import fuzz_wire, sys\n"
        f"def read(body):\n    {code}\n"
        f"fuzz_wire.TARGETS['replies'] = ('reply-', read)\n"
        f"sys.argv = ['x', 'replies', '--last', {str(last)!r}]\n"
        f"fuzz_wire.main()\n"
    )
    done = run(program)
    assert done.returncode == said, done.stderr[-2000:]
    assert last.read_bytes()  # what was being read
