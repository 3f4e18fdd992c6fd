"""The real server, as a user would run it: a YAML file and a process of its own on loopback."""

import contextlib
import os
import re
import select
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from service.demo.data import Dataset
from service.demo.setting import Setting
from service.demo.teachers import Teacher
from service.errors import ServiceError

INPUT = "pixels"
RECIPE = "default"
START_S = 120.0
STOP_S = 60.0

_LISTENING = re.compile(r"listening on (http://\S+)")
_LOG_TAIL_LINES = 20


class ServerFailed(ServiceError):
    """Raised when the demo's server does not start, or is not ready when it should be."""


def write_yaml(path: Path, dataset: Dataset, teachers: Sequence[Teacher], setting: Setting) -> None:
    """Write the ensemble's configuration, for the server and for the reader.

    Args:
        path: of the file; the teachers' files are named relative to it.
        dataset: names the ensemble and its classes.
        teachers: in the ensemble's order.
        setting: of the recipe.
    """
    classes = ", ".join(f'"{name}"' for name in dataset.classes)
    lines = [
        f"# {len(teachers)} teachers for {dataset.name}, trained and written by `soft-targets demo`.",
        f"# Serve it yourself: soft-targets serve {path.name}",
        "",
        "server:",
        "  host: 127.0.0.1",
        "  port: 0  # any free port; the server prints the one it took",
        "",
        "cache:",
        "  url: memory://?max_bytes=256MiB",
        "",
        "ensembles:",
        f"  {dataset.name}:",
        "    inputs:",
        f"      {INPUT}: {{dtype: float32, shape: [{dataset.side**2}]}}  # a flat picture, 0 to 1",
        f"    classes: [{classes}]",
        "    teachers:",
    ]
    for teacher in teachers:
        lines += [
            f"      - name: {teacher.name}  # {teacher.kind}, on {teacher.trained_rows} rows of its own",
            f"        model: {os.path.relpath(teacher.path, path.parent)}",
            f"        inputs: {{{teacher.graph_input}: {INPUT}}}",
            f"        output: {{name: {teacher.graph_output}, kind: {teacher.output_kind}}}",
            f"        temperature: {teacher.temperature}  # fitted on rows that no teacher was trained on",
        ]
        if teacher.classes != dataset.classes:
            order = ", ".join(f'"{name}"' for name in teacher.classes)
            lines.append(f"        classes: [{order}]  # its outputs come in this order")
    lines += [
        "    recipes:",
        f"      {RECIPE}:",
        f"        operator: {{name: holder, exponent: {setting.exponent}}}  # 1: mean, 0: geometric mean",
        f"        temperature: {setting.temperature}  # softens the teachers, and the student in its loss",
        "",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines), encoding="utf-8")


@contextlib.contextmanager
def serving(config: Path, *, log: Path) -> Iterator[str]:
    """Run the server while the block runs.

    Args:
        config: the YAML file.
        log: where the server's log goes; a file, because nobody reads it while the student trains.

    Returns:
        Through ``with``: the server's address, for instance ``http://127.0.0.1:8123``.

    Raises:
        ServerFailed: it ended early, said nothing, or is not ready; the message ends with its log.
    """
    with log.open("w", encoding="utf-8") as sink:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "service", "serve", str(config)],
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
        )
    try:
        address = _address(process, log)
        _check_ready(address, log)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _address(process: subprocess.Popen[str], log: Path) -> str:
    """The address in the one line the server prints when it listens."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], START_S)
    if not readable:
        raise ServerFailed(f"the server said nothing for {START_S:.0f} s{_tail(log)}")
    line = process.stdout.readline()
    found = _LISTENING.search(line)
    if found is None:
        status = f"ended with status {process.wait(STOP_S)}" if not line else f"said {line.strip()!r}"
        raise ServerFailed(f"the server {status} instead of listening{_tail(log)}")
    return found[1]


def _check_ready(address: str, log: Path) -> None:
    try:
        # The server takes connections before it is ready and answers when it is: nothing to poll.
        with urllib.request.urlopen(f"{address}/readyz", timeout=START_S):  # noqa: S310 - http, on loopback
            return
    except urllib.error.HTTPError as exc:
        said = f"/readyz says {exc.code}: {exc.read().decode(errors='replace').strip()}"
    except OSError as exc:
        said = f"/readyz cannot be asked: {exc}"
    raise ServerFailed(f"the server at {address} is not ready; {said}{_tail(log)}")


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    return ":\n" + "\n".join(lines) if lines else "; its log is empty"
