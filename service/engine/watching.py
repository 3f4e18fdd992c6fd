"""Serves what a configuration says from the moment it says something else."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from watchfiles import awatch

from service.config import Settings
from service.errors import ConfigError
from service.telemetry import logger

log = logger("engine")


async def watch(
    path: Path,
    source: Callable[[], Settings],
    first: Settings,
    reload: Callable[[Settings, set[str]], Awaitable[None]],
) -> None:
    """Reload the ensembles whose sections have changed, until it is cancelled.

    Args:
        path: of the configuration, absolute.
        source: reads it.
        first: what it said at the start.
        reload: is given what it says now, and the ensembles that came, went, or are said to be something
            else; raises ConfigError where that cannot be used.
    """
    known = first
    # The folder: editors put another file in the place of the old one.
    async for _ in awatch(path.parent, watch_filter=lambda _, changed: changed == str(path)):
        try:
            settings = await asyncio.to_thread(source)
            await reload(settings, _changed(known, settings))
        except ConfigError as exc:
            log.warning("the configuration cannot be used; all is served as before", reason=str(exc))
            continue
        if _rest(settings) != _rest(known):
            log.warning("only ensembles are loaded anew; what else has changed needs another start")
        known = settings


def _changed(known: Settings, settings: Settings) -> set[str]:
    names = known.ensembles.keys() | settings.ensembles.keys()
    return {name for name in names if known.ensembles.get(name) != settings.ensembles.get(name)}


def _rest(settings: Settings) -> dict[str, object]:
    return settings.model_dump(exclude={"ensembles"})
