"""Locust's scenarios against a server of their own on deploy/ensembles, for LOAD_S seconds; its table.

make bench-load
"""

import os
import subprocess
import sys
from pathlib import Path

from running import running_server

HERE = Path(__file__).parent
USERS, SECONDS = os.environ.get("LOAD_USERS", "12"), os.environ.get("LOAD_S", "20")


def main() -> int:
    with running_server() as (url, _):
        command = [
            *(sys.executable, "-m", "locust", "--locustfile", str(HERE / "locustfile.py"), "--host", url),
            *("--headless", "--only-summary", "--users", USERS, "--spawn-rate", USERS),
            *("--run-time", f"{SECONDS}s", "--loglevel", "WARNING", "--stop-timeout", "5"),
        ]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
