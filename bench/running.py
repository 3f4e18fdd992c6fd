"""A Redis and a server of the bench's own, for as long as it measures."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ENSEMBLES = Path(__file__).parents[1] / "deploy" / "ensembles"


@contextmanager
def running_redis() -> Iterator[str]:
    """The path of its socket."""
    executable = shutil.which("redis-server")
    assert executable, "install redis-server (Debian) to measure with it"
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/redis.sock"
        command = [executable, "--port", "0", "--unixsocket", path, "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        while b"eady to accept connections" not in process.stdout.readline():
            assert process.poll() is None, "redis-server does not start"
        try:
            yield path
        finally:
            process.terminate()
            process.communicate()


@contextmanager
def running_server(cache: str = "memory://?max_bytes=512MiB") -> Iterator[tuple[str, int]]:
    """The address and the process of a server on deploy/ensembles, where everybody may do everything."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "ensembles.yaml"
        server = f"server: {{port: 0, workers: 1, state_dir: {folder}}}\nauth: {{open: true}}\n"
        own = f"{server}cache: {{url: '{cache}'}}\n"
        config.write_text(own + (ENSEMBLES / "ensembles.yaml").read_text())
        for file in (*ENSEMBLES.glob("*.onnx"), *ENSEMBLES.glob("*.npz")):
            shutil.copy(file, folder)
        command = [sys.executable, "-m", "service", "serve", str(config)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split(" listening on ")[1].strip(), process.pid
        finally:
            process.terminate()
            process.communicate()
