"""What is changed while the server runs: recipes that are put, ensembles that are loaded anew."""

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

from service.config import RecipeSection, Settings
from service.engine.engine import Engine
from service.errors import BadConfiguration, ConfigError
from service.model import nearest


class Changes(Protocol):
    """Changes what a server serves, in all of its processes."""

    async def put(self, ensemble: str, recipe: str, section: RecipeSection) -> bool:
        """Serve a recipe until the server stops; whether it is new.

        Raises:
            RequestError: as ``Engine.put_recipe``.
        """
        ...

    async def reload(self, ensemble: str) -> None:
        """Serve an ensemble as its configuration says now.

        Raises:
            UnknownEnsemble: there is none of that name, neither here nor in the configuration.
            BadConfiguration: it cannot be used; the ensemble is served as before.
        """
        ...

    async def unload(self, ensemble: str) -> None:
        """Serve an ensemble no longer, until it is loaded anew or the server starts.

        Raises:
            UnknownEnsemble: there is none of that name.
        """
        ...

    def degraded(self) -> list[str]:
        """Which processes are missing."""
        ...


class Alone:
    """Changes of the only process.

    Args:
        engine: opened.
        source: reads the configuration again.
    """

    def __init__(self, engine: Engine, source: Callable[[], Settings]) -> None:
        self._engine = engine
        self._source = source

    async def put(self, ensemble: str, recipe: str, section: RecipeSection) -> bool:
        """As of ``Changes``."""
        return await self._engine.put_recipe(ensemble, recipe, section)

    async def reload(self, ensemble: str) -> None:
        """As of ``Changes``."""
        await reload(self._engine, self._source, [ensemble])

    async def unload(self, ensemble: str) -> None:
        """As of ``Changes``."""
        await self._engine.unload(ensemble)

    def degraded(self) -> list[str]:
        """There is no other."""
        return []


async def reload(engine: Engine, source: Callable[[], Settings], ensembles: Collection[str]) -> None:
    """Serve ensembles as the configuration says now.

    Raises:
        UnknownEnsemble: there is none of that name, neither here nor in the configuration.
        BadConfiguration: it cannot be used; they are served as before.
    """
    try:
        settings = await asyncio.to_thread(source)
        for name in ensembles:
            if name not in settings.ensembles:
                engine.ensemble(name)  # neither here nor there: an unknown one
                raise BadConfiguration(
                    f"the configuration has no ensemble {name!r} any more"
                    f"{nearest(name, settings.ensembles)}; it is served as before"
                )
        await engine.reload(settings, ensembles)
    except ConfigError as exc:
        raise BadConfiguration(f"{exc}; all is served as before") from None
