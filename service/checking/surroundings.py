"""What a server would find around it: its ports, its cache, and the memory of its devices."""

import asyncio
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from shutil import which

from service.cache import Inspected, inspect
from service.checking.ensembles import Checked, Finding
from service.config import Settings
from service.errors import ConfigError

NVIDIA_S = 10.0


@dataclass
class Surroundings:
    """What was found out.

    Attributes:
        ports: each that is configured, and whether it is free.
        cache: what it says of itself; None where it cannot be opened.
        devices: bytes of the models by device, and what is free there, where that can be known.
        findings: what is amiss.
    """

    ports: dict[int, bool] = field(default_factory=dict)
    cache: Inspected | None = None
    devices: dict[str, dict[str, int | None]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def look_around(settings: Settings, checked: Sequence[Checked]) -> Surroundings:
    """Look at everything that several ensembles share.

    Args:
        settings: as they are configured.
        checked: what was found out about each ensemble; with costs, where a training is planned.
    """
    found = Surroundings()
    _ports(settings, found)
    try:
        found.cache = asyncio.run(inspect(settings.cache))
    except ConfigError as exc:
        found.findings.append(Finding("error", str(exc)))
    else:
        _cache(found.cache, checked, found)
    _devices(checked, found)
    return found


def _ports(settings: Settings, found: Surroundings) -> None:
    host = settings.server.host
    asked = {settings.server.port, getattr(settings.server, "metrics_port", None) or 0}
    for port in sorted(asked - {0}):  # 0 takes any that is free
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind(address)
        except (OSError, ValueError) as exc:
            said = getattr(exc, "strerror", None) or exc
            text = f"{host} port {port}: {said}; if it is no server of this configuration, set server.port"
            found.findings.append(Finding("warning", text))
            found.ports[port] = False
        else:
            found.ports[port] = True


def _cache(cache: Inspected, checked: Sequence[Checked], found: Surroundings) -> None:
    def warn(text: str) -> None:
        found.findings.append(Finding("warning", f"cache {cache.url}: {text}"))

    if not cache.answers:
        warn(f"{cache.reason}; until it answers every row is computed")
        return
    if cache.policy == "noeviction":
        warn("maxmemory-policy is noeviction: once it is full it keeps nothing new; set allkeys-lfu")
    elif cache.policy is not None and not cache.max_bytes:
        warn("it has no maxmemory: it grows until its machine has no more; set one")
    for one in checked:
        for recipe, cost in one.costs.items():
            if cache.max_bytes and cost["kept_bytes"] > cache.max_bytes:
                warn(
                    f"ensemble {one.name!r}, recipe {recipe!r}: the rows take {cost['kept_bytes']} bytes, "
                    f"and it keeps {cache.max_bytes}: what does not fit is computed again in every epoch"
                )


def _devices(checked: Sequence[Checked], found: Surroundings) -> None:
    for one in checked:
        for teacher in one.teachers:
            place = found.devices.setdefault(teacher["device"], {"models": 0, "free": None})
            place["models"] = (place["models"] or 0) + teacher["bytes"]
    for name, place in found.devices.items():
        if not name.startswith("cuda"):
            continue
        place["free"] = free = _free_bytes(name.partition(":")[2] or "0")
        if free is not None and (place["models"] or 0) > free:
            text = f"{name}: the models take {place['models']} bytes, and {free} are free there"
            found.findings.append(Finding("warning", text))


def _free_bytes(number: str) -> int | None:
    """What is free on a GPU, as its driver's tool says; None where nobody does."""
    tool = which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, f"--id={number}", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_S, check=True)  # noqa: S603
        return int(said.stdout) << 20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
