"""Serves what a configuration says from the moment it says something else."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from watchfiles import awatch

from service.config import Settings
from service.engine.engine import Engine
from service.errors import ConfigError
from service.telemetry import logger

log = logger("engine")


async def watch(engine: Engine, path: Path, source: Callable[[], Settings], first: Settings) -> None:
    """Reload the ensembles whose sections have changed, until it is cancelled.

    Args:
        engine: that serves them.
        path: of the configuration, absolute.
        source: reads it.
        first: what it said when the engine was opened.
    """
    known = first
    # The folder: editors put another file in the place of the old one.
    async for _ in awatch(path.parent, watch_filter=lambda _, changed: changed == str(path)):
        try:
            settings = await asyncio.to_thread(source)
            await engine.reload(settings, changed_ensembles(known, settings))
        except ConfigError as exc:
            log.warning("the configuration cannot be used; all is served as before", reason=str(exc))
            continue
        if _rest(settings) != _rest(known):
            log.warning("only ensembles are loaded anew; what else has changed needs another start")
        known = settings


def changed_ensembles(known: Settings, settings: Settings) -> set[str]:
    """The ensembles that came, went, or are said to be something else."""
    names = known.ensembles.keys() | settings.ensembles.keys()
    return {name for name in names if known.ensembles.get(name) != settings.ensembles.get(name)}


def _rest(settings: Settings) -> dict[str, object]:
    return settings.model_dump(exclude={"ensembles"})
