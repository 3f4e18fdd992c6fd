"""What a server would find around it: its ports, its cache, and the memory of its devices."""

import asyncio
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from shutil import which

from service.auth import open_access
from service.cache import Inspected, inspect
from service.checking.ensembles import Checked, Finding
from service.config import Settings
from service.errors import ConfigError, PortTaken
from service.listening import check_tls, listen, ports

NVIDIA_S = 10.0


@dataclass
class Surroundings:
    """What was found out.

    Attributes:
        ports: each that is configured and could be listened on, and whether it is free.
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
    _listening(settings, found)
    _state(settings, found)
    try:
        found.cache = asyncio.run(inspect(settings.cache))
    except ConfigError as exc:
        found.findings.append(Finding("error", str(exc)))
    else:
        _cache(found.cache, checked, found)
    _devices(checked, found)
    return found


def _listening(settings: Settings, found: Surroundings) -> None:
    """Keys, certificate and ports; a port that is taken may be so by a server of this very configuration."""
    try:
        check_tls(settings)
    except ConfigError as exc:
        found.findings.append(Finding("error", str(exc)))
    try:
        access = open_access(settings.auth)
    except ConfigError as exc:
        found.findings.append(Finding("error", str(exc)))
        return
    found.findings += [Finding("warning", warning) for warning in access.warnings]
    for key, port in ports(settings):
        try:
            listen(settings.server.host, port, key=key, access=access).close()
        except PortTaken as exc:
            found.findings.append(Finding("warning", f"{exc}, if it is no server of this configuration"))
            found.ports[port] = False
        except ConfigError as exc:
            found.findings.append(Finding("error", str(exc)))
        else:
            found.ports |= {port: True} if port else {}  # 0 takes any that is free


def _state(settings: Settings, found: Surroundings) -> None:
    folder = settings.server.state_dir
    if folder is None:
        return
    there = next((one for one in (folder, *folder.parents) if os.access(one, os.F_OK)), folder)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        text = f"server.state_dir {folder} cannot be written: every start certifies anew; set another one"
        found.findings.append(Finding("warning", text))


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
        place["free"] = free = _free_bytes(_physical(name.partition(":")[2] or "0"))
        if free is not None and (place["models"] or 0) > free:
            text = f"{name}: the models take {place['models']} bytes, and {free} are free there"
            found.findings.append(Finding("warning", text))


def _physical(number: str) -> str:
    """What the driver's tool calls a device that this process knows by a number."""
    seen = [one.strip() for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
    return seen[int(number)] if int(number) < len(seen) else number


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
