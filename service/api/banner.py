"""What a server says of itself when it begins to serve: to a terminal, or as an event of the log."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from service import telemetry
from service.auth import Access
from service.config import Settings
from service.engine.engine import Engine

log = telemetry.logger("serving")

Served = Sequence[Mapping[str, Any]]


def served(engine: Engine) -> list[dict[str, Any]]:
    """Each ensemble: its recipes, teachers, devices, and how many operators have which plan; as JSON."""
    found = []
    for ensemble in engine.ensembles.values():
        words = [plan["plan"] for plan in ensemble.plans.report()]
        found.append(
            {
                "ensemble": ensemble.name,
                "recipes": list(ensemble.recipes),
                "teachers": [member.teacher.name for member in ensemble.members],
                "devices": sorted({str(member.teacher.device) for member in ensemble.members}),
                "plans": {word: words.count(word) for word in sorted(set(words))},
                "kept": ensemble.config.not_cached is None,
            }
        )
    return found


def announce(url: str, ensembles: Served, settings: Settings, access: Access, *, workers: int = 1) -> None:
    """Say it: on standard error, to whoever reads that.

    Args:
        url: of the server.
        ensembles: as ``served`` says.
        settings: with which it was started.
        access: who may ask.
        workers: how many processes answer.
    """
    cache, who = settings.cache.url, _who(access, settings)
    if sys.stderr.isatty():
        sys.stderr.write(banner(url, ensembles, cache=cache, who=who, workers=workers))
    else:
        log.info("serving", url=url, ensembles=ensembles, cache=cache, access=who, workers=workers)


def banner(url: str, ensembles: Served, *, cache: str, who: str, workers: int) -> str:
    """The same for people."""
    lines = []
    for one in ensembles:
        plans = ", ".join(f"{count} {word}" for word, count in one["plans"].items())
        lines += [
            ("ensemble", f"{one['ensemble']}: recipes {', '.join(one['recipes'])}"),
            ("", f"teachers {', '.join(one['teachers'])} on {', '.join(one['devices'])}; plans: {plans}"),
        ]
        lines += [] if one["kept"] else [("", "its targets are not kept")]
    lines += [
        ("cache", cache),
        ("access", who),
        ("workers", str(workers)),
        ("console", f"{url}/"),
        ("ready", f"{url}/readyz"),
    ]
    return "".join(f"  {name:10}{said}\n" for name, said in lines)


def _who(access: Access, settings: Settings) -> str:
    if access.keys is not None:
        count = len(access.keys)
        return f"{count} key{'' if count == 1 else 's'} of {settings.auth.keys_file}"
    return "everyone may do everything" if access.open else "whoever is on this machine may ask; no keys"
