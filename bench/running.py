"""A Redis of the bench's own, for as long as it measures."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


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
